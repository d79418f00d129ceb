"""`python -I __main__.py REQUEST`: one copy. REQUEST is JSON: `to_task`, `path`, `name`,
`keep_owners`, and the descriptors `root` (the container's) and `users` (its user namespace, -1: the
host's). The archive is standard input or output. Standard error: a JSON object a line, `notice` or,
last, `error`; exit code 0: all is done."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tarfile
from pathlib import Path

# Executed by its path, since the agent's directories need not be those of the interpreter.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from agent.copier import reading, writing
from agent.copier.failure import CopyFailure
from agent.syscalls import credentials, namespaces

MEMORY_BYTES_MAX = 512 << 20
"""Of address space: a header of an archive may claim any size."""
NOTICES_MAX = 20
_KEPT = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID")


def enter(users: int) -> None:
    """Become root of the container's user namespace, with the rights of files alone."""
    if users >= 0:
        namespaces.setns(users, namespaces.CLONE_NEWUSER)
        os.close(users)
    os.setgroups(())
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    kept = sum(1 << credentials.CAPABILITY_NUMBERS[name] for name in _KEPT)
    _, permitted, _ = credentials.capget()
    credentials.capset(kept & permitted, kept & permitted, 0)
    credentials.prctl(credentials.PR_SET_NO_NEW_PRIVS, 1)
    credentials.prctl(credentials.PR_SET_DUMPABLE, 0)
    credentials.prctl(credentials.PR_SET_PDEATHSIG, int(signal.SIGKILL))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o022)


def main() -> int:
    request = json.loads(sys.argv[1])
    told = 0

    def notice(text: str) -> None:
        nonlocal told
        told += 1
        if told <= NOTICES_MAX:
            _say("notice", text)

    try:
        enter(request["users"])
        root, path, name = request["root"], request["path"], request["name"]
        if request["to_task"]:
            writing.receive(root, path, name, sys.stdin.buffer, keep_owners=request["keep_owners"])
            while sys.stdin.buffer.read(1 << 16):  # what follows the end of an archive
                continue
        else:
            reading.send(root, path, name, sys.stdout.buffer, notice)
            sys.stdout.buffer.flush()
    except CopyFailure as error:
        _say("error", str(error))
    except tarfile.TarError as error:
        _say("error", f"this is no tar archive, or not all of one: {error}")
    except MemoryError:
        _say("error", "a header of the archive is too large")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        _say("error", f"{request['path']}: {reason}")
    else:
        return 0
    return 1


def _say(kind: str, text: str) -> None:
    sys.stderr.write(json.dumps({kind: text[:1000]}) + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
