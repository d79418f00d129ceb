"""What `bay rebalance` orders: which tasks are to move, written into their records.

The order stands in the store, so it is carried out by whoever leads, and whoever gave it may go.
Each move is a successor that starts elsewhere and proves good before the old task stops, within
the service's `max_surge`; what has not come about by `moves_until_at` is given up, and the task
stays. Pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bayplan.model.errors import Conflict
from bayplan.model.node import NodeState
from bayplan.model.task import Task
from bayplan.wire._pb.bayplan.v1 import planning_pb2 as planning
from controller.orchestrator.situation import WANTED
from controller.planning.rebalance import Balance, Relocation
from controller.server.intent import Desk, Outcome, event
from controller.store.base import Change, Kind, Put, Require, Tables

MOVE_S: Final = 600.0
"""How long a move may take."""


def check_calm(tables: Tables, frozen_reason: str) -> None:
    """Raises Conflict while nodes are missing: what balances the others now does not when they
    are back."""
    if frozen_reason:
        raise Conflict(f"nothing is rebalanced now: {frozen_reason}")
    silent = sorted(
        f"{s.value.name} is {s.value.state}"
        for key, s in tables.nodestatus.items()
        if key in tables.nodes and s.value.state in (NodeState.SUSPECT, NodeState.LOST)
    )
    if silent:
        raise Conflict(
            f"nothing is rebalanced while nodes are missing: {', '.join(silent[:5])}",
            hint="bring them back, or remove them with bay node rm",
        )


def order(desk: Desk, moves: tuple[Relocation, ...]) -> Outcome:
    """Moves of tasks that are still where they were when it was decided. Writing one again
    changes nothing but its deadline."""
    tables = desk.tables
    changes: list[Change] = []
    by_service: dict[tuple[str, str], list[str]] = {}
    until_at = desk.now + MOVE_S
    for move in moves:
        key = (move.namespace, move.task)
        stored = tables.tasks.get(key)
        service = tables.services.get((move.namespace, move.service))
        if stored is None or service is None:
            continue
        task: Task = stored.value
        if task.node != move.from_node or task.desired not in WANTED:
            continue
        moved = replace(task, moves_to=move.to_node, moves_until_at=until_at)
        owner = (move.namespace, move.service)
        if owner not in by_service:
            changes.append(Require(Kind.SERVICE, owner, service.mod_revision))
        changes.append(Put(Kind.TASK, key, moved, stored.mod_revision))
        by_service.setdefault(owner, []).append(f"{move.task} to {move.to_node}")
    for (namespace, name), said in by_service.items():
        text = f"{', '.join(said)} by {desk.caller}"
        changes.append(event(desk, "service", namespace, name, "Rebalancing", text))
    return Outcome(tuple(changes), ())


def answer(balance: Balance, revision: int, until_at: float) -> planning.RebalanceResponse:
    """`until_at`: when the moves would be given up."""
    return planning.RebalanceResponse(
        revision=revision,
        moves=[
            planning.RebalanceMove(
                namespace=m.namespace,
                service=m.service,
                task=m.task,
                from_node=m.from_node,
                to_node=m.to_node,
                gain=m.gain,
                until_at=until_at,
            )
            for m in balance.moves
        ],
        under_way=[
            planning.RebalanceMove(
                namespace=t.namespace,
                service=t.service,
                task=t.name,
                from_node=t.node,
                to_node=t.moves_to,
                until_at=t.moves_until_at,
            )
            for t in balance.under_way
        ],
        fixed=[planning.FixedTasks(reason=r, tasks=count) for r, count in balance.fixed],
        fullest_before=balance.spread_before[0],
        emptiest_before=balance.spread_before[1],
        fullest_after=balance.spread_after[0],
        emptiest_after=balance.spread_after[1],
    )
