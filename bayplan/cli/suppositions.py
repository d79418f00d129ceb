"""What would become of the cluster, what losses it can take and how it is balanced, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bayplan.cli.render import clean, cores, plural, size, table

NODES_MAX = 20
"""Nodes that are listed; `-o wide` lists all."""
NAMES_MAX = 6

FITS = {"yes": "yes", "no": "NO", "unknown": "not known"}


def whatif(answer: Any, *, wide: bool) -> str:
    """`answer` is a WhatIfResponse."""
    parts = [f"{_supposed(answer)} (revision {answer.revision})\n"]
    if answer.services:
        rows = [_service(s) for s in answer.services]
        headings = ("SERVICE", "LEAVE", "PLACED ON", "PREEMPTED", "WITHOUT A PLACE")
        parts.append(table(headings, rows))
    parts += ["\n", _verdict(answer)]
    for service in answer.services:
        for waiting in service.waiting:
            parts.append(f"  {_waiting(service, waiting)}\n")
    parts += ["\n", _room(answer.after, answer.before)]
    parts += ["\n", _nodes(answer.after, answer.before, wide=wide)]
    if answer.unfinished:
        parts.append("\nNot the whole: it goes on, and was looked at no further.\n")
    return "".join(parts)


def _supposed(answer: Any) -> str:
    said = [
        f"{_names(found)} {'is' if len(found) == 1 else 'are'} {what}"
        for found, what in (
            (answer.lost, "lost"),
            (answer.drained, "drained"),
            (answer.added, "added"),
        )
        if found
    ]
    changed = [f"{c.namespace}/{c.name}" for c in answer.changes if c.action != "unchanged"]
    if changed:
        said.append(f"{_names(changed)} {'is' if len(changed) == 1 else 'are'} applied")
    return f"If {' and '.join(said)}" if said else "If nothing changes"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(clean(name) for name in names[:NAMES_MAX])
    return shown + (f" and {len(names) - NAMES_MAX} more" if len(names) > NAMES_MAX else "")


def _service(service: Any) -> tuple[str, ...]:
    placed = [f"{p.node} {p.tasks}" for p in service.placed]
    short = sum(w.count for w in service.waiting if not w.already)
    name = f"{service.namespace}/{service.service}"
    return name, str(service.leaving), _names(placed), str(service.preempted), str(short)


def _verdict(answer: Any) -> str:
    if answer.short:
        have = "has" if answer.short == 1 else "have"
        return f"It does not fit: {plural(answer.short, 'task')} {have} no place.\n"
    placed = sum(p.tasks for s in answer.services for p in s.placed)
    if not placed:
        return "It fits: no task has to go anywhere.\n"
    return f"It fits: {plural(placed, 'task')} {'has' if placed == 1 else 'have'} a new place.\n"


def _waiting(service: Any, waiting: Any) -> str:
    more = f" and {waiting.count - 1} more" if waiting.count > 1 else ""
    how = " (already now)" if waiting.already else ""
    return f"{service.namespace}/{waiting.task}{more}{how}: {clean(waiting.reason)}"


def _room(after: Any, before: Any = None) -> str:
    free, held = after.free, after.allocatable
    figures = (
        f"cpu {cores(free.cpu_millis)} of {cores(held.cpu_millis)}, "
        f"memory {size(free.memory_bytes)} of {size(held.memory_bytes)}, "
        f"pids {free.pids} of {held.pids}"
    )
    lines = [f"Free     {figures}"]
    if before is not None:
        was = before.free
        lines.append(
            f"Before   cpu {cores(was.cpu_millis)}, memory {size(was.memory_bytes)}, "
            f"pids {was.pids}"
        )
    if after.roomiest:
        largest = after.largest
        lines.append(
            f"Largest  one task of cpu {cores(largest.cpu_millis)}, "
            f"memory {size(largest.memory_bytes)}, pids {largest.pids} still fits, "
            f"on {clean(after.roomiest)}"
        )
    else:
        lines.append("Largest  no node takes tasks")
    return "\n".join(lines) + "\n"


def _nodes(after: Any, before: Any, *, wide: bool) -> str:
    were = {n.name: n.tasks for n in before.nodes}
    shown = after.nodes if wide else after.nodes[:NODES_MAX]
    rows = []
    for node in shown:
        was = were.get(node.name)
        tasks = str(node.tasks) if was in (None, node.tasks) else f"{was} -> {node.tasks}"
        rows.append(
            (
                node.name,
                node.blocked or "open",
                tasks,
                f"{cores(node.free.cpu_millis)}/{cores(node.allocatable.cpu_millis)}",
                f"{size(node.free.memory_bytes)}/{size(node.allocatable.memory_bytes)}",
                f"{node.free.pids}/{node.allocatable.pids}",
            )
        )
    headings = ("NODE", "SCHED", "TASKS", "CPU(free/alloc)", "MEM(free/alloc)", "PIDS(free/alloc)")
    text = table(headings, rows)
    rest = len(after.nodes) - len(shown)
    return text + (f"and {plural(rest, 'node')} more (all of them with -o wide)\n" if rest else "")


def headroom(answer: Any) -> str:
    """`answer` is a HeadroomResponse."""
    rows = [_level("any one", answer.one), _level("any two", answer.two)]
    headings = ("LOSS OF", "FITS", "WORST", "TASKS", "WAIT", "BOUND", "LEFT", "LOOKED AT")
    return f"{table(headings, rows)}\n{_room(answer.room)}"


def _level(what: str, level: Any) -> tuple[str, ...]:
    worst = level.worst
    looked = f"{level.tried} of {level.losses}"
    if not level.HasField("worst"):
        return what, FITS.get(level.fits, level.fits), "", "", "", "", "", looked
    return (
        what,
        FITS.get(level.fits, level.fits),
        ", ".join(worst.hosts),
        str(worst.tasks),
        str(worst.waiting),
        str(worst.bound),
        f"{worst.slack:.0%}",
        looked,
    )


def rebalance(answer: Any, *, dry_run: bool) -> str:
    """`answer` is a RebalanceResponse."""
    parts = []
    if answer.under_way:
        parts.append("Under way\n" + _moves(answer.under_way, gains=False))
    if answer.moves:
        parts.append(_moves(answer.moves, gains=True))
        parts.append(
            f"Fullest node {answer.fullest_before:.0%} -> {answer.fullest_after:.0%}, "
            f"emptiest {answer.emptiest_before:.0%} -> {answer.emptiest_after:.0%}; "
            f"gain {sum(m.gain for m in answer.moves):.2f}\n"
        )
    elif not answer.under_way:
        parts.append("balanced: no move gains anything\n")
    if answer.fixed:
        fixed = ", ".join(f"{f.tasks} {clean(f.reason)}" for f in answer.fixed)
        parts.append(f"Not moved: {fixed}\n")
    if dry_run and answer.moves:
        parts.append("nothing was changed (dry run)\n")
    return "".join(parts)


def _moves(moves: Any, *, gains: bool) -> str:
    rows = [
        (
            f"{m.namespace}/{m.task}",
            m.from_node,
            m.to_node,
            *((f"{m.gain:.2f}",) if gains else ()),
        )
        for m in moves
    ]
    return table(("TASK", "FROM", "TO", *(("GAIN",) if gains else ())), rows)
