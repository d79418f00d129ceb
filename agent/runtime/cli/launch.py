"""create, run, exec: what brings processes into being."""

from __future__ import annotations

import argparse
import json
import os
import pwd
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from agent.runtime import bundle as bundles
from agent.runtime import cgroups, channel, create, exec, kill, preloaded, start
from agent.runtime import delete as deletion
from agent.runtime.bundle import Bundle
from agent.runtime.cli import containers, foreground, interpreter
from agent.runtime.cli.containers import Entry
from agent.runtime.cli.log import Log
from agent.runtime.container import Container
from agent.runtime.failure import RuntimeFailure
from agent.runtime.stdio import Stdio
from agent.syscalls import descriptors

_STDIO = Stdio(stdin=0, stdout=1, stderr=2)
_FIRST = 3


def create_(options: argparse.Namespace, log: Log) -> int:
    """create: init waits for `start`, held by nobody."""
    interpreter.from_read_only_mount()
    loaded, preserved = _prepared(options)
    if loaded.config.process.terminal and options.console_socket is None:
        raise RuntimeFailure("needs --console-socket: nobody else would hold it",
                             "process.terminal")  # fmt: skip
    with containers.new(options.root, options.id) as entry, entry.listen() as listener:
        container = _create(entry, loaded, options, preserved, listener)
        _hand_over(container, options)
        _warn(log, container.warnings)
    container.close()
    return 0


def run(options: argparse.Namespace, log: Log) -> int:
    """run: create and start; without --detach also wait and delete."""
    interpreter.from_read_only_mount()
    loaded, preserved = _prepared(options)
    if options.detach and loaded.config.process.terminal and options.console_socket is None:
        raise RuntimeFailure("needs --console-socket with --detach", "process.terminal")
    if not options.detach and not options.no_subreaper:
        foreground.become_subreaper()
    with containers.new(options.root, options.id) as entry:
        container = _create(entry, loaded, options, preserved, None)
        try:
            _hand_over(container, options)
            _warn(log, container.warnings)
            start.start(container)
        except BaseException:
            _undo(container)
            raise
    if options.detach:
        container.close()
        return 0
    try:
        status = foreground.wait(container.pid, container.pty_master)
    finally:
        if not options.keep:
            with containers.locked(options.root, options.id) as entry:
                _warn(log, deletion.delete(container.state, force=True))
                entry.remove()
    container.close()
    return status


def exec_(options: argparse.Namespace, log: Log) -> int:
    """exec: as the container's own process, but for what the options say."""
    interpreter.from_read_only_mount()
    if options.cgroup:
        raise RuntimeFailure("--cgroup is not supported: the container's own cgroup is used")
    preserved = _preserved(options)
    entry = containers.find(options.root, options.id)
    state = entry.state()
    if (status := entry.status(state)) not in ("running", "created", "paused"):
        raise RuntimeFailure(f"container {entry.uid} is not running but {status}")
    process = _process(options, entry)
    terminal = bool(process.get("terminal"))
    if terminal and options.detach and options.console_socket is None:
        raise RuntimeFailure("a terminal needs --console-socket with --detach")
    if not terminal and options.console_socket is not None:
        raise RuntimeFailure("--console-socket without a terminal: give --tty")
    if not options.detach:
        foreground.become_subreaper()
    executed = exec.exec_(
        state, process, _STDIO, preloaded.load(default_filter=False), config=entry.config(),
        preserve=preserved, ignore_paused=options.ignore_paused,
    )  # fmt: skip
    _warn(log, executed.warnings)
    master = executed.pty_master
    if master is not None and options.console_socket is not None:
        send_master(options.console_socket, master)
        os.close(master)
        master = None
    if options.pid_file is not None:
        write_pid(options.pid_file, executed.pid)
    if options.detach:
        return 0
    return foreground.wait(executed.pid, master)


def _prepared(options: argparse.Namespace) -> tuple[Bundle, tuple[int, ...]]:
    if options.no_pivot:
        raise RuntimeFailure("--no-pivot is refused: without pivot_root a container can get out")
    preserved = _preserved(options)
    loaded = bundles.load(options.bundle.resolve())
    if options.console_socket is not None and not loaded.config.process.terminal:
        raise RuntimeFailure("is false, but --console-socket is given", "process.terminal")
    return loaded, preserved


def _preserved(options: argparse.Namespace) -> tuple[int, ...]:
    """Descriptors from 3 that the container is to have; each must be open."""
    listening = os.environ.get("LISTEN_FDS", "")
    count = options.preserve_fds + (int(listening) if listening.isdigit() else 0)
    wanted = tuple(range(_FIRST, _FIRST + count))
    for fd in wanted:
        try:
            os.fstat(fd)
        except OSError as error:
            raise RuntimeFailure(f"descriptor {fd} of --preserve-fds is not open") from error
    return wanted


def _create(
    entry: Entry, loaded: Bundle, options: argparse.Namespace, preserved: Sequence[int],
    hold: socket.socket | None,
) -> Container:  # fmt: skip
    ready = preloaded.load(default_filter=False)
    path = loaded.config.linux.cgroups_path or f"/bayplan/{entry.uid}"
    before = cgroups.reopen(ready.hierarchy, path)
    document = cast(dict[str, Any], bundles.read(loaded.path / "config.json"))
    entry.begin({"path": path, "kept": list(dict.fromkeys(before.directories.values()))}, document)
    container = create.create(
        entry.uid, loaded, _STDIO, ready, hold=hold, preserve=preserved,
        keyring=not options.no_new_keyring,
    )  # fmt: skip
    try:
        entry.save({
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "owner": _owner(entry.path),
            "rootfs": str(loaded.rootfs),
            **container.state.to_json(),
        })  # fmt: skip
    except BaseException:
        _undo(container)
        raise
    return container


def _owner(path: Path) -> str:
    uid = path.stat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _hand_over(container: Container, options: argparse.Namespace) -> None:
    """The terminal and the pid, to whoever asked for them."""
    try:
        if container.pty_master is not None and options.console_socket is not None:
            send_master(options.console_socket, container.pty_master)
            os.close(container.pty_master)
            container.pty_master = None
        if options.pid_file is not None:
            write_pid(options.pid_file, container.pid)
    except BaseException:
        _undo(container)
        raise


def _undo(container: Container) -> None:
    """What has been created is not to be."""
    kill.kill_all(container.cgroup)
    os.waitpid(container.pid, 0)
    deletion.delete(container.state, force=True)


def _warn(log: Log, warnings: Sequence[str]) -> None:
    for warning in warnings:
        log.warning(warning)


def send_master(path: Path, master: int) -> None:
    """The terminal to the socket an engine listens on (runc's docs/terminals.md)."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
            console.settimeout(channel.DEADLINE_S)
            with containers.at(path) as address:
                console.connect(address)
            descriptors.send(console, b"/dev/ptmx", [master])
    except OSError as error:
        raise RuntimeFailure(f"--console-socket {path}: {error.strerror or error}") from error


def write_pid(path: Path, pid: int) -> None:
    """At once or not at all, as whoever waits for the file reads it when it appears."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.write_text(str(pid), encoding="ascii")
        new.rename(path)
    except OSError as error:
        raise RuntimeFailure(f"--pid-file {path}: {error.strerror}") from error


def _process(options: argparse.Namespace, entry: Entry) -> dict[str, object]:
    """The OCI process object: a file's, or the container's own with what the options change."""
    if options.process is not None:
        document = bundles.read(options.process)
        if not isinstance(document, dict):
            raise RuntimeFailure(f"{options.process} does not hold an object")
        if options.tty:
            document["terminal"] = True
        return cast(dict[str, object], document)
    if not options.command:
        raise RuntimeFailure("exec needs a command, or --process")
    command = options.command[1:] if options.command[0] == "--" else options.command
    process = cast(dict[str, Any], json.loads(json.dumps(entry.config_document()["process"])))
    for name in ("execCPUAffinity", "consoleSize"):
        process.pop(name, None)
    process.update(args=command, terminal=options.tty)
    process["env"] = [*process.get("env", []), *options.env]
    if options.cwd:
        process["cwd"] = options.cwd
    if options.user:
        process["user"] = _user(options.user)
    if options.additional_gids:
        process.setdefault("user", {})["additionalGids"] = options.additional_gids
    if options.no_new_privs:
        process["noNewPrivileges"] = True
    if options.apparmor:
        process["apparmorProfile"] = options.apparmor
    if options.process_label:
        process["selinuxLabel"] = options.process_label
    sets = process.setdefault("capabilities", {}) if options.cap else {}
    for name in ("bounding", "effective", "permitted"):
        if options.cap:
            sets[name] = [*sets.get(name, []), *options.cap]
    return process


def _user(text: str) -> dict[str, int]:
    uid, _, gid = text.partition(":")
    if not uid.isdigit() or (gid and not gid.isdigit()):
        raise RuntimeFailure(f'--user "{text}" is not UID or UID:GID')
    return {"uid": int(uid), "gid": int(gid or 0)}
