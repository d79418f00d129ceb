"""`python -IS commands.py SOCKET`: runs the runtime's command line, a fork for each command, as if
each were executed: the interpreter's start takes longest of all of it, and is nothing to test.

Reads a JSON list of arguments a message; answers with the pid, then with the wait status. Is the
subreaper of what the commands leave behind, and started from a read-only mount of the interpreter,
as commands otherwise do it themselves (agent/runtime/cli/interpreter.py).
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from agent.runtime import __main__ as runtime
from agent.runtime.cli import control, document, foreground, inspect, launch, ps
from agent.syscalls import mounts, namespaces

LOADED = (control, document, inspect, launch, ps)


def command(arguments: list[str], output: str) -> int:
    out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    os.closerange(3, 256)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  until the process ends
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    try:
        return runtime.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def main() -> None:
    foreground.become_subreaper()
    # Mounts are counted here, and others make some on this host as well.
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mounts.mount(None, b"/", None, mounts.MS_PRIVATE | mounts.MS_REC, None)
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        while request := sock.recv(1 << 16):
            arguments, output = json.loads(request)
            pid = os.fork()
            if pid == 0:
                status = 99
                try:
                    status = command(arguments, output)
                finally:
                    os._exit(status)
            sock.send(b"%d" % pid)
            status = 0
            ended = 0
            while ended != pid:
                ended, status = os.wait()
            _reap()
            sock.send(b"%d" % os.waitstatus_to_exitcode(status))


def _reap() -> None:
    """What has ended of what commands left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


if __name__ == "__main__":
    main()
