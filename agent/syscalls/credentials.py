"""capabilities(7), prctl(2), fs ids, keyrings, no_new_privs."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

from agent.syscalls.call import call

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
_AMBIENT_RAISE = 2
_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_KEYCTL_JOIN_SESSION_KEYRING = 1

# linux/capability.h; the index is the number.
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
CAPABILITY_NUMBERS = {f"CAP_{name}": number for number, name in enumerate(CAPABILITIES)}


def prctl(option: int, *values: int) -> int:
    """prctl(2); missing values are 0."""
    return call("prctl", option, *(*values, 0, 0, 0, 0)[:4])


def capget() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of the caller as bit sets."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()
    _capability_call("capget", header, sets)
    return sets[0] | sets[3] << 32, sets[1] | sets[4] << 32, sets[2] | sets[5] << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the caller's three capability sets."""
    low = [bits & 0xFFFFFFFF for bits in (effective, permitted, inheritable)]
    high = [bits >> 32 for bits in (effective, permitted, inheritable)]
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _capability_call("capset", header, (ctypes.c_uint32 * 6)(*low, *high))


def _capability_call(
    name: str, header: ctypes.Array[ctypes.c_uint32], sets: ctypes.Array[ctypes.c_uint32]
) -> None:
    call(name, ctypes.addressof(header), ctypes.addressof(sets))


def drop_bounding(keep: int, last: int) -> None:
    """Remove from the bounding set every capability up to number `last` that `keep` lacks."""
    for number in range(last + 1):
        if not keep >> number & 1:
            prctl(PR_CAPBSET_DROP, number)


def set_ambient(bits: int) -> None:
    """Make the ambient set exactly `bits`; each must be permitted and inheritable."""
    prctl(PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    for number in range(bits.bit_length()):
        if bits >> number & 1:
            prctl(PR_CAP_AMBIENT, _AMBIENT_RAISE, number)


@contextlib.contextmanager
def filesystem_ids(uid: int, gid: int) -> Iterator[None]:
    """Within: files are looked up and made as `uid`, `gid`, with all permitted capabilities
    (setfsuid away from 0 takes the file system ones out of the effective set, credentials(7))."""
    _, permitted, inheritable = capget()
    try:
        call("setfsgid", gid)
        call("setfsuid", uid)
        capset(permitted, permitted, inheritable)
        yield
    finally:
        call("setfsuid", 0)
        call("setfsgid", 0)
        capset(permitted, permitted, inheritable)


def join_session_keyring(name: bytes) -> None:
    """A new session keyring, so that the caller's own keys are out of reach (keyctl(2))."""
    call("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, name, 0, 0, 0)
