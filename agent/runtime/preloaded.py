"""What is worked out once, before anything forks."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.runtime import cgroups
from agent.runtime.cgroups import Hierarchy, Kind
from agent.runtime.seccomp import compile as seccomp
from agent.runtime.seccomp import profile
from agent.syscalls.call import call


@dataclass(frozen=True, slots=True, kw_only=True)
class Preloaded:
    """Made once in the zygote. `programs`: compiled filters by their section as canonical text;
    `overlay_by_fd`: overlayfs takes its layers one by one (Linux 6.7)."""

    hierarchy: Hierarchy
    last_capability: int
    overlay_by_fd: bool
    programs: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def clones_ahead(self) -> bool:
        """Whether a process may be cloned before its cgroup is known, and moved there."""
        return self.hierarchy.kind is not Kind.V2

    def program(self, section: Mapping[str, object] | None) -> bytes | None:
        """The filter of a `linux.seccomp` section, compiled now if it was not before."""
        if not section:
            return None
        return self.programs.get(seccomp.canonical(section)) or seccomp.compile_(section)


def load(*, default_filter: bool = True) -> Preloaded:
    """Look at the host and, where many containers will have it, compile the default filter."""
    programs = {}
    if default_filter:
        default = profile.default(profile.DEFAULT_CAPABILITIES, platform.machine())
        programs = {seccomp.canonical(default): seccomp.compile_(default)}
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        last_capability = int(file.read())
    return Preloaded(
        hierarchy=cgroups.detect(),
        last_capability=last_capability,
        overlay_by_fd=_overlay_by_fd(),
        programs=programs,
    )


def _overlay_by_fd() -> bool:
    """Before Linux 6.5 overlayfs took any option until it was mounted: a kernel that accepts a
    nonsensical one knows nothing of lowerdir+ either."""
    return _takes(b"lowerdir+") and not _takes(b"bayplan-no-such-option")


def _takes(option: bytes) -> bool:
    context = call("fsopen", b"overlay", 1)
    try:
        call("fsconfig", context, 1, option, b"/", 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    finally:
        os.close(context)
    return True
