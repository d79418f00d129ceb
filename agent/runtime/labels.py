"""AppArmor profiles and SELinux labels, where the host has them (apparmor(7), selinux(8))."""

from __future__ import annotations

import os

from agent.runtime import procfs
from agent.runtime.failure import RuntimeFailure, reason
from agent.runtime.spec import Process

_APPARMOR = "/sys/module/apparmor/parameters/enabled"
_SELINUX = "/sys/fs/selinux/enforce"
_UNCONFINED = "unconfined"


def apparmor() -> bool:
    """Whether the host enforces AppArmor profiles."""
    try:
        with open(_APPARMOR, encoding="ascii") as file:
            return file.read().startswith("Y")
    except FileNotFoundError:
        return False


def selinux() -> bool:
    """Whether the host labels with SELinux."""
    return os.path.exists(_SELINUX)


def check(process: Process) -> None:
    """RuntimeFailure where a label is asked for that this host cannot give."""
    if _profile(process) and not apparmor():
        raise RuntimeFailure("this host has no AppArmor", "process.apparmorProfile")
    if process.selinux_label and not selinux():
        raise RuntimeFailure("this host has no SELinux", "process.selinuxLabel")


def wanted(process: Process) -> bool:
    """Whether `apply` has anything to do."""
    return bool(_profile(process) or process.selinux_label)


def apply(proc: int, process: Process) -> None:
    """Take the labels on with the next execve of the caller."""
    if profile := _profile(process):
        _set(proc, "attr/apparmor/exec", f"exec {profile}", "process.apparmorProfile")
    if process.selinux_label:
        _set(proc, "attr/exec", process.selinux_label, "process.selinuxLabel")


def _profile(process: Process) -> str:
    return "" if process.apparmor_profile == _UNCONFINED else process.apparmor_profile


def _set(proc: int, name: str, text: str, field: str) -> None:
    try:
        procfs.write(proc, f"thread-self/{name}", text)
    except OSError as error:
        raise RuntimeFailure(f"the kernel refused it: {reason(error)}", field) from error
