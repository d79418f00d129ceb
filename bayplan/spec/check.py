"""One document's plain values to a domain value, with everything that is wrong at once."""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError

from bayplan.model.quota import QuotaSpec
from bayplan.model.secret import Secret
from bayplan.model.service import ServiceSpec
from bayplan.model.validate import Problem, validate, validate_quota, validate_secret
from bayplan.spec import convert
from bayplan.spec.fields import KINDS, QuotaFields, SecretFields, TaskFields
from bayplan.spec.problems import Path, did_you_mean, shorten

AnyFields = TaskFields | SecretFields | QuotaFields
Subject = ServiceSpec | Secret | QuotaSpec

ROUNDS_MAX = 5

# A fault in the first makes what is found in the others doubtful.
JUDGED_TOGETHER = {
    "ports": ("health",),
    "health": ("health",),
    "update": ("update",),
    "replicas": ("update",),
    "retry_delay": ("retry_max_delay",),
    "restart": ("restart",),
    "network": ("ports", "health", "hostname"),
}

EXAMPLES = {
    "env": "env: {LOG_LEVEL: info}",
    "files": "files: {/run/secrets/key: {secret: shop-tls/key}}",
    "ports": "ports: {http: 8080}",
    "mounts": "mounts: {/data: {volume: shop}}",
    "labels": "labels: {team: shop}",
}
"""Mappings with keys of the operator's own, which elsewhere are often lists."""


def check(value: Any, namespace: str, directory: FilePath) -> tuple[Subject | None, list[Problem]]:
    """The object a document stands for, or None where it stands for none."""
    if not isinstance(value, dict):
        return None, [Problem((), "is no object; write kind: Service, name: … and so on")]
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        return None, [_wrong_kind(value)]
    empty = [Problem(p, "has no value; write one, or leave the field out") for p in _empty(value)]
    fields, wrong = _fields(KINDS[kind], value)
    known = {p.path for p in empty}
    problems = empty + [p for p in wrong if p.path not in known]
    if fields is None:
        return None, problems
    made, more = _made(fields, namespace, directory)
    problems += [p for p in more if not _follows(p.path, problems)]
    return (None if problems else made), problems


def _made(fields: AnyFields, namespace: str, directory: FilePath) -> tuple[Subject, list[Problem]]:
    if isinstance(fields, SecretFields):
        secret, problems = convert.secret(fields, namespace, directory)
        found = [_in_secret(p, fields) for p in validate_secret(secret)]
        # Of what could not be read nothing is in the secret: that it is empty then only follows.
        return secret, problems + [p for p in found if p.path or not problems]
    if isinstance(fields, QuotaFields):
        quota, problems = convert.quota(fields, namespace)
        # Where an amount was typed as 0 it is not said as well that there is none.
        return quota, problems or validate_quota(quota)
    spec, problems = convert.workload(fields, namespace)
    taken = {p.path for p in problems}
    return spec, problems + [p for p in validate(spec) if p.path not in taken]


def _fields(
    model: type[AnyFields], value: dict[str, Any]
) -> tuple[AnyFields | None, list[Problem]]:
    """The fields, and what is wrong with them. What is wrong is taken out of a copy and the rest
    read again, so that what depends on several fields is still checked; None where too little
    remains."""
    wrong: list[Problem] = []
    rest = copy.deepcopy(value)
    for _ in range(ROUNDS_MAX):
        try:
            return model.model_validate(rest), wrong
        except ValidationError as error:
            found = list(_translated(error, model, rest))
        known = {p.path for p in wrong}
        wrong += [p for p in found if p.path not in known]
        for problem in found:
            _take_out(rest, problem.path)
    return None, wrong


def _take_out(value: Any, path: Path) -> None:
    """Without the field at `path`; where it is missing, without what it is missing from (at the
    top a word stands in for it)."""
    parents = [value]
    for step in path[:-1]:
        inner = parents[-1]
        if not isinstance(inner, dict | list) or (isinstance(inner, dict) and step not in inner):
            return  # taken out with another
        parents.append(inner[step])  # type: ignore[index]
    if not path:
        return
    parent, step = parents[-1], path[-1]
    if isinstance(parent, list):
        _take_out(value, path[:-1])  # all of it, else the positions of the others would change
    elif step in parent:
        del parent[step]
    elif len(path) == 1:
        parent[step] = "stand-in"
    else:
        _take_out(value, path[:-1])


def _follows(path: Path, problems: list[Problem]) -> bool:
    """True where a problem may only follow from another: it is about the same field, or about
    fields that are judged together."""
    for problem in problems:
        other = problem.path
        if other[: len(path)] == path or path[: len(other)] == other:
            return True
        if path and other and path[0] in JUDGED_TOGETHER.get(str(other[0]), ()):
            return True
    return False


def _wrong_kind(value: Mapping[str, Any]) -> Problem:
    kinds = f"{', '.join(list(KINDS)[:-1])} or {list(KINDS)[-1]}"
    kind = value.get("kind")
    if "kind" not in value:
        near = [k for k in value if isinstance(k, str) and k.lower() == "kind"]
        hint = f'; did you mean "kind" by "{near[0]}"?' if near else f"; write kind: {kinds}"
        return Problem(("kind",), f"is missing{hint}")
    if not isinstance(kind, str):
        return Problem(("kind",), f"has no value; write {kinds}")
    by_lower = {k.lower(): k for k in KINDS}
    near_kind = did_you_mean(kind, by_lower)
    for lower, proper in by_lower.items():
        near_kind = near_kind.replace(f'"{lower}"', f'"{proper}"')
    return Problem(
        ("kind",), f'"{shorten(kind)}" is not a kind of object{near_kind or f"; write {kinds}"}'
    )


def _empty(value: Any, path: Path = ()) -> Iterator[Path]:
    """Where a field has no value at all."""
    if value is None:
        yield path
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _empty(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _empty(child, (*path, index))


def _in_secret(problem: Problem, fields: SecretFields) -> Problem:
    """The problem with the path of the field that holds the key."""
    if len(problem.path) == 1 and problem.path[0] not in ("name", "namespace"):
        for kind in ("values", "files", "binary"):
            if problem.path[0] in getattr(fields, kind):
                return Problem((kind, *problem.path), problem.message)
    return problem


def _translated(error: ValidationError, model: type[BaseModel], value: Any) -> Iterator[Problem]:
    seen: set[Path] = set()
    for item in error.errors(include_url=False, include_input=False):
        path = _existing(tuple(item["loc"]), value, item["type"] == "missing")
        if path in seen:
            continue
        seen.add(path)
        yield Problem(path, _sentence(item, model, path))


def _sentence(item: Mapping[str, Any], model: type[BaseModel], path: Path) -> str:
    kind = item["type"]
    owner = _model_at(model, path[:-1])
    match kind:
        case "spec":
            return str(item["ctx"]["message"])
        case "missing":
            description = owner.model_fields[str(path[-1])].description if owner else ""
            return f"is missing; write {path[-1]}: … ({description})"
        case "extra_forbidden":
            known = list(owner.model_fields) if owner else []
            near = did_you_mean(str(path[-1]), known)
            hint = near or f"; there are {', '.join(known)}"
            return f"there is no such field{hint}"
        case "model_type" | "dict_type" | "model_attributes_type":
            ours = len(path) == 1 and issubclass(model, TaskFields)
            example = EXAMPLES.get(str(path[0])) if ours else None
            such_as = f"; write e.g. {example}" if example else _such_as(_model_at(model, path))
            return f"must be a mapping{such_as}"
        case "list_type":
            return "must be a list; write e.g. [a, b]"
        case "literal_error":
            return f"must be {item['ctx']['expected']}"
    return str(item["msg"])


def _such_as(model: type[BaseModel] | None) -> str:
    if model is None:
        return "; write e.g. {name: value}"
    return "; its fields are " + ", ".join(model.model_fields)


def _existing(loc: Path, value: Any, missing: bool) -> Path:
    """`loc` without the steps pydantic adds for unions and short forms."""
    path: list[str | int] = []
    for step in loc[:-1] if missing else loc:
        in_dict = isinstance(value, dict) and step in value
        if in_dict or (isinstance(value, list) and isinstance(step, int) and step < len(value)):
            value = value[step]
            path.append(step)
    return (*path, loc[-1]) if missing else tuple(path)


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The class of fields that stands at a path, None where there is none."""
    current: Any = model
    for step in path:
        if isinstance(current, type) and issubclass(current, BaseModel):
            if step not in current.model_fields:
                return None
            current = current.model_fields[str(step)].annotation
        else:
            arguments = typing.get_args(_unwrapped(current))
            if not arguments:
                return None
            current = arguments[-1]
        current = _unwrapped(current)
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _unwrapped(hint: Any) -> Any:
    """Without Annotated and `| None`."""
    while True:
        if typing.get_origin(hint) is typing.Annotated:
            hint = typing.get_args(hint)[0]
            continue
        arguments = [a for a in typing.get_args(hint) if a is not type(None)]
        if len(arguments) == 1 and len(typing.get_args(hint)) == 2:
            hint = arguments[0]
            continue
        return hint
