"""The default filter itself, on a process of ours."""

from __future__ import annotations

import errno
import os
import platform

import pytest

from agent.runtime.preloaded import Preloaded
from agent.runtime.seccomp.profile import DEFAULT_CAPABILITIES, default
from agent.syscalls import credentials, seccomp
from agent.syscalls.call import MACHINE, call

pytestmark = [pytest.mark.root, pytest.mark.timeout(30)]

REFUSED = {
    "mount": (b"none", b"/nowhere", b"tmpfs", 0, None),
    "umount2": (b"/nowhere", 0),
    "pivot_root": (b".", b"."),
    "setns": (0, 0),
    "unshare": (0,),
    "keyctl": (0, 0, 0, 0, 0),
    "fsopen": (b"tmpfs", 0),
    "open_tree": (-100, b"/", 0),
    "move_mount": (-1, b"", -1, b"", 0),
    "setdomainname": (b"x", 1),
}


def errno_under_filter(program: bytes, name: str, arguments: tuple[object, ...]) -> int:
    """The error of a call made by a child under the filter; 0: it went through."""
    pid = os.fork()
    if pid == 0:
        credentials.prctl(credentials.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.load_filter(program)
        try:
            call(name, *arguments)  # type: ignore[arg-type]
        except OSError as error:
            os._exit(error.errno or 0)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("name", REFUSED)
def test_refused(host: Preloaded, name: str) -> None:
    """Each of these is EPERM by the filter, to the host's own root."""
    program = host.program(default(DEFAULT_CAPABILITIES, MACHINE))
    assert program is not None
    assert errno_under_filter(program, name, REFUSED[name]) == errno.EPERM


def test_allowed(host: Preloaded) -> None:
    """What programs need goes through, and clone3 says that it does not exist."""
    program = host.program(default(DEFAULT_CAPABILITIES, MACHINE))
    assert program is not None
    assert errno_under_filter(program, "prctl", (15, b"name", 0, 0, 0)) == 0
    assert errno_under_filter(program, "clone3", (0, 0)) == errno.ENOSYS


def test_capability_opens_its_calls(host: Preloaded) -> None:
    """With CAP_SYS_ADMIN mount reaches the kernel, which then finds no such directory."""
    program = host.program(default(["CAP_SYS_ADMIN"], platform.machine()))
    assert program is not None
    assert errno_under_filter(program, "mount", REFUSED["mount"]) == errno.ENOENT


def test_default_filter_is_compiled_once(host: Preloaded) -> None:
    """The default section is found compiled, whatever order the capabilities come in."""
    section = default(list(reversed(DEFAULT_CAPABILITIES)), MACHINE)
    assert host.program(section) in host.programs.values()
