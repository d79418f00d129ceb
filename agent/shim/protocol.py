"""What an agent and a shim say to each other, and where a shim keeps what outlives it.

A connection is a stream of frames: one byte of kind, four bytes of length (little-endian), the
payload. A CONTROL payload is one JSON object; the other kinds carry the bytes of an exec session.
Both ends send their hello first and close the connection where the versions do not meet.

    agent                                  shim
    ── {"hello": 1} ─────────────────────►
    ◄── {"hello": 1, "uid", "shim_pid"} ──
    ── {"id", "do": "state"} ────────────►  any time
    ◄── {"id", "ok": {"state", "pid"}} ───
    ── {"id", "do": "run"} ──────────────►  once: lets the held init call execve
    ── {"id", "do": "signal", "signal"} ─►  to the container's init
    ── {"id", "do": "kill"} ─────────────►  SIGKILL to every process of the container's cgroup
    ── {"id", "do": "fence", "at_ns"} ───►  CLOCK_BOOTTIME; null takes the deadline away
    ── {"id", "do": "console"} ──────────►  its terminal comes with the answer (SCM_RIGHTS)
    ◄── {"id", "ok": {"terminal"}} ───────  false, and no descriptor: it has none
    ── {"id", "do": "exec", "process"} ──►  the rest of the connection is the session (below)
    ◄── {"id", "error": {"code", "message"}}  instead of any "ok"
    ◄── {"event": "created", "pid"} ──────  or {"event": "failed", "code", "message"}; only on
                                            the connection the zygote was given
    ◄── {"event": "exit", …exit record} ──  exit.json is on disk before; then the shim is done

    session: STDIN frames (an empty one closes it) and {"do": "resize", "rows", "columns"} or
    {"do": "signal", "signal"} down; STDOUT and STDERR frames and at last
    {"event": "exit", "exit_code", "signal"} or {"event": "failed", …} up.
"""

from __future__ import annotations

import errno
import json
import os
import struct
from dataclasses import dataclass
from typing import Any

VERSION = 1
CONTROL = 0
STDIN = 1
STDOUT = 2
STDERR = 3
PAYLOAD_MAX_BYTES = 1 << 20
SOCKET = "shim.sock"
EXIT = "exit.json"
EXIT_MAX_BYTES = 4096
LOG_DIRECTORY = "log"
STDIO_DIRECTORY = "stdio"
STDIN_FIFO = "stdin"
_HEADER = struct.Struct("<BI")
HEADER_BYTES = _HEADER.size

Message = dict[str, Any]


class ProtocolError(Exception):
    """The peer speaks another version, or not this protocol at all."""


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a container ended. `exit_code` is 128 + `signal` where a signal ended it; `at` in
    seconds since the Unix epoch; `reason` is empty for a container that ended by itself,
    `fenced` at a passed deadline, `shim_lost` where nobody was left to see the end."""

    exit_code: int
    signal: int = 0
    oom_killed: bool = False
    at: float = 0.0
    reason: str = ""

    def message(self) -> Message:
        return {
            "version": VERSION,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "oom_killed": self.oom_killed,
            "at": self.at,
            "reason": self.reason,
        }

    @staticmethod
    def of(message: Message) -> ExitRecord:
        """Raises ProtocolError for a record this version cannot read."""
        try:
            return ExitRecord(
                exit_code=int(message["exit_code"]),
                signal=int(message["signal"]),
                oom_killed=bool(message["oom_killed"]),
                at=float(message["at"]),
                reason=str(message["reason"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"exit record {message!r} lacks a field: {error}") from error


def frame(kind: int, payload: bytes) -> bytes:
    """One frame; the payload must not exceed PAYLOAD_MAX_BYTES."""
    if len(payload) > PAYLOAD_MAX_BYTES:
        raise ProtocolError(f"a frame of {len(payload)} bytes exceeds {PAYLOAD_MAX_BYTES}")
    return _HEADER.pack(kind, len(payload)) + payload


def control(message: Message) -> bytes:
    """One CONTROL frame."""
    return frame(CONTROL, json.dumps(message, separators=(",", ":")).encode())


def header(data: bytes) -> tuple[int, int]:
    """Kind and payload length of the frame that `data` (HEADER_BYTES long) opens."""
    kind, length = _HEADER.unpack(data)
    if kind > STDERR or length > PAYLOAD_MAX_BYTES:
        raise ProtocolError(f"frame of kind {kind} with {length} bytes: not a shim's peer")
    return kind, length


def parse(payload: bytes) -> Message:
    """The object in a CONTROL payload."""
    try:
        message = json.loads(payload)
    except ValueError as error:
        raise ProtocolError(f"control frame is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError("control frame is not a JSON object")
    return message


def check_hello(message: Message) -> None:
    """The first message of the peer; raises ProtocolError where the versions do not meet."""
    if message.get("hello") != VERSION:
        raise ProtocolError(
            f"peer speaks shim protocol {message.get('hello')!r}, this side speaks {VERSION}"
        )


class Frames:
    """Frames out of bytes as they arrive, in whatever pieces."""

    def __init__(self) -> None:
        self._pending = b""

    @property
    def incomplete(self) -> bool:
        """Whether the beginning of a frame waits for its rest."""
        return bool(self._pending)

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that `data` completes, as (kind, payload)."""
        pending = self._pending + data
        frames: list[tuple[int, bytes]] = []
        at = 0
        while len(pending) - at >= HEADER_BYTES:
            kind, length = header(pending[at : at + HEADER_BYTES])
            end = at + HEADER_BYTES + length
            if len(pending) < end:
                break
            frames.append((kind, pending[at + HEADER_BYTES : end]))
            at = end
        self._pending = pending[at:]
        return frames


def reserve_exit(directory: str) -> None:
    """Room on the disk for the record, taken while there is some. Raises OSError."""
    fd = os.open(f"{directory}/{EXIT}.new", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, EXIT_MAX_BYTES)
    finally:
        os.close(fd)


def write_exit(directory: str, record: ExitRecord) -> None:
    """Make the record durable: it is whole on disk when this returns, or not there at all.

    rename(2) replaces atomically; the directory's own fsync makes the new name last (fsync(2)).
    What reserve_exit took is written over, so that this works on a full disk too.
    """
    path = f"{directory}/{EXIT}"
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        content = json.dumps(record.message()).encode()
        if os.write(fd, content) < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.ftruncate(fd, len(content))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(path + ".new", path)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_exit(directory: str) -> ExitRecord | None:
    """The record of a finished container, None where there is none."""
    try:
        with open(f"{directory}/{EXIT}", "rb") as file:
            return ExitRecord.of(parse(file.read()))
    except FileNotFoundError:
        return None
