"""ps: the processes of a container."""

from __future__ import annotations

import argparse
import subprocess
import sys

from agent.runtime.cli import containers
from agent.runtime.cli.inspect import print_json
from agent.runtime.cli.log import Log
from agent.runtime.failure import RuntimeFailure


def ps(options: argparse.Namespace, log: Log) -> int:
    """ps: pids as JSON, or ps(1)'s lines of them."""
    pids = containers.find(options.root, options.id).state().cgroup.pids()
    if options.format == "json":
        print_json(pids)
        return 0
    words = options.options or ["-ef"]
    try:
        done = subprocess.run(["ps", *words], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise RuntimeFailure("ps is not installed; use --format json") from error
    head, *lines = done.stdout.splitlines() or [""]
    if "PID" not in head.split():
        raise RuntimeFailure(f"ps {' '.join(words)} has no PID column: {done.stderr.strip()}")
    column = head.split().index("PID")
    shown = [ln for ln in lines if ln.split()[column].isdigit() and int(ln.split()[column]) in pids]
    sys.stdout.writelines(f"{line}\n" for line in (head, *shown))
    return 0
