"""What operators' verbs change: documents and verbs in, Changes and their description out.

Pure: one view of the store, the caller's name, the time and a source of uids are arguments. Every
change expects the revision it was decided from, so that a stale decision is made again.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from bayplan.model.errors import Conflict, NotFound
from bayplan.model.event import Event, Severity
from bayplan.model.secret import SealedSecret, Secret
from bayplan.model.service import Service, ServiceSpec, ServiceVersion, TaskTemplate
from bayplan.model.workload import WorkloadKind
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire.convert import to_pb
from controller.server import diff, effects, kinds
from controller.server.views.secrets import secret_users
from controller.store.base import Changes, Delete, Kind, Put, Tables


class Vault(Protocol):
    """Seals secret values: `bayplan.pki.KeyEncryptionKey`."""

    def seal(self, plaintext: bytes, belongs_to: str) -> bytes: ...

    def open(self, sealed: bytes, belongs_to: str) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What every verb decides from. `admin`: the caller has that role."""

    tables: Tables
    caller: str
    now: float
    new_uid: Callable[[], str]
    admin: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to commit, and what to tell. No changes: everything is as asked for already."""

    changes: Changes
    said: tuple[control.Change, ...]


def secret_context(namespace: str, name: str, key: str) -> str:
    """What a sealed value is bound to, so that it cannot be moved to another name."""
    return f"secrets/{namespace}/{name}/{key}"


def template_hash(template: TaskTemplate, salt: str = "") -> str:
    """SHA-256 over the template's deterministic protobuf form; computed once, when a version is
    made, and stored. `salt` makes a restart a template of its own."""
    message = to_pb(template).SerializeToString(deterministic=True)
    return hashlib.sha256(message + salt.encode()).hexdigest()


def event(
    desk: Desk, kind: str, namespace: str, name: str, reason: str, message: str, node: str = ""
) -> Put:
    """An operator's act as an event; the same act again raises its count."""
    mark = hashlib.sha256(f"{kind}/{name}/{reason}/{message}".encode()).hexdigest()[:20]
    before = desk.tables.events.get((namespace, mark))
    made = Event(
        namespace=namespace,
        id=mark,
        kind=kind,
        name=name,
        reason=reason,
        message=message,
        severity=Severity.INFO,
        node=node,
        count=before.value.count + 1 if before else 1,
        first_at=before.value.first_at if before else desk.now,
        last_at=desk.now,
    )
    return Put(Kind.EVENT, (namespace, mark), made, None)


def said(
    kind: str,
    key: tuple[str, str],
    action: str,
    *,
    summary: Sequence[str] = (),
    effect: str = "",
    generation: int = 0,
) -> control.Change:
    return control.Change(
        kind=kind,
        namespace=key[0],
        name=key[1],
        action=action,
        summary=summary,
        effect=effect,
        generation=generation,
    )


# Services


def find_service(tables: Tables, namespace: str, name: str) -> tuple[Service, int]:
    """The service and its revision. Raises NotFound, with the nearest name where there is one."""
    stored = tables.services.get((namespace, name))
    if stored is None:
        elsewhere = sorted(where for where, n in tables.services if n == name)
        hint = (
            f"there is one in namespace {elsewhere[0]}: give -n {elsewhere[0]}"
            if elsewhere
            else "`bay get` lists what there is"
        )
        raise NotFound(f"there is no service {name} in namespace {namespace}", hint=hint)
    return stored.value, stored.mod_revision


def changeable(tables: Tables, namespace: str, name: str) -> tuple[Service, int]:
    """As find_service; raises Conflict where it is being deleted."""
    service, revision = find_service(tables, namespace, name)
    if service.deleting:
        raise Conflict(
            f"service {name} in namespace {namespace} is being deleted",
            hint=f"wait until `bay get -n {namespace}` no longer shows it",
        )
    return service, revision


def _version(service: Service, cause: str) -> Put:
    key = (service.namespace, f"{service.name}.{service.generation}")
    version = ServiceVersion(
        namespace=service.namespace,
        service=service.name,
        generation=service.generation,
        spec=service.spec,
        template_hash=service.template_hash,
        source=service.source,
        applied_at=service.applied_at,
        applied_by=service.applied_by,
        cause=cause,
    )
    return Put(Kind.VERSION, key, version, None)


def _put(service: Service, expect: int) -> Put:
    return Put(Kind.SERVICE, (service.namespace, service.name), service, expect)


def _new_service(desk: Desk, spec: ServiceSpec, source: str) -> tuple[Changes, control.Change]:
    service = Service(
        namespace=spec.namespace,
        name=spec.name,
        uid=desk.new_uid(),
        generation=1,
        spec=spec,
        template_hash=template_hash(spec.template),
        replicas=kinds.replicas(spec, None),
        run_generation=1,
        source=source,
        created_at=desk.now,
        applied_at=desk.now,
        applied_by=desk.caller,
    )
    key = (spec.namespace, spec.name)
    effect = effects.of_new(desk.tables, service, desk.now)
    change = said(
        str(spec.kind),
        key,
        "create",
        summary=diff.summary(None, spec),
        effect=effect,
        generation=1,
    )
    text = f"created by {desk.caller}: {service.spec.template.image}"
    made = event(desk, "service", key[0], key[1], "Created", text)
    return (_put(service, 0), _version(service, "apply"), made), change


def apply_service(desk: Desk, spec: ServiceSpec, source: str) -> tuple[Changes, control.Change]:
    """The spec as the service's newest version; without a change of meaning there is none."""
    key = (spec.namespace, spec.name)
    if key not in desk.tables.services:
        return _new_service(desk, spec, source)
    old, revision = changeable(desk.tables, *key)
    _check_kind(old, spec)
    replicas = kinds.replicas(spec, old.replicas)
    lines = diff.summary(old.spec, spec)
    if replicas != old.replicas and spec.kind is WorkloadKind.SERVICE:
        lines.append(f"replicas: {old.replicas} -> {replicas}")
    same_meaning = replace(old.spec, replicas=None) == replace(spec, replicas=None)
    if same_meaning and replicas == old.replicas:
        changes: Changes = ()
        if source != old.source or spec != old.spec:
            changes = (_put(replace(old, source=source, spec=spec), revision),)
        return changes, said(str(old.spec.kind), key, "unchanged", generation=old.generation)
    hashed = (
        old.template_hash if spec.template == old.spec.template else template_hash(spec.template)
    )
    generation = old.generation + 1
    begins = kinds.begins_run(old, spec, hashed)
    service = replace(
        old,
        generation=generation,
        run_generation=generation if begins else old.run_generation,
        spec=spec,
        template_hash=hashed,
        replicas=replicas,
        source=source,
        applied_at=desk.now,
        applied_by=desk.caller,
    )
    text = f"v{service.generation} applied by {desk.caller}: {'; '.join(lines)}"
    changes = (
        _put(service, revision),
        _version(service, "apply"),
        event(desk, "service", *key, "Applied", text),
    )
    effect = effects.of_update(desk.tables, old, service, desk.now)
    return changes, said(
        str(spec.kind), key, "update", summary=lines, effect=effect, generation=service.generation
    )


def _check_kind(old: Service, spec: ServiceSpec) -> None:
    if old.owner:
        raise Conflict(
            f"{old.name} is a job that cron {old.owner} made",
            hint="apply the cron, or give the document another name",
        )
    if old.spec.kind is not spec.kind:
        raise Conflict(
            f"{old.name} is a {old.spec.kind} already, and a name is for one kind",
            hint=f"`bay delete {old.name}` first, or give the {spec.kind} another name",
        )


def scale(desk: Desk, namespace: str, name: str, replicas: int) -> Outcome:
    old, revision = changeable(desk.tables, namespace, name)
    kinds.only_for(old, "scaled", WorkloadKind.SERVICE)
    key = (namespace, name)
    if replicas == old.replicas:
        return Outcome((), (said(str(old.spec.kind), key, "unchanged", generation=old.generation),))
    line = f"replicas: {old.replicas} -> {replicas}"
    effect = effects.resized(desk.tables, old, replicas)
    if old.stopped:
        effect = f"starts nothing: the service is stopped; `bay start {name}` starts it"
    changes = (
        _put(replace(old, replicas=replicas), revision),
        event(desk, "service", *key, "Scaled", f"{line} by {desk.caller}"),
    )
    change = said(
        str(old.spec.kind), key, "update", summary=[line], effect=effect, generation=old.generation
    )
    return Outcome(changes, (change,))


def restart(desk: Desk, namespace: str, name: str) -> Outcome:
    """The same spec as a new version whose template hash differs: a rolling replacement, or
    another run of a job."""
    old, revision = changeable(desk.tables, namespace, name)
    kinds.only_for(old, "restarted", WorkloadKind.SERVICE, WorkloadKind.DAEMON, WorkloadKind.JOB)
    if old.stopped:
        raise Conflict(f"service {name} is stopped", hint=f"start it with `bay start {name}`")
    generation = old.generation + 1
    service = replace(
        old,
        generation=generation,
        run_generation=generation,
        template_hash=template_hash(old.spec.template, f"restart {old.uid} {generation}"),
        applied_at=desk.now,
        applied_by=desk.caller,
    )
    return _new_version(desk, service, revision, "restart", "Restarted", ["restart"])


def _new_version(
    desk: Desk, service: Service, revision: int, cause: str, reason: str, lines: Sequence[str]
) -> Outcome:
    key = (service.namespace, service.name)
    if service.stopped:
        effect = "starts nothing: the service is stopped"
    elif service.spec.kind is WorkloadKind.SERVICE:
        effect = effects.replaced(desk.tables, service)
    elif service.spec.kind is WorkloadKind.JOB:
        effect = kinds.effect_of_run(service.spec)
    else:
        effect = effects.of_daemon(desk.tables, replace(service, template_hash=""), service)
    changes = (
        _put(service, revision),
        _version(service, cause),
        event(desk, "service", *key, reason, f"v{service.generation} by {desk.caller}"),
    )
    kind = str(service.spec.kind)
    change = said(kind, key, "update", summary=lines, effect=effect, generation=service.generation)
    return Outcome(changes, (change,))


def rollback(desk: Desk, namespace: str, name: str, generation: int) -> Outcome:
    """An earlier version as the newest. Its hash comes along, so that tasks of it that still run
    are kept. Replicas stay what they are."""
    old, revision = changeable(desk.tables, namespace, name)
    kinds.only_for(old, "rolled back", WorkloadKind.SERVICE, WorkloadKind.DAEMON)
    kept = sorted(
        (s.value for s in desk.tables.versions.values() if _is_of(s.value, namespace, name)),
        key=lambda v: v.generation,
    )
    earlier = [v for v in kept if v.generation < old.generation]
    if generation:
        earlier = [v for v in earlier if v.generation == generation]
    if not earlier:
        there = ", ".join(f"v{v.generation}" for v in kept if v.generation < old.generation)
        wanted = f"v{generation}" if generation else "an earlier version"
        raise NotFound(
            f"service {name} has no {wanted} to go back to".replace("no an", "no"),
            hint=f"kept are {there}" if there else "nothing else was applied yet",
        )
    target = earlier[-1]
    if not generation:
        _refuse_failed(desk.tables, old, target)
    service = replace(
        old,
        generation=old.generation + 1,
        spec=target.spec,
        template_hash=target.template_hash,
        source=target.source,
        applied_at=desk.now,
        applied_by=desk.caller,
    )
    lines = [f"version: v{old.generation} -> v{target.generation}"]
    lines += diff.summary(old.spec, target.spec)
    return _new_version(desk, service, revision, "rollback", "RolledBack", lines)


def _refuse_failed(tables: Tables, service: Service, target: ServiceVersion) -> None:
    """Nobody who names no version means the one that failed and was just rolled back."""
    stored = tables.rollouts.get((service.namespace, service.name))
    if stored is None:
        return
    rollout = stored.value
    if rollout.going_back and rollout.from_generation == target.generation:
        raise Conflict(
            f"v{service.generation} is the rollback of v{target.generation} already, which failed",
            hint=f"name the version to go back to: `bay rollback {service.name} --to "
            f"v{target.generation}`; `bay history {service.name}` lists them",
        )


def _is_of(version: ServiceVersion, namespace: str, name: str) -> bool:
    return version.namespace == namespace and version.service == name


def set_stopped(desk: Desk, namespace: str, name: str, stopped: bool) -> Outcome:
    old, revision = changeable(desk.tables, namespace, name)
    key = (namespace, name)
    if old.stopped is stopped:
        return Outcome((), (said(str(old.spec.kind), key, "unchanged", generation=old.generation),))
    changes = (
        _put(replace(old, stopped=stopped), revision),
        event(desk, "service", *key, "Stopped" if stopped else "Started", f"by {desk.caller}"),
    )
    change = said(
        str(old.spec.kind),
        key,
        "update",
        summary=[f"stopped: {str(old.stopped).lower()} -> {str(stopped).lower()}"],
        effect=effects.of_stop(desk.tables, old, stop=stopped),
        generation=old.generation,
    )
    return Outcome(changes, (change,))


def delete_service(desk: Desk, namespace: str, name: str) -> Outcome:
    old, revision = find_service(desk.tables, namespace, name)
    key = (namespace, name)
    if old.deleting:
        return Outcome(
            (), (said(str(old.spec.kind), key, "unchanged", effect="it is being deleted"),)
        )
    changes = (
        _put(replace(old, deleting=True), revision),
        event(desk, "service", *key, "Deleting", f"by {desk.caller}"),
    )
    effect = effects.of_deletion(desk.tables, old)
    change = said(str(old.spec.kind), key, "delete", effect=effect)
    return Outcome(changes, (change,))


# Secrets


def apply_secret(desk: Desk, vault: Vault, secret: Secret) -> tuple[Changes, control.Change]:
    """Values are compared unsealed and never appear in what is said."""
    key = (secret.namespace, secret.name)
    stored = desk.tables.secrets.get(key)
    before: dict[str, bytes] = {}
    if stored is not None:
        before = {k: vault.open(v, secret_context(*key, k)) for k, v in stored.value.sealed.items()}
    lines = _secret_lines(before, secret.values)
    if stored is not None and not lines:
        return (), said("Secret", key, "unchanged", generation=stored.value.version)
    sealed = SealedSecret(
        namespace=secret.namespace,
        name=secret.name,
        version=stored.value.version + 1 if stored else 1,
        sealed={k: vault.seal(v, secret_context(*key, k)) for k, v in secret.values.items()},
        updated_at=desk.now,
        updated_by=desk.caller,
    )
    users = secret_users(desk.tables.services, *key) if stored else []
    effect = ""
    if users:
        effect = (
            f"used by {', '.join(users)}: tasks started from now on get the new values; "
            f"`bay restart {users[0]}` replaces running ones"
        )
    text = f"{'updated' if stored else 'created'} by {desk.caller}: {', '.join(lines)}"
    changes = (
        Put(Kind.SECRET, key, sealed, stored.mod_revision if stored else 0),
        event(desk, "secret", *key, "Updated" if stored else "Created", text),
    )
    change = said(
        "Secret",
        key,
        "update" if stored else "create",
        summary=lines,
        effect=effect,
        generation=sealed.version,
    )
    return changes, change


def _secret_lines(before: Mapping[str, bytes], after: Mapping[str, bytes]) -> list[str]:
    lines = []
    for key in sorted({*before, *after}):
        if key not in before:
            lines.append(f"{key}: added")
        elif key not in after:
            lines.append(f"{key}: removed")
        elif not hmac.compare_digest(before[key], after[key]):
            lines.append(f"{key}: changed")
    return lines


def delete_secret(desk: Desk, namespace: str, name: str) -> Outcome:
    key = (namespace, name)
    stored = desk.tables.secrets.get(key)
    if stored is None:
        raise NotFound(
            f"there is no secret {name} in namespace {namespace}",
            hint=f"`bay secret ls -n {namespace}` lists what there is",
        )
    users = secret_users(desk.tables.services, namespace, name)
    if users:
        raise Conflict(
            f"secret {name} is used by {', '.join(users)}",
            hint="delete or change these services first",
        )
    changes = (
        Delete(Kind.SECRET, key, stored.mod_revision),
        event(desk, "secret", *key, "Deleted", f"by {desk.caller}"),
    )
    return Outcome(changes, (said("Secret", key, "delete"),))
