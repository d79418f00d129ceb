"""A rig whose rollouts are steered by the calls that operators make."""

from __future__ import annotations

from dataclasses import replace

from bayplan.model.service import UpdatePolicy
from controller.server.intent import Desk
from controller.server.rollouts import Order, steer
from tests.unit.controller.rig import Rig


def a_service(replicas: int = 4, **policy: object) -> Rig:
    """`replicas` good tasks of version a."""
    rig = Rig()
    fields = {"monitor_s": 2.0, "progress_deadline_s": 60.0, **policy}
    rig.apply(replicas, update=UpdatePolicy(**fields))  # type: ignore[arg-type]
    rig.run(rounds=6)
    return rig


def update(rig: Rig, version: str = "b", **policy: object) -> None:
    service = rig.service
    changed = replace(service.spec.update, **policy)  # type: ignore[arg-type]
    rig.apply(service.replicas, version=version, update=changed)
    rig.settle()


def order(rig: Rig, what: Order) -> None:
    """As `bay rollout …` does it. Raises what it raises."""
    desk = Desk(tables=rig.store.tables, caller="ada", now=rig.now, new_uid=lambda: "u")
    rig.store.apply(steer(desk, "default", "web", what).changes)
    rig.settle()


def traffic(rig: Rig) -> list[str]:
    """Versions of the serving tasks that published ports lead to, by slot."""
    return [
        t.template_hash[5:]
        for t in rig.live()
        if rig.state(t) == "running" and rig.rollout.gets_traffic(t.template_hash)
    ]
