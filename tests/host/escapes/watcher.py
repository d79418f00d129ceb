"""Run inside a container, as its root: looks at every process that comes until /stop is there, for
one that is still the runtime, and writes to /result what it could do with it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os

LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_ATTACH, PTRACE_DETACH = 16, 17


def look(pid: int) -> list[str]:
    got = []
    with contextlib.suppress(OSError):
        # Not before: a process that we hold cannot execute anything.
        exe = os.readlink(f"/proc/{pid}/exe")
        if "python" not in exe:
            return []
        got.append(f"exe {exe}")
        for name in ("root", "cwd", *(f"fd/{fd}" for fd in range(12))):
            with contextlib.suppress(OSError):
                got.append(f"{name} {os.readlink(f'/proc/{pid}/{name}')}")
        with contextlib.suppress(OSError):
            os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))
            got.append("memory")
        if LIBC.ptrace(PTRACE_ATTACH, pid, None, None) == 0:
            got.append("traced")
            os.waitpid(pid, 0)
            LIBC.ptrace(PTRACE_DETACH, pid, None, None)
    return got


def main() -> None:
    seen: dict[int, int] = {}
    got: list[str] = []
    with open("/ready", "w"):
        pass
    while not os.path.exists("/stop"):
        for name in os.listdir("/proc"):
            if name.isdecimal() and (pid := int(name)) not in (1, os.getpid()):
                seen[pid] = seen.get(pid, 0) + 1
                got += look(pid)
    with open("/result.new", "w") as file:
        json.dump({"seen": len(seen), "got": got[:50]}, file)
    os.rename("/result.new", "/result")


if __name__ == "__main__":
    main()
