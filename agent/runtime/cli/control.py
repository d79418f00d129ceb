"""start, kill, delete, pause, resume, update: what changes a container that is there."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.runtime import bundle, cgroups, kill, pause, start, update
from agent.runtime import delete as deletion
from agent.runtime.cli import containers
from agent.runtime.cli.arguments import UPDATES
from agent.runtime.cli.containers import Entry
from agent.runtime.cli.log import Log
from agent.runtime.container import Container
from agent.runtime.failure import RuntimeFailure
from agent.runtime.fields import Field

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(-?[0-9]+)([bkmgt]?)(?:i?b)?", re.IGNORECASE)


def start_(options: argparse.Namespace, log: Log) -> int:
    """start: by the socket init waits on."""
    with containers.locked(options.root, options.id) as entry:
        state = entry.state()
        if not entry.held():
            raise RuntimeFailure(
                f"container {entry.uid} is {entry.status(state)}, not created; it cannot be started"
            )
        if pause.paused(state.cgroup):
            # Init would hear of it, and answer, only once it is resumed.
            raise RuntimeFailure(f"container {entry.uid} is paused; resume it first")
        waits = bool(entry.config().hooks.start_container)
        held = Container(state=state, pidfd=-1, control=entry.connect(), has_start_hooks=waits)
        start.start(held)
    return 0


def kill_(options: argparse.Namespace, log: Log) -> int:
    """kill: init, or with --all every process of the container's cgroup."""
    number = _signal(options.signal)
    entry = containers.find(options.root, options.id)
    state = entry.state()
    if options.all:
        if number == signal.SIGKILL:
            kill.kill_all(state.cgroup)
            return 0
        for pid in state.cgroup.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return 0
    if not kill.signal(state, number):
        raise RuntimeFailure(f"container {entry.uid} is stopped: container not running")
    if number == signal.SIGKILL and pause.paused(state.cgroup):
        # On v1 a frozen process dies only when it goes on.
        pause.resume(state)
    return 0


def _signal(text: str) -> int:
    """A number, or a name with or without SIG."""
    if text.isdigit():
        number = int(text)
        if 0 <= number <= signal.SIGRTMAX:
            return number
    name = text.upper().removeprefix("SIG")
    with contextlib.suppress(KeyError):
        return int(signal.Signals["SIG" + name])
    raise RuntimeFailure(f'"{text}" is not a signal, like TERM or 15')


def delete(options: argparse.Namespace, log: Log) -> int:
    """delete: of a stopped container; --force kills a running one, and clears up after a
    creation that was cut short."""
    if options.force and not (options.root / options.id).is_dir():
        return 0
    with containers.locked(options.root, options.id) as entry:
        try:
            state = entry.state()
        except RuntimeFailure:
            if not options.force:
                raise
            _clear_up(entry)
            return 0
        status = entry.status(state)
        if status != "stopped" and not options.force:
            raise RuntimeFailure(
                f"container {entry.uid} is {status}, not stopped; kill it first, or use --force"
            )
        kill.kill_all(state.cgroup)
        for warning in deletion.delete(state, force=True):
            log.warning(warning)
        entry.remove()
    return 0


def _clear_up(entry: Entry) -> None:
    """After a `create` that was killed, or a `delete`."""
    unfinished = entry.unfinished()
    if unfinished is not None:
        field = Field(unfinished, "creating.json")
        cgroup = cgroups.reopen(cgroups.detect(), field.get("path").required_text())
        if cgroup.directories:
            kept = field.get("kept").texts()
            kill.kill_all(cgroup)
            cgroups.remove(replace(cgroup, kept=kept))
    entry.remove()


def pause_(options: argparse.Namespace, log: Log) -> int:
    """pause: only what runs."""
    with containers.locked(options.root, options.id) as entry:
        state = entry.state()
        if (status := entry.status(state)) not in ("running", "created"):
            raise RuntimeFailure(f"container {entry.uid} is {status}, not running")
        pause.pause(state)
    return 0


def resume(options: argparse.Namespace, log: Log) -> int:
    """resume: only what is paused."""
    with containers.locked(options.root, options.id) as entry:
        state = entry.state()
        if not pause.paused(state.cgroup):
            raise RuntimeFailure(f"container {entry.uid} is {entry.status(state)}, not paused")
        pause.resume(state)
    return 0


def update_(options: argparse.Namespace, log: Log) -> int:
    """update: what is not given stays as it is."""
    for option in ("l3_cache_schema", "mem_bw_schema"):
        if getattr(options, option):
            raise RuntimeFailure(f"--{option.replace('_', '-')}: no Intel RDT in this runtime")
    if options.resources == "-":
        wanted: object = json.load(sys.stdin)
    elif options.resources:
        wanted = bundle.read(Path(options.resources))
    else:
        wanted = _resources(options)
    with containers.locked(options.root, options.id) as entry:
        state = entry.state()
        if (status := entry.status(state)) == "stopped":
            raise RuntimeFailure(f"container {entry.uid} is {status}")
        if not isinstance(wanted, dict):
            raise RuntimeFailure("must be an object", "linux.resources")
        _check_devices(wanted, entry)
        update.update(state, wanted)
    return 0


def _check_devices(wanted: dict[str, Any], entry: Entry) -> None:
    """Engines hand over all resources again; other device rules than those at creation would
    have to be refused a running process that holds them open."""
    devices = wanted.get("devices")
    created: Any = entry.config_document().get("linux") or {}
    if devices and devices != (created.get("resources") or {}).get("devices"):
        raise RuntimeFailure("cannot be changed once created", "linux.resources.devices")


def _resources(options: argparse.Namespace) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for option, (path, kind) in UPDATES.items():
        text = getattr(options, option.replace("-", "_"))
        if text is None:
            continue
        section, name = path.split(".")
        value = text if kind == "text" else _number(option, text, size=kind == "size")
        document.setdefault(section, {})[name] = value
    return document


def _number(option: str, text: str, *, size: bool) -> int:
    match = _SIZE.fullmatch(text)
    if match is None or (match[2] and not size):
        raise RuntimeFailure(f'--{option} "{text}" is not a number')
    return int(match[1]) * _UNITS[match[2].lower()]
