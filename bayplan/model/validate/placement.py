"""Where tasks may and should run."""

from __future__ import annotations

from collections.abc import Iterator

from bayplan.model.service import (
    Affinity,
    Constraint,
    ConstraintOperator,
    Placement,
    ServiceSpec,
    Spread,
    Sticky,
)
from bayplan.model.validate.names import DNS_LABEL, LABEL_KEY
from bayplan.model.validate.problems import REPLICAS_MAX, Path, Problem

PRIORITY_MAX = 1000
AFFINITIES_MAX = 20
GLOB_MAX = 200


def check_priority(priority: int) -> Iterator[Problem]:
    """How important it is beside others."""
    if abs(priority) > PRIORITY_MAX:
        yield Problem(
            ("priority",), f"{priority} is out of range; write -{PRIORITY_MAX} to {PRIORITY_MAX}"
        )


def check_placement(spec: ServiceSpec) -> Iterator[Problem]:
    """What is required of nodes, and of the company there."""
    placement = spec.placement
    for index, constraint in enumerate(placement.require):
        yield from _constraint(constraint, ("placement", "require", index))
    for index, preference in enumerate(placement.prefer):
        path: Path = ("placement", "prefer", index)
        yield from _constraint(preference.constraint, (*path, "match"))
        if not 1 <= preference.weight <= 100:
            yield Problem((*path, "weight"), f"{preference.weight} is out of range; write 1 to 100")
    seen: set[str] = set()
    for index, spread in enumerate(placement.spread):
        yield from _spread(spread, ("placement", "spread", index), seen)
    yield from _affinities(spec)
    for index, key in enumerate(placement.distinct):
        yield from _key(key, ("placement", "distinct", index))
        if key in placement.distinct[:index]:
            yield Problem(("placement", "distinct", index), f"{key} stands twice; leave one out")
    yield from _nodes_wanted(placement)


def _nodes_wanted(placement: Placement) -> Iterator[Problem]:
    for index, toleration in enumerate(placement.tolerate):
        if LABEL_KEY.fullmatch(toleration.key) is None:
            yield Problem(
                ("placement", "tolerate", index, "key"),
                f'"{toleration.key[:80]}" is not the key of a taint; write e.g. gpu',
            )
    if placement.pool and LABEL_KEY.fullmatch(placement.pool) is None:
        yield Problem(
            ("placement", "pool"), f'"{placement.pool[:80]}" is not a pool; write e.g. batch'
        )
    if placement.gang and placement.sticky is Sticky.REQUIRE:
        yield Problem(
            ("placement", "sticky"),
            "cannot be require with gang: one full node would hold up all; write prefer",
        )


def _affinities(spec: ServiceSpec) -> Iterator[Problem]:
    placement = spec.placement
    for name, affinities in (("near", placement.near), ("apart", placement.apart)):
        if len(affinities) > AFFINITIES_MAX:
            yield Problem(
                ("placement", name), f"has {len(affinities)} services; at most {AFFINITIES_MAX}"
            )
        for index, affinity in enumerate(affinities):
            path: Path = ("placement", name, index)
            yield from _affinity(affinity, path)
            if affinity.service not in (spec.name, f"{spec.namespace}/{spec.name}"):
                continue
            if name == "apart":
                yield Problem(
                    path, f"is this service itself; write distinct: {affinity.over} or a spread"
                )
            elif affinity.weight:
                yield Problem(
                    (*path, "weight"), "makes no sense for the service itself; leave it out"
                )
    both = {(a.service, a.over) for a in placement.near if not a.weight}
    for index, affinity in enumerate(placement.apart):
        if not affinity.weight and (affinity.service, affinity.over) in both:
            yield Problem(
                ("placement", "apart", index),
                f"{affinity.service} is required to be near as well; leave one out",
            )


def _affinity(affinity: Affinity, path: Path) -> Iterator[Problem]:
    parts = affinity.service.split("/")
    if len(parts) > 2 or any(DNS_LABEL.fullmatch(p) is None for p in parts):
        yield Problem(
            (*path, "service"),
            f'"{affinity.service[:130]}" is not a service; write NAME or NAMESPACE/NAME',
        )
    yield from _key(affinity.over, (*path, "over"))
    if not 0 <= affinity.weight <= 100:
        yield Problem((*path, "weight"), f"{affinity.weight} is out of range; write 1 to 100")


def _key(key: str, path: Path) -> Iterator[Problem]:
    if key != "node" and not key.startswith(("label.", "attr.")):
        yield Problem(path, f'"{key[:80]}" is neither label.NAME, attr.NAME nor node')


def _constraint(constraint: Constraint, path: Path) -> Iterator[Problem]:
    if constraint.operator is ConstraintOperator.MATCHES and any(
        len(v) > GLOB_MAX for v in constraint.values
    ):
        yield Problem(path, f"is longer than {GLOB_MAX} characters; write a shorter pattern")
    if not constraint.key.startswith(("label.", "attr.")):
        yield Problem(path, f'"{constraint.key[:80]}" is neither label.NAME nor attr.NAME')


def _spread(spread: Spread, path: Path, seen: set[str]) -> Iterator[Problem]:
    yield from _key(spread.over, (*path, "over"))
    if spread.over in seen:
        yield Problem((*path, "over"), f"{spread.over} stands twice; leave one out")
    seen.add(spread.over)
    if not 0 <= spread.max_skew <= REPLICAS_MAX:
        yield Problem((*path, "max_skew"), f"{spread.max_skew} is out of range; write e.g. 1")
