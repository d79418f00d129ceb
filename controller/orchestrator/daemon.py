"""A daemon's slots: one for each node that its `require` allows.

The rest is as for a service whose tasks stop before their successors start: the same rollout,
restarts and rollback (`orchestrator.service`), over these slots.

* A slot belongs to the node its newest task is pinned to. A node without one gets a slot that
  holds no task, or a new one; attempts of a slot go on counting.
* A node that joins, returns to fit or is heard from for the first time gets a task. Cordon and
  drain are about other work: the daemon stays, and is updated there as elsewhere.
* A lost node keeps its task, which simply counts again when the node returns; nothing replaces it
  elsewhere. A node that no longer fits has its task stopped; a removed one has lost it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bayplan.model.node import NodeState
from bayplan.model.service import Placement, SlotMark
from controller.orchestrator.fit import evicted, unfit
from controller.orchestrator.situation import Observed, Pins
from controller.tables import Stored, Tables

REACHED = frozenset({NodeState.READY, NodeState.SUSPECT})


def eligible(tables: Tables, placement: Placement) -> dict[str, NodeState]:
    """The nodes that satisfy `require`, and do not evict, by name, with their states."""
    found = {}
    for key, stored in sorted(tables.nodes.items()):
        status = tables.nodestatus.get(key)
        if status is None:
            continue
        attributes = status.value.report.attributes
        fits = not unfit(placement, key[1], stored.value.labels, attributes)
        if fits and not evicted(placement, stored.value):
            found[key[1]] = status.value.state
    return found


def pin(
    tables: Tables,
    placement: Placement,
    tasks: Iterable[Observed],
    marks: Mapping[int, Stored[SlotMark]],
) -> Pins:
    """Which slot is for which node. The same tables give the same slots."""
    nodes = eligible(tables, placement)
    newest: dict[int, Observed] = {}
    alive: set[int] = set()
    for observed in sorted(tasks, key=lambda o: o.task.attempt):
        newest[observed.task.slot] = observed
        if observed.wanted:
            alive.add(observed.task.slot)
    pins: dict[int, str] = {}
    held: set[int] = set()
    taken: set[str] = set()
    for slot, observed in sorted(newest.items(), key=lambda s: (s[0] not in alive, s[0])):
        node = observed.task.pinned_node
        if node not in nodes or node in taken:
            continue
        taken.add(node)
        if nodes[node] in REACHED:
            pins[slot] = node
        else:
            held.add(slot)
    free = sorted(set(marks) - set(newest))
    unused = max([0, *marks, *newest]) + 1
    for node, state in nodes.items():
        if node in taken or state not in REACHED:
            continue
        slot = free.pop(0) if free else unused
        unused = max(unused, slot + 1)
        pins[slot] = node
    return Pins(dict(sorted(pins.items())), frozenset(held))
