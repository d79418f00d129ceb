"""The leader's side of sessions: hello, assignments, statuses, acknowledgements."""

from __future__ import annotations

from dataclasses import replace

from bayplan.model.errors import Conflict
from bayplan.model.event import Event, Severity
from bayplan.model.identity import Identity, Role
from bayplan.model.node import NodeState
from bayplan.model.secret import SealedSecret
from bayplan.model.service import EnvVar, SecretReference, TaskTemplate
from bayplan.model.task import DesiredState, Task, TaskState, TaskStatus
from controller.reconcilers.happenings import PER_MINUTE_MAX
from controller.reconcilers.messages import (
    AgentHello,
    AssignmentAck,
    AssignmentSet,
    EndSession,
    EventBatch,
    Goodbye,
    Heartbeat,
    HeartbeatAck,
    Operators,
    Outgoing,
    StatusAck,
    StatusBatch,
    Welcome,
)
from controller.reconcilers.nodes import Nodes
from controller.reconcilers.sessions import Sessions
from controller.tables import Kind
from tests.unit.controller.rig import Rig


def opened(secret: SealedSecret) -> dict[str, bytes]:
    return {key: b"open " + value for key, value in secret.sealed.items()}


class Leader(Rig):
    """A rig with sessions."""

    def __init__(self) -> None:
        super().__init__(nodes=2)
        self.leads = True
        self.sessions = Sessions(opened, leads=lambda: self.leads)
        self.operators: list[Operators] = []

    def hello(self, node: str, session: str = "", *statuses: TaskStatus) -> list[Outgoing]:
        """What it is answered, but for the operators' certificates."""
        hello = AgentHello(statuses=statuses, sent_at=self.now)
        out = self.sessions.on_hello(
            session or f"s-{node}", node, hello, self.store.tables, self.now
        )
        self.operators = [o.message for o in out if isinstance(o.message, Operators)]
        return [o for o in out if not isinstance(o.message, Operators)]

    def say(self, node: str, message: object) -> list[Outgoing]:
        return self.sessions.on_message(f"s-{node}", node, message, self.now)  # type: ignore[arg-type]

    def tables_changed(self) -> dict[str, AssignmentSet]:
        out = self.sessions.on_tables(self.store.tables)
        return {o.session: o.message for o in out if isinstance(o.message, AssignmentSet)}

    def flush(self) -> list[object]:
        batch = self.sessions.take(self.store.tables, self.now)
        assert batch is not None
        return [
            o.message for o in self.sessions.committed(batch, self.store.apply_each(batch.groups))
        ]


def a_leader(replicas: int = 2) -> tuple[Leader, Task]:
    """Two nodes with one task each and a session each; returns the task of h1."""
    leader = Leader()
    leader.apply(replicas)
    leader.settle()
    for node in ("h1", "h2"):
        leader.hello(node)
    return leader, next(t for t in leader.tasks() if t.node == "h1")


def status(task: Task, state: TaskState = TaskState.RUNNING, **fields: object) -> TaskStatus:
    return TaskStatus(
        namespace=task.namespace,
        task=task.name,
        uid=task.uid,
        node=task.node,
        state=state,
        incarnation=1,
        **fields,  # type: ignore[arg-type]
    )


def stored_state(leader: Leader, task: Task) -> TaskState | None:
    found = leader.store.tables.status.get((task.namespace, task.name))
    return found.value.state if found else None


def test_a_session_begins_with_everything() -> None:
    """Welcome, then the complete set of the node and of no other."""
    leader, task = a_leader()
    welcome, first = (o.message for o in leader.hello("h1", "s2")[1:])
    assert isinstance(welcome, Welcome)
    assert isinstance(first, AssignmentSet)
    assert first.complete
    assert [a.task.uid for a in first.assignments] == [task.uid]
    assert first.assignments[0].template.image == "app:a"


def test_a_second_session_ends_the_first() -> None:
    """The newer one is the agent that lives; the older is told so and is not heard any more."""
    leader, task = a_leader()
    out = leader.hello("h1", "s2")
    assert out[0].session == "s-h1"
    assert isinstance(out[0].message, EndSession)
    leader.say("h1", StatusBatch(1, (status(task),)))
    assert leader.sessions.waiting == 0
    leader.sessions.on_closed("s-h1", "h1")
    assert leader.sessions.session_of("h1") == "s2"


def test_an_agent_of_another_protocol_is_refused_and_people_see_why() -> None:
    """Its stream ends with the reason, its node's events hold it, and it has no session."""
    leader, _ = a_leader()
    leader.sessions.on_closed("s-h1", "h1")
    hello = AgentHello(protocol=0)
    tables = leader.store.tables
    (out,) = leader.sessions.on_hello("s9", "h1", hello, tables, leader.now)
    assert out.message == EndSession("invalid", "protocol 0 is not spoken here; upgrade the agent")
    assert leader.sessions.session_of("h1") == ""
    leader.flush()
    told = [s.value for s in leader.store.tables.events.values() if s.value.name == "h1"]
    assert [(e.reason, e.message) for e in told if e.reason == "AgentRefused"] == [
        ("AgentRefused", "protocol 0 is not spoken here; upgrade the agent")
    ]


def test_an_unknown_node_is_refused() -> None:
    """A certificate of a node that was removed opens no session."""
    leader, _ = a_leader()
    (out,) = leader.hello("h9")
    assert isinstance(out.message, EndSession)
    assert out.message.code == "node_removed"


def test_a_removed_node_loses_its_session() -> None:
    """Removing the node ends its session at once."""
    leader, _ = a_leader()
    leader.remove_node("h2")
    (out,) = leader.sessions.on_tables(leader.store.tables)
    assert (out.session, type(out.message)) == ("s-h2", EndSession)
    assert leader.sessions.nodes == {"h1"}


def test_changes_travel_as_deltas() -> None:
    """Only what differs from what was sent is sent, with rising sequence numbers."""
    leader, task = a_leader()
    assert leader.tables_changed() == {}
    leader.change(stopped=True)
    leader.settle()
    sent = leader.tables_changed()
    delta = sent["s-h1"]
    assert not delta.complete
    assert [(a.task.uid, a.task.desired) for a in delta.assignments] == [
        (task.uid, DesiredState.SHUTDOWN)
    ]
    assert delta.sequence == 2
    assert not leader.sessions.acknowledged("h1")
    leader.say("h1", AssignmentAck(2))
    assert leader.sessions.acknowledged("h1")


def test_deltas_add_up_to_the_whole() -> None:
    """Through growth, a rollout, a shrinking and an end: who heard all deltas knows what a session
    is told that begins now."""
    leader, _ = a_leader(4)
    known: dict[str, dict[str, object]] = {"h1": {}, "h2": {}}

    def take() -> None:
        for session, told in leader.tables_changed().items():
            held = known[session.removeprefix("s-")]
            for uid in told.removed_uids:
                del held[uid]
            held.update((a.task.uid, a) for a in told.assignments)

    for node, held in known.items():
        (first,) = (o.message for o in leader.hello(node) if isinstance(o.message, AssignmentSet))
        held.update((a.task.uid, a) for a in first.assignments)
    for replicas, image in ((9, "a"), (9, "b"), (3, "b"), (0, "b")):
        leader.apply(replicas, version=image)
        for _ in range(15):
            leader.settle()
            take()
            leader.obey()
            take()
            leader.advance(1.0)
        leader.settle()
        take()
        whole = Sessions(opened)
        for node, held in known.items():
            hello = AgentHello(sent_at=leader.now)
            out = whole.on_hello("new", node, hello, leader.store.tables, leader.now)
            (complete,) = (o.message for o in out if isinstance(o.message, AssignmentSet))
            assert held == {a.task.uid: a for a in complete.assignments}


def test_a_deleted_task_is_removed_from_its_node() -> None:
    """REMOVED is an assignment until the end is seen; then the uid is taken away."""
    leader, task = a_leader()
    leader.change(deleting=True)
    leader.settle()
    assert leader.tables_changed()["s-h1"].assignments[0].task.desired is DesiredState.REMOVED
    leader.say("h1", StatusBatch(1, (status(task, TaskState.SHUTDOWN),)))
    leader.flush()
    leader.settle()
    assert leader.tables_changed()["s-h1"].removed_uids == (task.uid,)


def test_statuses_are_stored_and_acknowledged() -> None:
    """A batch is acknowledged once it is in the store, stamped with the leader's time."""
    leader, task = a_leader()
    leader.say("h1", StatusBatch(1, (status(task),)))
    assert leader.flush() == [StatusAck(1)]
    found = leader.store.tables.status[task.namespace, task.name].value
    assert (found.state, found.received_at) == (TaskState.RUNNING, leader.now)
    assert ("web", "Started") in leader.events()


def test_a_state_never_moves_back() -> None:
    """An older state, an older incarnation and a repeated one are acknowledged and not stored."""
    leader, task = a_leader()
    leader.say("h1", StatusBatch(1, (replace(status(task), incarnation=2),)))
    leader.flush()
    revision = leader.store.tables.revision
    for sequence, late in enumerate(
        (
            status(task, TaskState.STARTING),
            status(task, TaskState.RUNNING),
            replace(status(task), incarnation=2, observed_at=5.0),
        ),
        start=2,
    ):
        leader.say("h1", StatusBatch(sequence, (late,)))
        assert leader.flush() == [StatusAck(sequence)]
    assert leader.store.tables.revision == revision


def test_a_node_speaks_only_of_its_own_tasks() -> None:
    """A status of a task that is bound to another node changes nothing."""
    leader, task = a_leader()
    leader.say("h2", StatusBatch(1, (status(task, TaskState.FAILED),)))
    leader.flush()
    assert stored_state(leader, task) is None


def test_the_newest_status_of_a_task_is_written_once() -> None:
    """States between two commits are skipped, and all their batches acknowledged together."""
    leader, task = a_leader()
    for sequence, state in enumerate((TaskState.PREPARING, TaskState.STARTING, TaskState.RUNNING)):
        leader.say("h1", StatusBatch(sequence + 1, (status(task, state),)))
    before = leader.store.tables.revision
    assert leader.flush() == [StatusAck(3)]
    assert stored_state(leader, task) is TaskState.RUNNING
    assert leader.store.tables.revision <= before + 2  # the status, and its event


def test_a_conflict_is_decided_again() -> None:
    """What could not be written is not acknowledged, and comes with the next batch."""
    leader, task = a_leader()
    leader.say("h1", StatusBatch(1, (status(task),)))
    batch = leader.sessions.take(leader.store.tables, leader.now)
    assert batch is not None
    results = [Conflict("moved on")] * len(batch.groups)
    assert leader.sessions.committed(batch, results) == []
    assert leader.flush() == [StatusAck(1)]


def test_an_unanswered_commit_is_decided_again() -> None:
    """Whether it was written or not: the second time settles it."""
    for written in (True, False):
        leader, task = a_leader()
        leader.say("h1", StatusBatch(1, (status(task),)))
        batch = leader.sessions.take(leader.store.tables, leader.now)
        assert batch is not None
        if written:
            leader.store.apply_each(batch.groups)
        leader.sessions.failed()
        assert leader.flush() == [StatusAck(1)]
        assert stored_state(leader, task) is TaskState.RUNNING


def test_statuses_in_the_hello_count() -> None:
    """A new leader learns what happened while there was none."""
    leader, task = a_leader()
    leader.hello("h1", "s2", status(task, TaskState.FAILED, exit_code=3))
    leader.flush()
    assert stored_state(leader, task) is TaskState.FAILED


def test_an_ended_task_is_never_sent_as_one_to_run() -> None:
    """An agent that lost its checkpoint must not run it again."""
    leader, task = a_leader()
    leader.say("h1", StatusBatch(1, (status(task, TaskState.FAILED),)))
    leader.flush()
    assert leader.store.tables.tasks[task.namespace, task.name].value.desired.value == "running"
    (_, _, first) = (o.message for o in leader.hello("h1", "s2"))
    assert isinstance(first, AssignmentSet)
    assert first.assignments[0].task.desired is DesiredState.SHUTDOWN


def test_a_lost_task_is_not_in_the_complete_set() -> None:
    """A node that returns is not told to keep what was replaced elsewhere."""
    leader, task = a_leader()
    leader.node_state("h1", NodeState.LOST)
    leader.settle()
    leader.tables_changed()
    (_, _, first) = (o.message for o in leader.hello("h1", "s2"))
    assert isinstance(first, AssignmentSet)
    assert task.uid not in {a.task.uid for a in first.assignments}


def test_secrets_come_with_the_tasks_that_use_them() -> None:
    """Opened, only what the template names, and again when the secret changes."""
    leader = Leader()
    secret = SealedSecret(
        namespace="default", name="db", version=1, sealed={"password": b"x", "other": b"y"}
    )
    leader.put(Kind.SECRET, ("default", "db"), secret)
    env = (EnvVar(name="P", secret=SecretReference(name="db", key="password")),)
    leader.apply(1, template=TaskTemplate(image="app", env=env))
    leader.settle()
    node = leader.tasks()[0].node
    (_, first) = (o.message for o in leader.hello(node))
    assert isinstance(first, AssignmentSet)
    assert dict(first.assignments[0].secrets) == {"db/password": b"open x"}
    assert "open x" not in repr(first)
    newer = replace(secret, version=2, sealed={"password": b"z"})
    leader.put(Kind.SECRET, ("default", "db"), newer)
    delta = leader.tables_changed()[f"s-{node}"]
    assert dict(delta.assignments[0].secrets) == {"db/password": b"open z"}


def test_a_node_that_is_given_up_gets_no_lease() -> None:
    """Not from the moment that is decided until it is ready again, and none from a leader that
    does not know whether it leads."""
    leader, _ = a_leader()

    def leased() -> bool:
        (answer,) = leader.say("h1", Heartbeat(leader.now))
        assert isinstance(answer.message, HeartbeatAck)
        return answer.message.lease

    assert leased()
    nodes = Nodes({}, leader.now, condemned=leader.sessions.condemned)  # which hears of nobody
    leader.remove_node("h2")
    for _ in range(6):
        assert leased()
        leader.now += 1
        lost = nodes.step(leader.store.tables, leader.now)
        if leader.sessions.condemned:
            break
        leader.store.apply_each(lost.groups)
        leader.tables_changed()
    assert not leased()
    leader.store.apply_each(lost.groups)
    leader.tables_changed()
    assert not leased()
    leader.node("h1")
    leader.tables_changed()
    assert not leased()
    Nodes({}, leader.now, condemned=leader.sessions.condemned).step(leader.store.tables, leader.now)
    assert leased()
    leader.leads = False
    assert not leased()


def test_heartbeats_are_answered_and_count() -> None:
    """Everything a node says counts as a sign of life; a goodbye announces an absence."""
    leader, _ = a_leader()
    leader.now += 3
    (answer,) = leader.say("h1", Heartbeat(leader.now - 0.25))
    assert answer.message == HeartbeatAck(leader.now - 0.25, leader.now, lease=True)
    assert leader.sessions.heard["h1"].last_at == leader.now
    assert leader.sessions.heard["h1"].clock_skew_s == -0.25
    leader.say("h1", Goodbye("upgrade", 20.0))
    assert leader.sessions.heard["h1"].away_until_at == leader.now + 20


def test_sessions_learn_which_operators_certificates_are_good() -> None:
    """All at the hello, then each change to every session, and nothing where nothing changed."""
    leader = Leader()
    ada = Identity(name="ada", role=Role.VIEWER, certificate_serials=("b2", "a1"))
    leader.put(Kind.IDENTITY, ("", "ada"), ada)
    for node in ("h1", "h2"):
        leader.hello(node)
        assert leader.operators == [Operators(("a1", "b2"))]
    leader.put(Kind.IDENTITY, ("", "ada"), replace(ada, certificate_serials=("b2",)))
    out = leader.sessions.on_tables(leader.store.tables)
    assert out == [Outgoing("s-h1", Operators(("b2",))), Outgoing("s-h2", Operators(("b2",)))]
    leader.put(
        Kind.IDENTITY, ("", "ada"), replace(ada, role=Role.ADMIN, certificate_serials=("b2",))
    )
    assert leader.sessions.on_tables(leader.store.tables) == []


def an_event(task: Task, reason: str = "Unhealthy", **fields: object) -> Event:
    made = Event(
        namespace=task.namespace,
        id="theirs",
        kind="task",
        name=task.name,
        reason=reason,
        message="503",
        severity=Severity.WARNING,
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def events(leader: Leader) -> dict[tuple[str, str, str], Event]:
    found = [s.value for s in leader.store.tables.events.values()]
    return {(e.kind, e.name, e.reason): e for e in found}


def test_what_a_node_tells_is_kept_and_folded() -> None:
    """With its count, and its own times in the controller's clock."""
    leader, task = a_leader()
    now = leader.now
    leader.say("h1", Heartbeat(sent_at=now + 10.0))
    for at in (now - 20.0, now + 9.0):
        leader.say("h1", EventBatch((an_event(task, count=2, last_at=at),)))
        leader.flush()
    event = events(leader)["task", task.name, "Unhealthy"]
    assert (event.count, event.node, event.message) == (4, "h1", "503")
    assert (event.first_at, event.last_at) == (now - 30.0, now - 1.0)


def test_what_is_no_trouble_is_told_of_the_service() -> None:
    """A thousand replicas that pulled an image are one event."""
    leader, task = a_leader()
    pulled = an_event(task, "Pulled", severity=Severity.INFO)
    leader.say("h1", EventBatch((pulled, pulled)))
    leader.flush()
    assert events(leader)["service", task.service, "Pulled"].count == 2


def test_a_node_tells_only_of_itself_and_its_tasks() -> None:
    """Not of another node's task, another node, or with a sentence as a reason."""
    leader, task = a_leader()
    before = set(events(leader))
    other = an_event(task, kind="node", name="h1", namespace="")
    wordy = an_event(task, "Not a word")
    leader.say("h2", EventBatch((an_event(task), other, wordy)))
    own = an_event(task, "ZygoteRestarted", kind="node", name="h2", namespace="")
    leader.say("h2", EventBatch((own,)))
    leader.flush()
    assert set(events(leader)) - before == {("node", "h2", "ZygoteRestarted")}


def test_a_node_that_tells_too_much_is_not_heard() -> None:
    """So many a minute and node; its statuses go on."""
    leader, task = a_leader()
    many = tuple(an_event(task, f"Reason{n}") for n in range(PER_MINUTE_MAX))
    leader.say("h1", EventBatch(many))
    leader.say("h1", EventBatch((an_event(task, "OneMore"),)))
    leader.say("h1", StatusBatch(1, (status(task),)))
    assert StatusAck(1) in leader.flush()
    found = events(leader)
    assert ("task", task.name, "Reason0") in found
    assert ("task", task.name, "OneMore") not in found
    leader.now += 61.0
    leader.say("h1", EventBatch((an_event(task, "OneMore"),)))
    leader.flush()
    assert ("task", task.name, "OneMore") in events(leader)


def test_events_of_a_commit_of_unknown_outcome_are_written_again() -> None:
    """They are kept until the store has answered."""
    leader, task = a_leader()
    leader.say("h1", EventBatch((an_event(task),)))
    assert leader.sessions.take(leader.store.tables, leader.now) is not None
    leader.sessions.failed()
    leader.flush()
    assert events(leader)["task", task.name, "Unhealthy"].count == 1
