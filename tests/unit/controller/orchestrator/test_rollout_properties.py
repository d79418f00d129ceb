"""Whatever happens during a rollout: bounds that hold at every step, and an end to it."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bayplan.model.errors import Conflict
from bayplan.model.node import NodeState
from bayplan.model.service import OnFailure, Portion, RolloutState, UpdatePolicy, UpdateStrategy
from bayplan.model.task import TaskState
from controller.orchestrator.gates import open_slots
from controller.server.rollouts import Order, situation_of
from tests.unit.controller.orchestrator.steering import traffic
from tests.unit.controller.rig import Rig

PORTIONS = st.one_of(
    st.builds(Portion, count=st.integers(1, 5)), st.builds(Portion, percent=st.integers(1, 100))
)


@st.composite
def policies(draw: st.DrawFn) -> UpdatePolicy:
    surge = draw(st.integers(0, 3))
    blue_green = draw(st.integers(0, 2)) == 0
    return UpdatePolicy(
        max_surge=surge,
        max_unavailable=draw(st.integers(0 if surge else 1, 2)),
        monitor_s=draw(st.sampled_from((0.0, 2.0))),
        progress_deadline_s=30.0,
        on_failure=draw(st.sampled_from(OnFailure)),
        strategy=UpdateStrategy.BLUE_GREEN if blue_green else UpdateStrategy.ROLLING,
        canary=None if blue_green else draw(st.none() | PORTIONS),
        pause_after=() if blue_green else tuple(draw(st.lists(PORTIONS, max_size=2))),
        promote_after_s=draw(st.sampled_from((0.0, 10.0))),
        keep_old_s=draw(st.sampled_from((0.0, 8.0))),
    )


def covered(rig: Rig) -> int:
    """Slots with a task that serves on a node that is there, and gets traffic."""
    nodes = {k[1] for k, s in rig.store.tables.nodestatus.items() if s.value.state != "lost"}
    live = [t for t in rig.live() if rig.state(t) is TaskState.RUNNING and t.node in nodes]
    return len({t.slot for t in live if rig.rollout.gets_traffic(t.template_hash)})


class Watched:
    """A rig whose every step is held against the policy."""

    def __init__(self, replicas: int, policy: UpdatePolicy) -> None:
        self.rig = Rig(nodes=4)
        self.replicas, self.policy = replicas, policy
        self.rig.apply(replicas, update=policy)
        self.rig.run(rounds=5)

    def settle(self) -> None:
        for _ in range(80):
            before, new = covered(self.rig), self._new()
            work = self.rig.step()
            self._check(before)
            self._check_gate(new)
            if not work:
                return
        raise AssertionError("the decisions do not come to an end")

    def _check(self, before: int) -> None:
        rig, policy = self.rig, self.policy
        most = self.replicas + policy.max_surge
        if policy.strategy is UpdateStrategy.BLUE_GREEN:
            most = 4 * self.replicas  # two versions, of each one that leaves a draining node
        assert len(rig.live()) <= most, "above the surge"
        after = covered(rig)
        missing = self.replicas - after
        assert after >= before or missing <= policy.max_unavailable, "below what may be missing"

    def _new(self) -> set[int]:
        """Slots that have had a task of the newest version, however it fares."""
        newest = self.rig.service.template_hash
        return {t.slot for t in self.rig.tasks() if t.template_hash == newest}

    def _check_gate(self, before: set[int]) -> None:
        tables = self.rig.store.tables
        rollout = tables.rollouts["default", "web"].value
        if rollout.to_generation == self.rig.service.generation:
            situation = situation_of(tables, tables.services["default", "web"])
            assert self._new() - before <= open_slots(situation, rollout), "past a gate"

    def act(self, dice: random.Random) -> None:
        """One of the things that happen in a cluster."""
        rig = self.rig
        match dice.randrange(9):
            case 0 | 1 | 2:
                rig.obey()
                rig.now += dice.choice((0.0, 1.0, 3.0))
            case 3:
                started = [t for t in rig.live() if t.node]
                if started:
                    task = dice.choice(started)
                    rig.report(task, TaskState.FAILED, exit_code=1, finished_at=rig.now)
            case 4:
                name = f"h{dice.randrange(1, 5)}"
                rig.node(name, draining=dice.random() < 0.5)
            case 5:
                name = f"h{dice.randrange(1, 5)}"
                rig.node_state(name, dice.choice((NodeState.LOST, NodeState.READY)))
            case 6:
                self._order(dice.choice(list(Order)))
            case 7:
                rig.now += 12.0
            case _:
                version = dice.choice("abc")
                rig.apply(self.replicas, version=version, update=self.policy)

    def _order(self, what: Order) -> None:
        from controller.server.intent import Desk
        from controller.server.rollouts import steer

        rig = self.rig
        desk = Desk(tables=rig.store.tables, caller="ada", now=rig.now, new_uid=lambda: "u")
        try:
            rig.store.apply(steer(desk, "default", "web", what).changes)
        except Conflict:
            return  # it means nothing now, and was refused with a reason


# After the switch a new task failed beside an old one that had stayed to switch back to.
STOOD_STILL = UpdatePolicy(
    max_surge=0,
    max_unavailable=1,
    monitor_s=0.0,
    progress_deadline_s=30.0,
    on_failure=OnFailure.PAUSE,
    strategy=UpdateStrategy.BLUE_GREEN,
    promote_after_s=10.0,
    keep_old_s=8.0,
)
# A node was drained; after the switch the one that served there went for one that stood by there.
WENT_TOO_SOON = replace(STOOD_STILL, max_surge=1, max_unavailable=0, on_failure=OnFailure.ROLLBACK)


@settings(max_examples=12, deadline=None)
@example(replicas=5, policy=STOOD_STILL, seed=427)
@example(replicas=4, policy=WENT_TOO_SOON, seed=139)
@given(replicas=st.integers(1, 6), policy=policies(), seed=st.integers(0, 1 << 32))
def test_bounds_hold_and_it_converges(replicas: int, policy: UpdatePolicy, seed: int) -> None:
    """Never above the surge, never fewer than may be missing by the controller's own doing, never
    past a gate; and once all is well, and whoever is asked says yes, one version is left."""
    dice = random.Random(seed)
    watched = Watched(replicas, policy)
    rig = watched.rig
    for _ in range(25):
        watched.act(dice)
        watched.settle()
    for i in range(1, 5):
        rig.node(f"h{i}")
    for _ in range(120):
        watched.settle()
        rig.obey()
        watched.settle()
        rig.now += 1.0
        watched._order(Order.PROMOTE)
        watched._order(Order.RESUME)
    settled = (RolloutState.COMPLETE, RolloutState.ROLLED_BACK)
    assert rig.rollout.state in settled, (rig.rollout, rig.names())
    newest = rig.service.template_hash[5:]
    assert traffic(rig) == [newest] * replicas == rig.versions()
