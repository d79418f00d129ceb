"""PID 1 of a lab machine: holds its namespaces and reaps. Killing it is the power cut: the kernel
then kills everything in the pid namespace, and mounts and interfaces go with the last process.

    python -m lab.init NAME DIRECTORY
    caller                      this process                    PID 1 of the machine
      │ ── starts ───────────────> unshare, fork ─────────────────> own mounts, /proc, hostname
      │                            │ <────────── "ready" ────────── │
      │ <── its pid, a line ────── exits                            reaps, for ever
"""

from __future__ import annotations

import os
import signal
import sys
import uuid
from pathlib import Path

from lab import kernel

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def main(name: str, directory: Path) -> int:
    kernel.unshare(kernel.NEWNET | kernel.NEWPID | kernel.NEWNS | kernel.NEWUTS)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _become_init(name, directory)
        os.write(writer, b"ready")
        os.close(writer)
        _reap_for_ever()
    os.close(writer)
    ready = os.read(reader, 16) == b"ready"
    if ready:
        sys.stdout.write(f"{pid}\n")
    return 0 if ready else 1


def _become_init(name: str, directory: Path) -> None:
    os.setsid()
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    secure = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    kernel.mount("proc", "/proc", "proc", secure)
    kernel.sethostname(name)
    # Each power-on is a boot: whoever compares boot ids must see another one.
    boot_id = directory / "boot_id"
    boot_id.write_text(f"{uuid.uuid4()}\n")
    kernel.mount(str(boot_id), _BOOT_ID, "", kernel.MS_BIND)
    # Containers may mount a /proc only where one is to be seen whole (mount_namespaces(7),
    # "Restrictions on mount namespaces"), and the one with the other boot id is not.
    whole = directory / "proc"
    whole.mkdir(exist_ok=True, mode=0o700)
    kernel.mount("proc", str(whole), "proc", secure)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    os.chdir("/")


def _reap_for_ever() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 2)
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        signal.sigwait({signal.SIGCHLD})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
