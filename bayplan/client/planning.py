"""Questions about what the controller would decide."""

from __future__ import annotations

from typing import Any, Final, cast

from bayplan.client.calls import Calls
from bayplan.wire._pb.bayplan.v1 import planning_pb2 as planning

PLAN_DEADLINE_S: Final = 30.0


class PlanningCalls(Calls):
    """Mixed into the operators' client. They ask the leader; only `rebalance` changes anything."""

    async def plan(
        self, request: planning.PlanRequest, *, deadline_s: float = PLAN_DEADLINE_S
    ) -> planning.PlanResponse:
        answer: Any = await self._call("Plan", request, deadline_s)
        return cast(planning.PlanResponse, answer)

    async def explain(
        self,
        namespace: str,
        name: str,
        *,
        nodes_max: int = 0,
        deadline_s: float = PLAN_DEADLINE_S,
    ) -> planning.ExplainResponse:
        """`name`: a workload, or one task of it. `nodes_max` 0: what the controller thinks fit."""
        request = planning.ExplainRequest(namespace=namespace, name=name, nodes_max=nodes_max)
        answer: Any = await self._call("Explain", request, deadline_s)
        return cast(planning.ExplainResponse, answer)

    async def whatif(
        self, request: planning.WhatIfRequest, *, deadline_s: float = PLAN_DEADLINE_S
    ) -> planning.WhatIfResponse:
        answer: Any = await self._call("WhatIf", request, deadline_s)
        return cast(planning.WhatIfResponse, answer)

    async def headroom(self, *, deadline_s: float = PLAN_DEADLINE_S) -> planning.HeadroomResponse:
        """Whether the loss of any one host, and of any two, fits."""
        answer: Any = await self._call("Headroom", planning.HeadroomRequest(), deadline_s)
        return cast(planning.HeadroomResponse, answer)

    async def rebalance(
        self, max_moves: int, *, dry_run: bool, deadline_s: float = PLAN_DEADLINE_S
    ) -> planning.RebalanceResponse:
        """`max_moves` 0: only what is under way. A repeated order counts what is under way."""
        request = planning.RebalanceRequest(max_moves=max_moves, dry_run=dry_run)
        answer: Any = await self._call("Rebalance", request, deadline_s)
        return cast(planning.RebalanceResponse, answer)
