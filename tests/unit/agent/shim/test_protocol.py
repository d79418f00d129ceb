"""Frames between agent and shim, and the durable exit record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.shim import protocol
from agent.shim.protocol import ExitRecord


def test_frames_survive_any_fragmentation() -> None:
    """Frames cut at every byte come out whole and in order."""
    stream = (
        protocol.control({"hello": 1})
        + protocol.frame(protocol.STDOUT, b"some output")
        + protocol.frame(protocol.STDIN, b"")
    )
    frames = protocol.Frames()
    out = [item for byte in stream for item in frames.feed(bytes([byte]))]
    assert out == [
        (protocol.CONTROL, b'{"hello":1}'),
        (protocol.STDOUT, b"some output"),
        (protocol.STDIN, b""),
    ]


def test_several_frames_in_one_piece() -> None:
    """One read may carry many frames and the beginning of another."""
    frames = protocol.Frames()
    one = protocol.frame(protocol.STDERR, b"x")
    assert frames.feed(one + one + one[:3]) == [(protocol.STDERR, b"x")] * 2
    assert frames.feed(one[3:]) == [(protocol.STDERR, b"x")]


@pytest.mark.parametrize("data", [b"\x09\x01\x00\x00\x00", b"\x00\xff\xff\xff\xff"])
def test_a_foreign_header_is_refused(data: bytes) -> None:
    """An unknown kind or an absurd length is not waited for."""
    with pytest.raises(protocol.ProtocolError):
        protocol.Frames().feed(data)


@pytest.mark.parametrize("message", [{}, {"hello": 2}, {"do": "run"}])
def test_another_version_is_refused(message: protocol.Message) -> None:
    """Only a hello of this version opens a connection."""
    with pytest.raises(protocol.ProtocolError, match="speaks 1"):
        protocol.check_hello(message)


def test_an_exit_record_comes_back_from_disk(tmp_path: Path) -> None:
    """What was recorded is what is read, and only the record is left behind."""
    record = ExitRecord(exit_code=137, signal=9, oom_killed=True, at=12.5, reason="fenced")
    assert protocol.read_exit(str(tmp_path)) is None
    protocol.write_exit(str(tmp_path), record)
    assert protocol.read_exit(str(tmp_path)) == record
    assert [entry.name for entry in tmp_path.iterdir()] == ["exit.json"]


def test_the_room_for_an_exit_record_is_taken_before(tmp_path: Path) -> None:
    """The record is written into it, and nothing of it is left over."""
    protocol.reserve_exit(str(tmp_path))
    reserved = tmp_path / "exit.json.new"
    assert reserved.stat().st_blocks * 512 >= protocol.EXIT_MAX_BYTES
    assert protocol.read_exit(str(tmp_path)) is None
    inode = reserved.stat().st_ino
    record = ExitRecord(exit_code=0, at=12.5)
    protocol.write_exit(str(tmp_path), record)
    assert protocol.read_exit(str(tmp_path)) == record
    assert (tmp_path / "exit.json").stat().st_ino == inode


def test_a_damaged_exit_record_is_an_error(tmp_path: Path) -> None:
    """A record without its exit code is not taken for one."""
    (tmp_path / "exit.json").write_text(json.dumps({"signal": 0}))
    with pytest.raises(protocol.ProtocolError, match="exit_code"):
        protocol.read_exit(str(tmp_path))
