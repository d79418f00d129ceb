"""A lab: machines on a switch, Bayplan on them, and the means to cut, kill and heal them."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from lab import cgroups, cluster, context, etcd, machine, state, switch
from lab.cluster import Controllers, Paths
from lab.errors import LabError, NeedsRoot, NoLab
from lab.process import Process
from lab.state import Machine, State

SWITCH, CONTROLLER = "sw", "ctl"
HOSTS_MAX = 100
CONTROLLERS_MAX = 5
JOINS_AT_ONCE = 2
_NAME = re.compile(r"[a-z][a-z0-9]{0,9}")
_FIRST_HOST, _FIRST_CONTROLLER = 11, 2
_CONTROLLER_NAME = re.compile(rf"{CONTROLLER}[1-9]?")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """`power`: on, off. `link`: up, cut. `daemon`: running, dead, none. `leads`: of several
    controllers, the one that leads."""

    name: str
    role: str
    address: str
    power: str
    link: str
    daemon: str
    log: str
    leads: bool = False


class Lab:
    """One lab, found by its directory. All methods raise LabError and its kin; `say` is told
    what is being done."""

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self.directory = directory.resolve()
        self._say = say

    def paths(self, host: str) -> Paths:
        return Paths(top=self.directory / host)

    def wire(self, name: str, hosts: Collection[str], subnet: str = "") -> State:
        """The machines alone, on a switch, with nothing started on them."""
        self._check(name, len(hosts))
        with state.locked(self._made()):
            if (self.directory / state.FILE).exists():
                raise LabError(
                    f"there is a lab in {self.directory} already",
                    hint="`bay lab down` ends it, `bay lab status` shows it",
                )
            with switch.choosing():
                chosen = IPv4Network(subnet) if subnet else switch.free_subnet()
                now = State(name=name, subnet=str(chosen))
                state.save(self.directory, now)
                init = machine.power_on(SWITCH, self.paths(SWITCH).top)
                now = self._save(now.with_machine(Machine(name=SWITCH, role="switch", init=init)))
                switch.start(init, name, chosen)
            controllers = [host for host in hosts if _CONTROLLER_NAME.fullmatch(host)]
            agents = [host for host in hosts if host not in controllers]
            for host in hosts:
                role = "controller" if host in controllers else "agent"
                among, first = (
                    (controllers, _FIRST_CONTROLLER)
                    if role == "controller"
                    else (agents, _FIRST_HOST)
                )
                address = str(chosen.network_address + first + among.index(host))
                now = now.with_machine(Machine(name=host, role=role, address=address))
                now = self._power_on(now, host)
            return now

    def up(
        self,
        name: str,
        hosts: int,
        subnet: str = "",
        *,
        controllers: int = 1,
        merge_context: bool = True,
    ) -> State:
        """`hosts` agents and a controller, or several on an etcd cluster; ready to be used."""
        self._check(name, hosts, controllers)
        made = "a controller" if controllers == 1 else f"{controllers} controllers"
        self._say(f"making {hosts} hosts and {made}")
        names = [f"h{number}" for number in range(1, hosts + 1)]
        self.wire(name, [*controller_names(controllers), *names], subnet)
        with state.locked(self.directory):
            now = self._start_controllers(state.load(self.directory))
            known = self._controllers(now)
            nodes = {m.name: self.paths(m.name) for m in now.of_role("agent")}
            self._say(f"joining {', '.join(nodes)}")
            tokens = asyncio.run(cluster.tokens(known, nodes))
            for host, token in tokens.items():
                cluster.write_token(nodes[host].token, token)
                cluster.write_config(nodes[host].config)
            with ThreadPoolExecutor(JOINS_AT_ONCE) as pool:
                list(pool.map(lambda host: self._join(now, host), nodes))
            for host in nodes:
                now = self._start_daemon(now, host)
            agents = {m.name: (self.paths(m.name), _running(m)) for m in now.of_role("agent")}
            asyncio.run(cluster.nodes_ready(known, agents))
            where = context.write(self.directory, now, known, merge=merge_context)
            return self._save(replace(now, context=where))

    def down(self, name: str) -> None:
        """Ends and removes everything, also what a crash left; nothing where there is nothing."""
        _need_root()
        if not self.directory.exists():
            switch.stop(name)
            cgroups.remove(cgroups.root(name))
            return
        with state.locked(self.directory):
            try:
                now = state.load(self.directory)
            except (LabError, NoLab):
                now = State(name=name, subnet="")
            known = {m.name: m.init for m in now.machines}
            for directory in self.directory.iterdir():
                if directory.is_dir():
                    known.setdefault(directory.name, None)
            switch.stop(now.name)
            for host, init in known.items():
                machine.power_off(host, self.paths(host).top, init)
            cgroups.remove(cgroups.root(now.name))
            context.forget(now)
            shutil.rmtree(self.directory)

    def is_whole(self) -> bool:
        """True where everything of a lab is up and runs."""
        if not (self.directory / state.FILE).exists():
            return False
        hosts = self.status()
        return len(hosts) > 1 and all(host.daemon == "running" for host in hosts)

    def status(self) -> list[HostStatus]:
        """All hosts but the switch. Of several controllers one is asked who leads."""
        now = state.load(self.directory)
        leader = self._leader(now)
        return [
            HostStatus(
                name=m.name,
                role=m.role,
                address=m.address,
                power="on" if m.init and m.init.alive else "off",
                link="cut" if m.cut else "up",
                daemon=("running" if m.daemon.alive else "dead") if m.daemon else "none",
                log=str(self.paths(m.name).log),
                leads=m.name == leader,
            )
            for m in now.machines
            if m.role != "switch"
        ]

    def cut(self, host: str) -> None:
        """The host's packets are lost, both ways and silently."""
        with self._changing() as now:
            switch.cut(_on(now.machine(SWITCH)), host)
            self._save(now.with_machine(replace(now.machine(host), cut=True)))

    def heal(self, host: str) -> None:
        """Undoes `cut`."""
        with self._changing() as now:
            switch.heal(_on(now.machine(SWITCH)), host)
            self._save(now.with_machine(replace(now.machine(host), cut=False)))

    def kill(self, *hosts: str) -> None:
        """A power cut: every process of the hosts ends at one moment; their disks remain."""
        with self._changing() as now:
            found = [now.machine(host) for host in hosts]
            with ThreadPoolExecutor(len(found)) as pool:
                list(pool.map(self._power_off, found))
            for each in found:
                cgroups.remove(cgroups.root(now.name, each.name))
                now = now.with_machine(replace(each, init=None, daemon=None, etcd=None))
            self._save(now)

    def _power_off(self, found: Machine) -> None:
        machine.power_off(found.name, self.paths(found.name).top, found.init)

    def start(self, host: str) -> None:
        """Power on: the host boots and starts what it had, controller or agent."""
        with self._changing() as now:
            found = now.machine(host)
            if found.init is None or not found.init.alive:
                now = self._power_on(now, host)
            if _daemon_of(now.machine(host)) is None:
                self._start_daemon(now, host)

    def kill_daemon(self, host: str) -> None:
        """SIGKILL to the host's agent or controller alone."""
        with self._changing() as now:
            found = now.machine(host)
            if found.daemon is not None:
                found.daemon.kill()
            self._save(now.with_machine(replace(found, daemon=None)))

    def start_daemon(self, host: str) -> None:
        """Starts the host's agent or controller; nothing where it runs."""
        with self._changing() as now:
            if _daemon_of(now.machine(host)) is None:
                self._start_daemon(now, host)

    def only_controller(self) -> str:
        """The name of the controller where there is one. Raises LabError where one of several
        must be named."""
        names = [m.name for m in state.load(self.directory).of_role("controller")]
        if len(names) != 1:
            raise LabError("which controller?", hint=f"name one of {', '.join(names)}")
        return names[0]

    def enter(self, host: str) -> list[str]:
        """The beginning of a command line that runs the rest on the host."""
        return machine.enter(_on(state.load(self.directory).machine(host)))

    def _changing(self) -> _Changing:
        _need_root()
        return _Changing(self.directory)

    def _power_on(self, now: State, host: str) -> State:
        found = now.machine(host)
        init = machine.power_on(host, self.paths(host).top)
        now = self._save(now.with_machine(replace(found, init=init, daemon=None, etcd=None)))
        prefix = IPv4Network(now.subnet).prefixlen
        address = IPv4Interface(f"{found.address}/{prefix}")
        switch.plug(_on(now.machine(SWITCH)), init, host, address)
        if found.cut:
            switch.cut(_on(now.machine(SWITCH)), host)
        return now

    def _start_controllers(self, now: State) -> State:
        """All of them, and their etcd; the first one makes the cluster."""
        known = self._controllers(now)
        paths = {name: self.paths(name) for name in known.addresses}
        if known.several:
            self._say("starting etcd and the controllers")
            cluster.share_secrets(known, paths)
            for name in paths:  # a member answers only once most of them run
                now = self._start_etcd(now, name)
        else:
            self._say("starting the controller")
        for name, address in known.addresses.items():
            now = self._start_daemon(now, name)
            daemon = _running(now.machine(name))
            asyncio.run(cluster.controller_ready(address, known.admin, paths[name], daemon))
        return now

    def _controllers(self, now: State) -> Controllers:
        machines = now.of_role("controller")
        return Controllers(
            addresses={m.name: m.address for m in machines}, admin=self.paths(machines[0].name)
        )

    def _leader(self, now: State) -> str:
        if len(now.of_role("controller")) < 2:
            return ""
        return asyncio.run(cluster.leader(self._controllers(now)))

    def _start_daemon(self, now: State, host: str) -> State:
        known = self._controllers(now)
        found, paths = now.machine(host), self.paths(host)
        if found.role == "controller":
            now = self._start_etcd(now, host) if known.several else now
            found = now.machine(host)
            command = cluster.controller_command(host, known, paths)
        else:
            command = cluster.agent_command(now.name, host, known, found.address, paths)
        daemon = machine.spawn(_on(found), command, paths.log)
        return self._save(now.with_machine(replace(found, daemon=daemon)))

    def _start_etcd(self, now: State, host: str) -> State:
        found, paths = now.machine(host), self.paths(host)
        if found.etcd is not None and found.etcd.alive:
            return now
        command = etcd.member_command(host, self._controllers(now).addresses, paths.etcd)
        member = machine.spawn(_on(found), command, paths.etcd_log)
        return self._save(now.with_machine(replace(found, etcd=member)))

    def _join(self, now: State, host: str) -> None:
        paths = self.paths(host)
        command = cluster.join_command(host, self._controllers(now), paths)
        try:
            machine.run(_on(now.machine(host)), command, deadline_s=cluster.JOIN_S)
        finally:
            paths.token.unlink(missing_ok=True)

    def _save(self, now: State) -> State:
        state.save(self.directory, now)
        return now

    def _made(self) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.directory

    def _check(self, name: str, hosts: int, controllers: int = 1) -> None:
        _need_root()
        if not _NAME.fullmatch(name):
            raise LabError(f"{name!r} is no name for a lab: a letter, then up to 9 letters, digits")
        if not 0 < hosts <= HOSTS_MAX:
            raise LabError(f"a lab has 1 to {HOSTS_MAX} hosts, not {hosts}")
        if not 0 < controllers <= CONTROLLERS_MAX:
            raise LabError(f"a lab has 1 to {CONTROLLERS_MAX} controllers, not {controllers}")
        if controllers > 1 and shutil.which(etcd.BINARY) is None:
            raise LabError(
                f"there is no {etcd.BINARY} to run",
                hint="install etcd (Debian: etcd-server), or use one controller",
            )


def controller_names(count: int) -> list[str]:
    """A single one has no number."""
    return [CONTROLLER] if count == 1 else [f"{CONTROLLER}{n}" for n in range(1, count + 1)]


class _Changing:
    """The state, under the lab's lock."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        state.load(directory)
        self._lock = state.locked(directory)

    def __enter__(self) -> State:
        self._lock.__enter__()
        return state.load(self._directory)

    def __exit__(self, *error: object) -> None:
        self._lock.__exit__(None, None, None)


def _on(found: Machine) -> Process:
    if found.init is None or not found.init.alive:
        raise LabError(f"{found.name} is off", hint=f"`bay lab start {found.name}`")
    return found.init


def _running(found: Machine) -> Process:
    if found.daemon is None:
        raise LabError(f"nothing was started on {found.name}")
    return found.daemon


def _daemon_of(found: Machine) -> Process | None:
    return found.daemon if found.daemon is not None and found.daemon.alive else None


def _need_root() -> None:
    if os.geteuid() != 0:
        raise NeedsRoot("a lab makes network namespaces and cgroups: run it as root")
