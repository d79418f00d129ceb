"""Does a node still satisfy what a task's placement requires?"""

from __future__ import annotations

from collections.abc import Mapping

from bayplan.model.matching import holds, tolerated
from bayplan.model.node import Node, TaintEffect
from bayplan.model.service import Constraint, Placement


def unfit(
    placement: Placement, node: str, labels: Mapping[str, str], attributes: Mapping[str, str]
) -> str:
    """The first requirement that does not hold, as typed; empty: all hold. The same meaning as
    the scheduler's filter: a node without the key passes the negative operators only."""
    for constraint in placement.require:
        if not _holds(constraint, node, labels, attributes):
            return f"{node} does not satisfy {constraint.text or constraint.key}"
    return ""


def evicted(placement: Placement, node: Node) -> str:
    """The taint of the node that moves the task away; empty: it may stay."""
    for taint in node.taints:
        if taint.effect is TaintEffect.EVICT and not tolerated(taint, placement.tolerate):
            return f"{node.name} is tainted {taint.text}"
    return ""


def _holds(
    constraint: Constraint, node: str, labels: Mapping[str, str], attributes: Mapping[str, str]
) -> bool:
    family, _, name = constraint.key.partition(".")
    if constraint.key == "node":
        value: str | None = node
    else:
        value = (labels if family == "label" else attributes).get(name)
    return holds(constraint, value)
