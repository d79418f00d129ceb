"""Verbs and options, named as runc(8) names them, so that engines need not know the difference."""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT_ROOT = Path("/run/bayplan-runtime")
VERBS = (
    "create", "delete", "events", "exec", "features", "kill", "list", "pause", "ps", "resume",
    "run", "spec", "start", "state", "update",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Everything the command line understands."""
    top = argparse.ArgumentParser(
        prog="bayplan-runtime", allow_abbrev=False,
        description="Run containers from OCI bundles (runtime specification 1.2).",
    )  # fmt: skip
    top.add_argument("--root", type=Path, default=DEFAULT_ROOT, help="where states are kept")
    top.add_argument("--log", type=Path, help="append warnings and errors to this file as well")
    top.add_argument("--log-format", choices=("text", "json"), default="text")
    top.add_argument("--debug", action="store_true", help="errors come with a traceback")
    top.add_argument("--systemd-cgroup", action="store_true", help="refused: cgroupfs only")
    top.add_argument("--rootless", default="auto", help='"auto" or "false"; root is needed')
    top.add_argument("--version", "-v", action="store_true")
    verbs = top.add_subparsers(dest="verb", metavar="VERB")
    for name, text in _HELP.items():
        verb = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
        _OPTIONS[name](verb)
        if name not in ("features", "list", "spec"):
            verb.add_argument("id")
        _AFTER.get(name, _nothing)(verb)
    return top


def _nothing(verb: argparse.ArgumentParser) -> None:
    """A verb without options."""


def _create(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--bundle", "-b", type=Path, default=Path("."))
    verb.add_argument("--no-pivot", action="store_true", help="refused: it lets containers out")
    verb.add_argument("--no-new-keyring", action="store_true")
    _process(verb)


def _process(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--console-socket", type=Path, help="where the terminal's master is sent")
    verb.add_argument("--pid-file", type=Path)
    verb.add_argument("--preserve-fds", type=int, default=0, metavar="N",
                      help="pass on N descriptors from 3 (after $LISTEN_FDS)")  # fmt: skip


def _run(verb: argparse.ArgumentParser) -> None:
    _create(verb)
    verb.add_argument("--detach", "-d", action="store_true")
    verb.add_argument("--keep", action="store_true", help="do not delete it when it has ended")
    verb.add_argument("--no-subreaper", action="store_true")


def _list(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--format", "-f", choices=("table", "json"), default="table")
    verb.add_argument("--quiet", "-q", action="store_true")


def _kill(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--all", "-a", action="store_true", help="every process of the container")


def _after_kill(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("signal", nargs="?", default="SIGTERM")


def _delete(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--force", "-f", action="store_true")


def _exec(verb: argparse.ArgumentParser) -> None:
    _process(verb)
    verb.add_argument("--cwd")
    verb.add_argument("--env", "-e", action="append", default=[])
    verb.add_argument("--tty", "-t", action="store_true")
    verb.add_argument("--user", "-u", help="UID[:GID]")
    verb.add_argument("--additional-gids", "-g", action="append", type=int, default=[])
    verb.add_argument("--process", "-p", type=Path, help="a file with an OCI process object")
    verb.add_argument("--detach", "-d", action="store_true")
    verb.add_argument("--process-label")
    verb.add_argument("--apparmor")
    verb.add_argument("--no-new-privs", action="store_true")
    verb.add_argument("--cap", "-c", action="append", default=[])
    verb.add_argument("--cgroup", help="refused: the container's own cgroup is used")
    verb.add_argument("--ignore-paused", action="store_true")


def _after_exec(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("command", nargs=argparse.REMAINDER)


def _ps(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--format", "-f", choices=("table", "json"), default="table")


def _after_ps(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("options", nargs=argparse.REMAINDER, help="for ps(1) instead of -ef")


def _update(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--resources", "-r", help='a file with linux.resources, or "-"')
    for option in UPDATES:
        verb.add_argument(f"--{option}")
    for option in ("l3-cache-schema", "mem-bw-schema"):
        verb.add_argument(f"--{option}", help="refused: no Intel RDT")


def _events(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--stats", action="store_true", help="once, instead of again and again")
    verb.add_argument("--interval", default="5s")


def _spec(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--bundle", "-b", type=Path, default=Path("."))
    verb.add_argument("--rootless", action="store_true")


# Option: (where it goes in linux.resources, whether it is a size in bytes or text).
UPDATES: dict[str, tuple[str, str]] = {
    "blkio-weight": ("blockIO.weight", "number"),
    "cpu-period": ("cpu.period", "number"),
    "cpu-quota": ("cpu.quota", "number"),
    "cpu-burst": ("cpu.burst", "number"),
    "cpu-share": ("cpu.shares", "number"),
    "cpu-rt-period": ("cpu.realtimePeriod", "number"),
    "cpu-rt-runtime": ("cpu.realtimeRuntime", "number"),
    "cpu-idle": ("cpu.idle", "number"),
    "cpuset-cpus": ("cpu.cpus", "text"),
    "cpuset-mems": ("cpu.mems", "text"),
    "memory": ("memory.limit", "size"),
    "memory-reservation": ("memory.reservation", "size"),
    "memory-swap": ("memory.swap", "size"),
    "pids-limit": ("pids.limit", "number"),
}
_HELP = {
    "create": "make a container and hold it before its command",
    "run": "create and start a container, wait for it, delete it",
    "start": "let a created container run its command",
    "state": "print a container's state",
    "list": "list the containers below --root",
    "kill": "signal a container's first process",
    "delete": "remove what a stopped container left",
    "exec": "run a further process in a container",
    "ps": "show a container's processes",
    "pause": "stop every process where it is",
    "resume": "let a paused container go on",
    "update": "change the limits of a container",
    "events": "print what a container uses, and when it runs out of memory",
    "spec": "write a config.json to begin with",
    "features": "print what this runtime can do",
}
_OPTIONS = {
    "create": _create, "run": _run, "start": _nothing, "state": _nothing, "list": _list,
    "kill": _kill, "delete": _delete, "exec": _exec, "ps": _ps, "pause": _nothing,
    "resume": _nothing, "update": _update, "events": _events, "spec": _spec,
    "features": _nothing,
}  # fmt: skip
_AFTER = {"kill": _after_kill, "exec": _after_exec, "ps": _after_ps}
