"""What shims and inits will do, done a few times before they are forked.

The interpreter writes to what it runs: it counts references, keeps where it found an attribute,
and after some calls rewrites a function for the types it has seen. What it has written before a
fork stays shared afterwards; of what it writes later every process has a page of its own.

Nothing here touches the host: file systems are made that are mounted nowhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from typing import NoReturn

from agent.runtime import (
    channel,
    devices,
    execute,
    filesystems,
    handover,
    masks,
    options,
    parse,
)
from agent.runtime.cgroups import Cgroup
from agent.runtime.failure import RuntimeFailure
from agent.runtime.init import Init
from agent.runtime.preloaded import Preloaded
from agent.runtime.stdio import Stdio
from agent.shim import cloning, container, protocol, request, supervisor
from agent.syscalls import (
    credentials,
    descriptors,
    mounts,
    namespaces,
    processes,
    seccomp,
    supervision,
)

# A function is rewritten at its eighth call, and its parts for what they see at the next.
TIMES = 12
# By every interpreter, but not by what containers run.
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)


def rehearse(preloaded: Preloaded, times: int = TIMES) -> None:
    """For the zygote, before it has children, handlers or descriptors of its own. OSError or
    RuntimeFailure where the host does not let us."""
    with contextlib.ExitStack() as opened:
        for _ in range(times):
            root = mounts.new_filesystem(b"tmpfs", [(b"mode", b"755")])
            opened.callback(os.close, root)
            _init(root, preloaded)
            _spare(preloaded)
            _shim(root, preloaded)
    signal.set_wakeup_fd(-1)
    supervision.become_subreaper(wanted=False)


def init(preloaded: Preloaded) -> None:
    """For a process that is to become an init, in the namespaces it has: what it writes to here is
    its own when it matters. Without ids in its user namespace it comes less far."""
    with contextlib.suppress(OSError, RuntimeFailure):
        root = mounts.new_filesystem(b"tmpfs", [(b"mode", b"755")])
        try:
            _init(root, preloaded)
        finally:
            os.close(root)


def _init(root: int, preloaded: Preloaded) -> None:
    """The steps of Init that change nothing but what is below `root`."""
    sample = _handed_over(preloaded)
    execute.reset_signals()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    kept = credentials.capget()
    credentials.capset(*kept)
    namespaces.unshare(0)
    made = filesystems.prepare(sample.mounts)
    try:
        # Before Linux 6.15 nothing can be attached to what is mounted nowhere.
        with contextlib.suppress(OSError, RuntimeFailure):
            filesystems.attach(root, sample.mounts, made, {}, _no_tree)
    finally:
        for fd in made.values():
            with contextlib.suppress(OSError):  # attached, and closed then
                os.close(fd)
    with contextlib.suppress(OSError, RuntimeFailure):
        devices.populate(root, (), bind=True)
        masks.read_only(root, sample.config.linux.readonly_paths)
        masks.mask(root, sample.config.linux.masked_paths)
    credentials.drop_bounding(-1, preloaded.last_capability)
    if sample.program is not None:
        seccomp.sock_fprog(sample.program)
    execute.find("true", b"/bin:/usr/bin")
    execute.environment(sample.config.process)


def _no_tree() -> NoReturn:
    raise RuntimeFailure("the sample has no cgroup mount")


def _handed_over(preloaded: Preloaded) -> Init:
    """An Init made of a sample bundle, as it arrives after an order."""
    config = parse.config(json.loads(container.SAMPLE))
    ours, theirs = channel.pair()
    blob = os.memfd_create("init", os.MFD_CLOEXEC)
    with ours, theirs:
        sample = Init(
            uid="sample", config=config, bundle_path="/", control=theirs,
            mounts=[(mount, options.parse(mount)) for mount in config.mounts],
            cgroup=Cgroup(kind=preloaded.hierarchy.kind, path="/", directories={}),
            stdio=Stdio(), program=preloaded.program(config.linux.seccomp), program_flags=0,
            last_capability=preloaded.last_capability,
        )  # fmt: skip
        os.write(blob, handover.pack(sample))
        control = socket.SocketType(
            socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, os.dup(theirs.fileno())
        )
        arrived = cloning.read_init(3, (-1, -1, blob, 1, 2), control)
        for message, fds in ((channel.MAPPED, ()), (channel.ROOT, (blob,)), (channel.READY, ())):
            channel.tell(ours, message, fds)
            for fd in channel.expect(control, message):
                os.close(fd)
        control.close()
    os.close(blob)
    return arrived


def _spare(preloaded: Preloaded) -> None:
    """An order that is carried out but for what it orders: the process finds no Init and ends, the
    creator gives up."""
    supervisor.settle()
    orders, spares = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    creator, reply = channel.pair()
    ours, theirs = channel.pair()
    notes, notify = os.pipe2(os.O_CLOEXEC)
    blob = os.memfd_create("init", os.MFD_CLOEXEC)
    with orders, spares, creator, reply, ours, theirs:
        fds = [reply.fileno(), theirs.fileno(), blob, notify, notify]
        descriptors.send(orders, cloning.order(0, 0b110), fds)
        creator.shutdown(socket.SHUT_WR)
        shim = supervisor.Shim(preloaded)
        shim.begin(spares, notify)
        shim.fall_asleep()
    for fd in (notes, notify, blob):
        os.close(fd)


def _shim(root: int, preloaded: Preloaded) -> None:
    """The life of a shim, with a child that writes a line once it is told to start."""
    directory = f"/proc/self/fd/{root}"
    with contextlib.suppress(FileExistsError):
        os.mkdir(f"{directory}/{protocol.LOG_DIRECTORY}")
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    shim = supervisor.Shim(preloaded)
    shim.wake_up()
    agent, stream = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    control, begun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    output, written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    pid, pidfd = processes.clone3(0)
    if pid == 0:
        _child(begun, written)
    begun.close()
    handed = (
        stream.detach(), output, os.dup(output), os.eventfd(0, os.EFD_CLOEXEC),
        supervision.boottime_timer(), os.dup(2), control.detach(),
    )  # fmt: skip
    asked = request.Request("sample", directory, 1 << 20, 1).encode()
    shim.take_over(pid, b"1 0 " + asked, supervisor.DESCRIPTORS.pack(*handed))
    agent.sendall(protocol.control({"id": 1, "do": "run"}))
    record = shim.watch()
    agent.close()
    shim.finish(record)
    os.close(pidfd)
    os.close(written)
    shim.release()


def _child(begun: socket.socket, written: int) -> NoReturn:
    try:
        begun.recv(1)
        os.write(written, b"a line\n")
    finally:
        os._exit(0)
