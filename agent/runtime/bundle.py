"""Reading a bundle: config.json, and layers.json where the root is to be an overlay."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from agent.runtime import parse
from agent.runtime.failure import RuntimeFailure
from agent.runtime.fields import Field
from agent.runtime.spec import Config

LAYERS_MAX = 128
_FILE_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """An overlay root: `lower` lowest first; `upper` and `work` are siblings in one directory.
    `resolved`: sources of bind mounts whose way has no links, and so must not have any later."""

    lower: tuple[Path, ...]
    upper: Path
    work: Path
    resolved: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """`layers` None: the root is `config.root_path`, as in plain OCI bundles."""

    path: Path
    config: Config
    layers: Layers | None = None

    @property
    def rootfs(self) -> Path:
        return self.path / self.config.root_path


def load(path: Path) -> Bundle:
    """Read and validate; RuntimeFailure names the file or the JSON path that is wrong."""
    config = parse.config(read(path / "config.json"))
    layers_file = path / "layers.json"
    layers = _layers(Field(read(layers_file), "layers.json")) if layers_file.exists() else None
    bundle = Bundle(path=path, config=config, layers=layers)
    if layers is None and not bundle.rootfs.is_dir():
        raise RuntimeFailure(f'"{bundle.rootfs}" is not a directory', "root.path")
    return bundle


def read(path: Path) -> object:
    """A JSON document of at most 16 MiB."""
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_MAX_BYTES + 1)
    except OSError as error:
        raise RuntimeFailure(f"cannot read {path}: {error.strerror}") from error
    if len(content) > _FILE_MAX_BYTES:
        raise RuntimeFailure(f"{path} is larger than {_FILE_MAX_BYTES} bytes")
    try:
        document: object = json.loads(content)
    except ValueError as error:
        raise RuntimeFailure(f"{path} is not JSON: {error}") from error
    return document


def _layers(field: Field) -> Layers:
    lower = tuple(Path(member.absolute_path()) for member in field.get("layers").items())
    if not lower:
        raise field.get("layers").fail("must name at least one directory")
    if len(lower) > LAYERS_MAX:
        raise field.get("layers").fail(f"more than {LAYERS_MAX} layers")
    upper = Path(field.get("upper").absolute_path())
    work = Path(field.get("work").absolute_path())
    if upper.parent != work.parent or upper == work:
        raise field.get("work").fail("must be a sibling of upper (both lie on one mount)")
    resolved = frozenset(member.absolute_path() for member in field.get("resolved").items())
    return Layers(lower=lower, upper=upper, work=work, resolved=resolved)
