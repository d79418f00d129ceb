"""What operators' verbs change of nodes. Pure, as `intent`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from bayplan.model.errors import Conflict, InvalidSpec, NotFound
from bayplan.model.node import Node, NodeState, Taint, TaintEffect
from bayplan.model.task import Task
from bayplan.wire._pb.bayplan.v1 import control_pb2 as control
from controller.server.effects import plural
from controller.server.intent import Desk, Outcome, event, said
from controller.server.views.drains import foretold
from controller.server.views.nodes import Drain, keeps, names
from controller.server.views.tasks import present
from controller.store.base import Change, Delete, Key, Kind, Put, Tables

LABELS_MAX: Final = 100
TAINTS_MAX: Final = 20
_LABEL_KEY = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9._/-]{0,61}[a-zA-Z0-9])?")
_LABEL_VALUE = re.compile(r"[\w.:/@+-]{0,253}")
_NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


def find_node(tables: Tables, name: str) -> tuple[Node, int]:
    """The node and its revision. Raises NotFound."""
    stored = tables.nodes.get(("", name))
    if stored is None:
        raise NotFound(f"there is no node {name}", hint="`bay node ls` lists them")
    return stored.value, stored.mod_revision


def check_name(name: str) -> None:
    """Raises InvalidSpec."""
    if not _NODE_NAME.fullmatch(name):
        raise InvalidSpec(
            f"{name[:80]!r} is not a node name: lower-case letters, digits, dots and dashes, "
            "at most 63, beginning and ending with a letter or digit"
        )


def present_on(tables: Tables, name: str) -> list[Task]:
    """Tasks of the node that are not over."""
    return [
        s.value for s in tables.tasks.values() if s.value.node == name and present(tables, s.value)
    ]


def tasks_on(tables: Tables, name: str) -> int:
    """How many tasks of the node are not over; those of daemons end with it and do not count."""
    return sum(1 for task in present_on(tables, name) if not task.pinned_node)


def _update(
    desk: Desk,
    old: Node,
    new: Node,
    revision: int,
    reason: str,
    lines: Sequence[str],
    effect: str,
    *,
    shown: Sequence[str] = (),
) -> Outcome:
    """`lines` are what changes of the node, also for the event; `shown` what follows."""
    key: Key = ("", old.name)
    if old == new:
        return Outcome((), (said("Node", key, "unchanged"),))
    message = f"by {desk.caller}" if not lines else f"{'; '.join(lines)} by {desk.caller}"
    changes = (
        Put(Kind.NODE, key, new, revision),
        event(desk, "node", "", old.name, reason, message, node=old.name),
    )
    return Outcome(changes, (said("Node", key, "update", summary=[*lines, *shown], effect=effect),))


def cordon(desk: Desk, name: str) -> Outcome:
    old, revision = find_node(desk.tables, name)
    effect = "new tasks go elsewhere; running ones stay"
    return _update(desk, old, replace(old, cordoned=True), revision, "Cordoned", [], effect)


def uncordon(desk: Desk, name: str) -> Outcome:
    """Ends a drain, too."""
    old, revision = find_node(desk.tables, name)
    new = replace(old, cordoned=False, draining=False, drain_volumes=False, drain_until_at=0.0)
    return _update(desk, old, new, revision, "Uncordoned", [], "new tasks may be placed here")


def drain(desk: Desk, name: str, force: bool = False, deadline_s: float = 0.0) -> Outcome:
    """A drained node stays cordoned, so that it can be worked on. `force`: tasks whose volume is
    here are stopped, although they can run nowhere else. `deadline_s` (0: none): after it the
    others are stopped whatever budgets and update policies say."""
    old, revision = find_node(desk.tables, name)
    if deadline_s < 0:
        raise InvalidSpec("a deadline is not in the past; write e.g. --deadline 10m")
    until_at = desk.now + deadline_s if deadline_s else 0.0
    new = replace(old, cordoned=True, draining=True, drain_volumes=force, drain_until_at=until_at)
    here = Drain.of(desk.tables, new, present_on(desk.tables, name))
    effect = f"moves {plural(len(here.moving), 'task')} elsewhere"
    if here.kept:
        effect += f", not {names(here.kept)}: their volume data is only here"
    elif force and (bound := [t for t in here.moving if keeps(desk.tables, t)]):
        effect += f" or, with a volume here, stops them ({names(bound)})"
    effect += f"; `bay node uncordon {name}` ends it"
    lines = foretold(desk.tables, here.moving, here.kept)
    return _update(desk, old, new, revision, "Draining", [], effect, shown=lines)


def taint(desk: Desk, name: str, taints: Sequence[Taint], remove: Sequence[str]) -> Outcome:
    """A taint of the same key is replaced. Raises NotFound where one to remove is not there."""
    old, revision = find_node(desk.tables, name)
    for given in taints:
        if not _LABEL_KEY.fullmatch(given.key) or not _LABEL_VALUE.fullmatch(given.value):
            raise InvalidSpec(f"{given.text[:80]!r} is not a taint; write e.g. gpu=a100:refuse")
    held = {t.key: t for t in old.taints}
    if missing := [key for key in remove if key not in held]:
        raise NotFound(f"node {name} has no taint {', '.join(missing)}")
    wanted = {k: t for k, t in held.items() if k not in remove} | {t.key: t for t in taints}
    if len(wanted) > TAINTS_MAX:
        raise InvalidSpec(f"a node has at most {TAINTS_MAX} taints, these would be {len(wanted)}")
    new = replace(old, taints=tuple(wanted[key] for key in sorted(wanted)))
    lines = [f"taint {t.text}: added" for t in new.taints if held.get(t.key) != t]
    lines += [f"taint {held[key].text}: removed" for key in sorted(remove)]
    effects = {
        TaintEffect.EVICT: "tasks that do not tolerate it move elsewhere, those with a volume stop",
        TaintEffect.REFUSE: "tasks that do not tolerate it are no longer placed here",
        TaintEffect.AVOID: "tasks that do not tolerate it are placed here last",
    }
    effect = "; ".join(effects[e] for e in dict.fromkeys(t.effect for t in taints))
    return _update(desk, old, new, revision, "Tainted", lines, effect)


def label(desk: Desk, name: str, labels: Mapping[str, str], remove: Sequence[str]) -> Outcome:
    old, revision = find_node(desk.tables, name)
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            raise InvalidSpec(f"{key[:80]!r} is not a label's name; use letters, digits and ._/-")
        if not _LABEL_VALUE.fullmatch(value):
            raise InvalidSpec(f"label {key}: {value[:80]!r} is not a value; use letters and digits")
    missing = [key for key in remove if key not in old.labels]
    if missing:
        raise NotFound(f"node {name} has no label {', '.join(missing)}")
    changed = {k: v for k, v in {**old.labels, **labels}.items() if k not in remove}
    if len(changed) > LABELS_MAX:
        raise InvalidSpec(f"a node has at most {LABELS_MAX} labels, these would be {len(changed)}")
    lines = []
    for key in sorted({*old.labels, *changed}):
        before, after = old.labels.get(key), changed.get(key)
        if before != after:
            was = "added" if before is None else f"{before} ->"
            lines.append(
                f"label {key}: removed" if after is None else f"label {key}: {was} {after}"
            )
    new = replace(old, labels=changed)
    effect = "counts for tasks placed from now on; running ones stay"
    return _update(desk, old, new, revision, "Labelled", lines, effect)


def remove(desk: Desk, name: str, force: bool) -> Outcome:
    """The node's record goes, and with it every certificate it has. Tasks still on it are the
    placement's to replace. Raises Conflict while tasks run there, unless forced."""
    _, revision = find_node(desk.tables, name)
    here = tasks_on(desk.tables, name)
    if here and not force:
        raise Conflict(
            f"{plural(here, 'task')} still run on node {name}",
            hint=f"`bay node drain {name}` moves them; --force removes it at once",
        )
    key: Key = ("", name)
    changes: list[Change] = [
        Delete(Kind.NODE, key, revision),
        event(desk, "node", "", name, "Removed", f"by {desk.caller}", node=name),
    ]
    if key in desk.tables.nodestatus:
        changes.append(Delete(Kind.NODE_STATUS, key, None))
    effect = "its certificates are revoked"
    if here:
        verb = "is" if here == 1 else "are"
        effect += f"; {plural(here, 'task')} {verb} replaced elsewhere"
        status = desk.tables.nodestatus.get(key)
        if status is not None and status.value.state is NodeState.READY:
            effect += ", and the agent ends what runs there"
        else:
            effect += "; what may run there ends when the agent is back and hears of it"
    change = control.Change(kind="Node", name=name, action="delete", effect=effect)
    return Outcome(tuple(changes), (change,))


def free_subnet(tables: Tables, pool: str, prefix: int) -> str:
    """The lowest subnet of the pool that no node has. Raises Conflict where none is left."""
    taken = {s.value.subnet for s in tables.nodes.values()}
    for subnet in ipaddress.IPv4Network(pool).subnets(new_prefix=prefix):
        if str(subnet) not in taken:
            return str(subnet)
    raise Conflict(
        f"every /{prefix} of the pool {pool} belongs to a node", hint="remove nodes that are gone"
    )
