"""The interpreter that runs this command, out of the reach of what it runs.

A container may make the kernel execute the runtime's own program (`#!/proc/self/exe`) with
libraries of the container's, and then write through /proc/PID/exe to the file on the host
(CVE-2019-5736). So whatever enters a container is executed from a read-only mount of the
interpreter that is attached nowhere: /proc/PID/exe then refuses writing (EROFS), and a mount in no
namespace can be remounted by nobody.
"""

from __future__ import annotations

import os
import sys

from agent.runtime.failure import RuntimeFailure
from agent.syscalls import mounts

_MARK = "_BAYPLAN_RUNTIME_READ_ONLY"


def from_read_only_mount() -> None:
    """Execute this command again from such a mount; returns at once where it is on one."""
    again = os.environ.pop(_MARK, None)
    if os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY:
        return
    if again is not None:
        raise RuntimeFailure("cannot run from a read-only mount of the interpreter")
    try:
        fd = mounts.open_tree(os.fsencode(sys.executable))
        mounts.mount_setattr(fd, set_=mounts.ATTR_RDONLY)
    except OSError as error:
        raise RuntimeFailure(f"this needs root: {error.strerror}") from error
    sys.stdout.flush()
    sys.stderr.flush()
    # argv[0] is what the interpreter finds its environment by.
    os.execve(
        f"/proc/self/fd/{fd}", [sys.executable, *sys.orig_argv[1:]], {**os.environ, _MARK: "1"}
    )
