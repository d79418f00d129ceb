"""Liveness: suspicion, loss, grace, freeze, announced absences."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bayplan.model.node import Node, NodeReport, NodeState
from controller.reconcilers.nodes import LOST_AFTER_S, STEP_S, SUSPECT_AFTER_S, Heard, Nodes
from controller.store.memory import MemoryStore
from controller.tables import Delete, Kind, Put


class Cluster:
    """Nodes, what was heard of them, and the loop's step every 0.5 s."""

    def __init__(self, count: int) -> None:
        self.store = MemoryStore(count_bytes=False)
        self.now = 100.0
        self.heard: dict[str, Heard] = {}
        self.names = [f"h{i}" for i in range(1, count + 1)]
        for name in self.names:
            self.store.apply((Put(Kind.NODE, ("", name), Node(name=name, uid=name), 0),))
        self.lead()

    def lead(self) -> None:
        self.nodes = Nodes(self.heard, self.now)

    def hear(self, *names: str) -> None:
        for name in names:
            known = self.heard.get(name, Heard(last_at=0.0))
            self.heard[name] = replace(known, last_at=self.now, away_until_at=0.0)

    def pass_time(self, seconds: float, *speaking: str) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.5
            self.hear(*speaking)
            self.store.apply_each(self.nodes.step(self.store.tables, self.now).groups)

    def states(self) -> str:
        """One letter a node: r s l, - where nothing is known."""
        tables = self.store.tables.nodestatus
        found = [tables.get(("", n)) for n in self.names]
        return "".join(s.value.state.value[0] if s else "-" for s in found)


def a_cluster(count: int = 3) -> Cluster:
    cluster = Cluster(count)
    cluster.pass_time(1, *cluster.names)
    return cluster


def test_a_node_is_ready_once_heard() -> None:
    """Nothing is known of a node before its first hello."""
    cluster = Cluster(2)
    cluster.pass_time(20, "h1")
    assert cluster.states() == "r-"


def test_silence_is_suspect_then_lost() -> None:
    """One of three: suspect at half its grace, lost at the end of it, ready when it returns."""
    cluster = a_cluster()
    cluster.pass_time(SUSPECT_AFTER_S, "h1", "h2")
    assert cluster.states() == "rrs"
    cluster.pass_time(LOST_AFTER_S - SUSPECT_AFTER_S, "h1", "h2")
    assert cluster.states() == "rrl"
    cluster.pass_time(30, "h1", "h2")
    assert cluster.states() == "rrl"
    cluster.pass_time(0.5, *cluster.names)
    assert cluster.states() == "rrr"
    reasons = {s.value.reason for s in cluster.store.tables.events.values()}
    assert reasons == {"NodeReady", "NodeSuspect", "NodeLost"}


def test_a_settled_cluster_writes_nothing() -> None:
    """Heartbeats alone cost no write."""
    cluster = a_cluster()
    revision = cluster.store.tables.revision
    cluster.pass_time(30, *cluster.names)
    assert cluster.store.tables.revision == revision


def test_most_nodes_at_once_freeze() -> None:
    """Two of three silent: nobody is lost, the share, the limit and the way out are shown, and it
    ends when they return."""
    cluster = a_cluster()
    cluster.pass_time(30, "h1")
    assert cluster.states() == "rss"
    for part in ("2 of 3 nodes", "more than the 50%", "bay node rm NODE"):
        assert part in cluster.nodes.frozen_reason
    assert "frozen" in cluster.store.tables.nodestatus["", "h2"].value.reason
    cluster.pass_time(1, *cluster.names)
    assert (cluster.states(), cluster.nodes.frozen_reason) == ("rrr", "")


def test_half_of_the_nodes_may_be_lost() -> None:
    """Two of four are not more than the share."""
    cluster = a_cluster(4)
    cluster.pass_time(10, "h1", "h2")
    assert cluster.states() == "rrll"


def test_losses_in_quick_succession_count_together() -> None:
    """One of three lost, the next silent seconds later: that is most of them."""
    cluster = a_cluster()
    cluster.pass_time(8, "h1", "h2")
    cluster.pass_time(20, "h1")
    assert cluster.states() == "rsl"
    cluster.pass_time(70, "h1")
    assert cluster.states() == "rll"


def test_a_new_leader_waits_a_whole_grace() -> None:
    """It has heard nobody yet, and calls nobody lost for that; a node lost before stays lost."""
    cluster = a_cluster()
    cluster.pass_time(10, "h1", "h2")
    cluster.heard.clear()
    cluster.lead()
    cluster.pass_time(2)
    assert cluster.states() == "rrl"
    cluster.pass_time(2, "h1")
    assert cluster.states() == "rsl"
    cluster.pass_time(1.5, "h1")
    assert cluster.states()[0] == "r"


def test_a_stall_of_its_own_extends_the_grace() -> None:
    """Heartbeats may lie unread: everybody counts as just heard."""
    cluster = a_cluster()
    cluster.now += 60
    cluster.store.apply_each(cluster.nodes.step(cluster.store.tables, cluster.now).groups)
    assert cluster.states() == "rrr"
    cluster.pass_time(LOST_AFTER_S + 0.5, "h1", "h2")
    assert cluster.states() == "rrl"


def test_an_announced_absence_is_no_loss() -> None:
    """Until the time it named, and then the usual grace."""
    cluster = a_cluster()
    cluster.heard["h3"] = replace(cluster.heard["h3"], away_until_at=cluster.now + 20)
    cluster.pass_time(21, "h1", "h2")
    assert cluster.states() == "rrr"
    cluster.pass_time(LOST_AFTER_S, "h1", "h2")
    assert cluster.states() == "rrl"


def test_an_announced_absence_outlives_the_leader_that_heard_it() -> None:
    """The next one knows of it, until the node is heard again."""
    cluster = a_cluster()
    cluster.heard["h3"] = replace(cluster.heard["h3"], away_until_at=cluster.now + 20)
    cluster.pass_time(1, "h1", "h2")
    cluster.heard.clear()
    cluster.lead()
    cluster.pass_time(19, "h1", "h2")
    assert cluster.states() == "rrr"
    cluster.pass_time(1, *cluster.names)
    assert cluster.store.tables.nodestatus["", "h3"].value.away_until_at == 0
    cluster.pass_time(LOST_AFTER_S + 0.5, "h1", "h2")
    assert cluster.states() == "rrl"


def test_reports_are_stored_when_they_change() -> None:
    """What the agent says of its host reaches the tables."""
    cluster = a_cluster()
    report = NodeReport(attributes={"kernel": "6.1"})
    cluster.heard["h1"] = replace(cluster.heard["h1"], report=report)
    cluster.pass_time(0.5, *cluster.names)
    assert cluster.store.tables.nodestatus["", "h1"].value.report == report


def test_a_removed_node_leaves_no_status() -> None:
    """Its record of liveness goes with it."""
    cluster = a_cluster()
    cluster.store.apply((Delete(Kind.NODE, ("", "h2"), None),))
    cluster.heard.pop("h2")
    cluster.pass_time(0.5, "h1", "h3")
    assert ("", "h2") not in cluster.store.tables.nodestatus
    assert cluster.store.tables.nodestatus["", "h1"].value.state is NodeState.READY


def test_one_cut_silences_nodes_an_interval_apart() -> None:
    """The second node is not overdue yet when the first one is; it is the same cut."""
    cluster = a_cluster()
    cluster.pass_time(1, "h1", "h2")
    cluster.pass_time(30, "h1")
    assert cluster.states() == "rss"


def test_the_next_step_is_where_a_deadline_ends() -> None:
    """A loss is found when it is one; where nothing is due there is an even pace."""
    cluster = Cluster(3)
    cluster.pass_time(2, "h1", "h2", "h3")
    assert cluster.nodes.next_at == cluster.now + STEP_S
    last_at = cluster.now - 0.3
    cluster.heard["h1"] = replace(cluster.heard["h1"], last_at=last_at)
    cluster.pass_time(LOST_AFTER_S - 0.5, "h2", "h3")
    assert cluster.nodes.next_at == pytest.approx(last_at + LOST_AFTER_S)
