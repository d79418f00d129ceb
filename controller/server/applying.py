"""Applying documents: all of them as one group of changes, or all that is wrong with them.

Pure, as `intent`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bayplan.model.errors import Conflict, InvalidSpec
from bayplan.model.quota import QuotaSpec
from bayplan.model.secret import Secret
from bayplan.model.service import ServiceSpec
from bayplan.model.validate import (
    Problem,
    secret_references,
    validate,
    validate_quota,
    validate_secret,
)
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from controller.server.intent import (
    Desk,
    Outcome,
    Vault,
    apply_secret,
    apply_service,
    delete_service,
    said,
)
from controller.server.quotas import apply_quota, tell
from controller.server.views.secrets import secret_users
from controller.store.base import Change, Changes, Delete, Kind, Require, Tables

SOURCE_MAX_BYTES: Final = 512 << 10


@dataclass(frozen=True, slots=True)
class Wanted:
    """One document: a service's spec, a secret or a quota, and the text it came from."""

    subject: ServiceSpec | Secret | QuotaSpec
    source: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.subject.namespace, self.subject.name


def apply(
    desk: Desk, vault: Vault, documents: Sequence[Wanted], prune_namespaces: Sequence[str]
) -> Outcome:
    """All documents as one group of changes. Raises InvalidSpec, Conflict."""
    _check_documents(desk.tables, documents)
    changes: list[Change] = []
    told: list[control.Change] = []
    for document in documents:
        subject = document.subject
        match subject:
            case Secret():
                made, change = apply_secret(desk, vault, subject)
            case QuotaSpec():
                made, change = apply_quota(desk, subject, document.source)
            case ServiceSpec():
                made, change = apply_service(desk, subject, document.source)
        changes += made
        told.append(change)
    pruned = _prune(desk, documents, prune_namespaces)
    changes += pruned.changes
    required = _required_secrets(desk.tables, documents, changes)
    return tell(desk, Outcome((*changes, *required), (*told, *pruned.said)))


def _check_documents(tables: Tables, documents: Sequence[Wanted]) -> None:
    problems: list[str] = []
    seen: set[tuple[str, tuple[str, str]]] = set()
    applied = {d.key: d.subject for d in documents if isinstance(d.subject, Secret)}
    for document in documents:
        kind = _kind(document.subject)
        kind = kind if kind in ("secret", "quota") else "workload"
        if (kind, document.key) in seen:
            problems.append(f"{document.key[1]} is there twice in namespace {document.key[0]}")
        seen.add((kind, document.key))
        problems += _problems(document)
        if len(document.source.encode()) > SOURCE_MAX_BYTES:
            problems.append(f"{document.key[1]} is longer than {SOURCE_MAX_BYTES >> 10}KiB")
        if isinstance(document.subject, ServiceSpec):
            problems += _missing_secrets(tables, document.subject, applied)
    if problems:
        raise InvalidSpec("; ".join(problems))


def _problems(document: Wanted) -> list[str]:
    subject = document.subject
    match subject:
        case Secret():
            found: list[Problem] = validate_secret(subject)
        case QuotaSpec():
            found = validate_quota(subject)
        case ServiceSpec():
            found = validate(subject)
    kind = _kind(subject)
    texts = []
    for problem in found:
        path = ".".join(map(str, problem.path))
        texts.append(f"{kind} {subject.name}: {path + ': ' if path else ''}{problem.message}")
    return texts


def _kind(subject: ServiceSpec | Secret | QuotaSpec) -> str:
    match subject:
        case Secret():
            return "secret"
        case QuotaSpec():
            return "quota"
        case ServiceSpec():
            return str(subject.kind).lower()


def _missing_secrets(
    tables: Tables, spec: ServiceSpec, applied: Mapping[tuple[str, str], Secret]
) -> list[str]:
    problems = []
    for reference in secret_references(spec.template):
        name, key = reference.name, reference.key
        where = (spec.namespace, name)
        stored = tables.secrets.get(where)
        keys = applied[where].values.keys() if where in applied else None
        if keys is None and stored is not None:
            keys = stored.value.sealed.keys()
        if keys is None:
            problems.append(
                f"{str(spec.kind).lower()} {spec.name}: there is no secret {name} in namespace "
                f"{spec.namespace}; apply it first or with it"
            )
        elif key not in keys:
            problems.append(
                f"{str(spec.kind).lower()} {spec.name}: secret {name} has no key {key!r}; it has "
                f"{', '.join(sorted(keys)) or 'none'}"
            )
    return list(dict.fromkeys(problems))


def _required_secrets(
    tables: Tables, documents: Sequence[Wanted], changes: Sequence[Change]
) -> Changes:
    """A secret that a written service refers to must still be what was looked at."""
    written = {c.key for c in changes if c.kind is Kind.SECRET}
    services = {c.key for c in changes if c.kind is Kind.SERVICE}
    needed = {
        (d.key[0], reference.name)
        for d in documents
        if isinstance(d.subject, ServiceSpec) and d.key in services
        for reference in secret_references(d.subject.template)
    }
    return tuple(
        Require(Kind.SECRET, key, tables.secrets[key].mod_revision)
        for key in sorted(needed - written)
    )


def _prune(desk: Desk, documents: Sequence[Wanted], namespaces: Sequence[str]) -> Outcome:
    named = {(type(d.subject), d.key) for d in documents}
    changes: list[Change] = []
    told: list[control.Change] = []
    gone: set[tuple[str, str]] = set()
    for key in sorted(desk.tables.services):
        made_by_cron = desk.tables.services[key].value.owner
        if key[0] in namespaces and (ServiceSpec, key) not in named and not made_by_cron:
            outcome = delete_service(desk, *key)
            gone.add(key)
            changes += outcome.changes
            told += outcome.said
    for key in sorted(desk.tables.secrets):
        if key[0] not in namespaces or (Secret, key) in named:
            continue
        users = [n for n in secret_users(desk.tables.services, *key) if (key[0], n) not in gone]
        if users:
            raise Conflict(
                f"secret {key[1]} would be pruned but is used by {', '.join(users)}",
                hint="keep its document, or change these services",
            )
        stored = desk.tables.secrets[key]
        changes.append(Delete(Kind.SECRET, key, stored.mod_revision))
        told.append(said("Secret", key, "delete"))
    return Outcome(tuple(changes), tuple(told))
