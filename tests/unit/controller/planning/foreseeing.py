"""A cluster, documents applied to it, and what is foreseen of it."""

from __future__ import annotations

from typing import Any

from bayplan.model.quota import QuotaSpec
from bayplan.model.resources import Resources
from bayplan.model.service import PlacementPolicy, Service, ServiceSpec, TaskTemplate, UpdatePolicy
from bayplan.pki import KeyEncryptionKey
from bayplan.wire._pb.bayplan.v1 import planning_pb2 as planning
from controller.planning import Course, Explained, Limits, Move, Question, explain, run
from controller.server import applying
from controller.server.intent import Desk, Outcome
from controller.server.plans import PlanId, plan_id, response
from controller.tables import Tables
from tests.unit.controller.rig import GIB, Rig

SEED = 1
VAULT = KeyEncryptionKey(b"k" * 32)


def spec(
    name: str = "web", image: str = "app:a", *, memory: int = GIB, template: Any = None, **more: Any
) -> ServiceSpec:
    needs = Resources(cpu_millis=500, memory_bytes=memory)
    update = more.pop("update", UpdatePolicy(monitor_s=5.0, progress_deadline_s=60.0))
    made = template or TaskTemplate(image=image, resources=needs)
    return ServiceSpec(name=name, template=made, update=update, **{"replicas": 3, **more})


def outcome(rig: Rig, *specs: ServiceSpec | QuotaSpec, prune: tuple[str, ...] = ()) -> Outcome:
    """What the controller would write."""
    uids = iter(f"uid-{s.name}-{rig.store.tables.revision}" for s in specs)
    desk = Desk(
        tables=rig.store.tables,
        caller="ada",
        now=rig.now,
        new_uid=lambda: next(uids),
        admin=True,
    )
    return applying.apply(desk, VAULT, [applying.Wanted(s) for s in specs], prune)


def apply(rig: Rig, *specs: ServiceSpec) -> Service:
    """Apply, and let it come to rest."""
    rig.store.apply(outcome(rig, *specs).changes)
    rig.run(30)
    return rig.store.tables.services["default", specs[0].name].value


def course(rig: Rig, *specs: ServiceSpec | QuotaSpec, limits: Limits | None = None) -> Course:
    changes = outcome(rig, *specs).changes
    return run(rig.store.tables, rig.now, changes, seed=SEED, limits=limits)


def planned(rig: Rig, *specs: ServiceSpec | QuotaSpec) -> tuple[PlanId, planning.PlanResponse]:
    made = outcome(rig, *specs)
    tables: Tables = rig.store.tables
    found = run(tables, rig.now, made.changes, seed=SEED)
    plan = plan_id(tables.revision, [applying.Wanted(s) for s in specs], made.said, found)
    return plan, response(plan, tables, found, made.said)


def moves(found: Course) -> list[list[tuple[str, str]]]:
    """(what, task) of each step."""
    return [[(str(m.kind), m.task) for m in step.moves] for step in found.steps]


def every(found: Course) -> list[Move]:
    return [m for step in found.steps for m in step.moves]


def explained(rig: Rig, name: str = "web", task: str = "") -> tuple[Explained, ...]:
    question = Question(namespace="default", service=name, task=task)
    found, _ = explain(
        rig.store.tables, question, rig.now, seed=SEED, policy=PlacementPolicy.SPREAD
    )
    return found
