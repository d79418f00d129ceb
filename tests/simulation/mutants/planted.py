"""What is planted where: a guard taken away, a comparison turned round, an order not given."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` occurs once in `file` and becomes `new`. `play`: which seeds find it soonest."""

    name: str
    file: str
    old: str
    new: str
    play: str = "services"


MUTANTS = (
    # -- who holds room --
    Mutant(
        "room is free once a task was told to stop",
        "controller/scheduler/index.py",
        "        return status.value.state not in FINAL\n    return True",
        "        return status.value.state not in FINAL\n    return task.desired in _RUNNING",
    ),
    Mutant(
        "room is free while a task stops",
        "controller/scheduler/index.py",
        "        return status.value.state not in FINAL\n",
        "        return task.desired in _RUNNING\n",
    ),
    Mutant(
        "one task more than fits",
        "controller/scheduler/filters.py",
        "np.minimum(room, columns.free[at] // wanted, out=room)",
        "np.minimum(room, columns.free[at] // wanted + 1, out=room)",
    ),
    # -- losses --
    Mutant(
        "a node's return is not noticed when its tasks are lost",
        "controller/orchestrator/decision.py",
        '        guard = (Require(Kind.NODE_STATUS, ("", task.node), node.revision),)\n',
        "        guard = ()\n",
    ),
    Mutant(
        "what was lost is not removed when its node returns",
        "controller/orchestrator/decision.py",
        "        desire(observed, DesiredState.REMOVED, message),\n",
        "",
    ),
    Mutant(
        "the successor of a lost task does not depend on the loss",
        "controller/orchestrator/service.py",
        "    return (*losses, *give_up_ended(slot.tasks), new)\n",
        "    slot.losses = losses\n    return (*give_up_ended(slot.tasks), new)\n",
    ),
    Mutant(
        "a silent node is never lost",
        "controller/reconcilers/nodes.py",
        "if silent_s >= self._lost_after_s and known:",
        "if silent_s >= 1000 * self._lost_after_s and known:",
    ),
    Mutant(
        "a new leader gives nodes no time",
        "controller/reconcilers/nodes.py",
        "            return now - self._floor_at\n",
        "            return now\n",
    ),
    Mutant(
        "a volume moves with its task",
        "controller/orchestrator/situation.py",
        "        return not kept\n",
        "        return True\n",
    ),
    # -- statuses --
    Mutant(
        "older statuses are believed",
        "controller/reconcilers/statuses.py",
        "if before is not None and _older(before, reported):",
        "if False:",
    ),
    Mutant(
        "incarnations may go back",
        "controller/reconcilers/statuses.py",
        "    return reported.incarnation < before.incarnation\n",
        "    return False\n",
    ),
    Mutant(
        "statuses of tasks that are gone are kept",
        "controller/reconcilers/statuses.py",
        "        return (Require(Kind.TASK, key, stored.mod_revision), put), None\n",
        "        return (put,), None\n",
    ),
    Mutant(
        "a status that conflicted is forgotten",
        "controller/reconcilers/sessions.py",
        "if name is not None and isinstance(result, Conflict):",
        "if False:",
    ),
    Mutant(
        "a batch of unknown outcome is forgotten",
        "controller/reconcilers/sessions.py",
        "        for name, waiting in self._in_flight.items():\n"
        "            self._waiting.setdefault(name, waiting)\n        self._in_flight.clear()\n"
        "        self._told",
        "        self._in_flight.clear()\n        self._told",
    ),
    Mutant(
        "a session that was replaced is heard on",
        "controller/reconcilers/sessions.py",
        "        if current is None or current.id != session:\n            return []\n",
        "        if current is None:\n            return []\n",
    ),
    # -- rollouts --
    Mutant(
        "one more than the surge",
        "controller/orchestrator/service.py",
        "        elif doubled < surge:\n",
        "        elif doubled <= surge + 1:\n",
    ),
    Mutant(
        "a predecessor goes before its successor is good",
        "controller/orchestrator/service.py",
        "        elif proven is not None and proven <= now:\n",
        "        elif True:\n",
    ),
    Mutant(
        "a slot is refilled before the old task has ended",
        "controller/orchestrator/service.py",
        "    if alive and _waits_for_end(situation):\n",
        "    if False:\n",
    ),
    # -- jobs, crons, daemons --
    Mutant(
        "one index more than the parallelism",
        "controller/orchestrator/job.py",
        "        if room <= 0:\n",
        "        if room < 0:\n",
        "workloads",
    ),
    Mutant(
        "an index with a result runs again",
        "controller/orchestrator/job.py",
        "        if index.number >= policy.completions or index.result is not None:\n"
        "            continue\n        if not index.busy and not index.lost and not "
        "_about_to_end(index):",
        "        if index.number >= policy.completions:\n"
        "            continue\n        if not index.busy and not index.lost:",
        "workloads",
    ),
    Mutant(
        "what forbids overlap overlaps",
        "controller/orchestrator/cron.py",
        "    elif at_work and policy.overlap is Overlap.FORBID:\n",
        "    elif len(at_work) > 1 and policy.overlap is Overlap.FORBID:\n",
        "workloads",
    ),
    Mutant(
        "a replaced job goes on beside its successor",
        "controller/orchestrator/cron.py",
        "    elif at_work and policy.overlap is Overlap.REPLACE:\n",
        "    elif len(at_work) > 1 and policy.overlap is Overlap.REPLACE:\n",
        "workloads",
    ),
    Mutant(
        "a node gets a second slot of a daemon",
        "controller/orchestrator/daemon.py",
        "        if node in taken or state not in REACHED:\n            continue\n        slot",
        "        if state not in REACHED:\n            continue\n        slot",
        "workloads",
    ),
    # -- the agent --
    Mutant(
        "a desired state may go back",
        "agent/core/machine.py",
        "if _DESIRED_RANK[assignment.task.desired] < _DESIRED_RANK[before]:",
        "if False:",
    ),
    Mutant(
        "an end is not noticed",
        "agent/core/machine.py",
        "        if self.phase not in _ALIVE or event.incarnation not in (0, self.status."
        "incarnation):\n",
        "        if self.phase is not Phase.UP or event.incarnation != self.status.incarnation:\n",
    ),
    Mutant(
        "what the controller does not name stays",
        "agent/core/agent.py",
        "            removed.extend(uid for uid in self._machines if uid not in named)\n",
        "",
    ),
    Mutant(
        "a complete set leaves orphans alone",
        "agent/core/agent.py",
        "        if event.complete:\n            self._sweep_orphans(out)\n",
        "",
    ),
    Mutant(
        "an ended task is sent as one to run",
        "controller/reconcilers/assignments.py",
        "    if ended:\n        desired",
        "    if False:\n        desired",
    ),
)
