"""What runs in the container's first process until execve. Called in a fresh clone of the caller:
it never returns, and imports nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from agent.runtime import (
    channel,
    devices,
    execute,
    filesystems,
    hooks,
    inside,
    labels,
    masks,
    parse,
    procfs,
    terminal,
)
from agent.runtime.cgroups import Cgroup
from agent.runtime.options import Options
from agent.runtime.spec import Config, Hook, Mount
from agent.runtime.state import OCI_VERSION
from agent.runtime.stdio import Stdio
from agent.syscalls import credentials, mounts, namespaces, scheduling

_SIOCSIFFLAGS = 0x8914
_IFF_UP_RUNNING = 0x41
_PROPAGATION = {
    "shared": mounts.MS_SHARED,
    "slave": mounts.MS_SLAVE,
    "private": mounts.MS_PRIVATE,
    "unbindable": mounts.MS_UNBINDABLE,
}


@dataclass(slots=True, kw_only=True)
class Init:
    """Everything init needs, inherited by the clone. `step` is what it is doing, for errors."""

    uid: str
    config: Config
    bundle_path: str
    mounts: Sequence[tuple[Mount, Options]]
    cgroup: Cgroup
    stdio: Stdio
    control: socket.SocketType
    program: bytes | None
    program_flags: int
    last_capability: int
    hold: socket.socket | None = None
    preserve: Sequence[int] = ()
    keyring: bool = True
    step: str = "starting"
    admitted: bool = False
    proc: int = -1

    @property
    def joined_mounts(self) -> bool:
        """A mount namespace that exists already brings its own root and mounts."""
        return bool(self.config.linux.namespaces["mount"])

    @property
    def pauses_for_hooks(self) -> bool:
        hooks_ = self.config.hooks
        return bool(hooks_.prestart or hooks_.create_runtime or hooks_.create_container)

    def begin(self) -> NoReturn:
        """Run to execve; a failure is told to the caller and ends the process."""
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  told to the caller, see channel.report
            channel.report(self.control, error, self.step)
        os._exit(127)

    def _run(self) -> NoReturn:
        # Nothing that shares our namespaces may trace us while we hold more than it does.
        credentials.prctl(credentials.PR_SET_DUMPABLE, 0)
        kept = [self.control.fileno(), *self.preserve]
        execute.arrange_stdio(
            self.stdio, kept if self.hold is None else [*kept, self.hold.fileno()]
        )
        execute.reset_signals()
        os.setsid()
        channel.expect(self.control, channel.MAPPED)
        made = self._isolate()
        received = channel.expect(self.control, channel.ROOT)
        if self.joined_mounts:
            self._enter_joined()
        else:
            self._enter(received[0], made, received[1:])
        self._wait_for_start()
        self.step = "setting user and capabilities"
        process = self.config.process
        execute.become(process, self.program, self.program_flags, self.last_capability, self.proc)
        if self.config.hooks.start_container:
            self._run_hooks(self.config.hooks.start_container, "created")
        self.step = "starting the command"
        execute.execute(process, execute.environment(process), self.preserve)

    def _wait_for_start(self) -> None:
        if self.hold is None:
            channel.expect(self.control, channel.START)
            return
        self.control.close()
        self.control = channel.held(self.hold)

    def _look_for_command(self) -> None:
        """Engines expect `create` to say that there is no such command, not `start`."""
        process = self.config.process
        execute.find(process.args[0], execute.search_path(execute.environment(process)))

    def _run_hooks(self, wanted: Sequence[Hook], status: str) -> None:
        """Hooks in our own namespaces, where our pid is another (runtime.md, "State")."""
        self.step = "running hooks"
        written = {"ociVersion": OCI_VERSION, "id": self.uid, "status": status,
                   "pid": os.getpid(), "bundle": self.bundle_path}  # fmt: skip
        if self.config.annotations:
            written["annotations"] = dict(self.config.annotations)
        hooks.run(wanted, written)

    def _isolate(self) -> dict[int, int]:
        """All that needs no root file system, while the caller makes it."""
        config = self.config
        if config.private_users:
            self.step = "becoming root of the user namespace"
            os.setgroups(())
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            # Changing ids made us dumpable as fs.suid_dumpable says.
            credentials.prctl(credentials.PR_SET_DUMPABLE, 0)
        self.step = "making namespaces"
        if not self.joined_mounts:
            mounts.mount(None, b"/", None, mounts.MS_SLAVE | mounts.MS_REC, None)
        self.step = "joining a session keyring"
        if self.keyring:
            credentials.join_session_keyring(f"_ses.{self.uid}".encode())
        if config.hostname:
            self.step = "setting the host name"
            socket.sethostname(config.hostname)
        if config.domainname:
            self.step = "setting the domain name"
            namespaces.setdomainname(config.domainname.encode())
        if config.linux.namespaces.get("network") == "":
            self.step = "raising the loopback interface"
            _raise_loopback()
        if config.linux.personality is not None:
            self.step = "setting the personality"
            scheduling.set_personality(config.linux.personality)
        if config.linux.sysctl or labels.wanted(config.process):
            self.step = "making a procfs"
            self.proc = procfs.private()
        self._set_sysctls()
        self.step = "making file systems"
        os.umask(0)
        return filesystems.prepare(self.mounts)

    def _enter(self, root: int, made: dict[int, int], binds: Sequence[int]) -> None:
        """Attach everything to the root, make it "/", say READY."""
        config, linux = self.config, self.config.linux
        self.step = "attaching the root file system"
        at = os.open("/", os.O_PATH | os.O_CLOEXEC)
        mounts.move_mount(root, at)
        os.close(at)
        self.step = "attaching mounts"
        indices = [i for i, (_, words) in enumerate(self.mounts) if words.bind]
        filesystems.attach(
            root, self.mounts, made, dict(zip(indices, binds, strict=True)), self._cgroup_tree
        )
        if not self.admitted:
            self._admitted()
        self.step = "making devices"
        if not any(m.destination == "/dev" and words.bind for m, words in self.mounts):
            devices.populate(root, linux.devices, bind=config.private_users)
        master, slave = None, None
        if config.process.terminal:
            self.step = "opening the terminal"
            master, slave = terminal.open_pair(root, config.process)
            terminal.bind_console(root, slave)
        self.step = "masking paths"
        masks.read_only(root, linux.readonly_paths)
        masks.mask(root, linux.masked_paths)
        # As other runtimes do, and before the root may be read-only; what cannot be made is
        # said when the process changes to it.
        with contextlib.suppress(OSError):
            os.close(inside.make_directory(root, config.process.cwd))
        if config.root_readonly:
            mounts.mount_setattr(root, set_=mounts.ATTR_RDONLY)
        self._pause_for_hooks()
        self._pivot(root)
        self._tell_ready(master, slave)

    def _enter_joined(self) -> None:
        """Into a mount namespace that others are in already: nothing in it is changed."""
        self.step = "entering the mount namespace"
        self._admitted()
        self._pause_for_hooks()
        os.chdir("/")
        os.umask(0o022)
        master, slave = None, None
        if self.config.process.terminal:
            self.step = "opening the terminal"
            root = os.open("/", os.O_PATH | os.O_CLOEXEC)
            master, slave = terminal.open_pair(root, self.config.process)
            os.close(root)
        self._tell_ready(master, slave)

    def _pause_for_hooks(self) -> None:
        if not self.pauses_for_hooks:
            return
        channel.tell(self.control, channel.FURNISHED)
        channel.expect(self.control, channel.HOOKED)
        self._run_hooks(self.config.hooks.create_container, "creating")

    def _tell_ready(self, master: int | None, slave: int | None) -> None:
        """Held, we have no descriptor of the caller's but those the container is to have."""
        if self.hold is not None:
            self._look_for_command()
        if slave is not None:
            terminal.adopt(slave)
        channel.tell(self.control, channel.READY, [] if master is None else [master])
        if master is not None:
            os.close(master)

    def _admitted(self) -> None:
        """Wait until the caller has moved us to our cgroups, and make them our root."""
        channel.expect(self.control, channel.ADMITTED)
        self.admitted = True
        if self.config.linux.namespaces.get("cgroup") == "":
            # Only now: its root is the cgroup the process is in when it is made.
            namespaces.unshare(namespaces.CLONE_NEWCGROUP)

    def _cgroup_tree(self) -> tuple[Cgroup, bool]:
        """What a cgroup mount shows, and whether we have a cgroup namespace to mount it in."""
        if not self.admitted:
            self._admitted()
        return self.cgroup, self.config.linux.namespaces.get("cgroup") == ""

    def _set_sysctls(self) -> None:
        for name, value in self.config.linux.sysctl.items():
            self.step = f"setting sysctl {name}"
            procfs.write(self.proc, "/".join(["sys", *parse.sysctl_parts(name)]), value)
        if self.proc >= 0 and not labels.wanted(self.config.process):
            os.close(self.proc)
            self.proc = -1

    def _pivot(self, root: int) -> None:
        self.step = "changing the root"
        os.fchdir(root)
        # Both on one place (pivot_root(2)): the old root ends up on top and is taken off.
        mounts.pivot_root(b".", b".")
        mounts.umount2(b".", mounts.MNT_DETACH)
        os.chdir("/")
        os.close(root)
        propagation = self.config.linux.rootfs_propagation
        if propagation:
            recursive = mounts.MS_REC if propagation not in _PROPAGATION else 0
            flag = _PROPAGATION[propagation[1:] if recursive else propagation]
            mounts.mount(None, b"/", None, flag | recursive, None)
        os.umask(0o022)


def _raise_loopback() -> None:
    """SIOCSIFFLAGS on lo (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP_RUNNING))
