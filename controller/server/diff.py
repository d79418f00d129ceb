"""What a new spec changes, in lines an operator reads: `image: shop/web:1.41 -> shop/web:1.42`.

Lists whose entries have names (env, ports, mounts, files) are compared by name, so that a line
moved is not a change and an entry added is one line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final

from bayplan.model.resources import Resources
from bayplan.model.service import (
    Affinity,
    Constraint,
    DeviceRequest,
    EnvVar,
    Preference,
    SecretReference,
    ServiceSpec,
    Spread,
    TaskTemplate,
    Toleration,
)

_NAMED: Final = {"env": "name", "ports": "name", "mounts": "target", "files": "path"}
_UNSET: Final = (None, "", (), 0, False)
_LINE_MAX: Final = 300


def _bytes(amount: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if amount >= size and amount % size == 0:
            return f"{amount // size}{unit}"
    return str(amount)


def _scalar(name: str, value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if name.endswith("_bytes") and isinstance(value, int):
        return _bytes(value)
    if name.endswith("_millis") and isinstance(value, int):
        return f"{value / 1000:g}"
    if name.endswith("_s") and isinstance(value, int | float):
        return f"{value:g}s"
    if name == "mode" and isinstance(value, int):
        return f"{value:04o}"
    return str(value)


def _title(name: str) -> str:
    for ending in ("_bytes", "_millis", "_s"):
        if name.endswith(ending):
            return name.removesuffix(ending)
    return name


def _leaf(name: str, value: Any) -> str | None:
    """The text of a value that is shown whole; None: its fields are shown one by one."""
    match value:
        case SecretReference():
            return f"secret {value.name}/{value.key}"
        case EnvVar():
            return _leaf(name, value.secret) if value.secret else value.value
        case Constraint():
            return value.text or f"{value.key} {value.operator} {', '.join(value.values)}"
        case Preference():
            return f"{_leaf(name, value.constraint)} (weight {value.weight})"
        case Affinity():
            strength = f" (weight {value.weight})" if value.weight else ""
            return f"{value.service} over {value.over}{strength}"
        case Toleration():
            return f"{value.key}={value.value}" if value.value else value.key
        case DeviceRequest():
            model = f" {value.model}" if value.model else ""
            return f"{value.millis / 1000:g} {value.name}{model}"
        case Spread():
            return f"over {value.over}" + (f" (skew {value.max_skew})" if value.max_skew else "")
        case tuple():
            between = " " if all(isinstance(v, str) for v in value) else ", "
            return between.join(_leaf(name, v) or repr(v) for v in value)
        case None:
            return ""
    if dataclasses.is_dataclass(value) or isinstance(value, Mapping):
        return None
    return _scalar(name, value)


def _flatten(value: Any, prefix: str = "", named: str = "") -> Iterator[tuple[str, str]]:
    """`named`: the field that is in the prefix already."""
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if field.name == named:
            continue
        if inner in _UNSET and not isinstance(value, Resources):
            continue
        path = prefix + _title(field.name)
        if field.name in _NAMED and isinstance(inner, tuple):
            for entry in inner:
                by = _NAMED[field.name]
                yield from _entry(f"{path} {getattr(entry, by)}", field.name, entry, by)
        elif isinstance(inner, Mapping):
            for key in sorted(inner):
                yield f"{path} {key}", str(inner[key])
        else:
            yield from _entry(path, field.name, inner)


def _entry(path: str, name: str, value: Any, named: str = "") -> Iterator[tuple[str, str]]:
    leaf = _leaf(name, value)
    if leaf is not None:
        yield path, leaf
    else:
        yield from _flatten(value, path + " ", named)


def _flat(spec: ServiceSpec) -> dict[str, str]:
    found = dict(_flatten(dataclasses.replace(spec, replicas=None)))
    # The template's fields stand at the top of what the operator writes.
    for policy in ("template ", "job ", "cron "):
        found = {path.removeprefix(policy): text for path, text in found.items()}
    return found


def summary(old: ServiceSpec | None, new: ServiceSpec) -> list[str]:
    """One line for each field that differs; empty where the specs mean the same. Replicas are
    not compared: what they become depends on what was scaled."""
    before = _flat(old) if old is not None else {}
    after = _flat(new)
    if old is None:
        # What everybody gets without asking is not worth a line.
        usual = _flat(ServiceSpec(name="", template=TaskTemplate(image="")))
        after = {path: text for path, text in after.items() if usual.get(path) != text}
    lines = []
    for path in [*after, *(p for p in before if p not in after)]:
        if before.get(path) == after.get(path) or path in ("name", "namespace", "kind"):
            continue
        if path not in before:
            line = f"{path}: {after[path]}" if old is None else f"{path}: added: {after[path]}"
        elif path not in after:
            line = f"{path}: removed (was {before[path]})"
        else:
            line = f"{path}: {before[path]} -> {after[path]}"
        lines.append(line if len(line) <= _LINE_MAX else line[: _LINE_MAX - 1] + "…")
    return lines
