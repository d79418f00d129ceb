"""exec: a further process in a running container."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from agent.runtime import bundle as bundles
from agent.runtime import channel, execute, labels, parse, procfs, terminal
from agent.runtime.container import ContainerState, start_ticks
from agent.runtime.create import capability_warnings, limit, own_stdio
from agent.runtime.failure import RuntimeFailure
from agent.runtime.fields import Field
from agent.runtime.pause import paused
from agent.runtime.preloaded import Preloaded
from agent.runtime.seccomp import compile as seccomp
from agent.runtime.spawn import FLAGS, end, spawn
from agent.runtime.spec import Config, Process
from agent.runtime.stdio import Stdio
from agent.syscalls import credentials, processes, scheduling


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """The process runs. `pidfd` and `pty_master` are the caller's to close."""

    pid: int
    pidfd: int
    pty_master: int | None = None
    warnings: tuple[str, ...] = ()


def exec_(
    state: ContainerState, process: dict[str, object], stdio: Stdio, preloaded: Preloaded,
    *, sibling: bool = False, config: Config | None = None, preserve: Sequence[int] = (),
    ignore_paused: bool = False,
) -> Executed:  # fmt: skip
    """Run `process` (an OCI process object) with all namespaces, the cgroup and the filter of the
    container. `config`: what it was created from, where that is not to be read from the bundle
    again. Returns after execve; RuntimeFailure says why it could not be."""
    config = config or bundles.load(state.bundle).config
    wanted = parse.process(Field(process, "process"))
    labels.check(wanted)
    section = config.linux.seccomp
    if not ignore_paused and paused(state.cgroup):
        raise RuntimeFailure(f"container {state.uid} is paused; resume it first")
    with contextlib.ExitStack() as undo:
        target = _open(state)
        undo.callback(os.close, target)
        ours, theirs = channel.pair()
        undo.callback(ours.close)
        flags = 0
        for kind in state.namespaces:
            flags |= FLAGS[kind]
        child = _Child(
            process=wanted, stdio=stdio, control=theirs, program=preloaded.program(section),
            program_flags=seccomp.flags(section) if section else 0,
            last_capability=preloaded.last_capability, private_users="user" in state.namespaces,
            preserve=preserve, personality=config.linux.personality,
        )  # fmt: skip
        with theirs, execute.with_null(stdio) as child.stdio:
            pid, pidfd = spawn(0, [(target, flags)], child.begin, sibling=sibling)
        on_failure = undo.enter_context(contextlib.ExitStack())
        on_failure.callback(os.close, pidfd)
        on_failure.callback(end, pidfd, sibling=sibling)
        try:
            if wanted.cpus_before:
                os.sched_setaffinity(pid, wanted.cpus_before)
            state.cgroup.add(pid)
            own_stdio(config, wanted, stdio)
            warnings = [*capability_warnings(config, wanted), *limit(pid, wanted)]
            if wanted.cpus:
                os.sched_setaffinity(pid, wanted.cpus)
        except OSError as error:
            raise channel.reported(ours) or RuntimeFailure(
                f"container {state.uid} ended meanwhile"
            ) from error
        channel.tell(ours, channel.START)
        master = None
        message, fds = channel.answer(ours, "starting the command")
        if message == channel.READY:
            master = fds[0]
            on_failure.callback(os.close, master)
            channel.answer(ours, "starting the command")
        on_failure.pop_all()
    return Executed(pid=pid, pidfd=pidfd, pty_master=master, warnings=tuple(warnings))


def _open(state: ContainerState) -> int:
    """A pidfd of the container's init, and surely of it."""
    gone = f"container {state.uid} is not running"
    try:
        pidfd = processes.pidfd_open(state.pid)
    except OSError as error:
        raise RuntimeFailure(gone) from error
    if start_ticks(state.pid) != state.pid_start_ticks:
        os.close(pidfd)
        raise RuntimeFailure(gone)
    return pidfd


@dataclass(slots=True, kw_only=True)
class _Child:
    """The process before execve, inherited by the clone; see `init.Init`."""

    process: Process
    stdio: Stdio
    control: socket.socket
    program: bytes | None
    program_flags: int
    last_capability: int
    private_users: bool
    preserve: Sequence[int] = ()
    personality: int | None = None
    step: str = "starting"

    def begin(self) -> NoReturn:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  told to the caller, see channel.report
            channel.report(self.control, error, self.step)
        os._exit(127)

    def _run(self) -> NoReturn:
        credentials.prctl(credentials.PR_SET_DUMPABLE, 0)
        execute.arrange_stdio(self.stdio, [self.control.fileno(), *self.preserve])
        execute.reset_signals()
        os.setsid()
        channel.expect(self.control, channel.START)
        self.step = "joining the container"
        if self.private_users:
            os.setgroups(())
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            credentials.prctl(credentials.PR_SET_DUMPABLE, 0)
        os.umask(0o022)
        credentials.join_session_keyring(b"_ses.exec")
        if self.process.terminal:
            self.step = "opening the terminal"
            root = os.open("/", os.O_PATH | os.O_CLOEXEC)
            master, slave = terminal.open_pair(root, self.process)
            os.close(root)
            channel.tell(self.control, channel.READY, [master])
            os.close(master)
            terminal.adopt(slave)
        self.step = "setting user and capabilities"
        if self.personality is not None:
            scheduling.set_personality(self.personality)
        proc = procfs.visible() if labels.wanted(self.process) else -1
        execute.become(self.process, self.program, self.program_flags, self.last_capability, proc)
        self.step = "starting the command"
        execute.execute(self.process, execute.environment(self.process), self.preserve)
