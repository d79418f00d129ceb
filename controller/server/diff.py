"""What a new spec changes, in lines an operator reads: `image: shop/web:1.41 -> shop/web:1.42`.

Lists whose entries have names (env, ports, mounts, files) are compared by name, so that a line
moved is not a change and an entry added is one line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

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
    Toleration,
)
from bayplan.model.workload import WorkloadKind
from bayplan.spec.units import duration_text

_NAMED: Final = {"env": "name", "ports": "name", "mounts": "target", "files": "path"}
_UNSET: Final = (None, "", (), 0, False)
_OF_KIND: Final[Mapping[WorkloadKind, Mapping[str, str]]] = {
    WorkloadKind.JOB: {"restart condition": "never"},
    WorkloadKind.CRON: {"restart condition": "never"},
    WorkloadKind.DAEMON: {"update max_surge": "0", "update max_unavailable": "1"},
}
"""What specs of a kind have without being asked, where it is not the model's own default."""
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
        return duration_text(value)
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
            return _leaf(name, value.secret) if value.secret else value.value or '""'
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


class _Value(NamedTuple):
    """`text` empty: nothing is set. `usual`: it is what one gets without asking."""

    text: str
    usual: bool


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _flatten(value: Any, prefix: str = "", named: str = "") -> Iterator[tuple[str, _Value]]:
    """`named`: the field that is in the prefix already."""
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if field.name == named:
            continue
        usual = inner == _default(field)
        path = prefix + _title(field.name)
        amount = isinstance(value, Resources) or (isinstance(inner, int | float) and not usual)
        if inner in _UNSET and not amount:
            yield path, _Value("", usual=True)
        elif field.name in _NAMED and isinstance(inner, tuple):
            for entry in inner:
                by = _NAMED[field.name]
                yield from _entry(f"{path} {getattr(entry, by)}", field.name, entry, by)
        elif isinstance(inner, Mapping):
            for key in sorted(inner):
                yield f"{path} {key}", _Value(str(inner[key]), usual=False)
        else:
            yield from _entry(path, field.name, inner, usual=usual)


def _entry(
    path: str, name: str, value: Any, named: str = "", *, usual: bool = False
) -> Iterator[tuple[str, _Value]]:
    leaf = _leaf(name, value)
    if leaf is not None:
        yield path, _Value(leaf, usual)
    else:
        yield from _flatten(value, path + " ", named)


def _flat(spec: ServiceSpec) -> dict[str, _Value]:
    found = dict(_flatten(dataclasses.replace(spec, replicas=None)))
    # The template's fields stand at the top of what the operator writes.
    for policy in ("template ", "job ", "cron "):
        found = {path.removeprefix(policy): value for path, value in found.items()}
    for path, text in _OF_KIND.get(spec.kind, {}).items():
        if path in found and found[path].text == text:
            found[path] = _Value(text, usual=True)
    return found


_NOTHING: Final = _Value("", usual=True)


def _line(path: str, before: _Value | None, after: _Value | None, *, new: bool) -> str:
    """What is said of one field; empty: nothing. A part that comes or goes as a whole (a health
    check, a port) is said by what was typed of it."""
    was, now = (before or _NOTHING).text, (after or _NOTHING).text
    if before is None or after is None:
        only = before or after
        if only is None or only.usual:
            return ""
    elif was == now:
        return ""
    if new:
        return f"{path}: {now}"
    if not was:
        return f"{path}: added: {now}"
    return f"{path}: {was} -> {now}" if now else f"{path}: removed (was {was})"


def summary(old: ServiceSpec | None, new: ServiceSpec) -> list[str]:
    """One line for each field that differs; empty where the specs mean the same. Replicas are
    not compared: what they become depends on what was scaled."""
    before = _flat(old) if old is not None else {}
    after = _flat(new)
    lines = []
    for path in [*after, *(p for p in before if p not in after)]:
        if path in ("name", "namespace", "kind"):
            continue
        line = _line(path, before.get(path), after.get(path), new=old is None)
        if line:
            lines.append(line if len(line) <= _LINE_MAX else line[: _LINE_MAX - 1] + "…")
    return lines
