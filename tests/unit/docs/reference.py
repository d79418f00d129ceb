"""What the tables of docs/spec-reference.md must say, from the fields themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from bayplan.model.service import Fencing, HealthCheck, RestartPolicy, StopPolicy, UpdatePolicy
from bayplan.model.workload import CronPolicy, JobPolicy
from bayplan.spec import fields, placing
from bayplan.spec.forms import Fields
from bayplan.spec.schema import json_schema

MODELS: list[type[BaseModel]] = [
    m
    for m in {**vars(fields), **vars(placing)}.values()
    if isinstance(m, type) and issubclass(m, Fields) and m is not Fields
]
_POLICIES: dict[str, Any] = {
    "HealthFields": HealthCheck,
    "RestartFields": RestartPolicy,
    "StopFields": StopPolicy,
    "FencingFields": Fencing,
    "UpdateFields": UpdatePolicy,
    "DaemonUpdateFields": UpdatePolicy,
    "JobFields": JobPolicy,
    "CronFields": CronPolicy,
}
# Defaults that are not a value of the field.
_IN_WORDS = {
    ("TaskFields", "namespace"): "`default`",
    ("SecretFields", "namespace"): "`default`",
    ("QuotaFields", "namespace"): "`default`",
    ("ServiceFields", "replicas"): "as scaled, else 1",
    ("TaskFields", "command"): "the image's",
    ("TaskFields", "args"): "the image's",
    ("TaskFields", "working_dir"): "the image's",
    ("TaskFields", "user"): "the image's",
    ("TaskFields", "hostname"): "the task's name",
    ("TaskFields", "health"): "no check",
    ("SecretFileFields", "mode"): '`"0400"`',
    ("StopFields", "signal"): "the image's, else SIGTERM",
    ("ResourceFields", "cpu"): "no limit",
    ("ResourceFields", "memory"): "no limit",
    ("ResourceFields", "pids"): "no limit",
    ("DeviceFields", "count"): "1",
    ("AffinityFields", "weight"): "required",
    ("PlacementFields", "pool"): "nodes without one",
    ("PortFields", "publish"): "not published",
    ("DaemonUpdateFields", "max_unavailable"): "`1`",
    ("DaemonUpdateFields", "promote_after"): "for ever",
    ("ServiceFields", "node_loss_grace"): "`0s`",
    ("UpdateFields", "promote_after"): "for ever",
    ("JobFields", "deadline"): "none",
    ("CronFields", "start_deadline"): "none",
}


def own_fields(model: type[BaseModel]) -> dict[str, Any]:
    """A kind's fields beside those that every workload has (`kind` stands with each kind), a
    cron's beside a job's."""
    (base,) = model.__bases__
    shared = set(base.model_fields) - {"kind"} if base is not fields.Fields else set()
    left_out = shared | ({"kind"} if model is fields.TaskFields else set())
    return {name: f for name, f in model.model_fields.items() if name not in left_out}


def rows(model: type[BaseModel]) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and meaning of each field."""
    owner = "ServiceFields" if model is fields.TaskFields else model.__name__
    schema = json_schema()["$defs"][owner]["properties"]
    for name, field in own_fields(model).items():
        default = "required" if field.is_required() else _default(model.__name__, name, field)
        yield f"`{name}`", _kind(schema[name]), default, str(field.description)


def _default(model: str, name: str, field: Any) -> str:
    if (model, name) in _IN_WORDS:
        return _IN_WORDS[model, name]
    policy = _POLICIES.get(model)
    if policy is not None and field.default is None:
        found = {f: p.default for f, p in policy.__dataclass_fields__.items()}
        value = found[f"{name}_s"] if f"{name}_s" in found else found[name]
        return "none" if value is None else f"`{_amount(value)}`"
    if isinstance(field.default, BaseModel) or field.default in (None, [], {}):
        return "none"
    return f"`{_amount(field.default)}`"


def _amount(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}s" if isinstance(value, float) else str(value)


def _kind(schema: dict[str, Any]) -> str:
    """The type in a word; units are told by it."""
    if "const" in schema or "enum" in schema:
        return "word"
    if "$ref" in schema or schema.get("type") == "object":
        return "mapping"
    if "anyOf" in schema:
        kinds = [_kind(option) for option in schema["anyOf"]]
        return " or ".join(dict.fromkeys(kinds))
    if schema.get("type") == "array":
        return "list"
    pattern = schema.get("pattern", "")
    for mark, word in (("KiB", "size"), ("ms|s", "time"), ("m)$", "cores"), ("%$", "percentage")):
        if mark in pattern:
            return word
    if pattern:
        return "NAME/KEY"
    if "0400" in schema.get("examples", ()):
        return "mode"
    kinds_of_text = schema.get("type")
    if kinds_of_text == ["string", "object"]:
        return "expression or mapping"
    if kinds_of_text == ["string", "array"]:
        return "text or list"
    return {"integer": "number", "boolean": "true or false"}.get(str(kinds_of_text), "text")
