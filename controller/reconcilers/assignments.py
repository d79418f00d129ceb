"""What a node must run, as the tables say, and the difference to what it was told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from bayplan.model.assignment import Assignment
from bayplan.model.secret import SealedSecret
from bayplan.model.service import EnvVar, SecretReference, ServiceSpec, TaskTemplate
from bayplan.model.task import FINAL, DesiredState, Task
from controller.orchestrator.naming import version_key
from controller.orchestrator.situation import WANTED
from controller.tables import Key, Tables

OpenSecret = Callable[[SealedSecret], Mapping[str, bytes]]
"""Decrypts a stored secret: key to value."""

JOB_INDEX = "BAYPLAN_JOB_INDEX"
JOB_COMPLETIONS = "BAYPLAN_JOB_COMPLETIONS"
EPOCH = "BAYPLAN_EPOCH"
"""Storage that is told to refuse lower ones needs to trust no clock."""

Fingerprint = tuple[int, ...]
"""What an assignment was made from: revision of its task, whether it stands by, revisions of its
secrets."""


@dataclass(frozen=True, slots=True)
class Due:
    """An assignment that a node is to have, before it is filled in."""

    key: Key
    uid: str
    fingerprint: Fingerprint


def references(template: TaskTemplate) -> tuple[SecretReference, ...]:
    """The secrets a template needs, each once, in a fixed order."""
    found = [e.secret for e in template.env if e.secret is not None]
    found += [f.secret for f in template.files]
    return tuple(sorted(set(found), key=lambda r: (r.name, r.key)))


def due(tables: Tables, task_keys: Iterable[Key]) -> dict[str, Due]:
    """By uid, what the tasks bound to a node amount to. A task that has to go and is known to
    have ended is not part of it: what a node is not told to keep, it removes."""
    found: dict[str, Due] = {}
    for key in sorted(task_keys):
        stored = tables.tasks.get(key)
        if stored is None:
            continue
        task = stored.value
        status = tables.status.get(key)
        ended = status is not None and status.value.uid == task.uid and status.value.state in FINAL
        if task.desired is DesiredState.REMOVED and ended:
            continue
        version = tables.versions.get(version_key(task.namespace, task.service, task.generation))
        if version is None:
            continue
        revisions = [stored.mod_revision, int(_standby(tables, task))]
        if not ended:
            for reference in references(version.value.spec.template):
                secret = tables.secrets.get((task.namespace, reference.name))
                revisions.append(secret.mod_revision if secret is not None else 0)
        found[task.uid] = Due(key, task.uid, tuple(revisions))
    return found


def _standby(tables: Tables, task: Task) -> bool:
    """True where the service's rollout leads the traffic to other tasks than this one."""
    rollout = tables.rollouts.get((task.namespace, task.service))
    return rollout is not None and not rollout.value.gets_traffic(task.template_hash)


def _with_own(spec: ServiceSpec, task: Task) -> TaskTemplate:
    """A job's task is told which index it is for, a fenced one its epoch."""
    if task.epoch:
        given = [v for v in spec.template.env if v.name != EPOCH]
        return replace(spec.template, env=(*given, EnvVar(name=EPOCH, value=str(task.epoch))))
    if spec.job is None:
        return spec.template
    index = EnvVar(name=JOB_INDEX, value=str(task.slot))
    count = EnvVar(name=JOB_COMPLETIONS, value=str(spec.job.completions))
    own = [v for v in spec.template.env if v.name not in (JOB_INDEX, JOB_COMPLETIONS)]
    return replace(spec.template, env=(*own, index, count))


def fill(tables: Tables, wanted: Due, open_secret: OpenSecret) -> Assignment:
    """The complete assignment. A task that has ended is never sent as one to run: an agent that
    lost its checkpoint would run it again."""
    task = tables.tasks[wanted.key].value
    version = tables.versions[version_key(task.namespace, task.service, task.generation)]
    template = _with_own(version.value.spec, task)
    status = tables.status.get(wanted.key)
    ended = status is not None and status.value.uid == task.uid and status.value.state in FINAL
    if ended:
        desired = DesiredState.SHUTDOWN if task.desired in WANTED else task.desired
        return Assignment(task=replace(task, desired=desired), template=template)
    secrets: dict[str, bytes] = {}
    opened: dict[str, Mapping[str, bytes]] = {}
    for reference in references(template):
        stored = tables.secrets.get((task.namespace, reference.name))
        if stored is None:
            continue
        if reference.name not in opened:
            opened[reference.name] = open_secret(stored.value)
        value = opened[reference.name].get(reference.key)
        if value is not None:
            secrets[f"{reference.name}/{reference.key}"] = value
    standby = _standby(tables, task)
    return Assignment(task=task, template=template, secrets=secrets, standby=standby)
