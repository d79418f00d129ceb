"""Room that is being made: which tasks end so that others of higher priority can start."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from bayplan.model.event import Severity
from bayplan.model.task import DesiredState, Task
from controller.orchestrator import Note
from controller.orchestrator.situation import WANTED
from controller.reconcilers.budgets import spent
from controller.scheduler import Preemption
from controller.scheduler.snapshot import occupies
from controller.tables import Change, Changes, Key, Kind, Put, Require, Stored, Tables


@dataclass(frozen=True, slots=True)
class Claim:
    """The node a task waits for, the tasks whose end it waits for, and those of them that are
    told to end for it."""

    node: str
    victims: tuple[tuple[Key, str], ...]
    told: tuple[tuple[Key, str], ...] = ()


class Claims:
    """Claims by the uid of the waiting task. Kept in memory alone: a new leader finds the victims
    ending already, claims their room, and ends others only where that is not enough."""

    def __init__(self) -> None:
        self._claims: dict[str, Claim] = {}

    def node(self, uid: str) -> str:
        """Where room is being made for the task; empty: nowhere."""
        found = self._claims.get(uid)
        return found.node if found is not None else ""

    def __contains__(self, uid: object) -> bool:
        return uid in self._claims

    def keep(self, waiting: Collection[str], tables: Tables) -> set[str]:
        """Forget claims of tasks that wait no more, those whose victims have all ended, and those
        whose victims were not told to end after all, since something changed meanwhile: what is
        still lacking then is looked for anew. Returns whose claims were forgotten."""
        before = self._claims
        self._claims = {
            uid: claim
            for uid, claim in self._claims.items()
            if uid in waiting
            and any(_holds(key, of, tables) for key, of in claim.victims)
            and not any(_untold(key, of, tables) for key, of in claim.told)
        }
        return before.keys() - self._claims.keys()

    def groups(
        self, preemptions: Iterable[Preemption], stored: Mapping[str, Stored[Task]], tables: Tables
    ) -> tuple[list[Changes], list[Note]]:
        """Victims are told to end, all of a claim or none, while the task still waits."""
        groups: list[Changes] = []
        notes: list[Note] = []
        for preemption in preemptions:
            waiting = stored[preemption.uid]
            name = waiting.value.name
            changes: list[Change] = [
                Require(Kind.TASK, (waiting.value.namespace, name), waiting.mod_revision)
            ]
            keys = []
            for victim in preemption.victims:
                key = (victim.task.namespace, victim.task.name)
                held = tables.tasks[key]
                reason = f"makes room for {name}"
                ended = replace(held.value, desired=DesiredState.SHUTDOWN, reason=reason)
                changes.append(Put(Kind.TASK, key, ended, held.mod_revision))
                keys.append((key, victim.task.uid))
                notes.append(
                    Note(
                        namespace=victim.task.namespace,
                        kind="service",
                        name=victim.task.service,
                        reason="Preempted",
                        message=f"{victim.task.name} on {preemption.node} {reason}",
                        severity=Severity.WARNING,
                    )
                )
            if preemption.victims:
                groups.append((*changes, *spent(preemption, tables)))
            told = tuple(keys)
            keys += [((o.task.namespace, o.task.name), o.task.uid) for o in preemption.leaving]
            self._claims[preemption.uid] = Claim(preemption.node, tuple(keys), told)
        return groups, notes


def _untold(key: Key, uid: str, tables: Tables) -> bool:
    found = tables.tasks.get(key)
    return found is not None and found.value.uid == uid and found.value.desired in WANTED


def _holds(key: Key, uid: str, tables: Tables) -> bool:
    found = tables.tasks.get(key)
    return found is not None and found.value.uid == uid and occupies(found.value, tables)
