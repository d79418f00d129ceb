"""A container as its caller holds it, and as it is written down."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.runtime import parse
from agent.runtime.cgroups import Cgroup, Kind
from agent.runtime.failure import RuntimeFailure
from agent.runtime.fields import Field
from agent.runtime.spec import Hook, Hooks

_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerState:
    """What outlives the caller. `pid_start_ticks` tells a reused pid apart; `namespaces` are
    the types the container does not share with the host; `hooks` those still to come."""

    uid: str
    pid: int
    pid_start_ticks: int
    bundle: Path
    namespaces: tuple[str, ...]
    cgroup: Cgroup
    annotations: Mapping[str, str] = field(default_factory=dict)
    hooks: Hooks = field(default_factory=Hooks)

    def to_json(self) -> dict[str, object]:
        """What is empty is left out of it."""
        kept = {"kept": list(self.cgroup.kept)} if self.cgroup.kept else {}
        later = {
            "annotations": dict(self.annotations),
            "poststart": [_hook_to_json(hook) for hook in self.hooks.poststart],
            "poststop": [_hook_to_json(hook) for hook in self.hooks.poststop],
        }
        return {
            "uid": self.uid,
            "pid": self.pid,
            "pid_start_ticks": self.pid_start_ticks,
            "bundle": str(self.bundle),
            "namespaces": list(self.namespaces),
            "cgroup": {
                "kind": str(self.cgroup.kind),
                "path": self.cgroup.path,
                "directories": dict(self.cgroup.directories),
                **kept,
            },
            **{name: value for name, value in later.items() if value},
        }

    @classmethod
    def from_json(cls, document: object) -> ContainerState:
        root = Field(document, "")
        cgroup = root.get("cgroup")
        return cls(
            uid=root.get("uid").required_text(),
            pid=root.get("pid").number(low=0),
            pid_start_ticks=root.get("pid_start_ticks").number(low=0),
            bundle=Path(root.get("bundle").absolute_path()),
            namespaces=root.get("namespaces").texts(),
            cgroup=Cgroup(
                kind=Kind(cgroup.get("kind").required_text()),
                path=cgroup.get("path").required_text(),
                directories=cgroup.get("directories").mapping(),
                kept=cgroup.get("kept").texts(),
            ),
            annotations=root.get("annotations").mapping(),
            hooks=Hooks(
                poststart=tuple(_hook(h) for h in root.get("poststart").items()),
                poststop=tuple(_hook(h) for h in root.get("poststop").items()),
            ),
        )


def _hook(field: Field) -> Hook:
    return replace(parse.hook(field), field=field.get("field").text())


def _hook_to_json(hook: Hook) -> dict[str, object]:
    written: dict[str, object] = {
        "path": hook.path, "args": list(hook.args), "env": list(hook.env), "field": hook.field,
    }  # fmt: skip
    return written if hook.timeout_s is None else {**written, "timeout": hook.timeout_s}


@dataclass(slots=True, kw_only=True)
class Container:
    """A created container. `pidfd` and, with a terminal, `pty_master` are descriptors the caller
    owns; `control` ends with `start`. `warnings`: what was asked for and could not be had."""

    state: ContainerState
    pidfd: int
    control: socket.socket
    pty_master: int | None = None
    warnings: tuple[str, ...] = ()
    has_start_hooks: bool = False

    @property
    def pid(self) -> int:
        return self.state.pid

    @property
    def cgroup(self) -> Cgroup:
        return self.state.cgroup

    def close(self) -> None:
        """Close the descriptors held here; the container runs on."""
        self.control.close()
        for fd in (self.pidfd, self.pty_master):
            if fd is not None and fd >= 0:
                os.close(fd)
        self.pidfd, self.pty_master = -1, None


def check_uid(uid: str) -> None:
    """RuntimeFailure where it is not a container id."""
    if not _UID.fullmatch(uid):
        raise RuntimeFailure(f'"{uid}" is not a container id: letters, digits and _.+- only')


def start_ticks(pid: int) -> int:
    """When the process began, in clock ticks after boot (proc_pid_stat(5), field 22); 0: no
    such process, or only its remains wait to be reaped."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])
