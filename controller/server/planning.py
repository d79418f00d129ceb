"""The Planning service: questions about what the controller would decide. Only Rebalance writes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from bayplan.model.errors import InvalidSpec, NotFound
from bayplan.model.service import PlacementPolicy
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire._pb.bayplan.v1 import planning_pb2 as planning
from bayplan.wire._pb.bayplan.v1.planning_pb2_grpc import PlanningServicer
from controller.planning import Explained, Question, Survey, balance, explain, room, suppose
from controller.planning.explaining import NODES_MAX
from controller.planning.rebalance import MOVES_MAX
from controller.scheduler import cluster_view
from controller.server import applying
from controller.server.balancing import MOVE_S, answer, check_calm, order
from controller.server.foresight import foresee, planning_desk, seed, thought
from controller.server.intent import Outcome, find_service
from controller.server.parts import Parts
from controller.server.plans import filter_counts
from controller.server.supposing import headroom_answer, supposition, whatif_answer
from controller.server.writes import DOCUMENTS_MAX, wanted
from controller.store.base import Tables

NODES_SHOWN_MAX: Final = 1_000
HEADROOM_MAX_S: Final = 15.0
"""Work on one question; what has not been looked at then is not known."""


class Planning(PlanningServicer):
    """Every call of `bayplan.v1.Planning`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def Plan(self, request: planning.PlanRequest, context: Any) -> planning.PlanResponse:
        documents = documents_of(request.documents)
        _, answer = await foresee(self._parts, documents, tuple(request.prune_namespaces))
        return answer

    async def Explain(
        self, request: planning.ExplainRequest, context: Any
    ) -> planning.ExplainResponse:
        parts = self._parts
        tables = parts.store.tables
        question = _question(tables, request)
        work = partial(
            explain, tables, question, parts.now(), seed=seed(parts), policy=parts.policy
        )
        found, left_out = await thought(parts, work)
        return planning.ExplainResponse(
            revision=tables.revision,
            namespace=question.namespace,
            service=question.service,
            tasks=[explanation(e) for e in found],
            left_out=left_out,
        )

    async def WhatIf(
        self, request: planning.WhatIfRequest, context: Any
    ) -> planning.WhatIfResponse:
        parts = self._parts
        tables = parts.store.tables
        desk = planning_desk(parts, tables)
        outcome = Outcome((), ())
        if request.documents:
            documents = documents_of(request.documents)
            spaces = tuple(request.prune_namespaces)
            outcome = applying.apply(desk, parts.vault, documents, spaces)
        supposed = supposition(tables, request, outcome.changes)
        work = partial(suppose, tables, desk.now, supposed, seed=seed(parts), policy=parts.policy)
        return whatif_answer(tables, supposed, await thought(parts, work), outcome.said)

    async def Headroom(
        self, request: planning.HeadroomRequest, context: Any
    ) -> planning.HeadroomResponse:
        parts = self._parts
        work = partial(
            _headroom, parts.store.tables, parts.now(), seed=seed(parts), policy=parts.policy
        )
        return await thought(parts, work)

    async def Rebalance(
        self, request: planning.RebalanceRequest, context: Any
    ) -> planning.RebalanceResponse:
        parts = self._parts
        tables, now = parts.store.tables, parts.now()
        if request.max_moves:
            check_calm(tables, parts.frozen())
        if request.max_moves > MOVES_MAX:
            raise InvalidSpec(f"at most {MOVES_MAX} tasks are moved at once")
        work = partial(
            balance,
            tables,
            now,
            seed=seed(parts),
            moves_max=request.max_moves,
            policy=parts.policy,
        )
        found = await thought(parts, work)
        revision = tables.revision
        if found.moves and not request.dry_run:
            revision = (await parts.commit(lambda desk: order(desk, found.moves))).revision
        return answer(found, revision, now + MOVE_S)


def _headroom(
    tables: Tables, now: float, *, seed: int, policy: PlacementPolicy
) -> planning.HeadroomResponse:
    survey = Survey(tables, now, seed=seed, policy=policy)
    until = time.monotonic() + HEADROOM_MAX_S
    for _ in survey:
        if time.monotonic() >= until:
            break
    return headroom_answer(survey.result, room(cluster_view(tables)))


def documents_of(documents: Sequence[control.Document]) -> list[applying.Wanted]:
    """Raises InvalidSpec."""
    if len(documents) > DOCUMENTS_MAX:
        raise InvalidSpec(f"at most {DOCUMENTS_MAX} documents are planned at once")
    return [wanted(d) for d in documents]


# -- explaining --


def _question(tables: Tables, request: planning.ExplainRequest) -> Question:
    """Raises NotFound, InvalidSpec."""
    nodes_max = request.nodes_max or NODES_MAX
    if nodes_max > NODES_SHOWN_MAX:
        raise InvalidSpec(f"at most {NODES_SHOWN_MAX} nodes are listed")
    key = (request.namespace, request.name)
    task = tables.tasks.get(key)
    if task is not None:
        return Question(
            namespace=key[0], service=task.value.service, task=key[1], nodes_max=nodes_max
        )
    if key in tables.services:
        return Question(namespace=key[0], service=key[1], nodes_max=nodes_max)
    service = request.name.split(".")[0]
    if service != request.name and (key[0], service) in tables.services:
        raise NotFound(
            f"there is no task {request.name} in namespace {key[0]}",
            hint=f"`bay get tasks {service}` lists those there are",
        )
    find_service(tables, *key)
    raise AssertionError("find_service raises NotFound")


def explanation(explained: Explained) -> planning.TaskExplanation:
    found, task = explained.found, explained.task
    why = found.why
    return planning.TaskExplanation(
        task=task.name,
        alike=explained.alike,
        state=str(explained.state),
        node=task.node,
        reason=_reason(explained),
        policy=str(found.policy),
        feasible=found.feasible,
        nodes=found.nodes,
        scores=[
            planning.NodeScore(
                node=s.node,
                cost=s.cost,
                parts=[planning.ScorePart(name=name, cost=cost) for name, cost in s.parts],
            )
            for s in found.scores
        ],
        filters=filter_counts(why.reasons if why is not None else found.fallen),
        misses=[
            planning.NearMiss(
                node=m.node,
                lacks=[
                    planning.Lack(
                        filter=k.filter,
                        text=k.text,
                        needs=k.needs,
                        free=k.free,
                        lacking=max(0, k.lacking),
                    )
                    for k in m.lacks
                ],
            )
            for m in found.near_misses
        ],
        remedies=[
            planning.Remedy(change=t.change, fits=t.fits, waiting=t.waiting, nodes=t.nodes)
            for t in explained.tried
        ],
    )


def _reason(explained: Explained) -> str:
    task, why = explained.task, explained.found.why
    if task.node:
        return ""
    if why is not None:
        return why.sentence
    return f"{explained.found.node} can take it; it is about to be placed"
