"""create: from a bundle to a process that waits for `start` in its namespaces and cgroups."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from agent.runtime import cgroups, channel, execute, hooks, idmaps, labels, options, rootfs
from agent.runtime.bundle import Bundle
from agent.runtime.cgroups import Cgroup, Kind
from agent.runtime.cgroups.hierarchy import UNIFIED, remove
from agent.runtime.container import Container, ContainerState, check_uid, start_ticks
from agent.runtime.failure import RuntimeFailure
from agent.runtime.init import Init
from agent.runtime.preloaded import Preloaded
from agent.runtime.seccomp import compile as seccomp
from agent.runtime.spawn import FLAGS, end, spawn
from agent.runtime.spec import Config, Hooks, Process, Resources
from agent.runtime.state import document
from agent.runtime.stdio import Stdio
from agent.syscalls import credentials, namespaces

_INFINITY = 2**63


class Cloner(Protocol):
    """Makes init in another process, which must reap it: the arguments and the pid and pidfd of
    `spawn.spawn`. `init` has no `hold` and preserves nothing."""

    def __call__(
        self,
        flags: int,
        joins: Sequence[tuple[int, int]],
        init: Init,
        *,
        cgroup_fd: int,
        time_offsets: Mapping[str, tuple[int, int]] | None,
    ) -> tuple[int, int]: ...


def create(
    uid: str, bundle: Bundle, stdio: Stdio, preloaded: Preloaded, *, sibling: bool = False,
    hold: socket.socket | None = None, preserve: Sequence[int] = (),
    keyring: bool = True, cloner: Cloner | None = None,
) -> Container:  # fmt: skip
    """Make the container of `bundle`; its process is held before execve until `start.start`.

    `stdio` descriptors stay the caller's. `sibling`: init becomes a child of the caller's parent
    (CLONE_PARENT), for a caller that exits afterwards; the parent must reap it. `cloner`: init is
    made by and becomes a child of somebody else. `hold`: a
    listening SOCK_SEQPACKET socket init waits on for START, for a caller that ends before. What
    `preserve` names stays open in the container; `keyring`: it gets a session keyring of its own.
    A failure raises RuntimeFailure and leaves
    nothing behind. Not to be called with other threads running.
    """
    check_uid(uid)
    config = bundle.config
    labels.check(config.process)
    wanted = [(mount, options.parse(mount)) for mount in config.mounts]
    program = preloaded.program(config.linux.seccomp)
    program_flags = seccomp.flags(config.linux.seccomp) if config.linux.seccomp else 0
    path = config.linux.cgroups_path or f"/bayplan/{uid}"
    with contextlib.ExitStack() as undo:
        cgroup = _new_cgroup(preloaded, path, config, undo)
        ours, theirs = channel.pair()
        undo.callback(ours.close)
        with theirs:
            init = Init(
                uid=uid, config=config, bundle_path=str(bundle.path), mounts=wanted,
                cgroup=cgroup, stdio=stdio, control=theirs,
                program=program, program_flags=program_flags,
                last_capability=preloaded.last_capability, hold=hold, preserve=preserve,
                keyring=keyring,
            )  # fmt: skip
            pid, pidfd = _spawn(init, sibling, cloner)
        undo.callback(os.close, pidfd)
        undo.callback(end, pidfd, sibling=sibling or cloner is not None)
        warnings = _prepare(pid, init, bundle, preloaded, ours)
        state = ContainerState(
            uid=uid, pid=pid, pid_start_ticks=start_ticks(pid), bundle=bundle.path,
            namespaces=tuple(config.linux.namespaces), cgroup=cgroup,
            annotations=config.annotations,
            hooks=Hooks(poststart=config.hooks.poststart, poststop=config.hooks.poststop),
        )  # fmt: skip
        if init.pauses_for_hooks:
            _run_hooks(ours, state, config.hooks)
        master = _ready(ours)
        if master is not None:
            undo.callback(os.close, master)
        _limit_cpu_time(cgroup, config)
        undo.pop_all()
    return Container(
        state=state, pidfd=pidfd, control=ours, pty_master=master, warnings=tuple(warnings),
        has_start_hooks=bool(config.hooks.start_container),
    )  # fmt: skip


def _new_cgroup(
    preloaded: Preloaded, path: str, config: Config, undo: contextlib.ExitStack
) -> Cgroup:
    wanted = config.linux.resources
    cgroup = cgroups.create(preloaded.hierarchy, path, also=wanted.controllers)
    undo.callback(remove, cgroup)
    return cgroup


def _limit_cpu_time(cgroup: Cgroup, config: Config) -> None:
    """Last of all limits: a container of a hundredth of a CPU would wait for its next share of
    it for most of a second while it is only being prepared."""
    wanted = config.linux.resources
    if wanted.cpu_quota_us is not None:
        limit = Resources(cpu_quota_us=wanted.cpu_quota_us, cpu_period_us=wanted.cpu_period_us)
        cgroups.apply(cgroup, limit, new=False)


def _spawn(init: Init, sibling: bool, cloner: Cloner | None) -> tuple[int, int]:
    """New namespaces by clone3, all at once: a network namespace made apart from its user
    namespace could not mount sysfs. The cgroup namespace is left to init."""
    flags = 0
    joins: list[tuple[int, int]] = []
    linux = init.config.linux
    with contextlib.ExitStack() as opened:
        for index, (kind, path) in enumerate(linux.namespaces.items()):
            if path:
                fd = _open_namespace(path, FLAGS[kind], index)
                opened.callback(os.close, fd)
                # The user namespace last: the others may not be its own.
                joins.insert(len(joins) if kind == "user" else 0, (fd, FLAGS[kind]))
            elif kind not in ("cgroup", "time"):
                flags |= FLAGS[kind]
        unified = init.cgroup.directories.get(UNIFIED)
        cgroup_fd = -1
        if unified is not None and init.cgroup.kind is Kind.V2:
            cgroup_fd = os.open(unified, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, cgroup_fd)
        offsets = linux.time_offsets if linux.namespaces.get("time") == "" else None
        if init.joined_mounts:
            init.stdio = opened.enter_context(execute.with_null(init.stdio))
        if cloner is not None:  # what it could not clone it says itself
            return cloner(flags, joins, init, cgroup_fd=cgroup_fd, time_offsets=offsets)
        try:
            return spawn(
                flags, joins, init.begin, sibling=sibling, cgroup_fd=cgroup_fd,
                time_offsets=offsets,
            )  # fmt: skip
        except OSError as error:
            raise RuntimeFailure(
                f"cannot make namespaces: {error.strerror}", "linux.namespaces"
            ) from error


def _open_namespace(path: str, kind: int, index: int) -> int:
    field = f"linux.namespaces[{index}].path"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise RuntimeFailure(f"{path}: {error.strerror}", field) from error
    if namespaces.kind(fd) != kind:
        os.close(fd)
        raise RuntimeFailure(f"{path} is not a namespace of this type", field)
    return fd


def _run_hooks(ours: socket.socket, state: ContainerState, wanted: Hooks) -> None:
    """Those of the runtime's own namespaces, while init waits before pivot_root."""
    message, _ = channel.answer(ours, "preparing the container")
    if message != channel.FURNISHED:
        raise RuntimeFailure("the container's init died while it was prepared")
    hooks.run((*wanted.prestart, *wanted.create_runtime), document(state, "creating"))
    # createContainer hooks have timeouts of their own, or none.
    ours.settimeout(None)
    channel.tell(ours, channel.HOOKED)


def _prepare(
    pid: int, init: Init, bundle: Bundle, preloaded: Preloaded, ours: socket.socket
) -> list[str]:
    """The caller's side of channel.py up to ADMITTED. Where init died meanwhile, what it said
    counts and not that its pid is gone."""
    try:
        _map_ids(pid, init.config)
        channel.tell(ours, channel.MAPPED)
        # While init still reads what it is to do; nothing of the container's runs before START.
        cgroups.apply(init.cgroup, replace(init.config.linux.resources, cpu_quota_us=None))
        # Closing a detached mount waits for an RCU grace period: done while init works.
        with contextlib.ExitStack() as held:
            _furnish(pid, init, bundle, preloaded, ours, held)
            warnings = _admit(pid, init.config, init.cgroup, init.stdio)
            channel.tell(ours, channel.ADMITTED)
    except RuntimeFailure as failure:
        raise channel.reported(ours) or failure from failure.__cause__
    except OSError as error:
        raise channel.reported(ours) or RuntimeFailure(str(error)) from error
    return warnings


def _map_ids(pid: int, config: Config) -> None:
    if config.linux.namespaces.get("user") == "":
        idmaps.write(pid, config.linux.uid_mappings, config.linux.gid_mappings)


def _admit(pid: int, config: Config, cgroup: Cgroup, stdio: Stdio) -> list[str]:
    """Into the cgroups, under its limits. Returns warnings."""
    try:
        cgroup.add(pid, unified=cgroup.kind is not Kind.V2)
    except OSError as error:
        raise RuntimeFailure(f"{error.filename}: {error.strerror}", "linux.cgroupsPath") from error
    own_stdio(config, config.process, stdio)
    return [*capability_warnings(config), *limit(pid, config.process)]


def capability_warnings(config: Config, process: Process | None = None) -> list[str]:
    """What is asked for of the capabilities and cannot be granted: names that are none, and what
    we do not have ourselves, which a new user namespace would give."""
    wanted = (process or config.process).capabilities
    if wanted is None:
        return []
    missing = 0 if config.private_users else wanted.all & ~credentials.capget()[1]
    names = [
        name for name, number in credentials.CAPABILITY_NUMBERS.items() if missing >> number & 1
    ]
    return [*wanted.unknown, *(f"process.capabilities: {n} cannot be granted here" for n in names)]


def own_stdio(config: Config, process: Process, stdio: Stdio) -> None:
    """Give pipes to the container's user, who could not open /dev/stdout again otherwise."""
    uid = idmaps.host_id(process.user.uid, config.linux.uid_mappings)
    gid = idmaps.host_id(process.user.gid, config.linux.gid_mappings)
    for fd in (stdio.stdin, stdio.stdout, stdio.stderr):
        if fd is not None and stat.S_ISFIFO(os.fstat(fd).st_mode):
            os.fchown(fd, uid, gid)


def limit(pid: int, process: Process) -> list[str]:
    """Resource limits and the OOM score; what the host's own privileges do not allow of the
    score is a warning."""
    for rlimit in process.rlimits:
        values = tuple(-1 if v >= _INFINITY else v for v in (rlimit.soft, rlimit.hard))
        try:
            resource.prlimit(pid, rlimit.kind, (values[0], values[1]))
        except (OSError, ValueError) as error:
            raise RuntimeFailure(
                f"cannot set it to {rlimit.soft}:{rlimit.hard}: {error}", rlimit.path
            ) from error
    if process.oom_score_adj is None:
        return []
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(process.oom_score_adj))
    except PermissionError:
        return [
            f"process.oomScoreAdj: {process.oom_score_adj} is below what this host allows "
            "without CAP_SYS_RESOURCE; left as it was"
        ]
    return []


def _furnish(
    pid: int, init: Init, bundle: Bundle, preloaded: Preloaded, ours: socket.socket,
    held: contextlib.ExitStack,
) -> None:  # fmt: skip
    """Hand init its root and binds. `held` closes them here."""
    with _user_namespace(pid, init.config) as userns_fd:
        fds = []
        if not init.joined_mounts:
            by_fd = preloaded.overlay_by_fd
            fds.append(rootfs.root(bundle, userns_fd, held, overlay_by_fd=by_fd))
            held.callback(os.close, fds[0])
        for mount, words in init.mounts:
            if words.bind:
                fds.append(rootfs.bind_source(bundle, mount, words, userns_fd))
                held.callback(os.close, fds[-1])
        channel.tell(ours, channel.ROOT, fds)


def _ready(ours: socket.socket) -> int | None:
    """Wait for init. The terminal's master, if any."""
    message, received = channel.answer(ours, "preparing the container")
    ours.settimeout(channel.DEADLINE_S)
    if message != channel.READY:
        raise RuntimeFailure("the container's init died while it was prepared")
    return received[0] if received else None


@contextlib.contextmanager
def _user_namespace(pid: int, config: Config) -> Iterator[int]:
    """A descriptor of the process's user namespace; -1 where it has none of its own."""
    if not config.private_users:
        yield -1
        return
    fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)
