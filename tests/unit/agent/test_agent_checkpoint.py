"""What an agent must know after a crash."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from agent.checkpoint import UID_RANGE, Checkpoint, CheckpointError, CheckpointUnwritable
from bayplan.model.node import Node
from bayplan.model.task import TaskState, TaskStatus
from bayplan.pki import PkiError
from tests.unit.agent.core.world import an_assignment


def a_status(uid: str = "t1", state: TaskState = TaskState.RUNNING) -> TaskStatus:
    return TaskStatus(namespace="prod", task="web.1.1", uid=uid, node="h1", state=state)


def test_everything_is_there_after_opening_again(tmp_path: Path) -> None:
    """Assignments with their secrets, statuses, the node, the boot."""
    assignment = replace(an_assignment(publish=80), secrets={"db/password": b"s3cret"})
    first = Checkpoint(tmp_path)
    first.put_assignments([assignment])
    first.put_statuses([a_status()])
    first.put_node(Node(name="h1", uid="n1", subnet="10.96.1.0/24"))
    first.put_boot_id("b1")
    first.put_controllers(["c1:7443", "c2:7443"])
    first.put_operators(("a1", "b2"))
    first.close()
    second = Checkpoint(tmp_path)
    assert second.assignments() == (assignment,)
    assert second.operators() == ("a1", "b2")
    assert second.statuses() == (a_status(),)
    assert second.node() == Node(name="h1", uid="n1", subnet="10.96.1.0/24")
    assert second.boot_id() == "b1"
    assert second.controllers() == ("c1:7443", "c2:7443")
    second.close()


def test_files_are_the_owners_alone_and_hold_no_secret_in_the_clear(tmp_path: Path) -> None:
    """0600, and a copy of the database tells no secret."""
    checkpoint = Checkpoint(tmp_path / "state")
    checkpoint.put_assignments([replace(an_assignment(), secrets={"db/password": b"s3cret"})])
    checkpoint.close()
    for path in (tmp_path / "state").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert b"s3cret" not in path.read_bytes()


def test_another_host_key_opens_nothing(tmp_path: Path) -> None:
    """A database alone is worth nothing."""
    checkpoint = Checkpoint(tmp_path)
    checkpoint.put_assignments([an_assignment()])
    checkpoint.close()
    (tmp_path / "host.key").unlink()
    with pytest.raises(PkiError):
        Checkpoint(tmp_path).assignments()


def test_removed_assignments_are_gone(tmp_path: Path) -> None:
    """A delta takes away and adds in one go."""
    checkpoint = Checkpoint(tmp_path)
    checkpoint.put_assignments([an_assignment("a"), an_assignment("b")])
    checkpoint.put_assignments([an_assignment("c")], ["a"])
    assert [a.task.uid for a in checkpoint.assignments()] == ["b", "c"]


def test_only_what_was_sent_is_acknowledged(tmp_path: Path) -> None:
    """A newer status of the same task stays to be sent."""
    checkpoint = Checkpoint(tmp_path)
    checkpoint.put_statuses([a_status("a"), a_status("b")])
    checkpoint.put_statuses([a_status("b", TaskState.STOPPING)])
    checkpoint.acknowledge([a_status("a"), a_status("b")])
    assert checkpoint.unacknowledged() == (a_status("b", TaskState.STOPPING),)


def test_uid_ranges_are_kept_and_given_again(tmp_path: Path) -> None:
    """One range a task, the same after opening again, free for others once it is forgotten."""
    checkpoint = Checkpoint(tmp_path, uid_base=1 << 20)
    checkpoint.put_assignments([an_assignment("a"), an_assignment("b")])
    assert checkpoint.uid_range("a") == 1 << 20
    assert checkpoint.uid_range("b") == (1 << 20) + UID_RANGE
    checkpoint.close()
    again = Checkpoint(tmp_path, uid_base=1 << 20)
    assert again.uid_range("b") == (1 << 20) + UID_RANGE
    again.forget(["a"])
    assert again.uid_range("c") == 1 << 20


def test_a_newer_schema_and_a_broken_file_are_refused(tmp_path: Path) -> None:
    """With a sentence that says what to do."""
    import sqlite3

    checkpoint = Checkpoint(tmp_path)
    checkpoint.close()
    database = sqlite3.connect(tmp_path / "checkpoint.db")
    database.execute("pragma user_version = 99")
    database.close()
    with pytest.raises(CheckpointError, match="written by a newer agent"):
        Checkpoint(tmp_path)
    for path in tmp_path.glob("checkpoint.db*"):
        path.write_bytes(b"garbage" * 1000)
    with pytest.raises(CheckpointError, match="move it away"):
        Checkpoint(tmp_path)


def test_without_room_nothing_is_half_written_and_later_all_is(tmp_path: Path) -> None:
    """A full disk, here SQLite's own bound, is an error of its own and harms nothing."""
    checkpoint = Checkpoint(tmp_path)
    checkpoint.put_assignments([an_assignment("t0")])
    pages = checkpoint._database.execute("pragma page_count").fetchone()[0]
    checkpoint._database.execute(f"pragma max_page_count={pages}")
    large = replace(an_assignment("t1"), secrets={"db/dump": bytes(1 << 20)})
    with pytest.raises(CheckpointUnwritable, match=r"full.*make room"):
        checkpoint.put_assignments([large])
    assert [a.task.uid for a in checkpoint.assignments()] == ["t0"]
    checkpoint._database.execute("pragma max_page_count=100000")
    checkpoint.put_assignments([large])
    assert [a.task.uid for a in checkpoint.assignments()] == ["t0", "t1"]
    checkpoint.close()
