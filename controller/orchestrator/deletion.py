"""A service that is being deleted: tasks first, its own records last."""

from __future__ import annotations

from bayplan.model.task import DesiredState
from controller.orchestrator.decision import Decision, chunks, desire, drop, revision
from controller.orchestrator.naming import version_key
from controller.orchestrator.situation import Situation
from controller.tables import Change, Delete, Kind


def delete(situation: Situation) -> Decision:
    """Every task is told to leave nothing behind; once none is left, the records go together.

    A task on a lost node goes at once: if the node returns, its complete set of assignments does
    not hold the task, and what is not in the set must not run. One that is fenced goes once its
    lease is over: a service of the same name may be made then.
    """
    decision = Decision()
    for observed in situation.tasks:
        fenced = situation.fencing(observed) is not None
        lost = situation.gone(observed) if fenced else situation.lost(observed)
        if not observed.task.node or observed.final or lost:
            decision.add(*drop(observed))
        elif observed.task.desired is not DesiredState.REMOVED:
            decision.add(desire(observed, DesiredState.REMOVED, "the service is deleted"))
    if situation.tasks:
        return decision
    service = situation.service
    namespace, name = service.value.namespace, service.value.name
    marks = [
        Delete(Kind.SLOT, (namespace, f"{name}.{slot}"), stored.mod_revision)
        for slot, stored in sorted(situation.marks.items())
    ]
    if marks:
        decision.groups.extend(chunks(marks))
        return decision
    last: list[Change] = [
        Delete(Kind.VERSION, version_key(namespace, name, generation), stored.mod_revision)
        for generation, stored in sorted(situation.versions.items())
    ]
    if situation.rollout is not None:
        last.append(Delete(Kind.ROLLOUT, (namespace, name), revision(situation.rollout)))
    if situation.run is not None:
        last.append(Delete(Kind.RUN, (namespace, name), revision(situation.run)))
    last.append(Delete(Kind.SERVICE, (namespace, name), service.mod_revision))
    decision.add(*last)
    decision.note(situation, "Deleted", "all of its tasks and records are gone")
    return decision
