"""What the controller foresees and how it decides, as text: plans and explanations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bayplan.cli.render import clean, plural, span, table, word
from bayplan.cli.views import changes

NAMES_MAX = 5
"""Tasks or nodes that one line names."""
MOVES_MAX = 40
"""Tasks of one step that are listed; the machine-readable forms have all."""
ROLLOUT_WORDS = {
    "complete": "all done",
    "waiting": "stands at a gate",
    "paused": "pauses",
    "rolled_back": "is rolled back",
    "rolling_back": "is being rolled back",
    "running": "does not come to its end",
}


def plan(answer: Any, *, again: str = "") -> str:
    """`answer` is a PlanResponse; `again` the arguments that name the same files."""
    parts = [f"Plan {answer.id} (revision {answer.revision})\n", changes(answer.changes)]
    moves = [m for step in answer.steps for m in step.moves]
    spaces = {m.namespace for m in moves} | {w.namespace for w in answer.pending}
    qualified = len(spaces | {o.namespace for o in answer.outcomes}) > 1
    for number, step in enumerate(answer.steps, 1):
        after = f", {span(step.after_s)} or more later" if step.after_s >= 1 else ""
        rows = [_move(m, qualified) for m in step.moves[:MOVES_MAX]]
        parts.append(f"\nStep {number}{after}\n{_columns(rows)}")
        if len(step.moves) > MOVES_MAX:
            more = len(step.moves) - MOVES_MAX
            parts.append(f"  and {more} more (all of them with -o json)\n")
    if answer.pending:
        parts.append("\nWithout a node at the end\n")
        parts += [_wait(w, qualified) for w in answer.pending]
    if answer.outcomes:
        rows = [_outcome(o, qualified) for o in answer.outcomes]
        parts.append(f"\nAt the end\n{_columns(rows)}")
    if answer.unfinished:
        parts.append(f"\nNot the whole: {clean(answer.unfinished)}\n")
    parts.append(f"\n{_totals(answer.totals)}\n")
    if again and any(c.action != "unchanged" for c in answer.changes):
        parts.append(f"Do just this: bay apply --plan {answer.id} {clean(again)}\n")
    return "".join(parts)


def _columns(rows: Iterable[Sequence[str]]) -> str:
    """Aligned, indented, without headings."""
    lines = [[clean(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    shown = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return "".join(f"  {line}\n" for line in shown)


def _named(message: Any, name: str, qualified: bool) -> str:
    return f"{message.namespace}/{name}" if qualified else name


def _move(move: Any, qualified: bool) -> list[str]:
    action = word(move, "action")
    said = move.reason
    if move.replaces:
        there = "there" if move.from_node == move.node else f"on {move.from_node}"
        said = f"takes the place of {move.replaces} {there}"
        if move.reason:
            said += f": {move.reason}"
    if move.under_way:
        said = f"{said} (would happen anyway)".strip()
    return [action, _named(move, move.task, qualified), f"on {move.node}", said]


def _names(names: Sequence[str]) -> str:
    more = len(names) - NAMES_MAX
    return ", ".join(names[:NAMES_MAX]) + (f" and {more} more" if more > 0 else "")


def _wait(wait: Any, qualified: bool) -> str:
    names = _names([_named(wait, name, qualified) for name in wait.tasks])
    anyway = " (would happen anyway)" if wait.under_way else ""
    return f"  {clean(names)}: {clean(wait.reason) or 'not tried yet'}{anyway}\n"


def _outcome(outcome: Any, qualified: bool) -> list[str]:
    name = _named(outcome, outcome.name, qualified)
    count = f"{outcome.running}/{outcome.wanted} running"
    said = ""
    if outcome.rollout:
        said = f"the rollout {ROLLOUT_WORDS.get(outcome.rollout, outcome.rollout)}"
        said = "" if outcome.rollout == "complete" else said
    if outcome.reason:
        said = f"{said}: {outcome.reason}" if said else outcome.reason
    return [outcome.kind, name, count, said]


def _totals(totals: Any) -> str:
    words = (
        (totals.start, "to start"),
        (totals.replace, "to replace"),
        (totals.move, "to move"),
        (totals.stop, "to stop"),
        (totals.preempt, "preempted"),
        (totals.pending, "without a node"),
    )
    said = [f"{count} {text}" for count, text in words if count]
    if not said:
        return "No task would start or end."
    steps = f", in {plural(totals.steps, 'step')}" if totals.steps else ""
    return f"{', '.join(said)}{steps}."


# -- explanations --


def explanation(answer: Any) -> str:
    """`answer` is an ExplainResponse."""
    if not answer.tasks:
        return f"{answer.service} has no task: nothing of it is to run\n"
    parts = [_task(task) for task in answer.tasks]
    if answer.left_out:
        parts.append(f"and {plural(answer.left_out, 'more task')} with a node: bay explain TASK\n")
    return "\n".join(parts)


def _task(task: Any) -> str:
    if task.node:
        head = f"{task.task} is on {task.node} ({task.state})"
    else:
        alike = f" and {len(task.alike)} alike" if task.alike else ""
        head = f"{task.task}{alike} {'waits' if not task.alike else 'wait'} for a node"
    parts = [f"{head}\n"]
    parts += _filters(task)
    if not task.node and task.reason and not task.filters:
        parts.append(f"  {clean(task.reason)}\n")
    if task.scores:
        parts.append(_scores(task))
    if task.misses and not (task.node or task.feasible):
        parts.append("  Nearest\n")
        rows = [[m.node, "; ".join(k.text for k in m.lacks)] for m in task.misses]
        parts.append(_deeper(_columns(rows)))
    if task.remedies:
        parts.append("  Would fit with (each was tried)\n")
        rows = [[r.change, _fits(r)] for r in task.remedies]
        parts.append(_deeper(_columns(rows)))
    elif not task.node and not task.feasible:
        parts.append("  No single change that was tried would make it fit\n")
    return "".join(parts)


def _filters(task: Any) -> list[str]:
    could = f"  {task.feasible} of {plural(task.nodes, 'node')} could take it"
    fell = [f"{f.nodes} {f.detail}" for f in task.filters]
    if not task.nodes:
        return ["  the cluster has no nodes yet\n"]
    lines = [f"{could}{', the others:' if fell and task.feasible else ':' if fell else ''}\n"]
    return lines + [f"    {clean(line)}\n" for line in fell]


def _scores(task: Any) -> str:
    """The lowest cost wins."""
    names = list(dict.fromkeys(p.name for s in task.scores for p in s.parts))
    rows = []
    for score in task.scores:
        parts = {p.name: p.cost for p in score.parts}
        here = "here" if score.node == task.node else ""
        costs = [f"{parts.get(name, 0.0):.3f}" for name in names]
        rows.append([score.node, f"{score.cost:.3f}", *costs, here])
    made = table(["NODE", "COST", *(n.upper() for n in names), "."], rows)
    lines = [line.removesuffix(" -").removesuffix(" .") for line in made.splitlines()]
    shown = "".join(f"    {line.rstrip()}\n" for line in lines)
    return f"  The lowest cost wins (policy {task.policy})\n{shown}"


def _fits(remedy: Any) -> str:
    where = _names(list(remedy.nodes))
    if remedy.waiting == 1:
        return f"-> {where}"
    return f"-> {remedy.fits} of {remedy.waiting}, on {where}"


def _deeper(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
