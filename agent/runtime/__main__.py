"""`python -m agent.runtime run --bundle DIR ID`: create, start, wait, delete."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from agent.runtime import bundle, create, delete, preloaded, start
from agent.runtime.failure import RuntimeFailure
from agent.runtime.stdio import Stdio

_FAILED = 126


def main(arguments: Sequence[str]) -> int:
    """Exit code of the container's command, 128 + the signal that ended it, 126 where it could
    not be started."""
    parser = argparse.ArgumentParser(prog="agent.runtime")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="create and start a container, wait for it, delete it")
    run.add_argument("--bundle", type=Path, default=Path("."))
    run.add_argument("id")
    options = parser.parse_args(arguments)
    try:
        return _run(options.id, options.bundle.resolve())
    except RuntimeFailure as failure:
        sys.stderr.write(f"{failure}\n")
        return _FAILED


def _run(uid: str, path: Path) -> int:
    loaded = bundle.load(path)
    if loaded.config.process.terminal:
        raise RuntimeFailure("run has no terminal to give", "process.terminal")
    container = create.create(uid, loaded, Stdio(stdin=0, stdout=1, stderr=2), preloaded.load())
    for warning in container.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda got, _: os.kill(container.pid, got))
        start.start(container)
    finally:
        _, status = os.waitpid(container.pid, 0)
        delete.delete(container.state)
        container.close()
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
