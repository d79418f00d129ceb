"""A node as operators see it: what it holds, and what a drain is still waiting for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bayplan.model.node import Node
from bayplan.model.resources import Resources
from bayplan.model.service import TaskTemplate
from bayplan.model.task import Task, TaskState
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from bayplan.wire.convert import to_pb
from controller.orchestrator.situation import Observed, keeps_volume
from controller.server.views.drains import never_let_go, waits_for_budget
from controller.server.views.events import EVENTS_SHOWN_MAX, of_node
from controller.server.views.tasks import (
    Index,
    Reasons,
    duration,
    live,
    present,
    status_of,
    task_state,
    task_view,
    why,
)
from controller.store.base import Key, Stored, Tables

BLOCKERS_SHOWN_MAX: Final = 3


def template_of(tables: Tables, task: Task) -> TaskTemplate | None:
    """The template of the generation the task was made from."""
    stored = tables.versions.get((task.namespace, f"{task.service}.{task.generation}"))
    return stored.value.spec.template if stored else None


def node_view(
    index: Index, node: Node, reasons: Reasons, now: float, *, detail: bool
) -> control.NodeView:
    tables = index.tables
    here = [t for t in index.by_node.get(node.name, ()) if present(tables, t)]
    requested = Resources()
    for task in here:
        template = template_of(tables, task)
        if template is not None:
            requested += template.resources
    view = control.NodeView(node=to_pb(node), requested=to_pb(requested), tasks=len(here))
    view.node.ClearField("certificate_serials")
    status = tables.nodestatus.get(("", node.name))
    if status is not None:
        view.status.CopyFrom(to_pb(status.value))
    if node.draining:
        drain = Drain.of(tables, node, here, index.by_service)
        view.drained = not drain.moving and not drain.kept
        view.drain_blocked = drain.blocked
        view.drain_progress = drain.progress(tables, reasons, now)
    if detail:
        view.task_list.extend(task_view(index, t, reasons, now) for t in here)
        view.events.extend(to_pb(e) for e in of_node(tables, node, EVENTS_SHOWN_MAX))
    return view


@dataclass(frozen=True, slots=True)
class Drain:
    """What a draining node still holds. `moving` is on its way out; `kept` stays with its volume.
    Daemons are neither: they serve the node, and end with it."""

    node: Node
    moving: tuple[Task, ...]
    kept: tuple[Task, ...]
    never: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        tables: Tables,
        node: Node,
        here: Iterable[Task],
        by_service: Mapping[Key, Sequence[Task]] | None = None,
    ) -> Drain:
        """`by_service`: all tasks, to tell what those that wait for a budget wait for."""
        left = [t for t in here if not t.pinned_node or not live(tables, t)]
        kept = [t for t in left if not node.drain_volumes and live(tables, t) and keeps(tables, t)]
        moving = [t for t in left if t not in kept]
        never = [why for t in moving if (why := never_let_go(tables, t))]
        waits = [
            why
            for t in moving
            if by_service is not None
            and not never_let_go(tables, t)
            and (why := waits_for_budget(tables, t, by_service.get((t.namespace, t.service), ())))
        ]
        return cls(node, tuple(moving), tuple(kept), tuple(never), tuple(waits))

    @property
    def stays(self) -> str:
        """What stays, and what makes it go; empty: nothing does."""
        if not self.kept:
            return ""
        one = len(self.kept) == 1
        return (
            f"{names(self.kept)} {'keeps its' if one else 'keep their'} volume data on "
            f"{self.node.name}: {'it is' if one else 'they are'} stopped only with "
            f"bay node drain {self.node.name} --force"
        )

    @property
    def blocked(self) -> str:
        """What stays and what may not go, once nothing else is left. With a deadline nothing is
        blocked for good but what has a volume."""
        never = () if self.node.drain_until_at else self.never
        if len(self.moving) > len(never):
            return ""
        return "; ".join([*never[:BLOCKERS_SHOWN_MAX], *([self.stays] if self.stays else [])])

    def progress(self, tables: Tables, reasons: Reasons, now: float) -> str:
        """One sentence on what is left."""
        if not self.moving:
            return self.stays or "drained: no task is left"
        stopping = sum(1 for t in self.moving if not live(tables, t))
        services = sorted({t.service for t in self.moving})
        count = "1 task" if len(self.moving) == 1 else f"{len(self.moving)} tasks"
        text = f"{count} left, {stopping} of them stopping ({', '.join(services[:5])})"
        pending = [
            t
            for s in tables.tasks.values()
            if (t := s.value).service in services
            and task_state(t, status_of(tables, t)) is TaskState.PENDING
        ]
        if pending:
            first = pending[0]
            text += f"; {first.name} has no place yet: {why(tables, first, reasons, now)}"
        said = [text, *(self.never or self.waits)[:BLOCKERS_SHOWN_MAX]]
        if self.node.drain_until_at:
            left = self.node.drain_until_at - now
            said.append(f"in {duration(left)} they are stopped" if left > 0 else "they are overdue")
        return "; ".join([*said, *([self.stays] if self.stays else [])])


def keeps(tables: Tables, task: Task) -> bool:
    """True where the task has a volume on its node, and data there for all one knows."""
    service = tables.services.get((task.namespace, task.service))
    if service is None:
        return False
    status = tables.status.get((task.namespace, task.name))
    return keeps_volume(service.value, Observed(Stored(task, 0, b""), status))


def names(tasks: Sequence[Task], shown_max: int = 3) -> str:
    """`web.1.2, web.3.1 and 4 more`."""
    more = f" and {len(tasks) - shown_max} more" if len(tasks) > shown_max else ""
    return ", ".join(t.name for t in tasks[:shown_max]) + more
