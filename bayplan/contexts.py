"""Which cluster `bay` speaks with, and as whom: `config.yaml` in `~/.config/bay` (`$BAY_CONFIG`).

    current: prod
    contexts:
      prod:
        controllers: [10.0.0.1:7443, 10.0.0.2:7443]
        registry: [10.0.0.1:7445, 10.0.0.2:7445]
        ca: contexts/prod/ca.pem
        cert: contexts/prod/cert.pem
        key: contexts/prod/key.pem

Relative paths start at the directory of the file. Files are replaced atomically, readable by their
owner alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from bayplan.model.errors import InvalidSpec, NotFound

CONFIG_ENV = "BAY_CONFIG"
CONTEXT_ENV = "BAY_CONTEXT"
FILE = "config.yaml"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_FIELDS = ("controllers", "registry", "ca", "cert", "key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """`controllers` and `registries` (one at each controller) are HOST:PORT; the paths name PEM
    files."""

    name: str
    controllers: tuple[str, ...]
    registries: tuple[str, ...] = ()
    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All contexts, and the one used where none is asked for."""

    directory: Path
    current: str = ""
    contexts: Mapping[str, Context] = field(default_factory=dict)

    def choose(self, name: str = "") -> Context:
        """The context asked for, else that of `$BAY_CONTEXT`, else the current one, else the only
        one. Raises NotFound."""
        wanted = name or os.environ.get(CONTEXT_ENV, "") or self.current
        if not wanted and len(self.contexts) == 1:
            return next(iter(self.contexts.values()))
        if not wanted:
            raise NotFound(
                f"there is no context in {self.directory / FILE}",
                hint="log in with `bay login HOST`, or make a cluster on this machine with "
                "`bay lab up`",
            )
        if wanted not in self.contexts:
            known = ", ".join(sorted(self.contexts)) or "none"
            raise NotFound(
                f'there is no context "{wanted}" in {self.directory / FILE}',
                hint=f"it has {known}",
            )
        return self.contexts[wanted]

    def with_context(self, context: Context, *, use: bool = True) -> Config:
        contexts = {**self.contexts, context.name: context}
        current = context.name if use or not self.current else self.current
        return replace(self, contexts=contexts, current=current)

    def without(self, name: str) -> Config:
        self.choose(name)
        contexts = {n: c for n, c in self.contexts.items() if n != name}
        return replace(
            self, contexts=contexts, current="" if self.current == name else self.current
        )


def config_directory() -> Path:
    """`$BAY_CONFIG`, else `bay` under `$XDG_CONFIG_HOME` or `~/.config`."""
    if given := os.environ.get(CONFIG_ENV):
        return Path(given).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "bay"


def check_name(name: str) -> str:
    """The name of a context, given back. Raises InvalidSpec."""
    if _NAME.fullmatch(name) is None:
        raise InvalidSpec(
            f'"{name[:60]}" is not a name for a context', hint="use letters, digits, - and _"
        )
    return name


def load_config(directory: Path | None = None) -> Config:
    """What is written there; empty where nothing is. Raises InvalidSpec."""
    directory = directory or config_directory()
    path = directory / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Config(directory=directory)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"cannot read {path}: {error}") from None
    try:
        written = yaml.load(text, Loader=yaml.CSafeLoader) or {}
        contexts = {
            str(name): _context(str(name), fields, directory)
            for name, fields in (written.get("contexts") or {}).items()
        }
        current = str(written.get("current") or "")
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidSpec(
            f"{path} is not a list of contexts ({str(error).splitlines()[0]})",
            hint="mend it, or move it away and log in again",
        ) from None
    return Config(directory=directory, current=current, contexts=contexts)


def _context(name: str, fields: Mapping[str, Any], directory: Path) -> Context:
    unknown = sorted(set(fields) - set(_FIELDS))
    if unknown:
        raise ValueError(f"context {name}: there is no field {unknown[0]}")
    controllers = fields["controllers"]
    if not isinstance(controllers, list) or not controllers:
        raise ValueError(f"context {name}: controllers is a list of HOST:PORT")
    return Context(
        name=name,
        controllers=tuple(map(str, controllers)),
        registries=_list(fields.get("registry") or ()),
        ca=directory / str(fields["ca"]),
        cert=directory / str(fields["cert"]),
        key=directory / str(fields["key"]),
    )


def _list(value: Any) -> tuple[str, ...]:
    """A list, or one without brackets."""
    return tuple(map(str, value)) if isinstance(value, (list, tuple)) else (str(value),)


def save_config(config: Config) -> None:
    """Replace the file. Paths below its directory are written relative to it."""
    from bayplan.pki import write_private

    def shown(path: Path) -> str:
        below = path.is_relative_to(config.directory)
        return str(path.relative_to(config.directory) if below else path)

    written = {
        "current": config.current,
        "contexts": {
            name: {
                "controllers": list(c.controllers),
                "registry": list(c.registries),
                "ca": shown(c.ca),
                "cert": shown(c.cert),
                "key": shown(c.key),
            }
            for name, c in sorted(config.contexts.items())
        },
    }
    config.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(config.directory / FILE, yaml.safe_dump(written, sort_keys=False))


def store_credentials(
    config: Config, name: str, *, ca_pem: str, certificate_pem: str, key_pem: bytes
) -> tuple[Path, Path, Path]:
    """Write a context's certificate files; gives the paths of CA, certificate and key."""
    from bayplan.pki import write_private

    directory = config.directory / "contexts" / check_name(name)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    paths = (directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
    contents: tuple[str | bytes, ...] = (ca_pem, certificate_pem, key_pem)
    for path, content in zip(paths, contents, strict=True):
        write_private(path, content)
    return paths
