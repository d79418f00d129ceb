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
        "one task more than fits",
        "controller/scheduler/filters.py",
        "np.minimum(room, columns.free[at] // wanted, out=room)",
        "np.minimum(room, columns.free[at] // wanted + 1, out=room)",
    ),
    Mutant(
        "a task that starts does not count for the quota",
        "controller/scheduler/index.py",
        "            self._count(key, tables, 1)\n",
        "            pass\n",
    ),
    # -- losses --
    Mutant(
        "a silent node is never lost",
        "controller/reconcilers/nodes.py",
        "if silent_s >= self._lost_after_s and known:",
        "if silent_s >= 1000 * self._lost_after_s and known:",
    ),
    Mutant(
        "a new leader gives nodes no time",
        "controller/reconcilers/nodes.py",
        "            return now - max(self._floor_at, min(away_until_at, now))\n",
        "            return now - min(away_until_at, now)\n",
    ),
    Mutant(
        "a volume moves with its task",
        "controller/orchestrator/situation.py",
        "        return not kept\n",
        "        return True\n",
    ),
    # -- fencing --
    Mutant(
        "a fenced task is given up with its node",
        "controller/orchestrator/situation.py",
        "            at = max(at, max(node.since_at, self.unbroken_since_at) + hold_s(fencing))\n",
        "            pass\n",
    ),
    Mutant(
        "a lease is counted from before it may have been granted",
        "controller/orchestrator/situation.py",
        "max(node.since_at, self.unbroken_since_at) + hold_s(fencing)",
        "node.since_at - 4.0 + hold_s(fencing) / 2",
    ),
    Mutant(
        "a fenced slot has two tasks while it is updated",
        "controller/orchestrator/situation.py",
        "return self.daemon or self.has_volume or self.fenced\n",
        "return self.daemon or self.has_volume\n",
    ),
    Mutant(
        "a shim is not told of the lease",
        "agent/core/ascent.py",
        "        self._fence_at = self._lease_until\n        self._do(\n            do.Run",
        "        self._fence_at = 1e12\n        self._do(\n            do.Run",
    ),
    Mutant(
        "a fenced task starts without a lease",
        "agent/core/ascent.py",
        "        return now < self._lease_until - reserve_s(",
        "        self._lease_until = max(self._lease_until, now + 8)\n"
        "        return now < self._lease_until - reserve_s(",
    ),
    # -- statuses --
    Mutant(
        "older statuses are believed",
        "controller/reconcilers/statuses.py",
        "if before is not None and _older(before, reported):",
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
    # -- rollouts --
    Mutant(
        "one more than the surge",
        "controller/orchestrator/service.py",
        "        elif doubled < surge:\n",
        "        elif doubled <= surge + 1:\n",
    ),
    Mutant(
        "a slot is refilled before the old task has ended",
        "controller/orchestrator/service.py",
        "    if alive and _waits_for_end(situation):\n",
        "    if False:\n",
    ),
    Mutant(
        "a predecessor goes before its successor is good",
        "controller/orchestrator/service.py",
        "        elif overdue or (proven is not None and proven <= now):\n",
        "        elif True:\n",
    ),
    # -- budgets --
    Mutant(
        "updates go beyond the budget",
        "controller/orchestrator/budget.py",
        "    return min(unavailable, budget.allows(len(situation.wanted_slots)))\n",
        "    return unavailable\n",
    ),
    Mutant(
        "preemption goes beyond the budget",
        "controller/reconcilers/budgets.py",
        "(stored.value.uid, found if rollout else 0)",
        "(stored.value.uid, found + 9 if rollout else 0)",
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
        "a node gets a second slot of a daemon",
        "controller/orchestrator/daemon.py",
        "        if node in taken or state not in REACHED:\n            continue\n        slot",
        "        if state not in REACHED:\n            continue\n        slot",
        "workloads",
    ),
    # -- the agent --
    Mutant(
        "what the controller does not name stays",
        "agent/core/agent.py",
        "            removed.extend(uid for uid in self._machines if uid not in named)\n",
        "",
    ),
)
