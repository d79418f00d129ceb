"""What an agent must know after a crash or a reboot, in SQLite: assignments, last statuses, uid
ranges, and who this node is.

A host that boots without a controller starts what is written here, so secret values are here too:
an assignment is stored as its message, sealed with AES-256-GCM under a host key in a file of its
own (0600). The key lies beside the database: it does not protect against root on this host, who
can read the containers' memory as well, but a copy or backup of the database alone tells nothing.

Writes are synchronous to disk before they return (`synchronous=FULL`): an acknowledged assignment
set must survive a power cut. Used from one thread at a time, which the executor provides.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bayplan.model.assignment import Assignment
from bayplan.model.errors import BayplanError
from bayplan.model.node import Node
from bayplan.model.task import TaskStatus
from bayplan.pki import KeyEncryptionKey
from bayplan.wire.convert import from_pb, message_class, to_pb

SCHEMA_VERSION: Final = 1
UID_RANGE: Final = 1 << 16
UID_MAX: Final = (1 << 32) - 2

_SCHEMA: Final = """
create table assignments (uid text primary key, sealed blob not null) without rowid;
create table statuses (
    uid text primary key, message blob not null, acknowledged integer not null
) without rowid;
create table uid_ranges (uid text primary key, base integer not null unique) without rowid;
create table facts (name text primary key, value blob not null) without rowid;
"""


class CheckpointError(BayplanError):
    """The checkpoint cannot be used; the message says what to do."""

    code = "checkpoint"


class CheckpointUnwritable(CheckpointError):
    """Nothing was written, and what stands there is as before: the disk is full or fails. It may
    work again later."""


class Checkpoint:
    """The database at `directory`/checkpoint.db; made where there is none."""

    def __init__(self, directory: Path, *, uid_base: int = 1 << 20) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = directory / "checkpoint.db"
        self._uid_base = uid_base
        self._key = KeyEncryptionKey.load_or_make(directory / "host.key")
        self.path.touch(mode=0o600)
        self.path.chmod(0o600)
        try:
            # One thread at a time, but not always the same one.
            self._database = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, timeout=5.0
            )
            self._prepare()
        except sqlite3.OperationalError as error:
            raise CheckpointUnwritable(
                f"{self.path} cannot be opened: {error}",
                hint=f"see that {directory} has room and can be written",
            ) from error
        except sqlite3.DatabaseError as error:
            raise CheckpointError(
                f"{self.path} cannot be used: {error}",
                hint="move it away; the controller then tells again what this node must run",
            ) from error

    def _prepare(self) -> None:
        run = self._database.execute
        run("pragma journal_mode=wal")
        run("pragma synchronous=full")
        (version,) = run("pragma user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise CheckpointError(
                f"{self.path} was written by a newer agent (schema {version}, this one knows "
                f"{SCHEMA_VERSION})",
                hint="install that version again",
            )
        if version == 0:
            with self._transaction():
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    run(statement)
                run(f"pragma user_version={SCHEMA_VERSION}")

    def close(self) -> None:
        """Everything is on disk already; releases the file."""
        self._database.close()

    # -- assignments and statuses ------------------------------------------------------------

    def assignments(self) -> tuple[Assignment, ...]:
        """All of them. Raises CheckpointError where the host key is not the one they were
        written with."""
        rows = self._database.execute("select uid, sealed from assignments order by uid")
        return tuple(self._open(uid, sealed) for uid, sealed in rows)

    def statuses(self) -> tuple[TaskStatus, ...]:
        """The last status of every task."""
        rows = self._database.execute("select message from statuses order by uid")
        return tuple(_status(message) for (message,) in rows)

    def unacknowledged(self) -> tuple[TaskStatus, ...]:
        """Statuses the controller has not confirmed."""
        rows = self._database.execute(
            "select message from statuses where not acknowledged order by uid"
        )
        return tuple(_status(message) for (message,) in rows)

    def put_assignments(
        self, assignments: Iterable[Assignment], removed_uids: Collection[str] = ()
    ) -> None:
        """One set or delta, in one transaction; new tasks are given their uid ranges in it."""
        assignments = tuple(assignments)
        with self._transaction():
            self._allocate([a.task.uid for a in assignments])
            self._database.executemany(
                "insert or replace into assignments values (?, ?)",
                [(a.task.uid, self._seal(a)) for a in assignments],
            )
            self._database.executemany(
                "delete from assignments where uid = ?", [(uid,) for uid in removed_uids]
            )

    def put_statuses(self, statuses: Iterable[TaskStatus]) -> None:
        """Not acknowledged yet."""
        with self._transaction():
            self._database.executemany(
                "insert or replace into statuses values (?, ?, 0)",
                [(s.uid, to_pb(s).SerializeToString()) for s in statuses],
            )

    def acknowledge(self, statuses: Iterable[TaskStatus]) -> None:
        """The controller has these; a newer one of the same task stays unacknowledged."""
        with self._transaction():
            self._database.executemany(
                "update statuses set acknowledged = 1 where uid = ? and message = ?",
                [(s.uid, to_pb(s).SerializeToString()) for s in statuses],
            )

    def forget(self, uids: Collection[str]) -> None:
        """Nothing of these tasks is left: status, assignment and uid range go."""
        with self._transaction():
            for table in ("assignments", "statuses", "uid_ranges"):
                self._database.executemany(
                    f"delete from {table} where uid = ?",  # noqa: S608  (names of our own)
                    [(uid,) for uid in uids],
                )

    # -- uid ranges --------------------------------------------------------------------------

    def uid_range(self, uid: str) -> int:
        """The first host id of the task's 65,536 ids; the same one until it is forgotten."""
        found = self._database.execute(
            "select base from uid_ranges where uid = ?", (uid,)
        ).fetchone()
        if found is not None:
            return int(found[0])
        with self._transaction():
            return self._allocate([uid])[uid]

    def release_uid_range(self, uid: str) -> None:
        """The task's ids may go to another one: nothing on this host belongs to them."""
        with self._transaction():
            self._database.execute("delete from uid_ranges where uid = ?", (uid,))

    def _allocate(self, uids: Collection[str]) -> dict[str, int]:
        known = dict(self._database.execute("select uid, base from uid_ranges"))
        taken = set(known.values())
        made: dict[str, int] = {}
        base = self._uid_base
        for uid in uids:
            if uid in known or uid in made:
                continue
            while base in taken:
                base += UID_RANGE
            if base + UID_RANGE > UID_MAX:
                raise CheckpointError(
                    "all uid ranges of this host are taken", hint="remove finished tasks"
                )
            made[uid] = base
            taken.add(base)
        self._database.executemany("insert into uid_ranges values (?, ?)", made.items())
        return made

    # -- the node ----------------------------------------------------------------------------

    def node(self) -> Node | None:
        """This node as the controller last described it."""
        value = self._fact("node")
        if value is None:
            return None
        message = message_class(Node)()
        message.ParseFromString(value)
        return from_pb(Node, message)

    def put_node(self, node: Node) -> None:
        """Remember name, uid and subnet for a start without a controller."""
        self._put_fact("node", to_pb(node).SerializeToString())

    def boot_id(self) -> str:
        """The boot during which the checkpoint was last opened; empty for a new one."""
        return (self._fact("boot_id") or b"").decode()

    def put_boot_id(self, boot_id: str) -> None:
        """See boot_id."""
        self._put_fact("boot_id", boot_id.encode())

    def controllers(self) -> tuple[str, ...]:
        """Addresses of controllers that have been reached."""
        return tuple((self._fact("controllers") or b"").decode().split())

    def put_controllers(self, addresses: Collection[str]) -> None:
        """See controllers."""
        self._put_fact("controllers", " ".join(addresses).encode())

    def operators(self) -> tuple[str, ...]:
        """Serials of the certificates that operators may use, as the controller said last."""
        return tuple((self._fact("operators") or b"").decode().split())

    def put_operators(self, serials: Collection[str]) -> None:
        """See operators."""
        self._put_fact("operators", " ".join(serials).encode())

    def _fact(self, name: str) -> bytes | None:
        row = self._database.execute("select value from facts where name = ?", (name,)).fetchone()
        return bytes(row[0]) if row else None

    def _put_fact(self, name: str, value: bytes) -> None:
        if self._fact(name) != value:
            with self._transaction():
                self._database.execute("insert or replace into facts values (?, ?)", (name, value))

    # -- encoding ----------------------------------------------------------------------------

    def _seal(self, assignment: Assignment) -> bytes:
        plain = to_pb(assignment).SerializeToString()
        return self._key.seal(plain, f"assignment/{assignment.task.uid}")

    def _open(self, uid: str, sealed: bytes) -> Assignment:
        message = message_class(Assignment)()
        message.ParseFromString(self._key.open(sealed, f"assignment/{uid}"))
        return from_pb(Assignment, message)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Raises CheckpointUnwritable; OperationalError is what SQLite says of the file and what
        is below it, other errors are bugs."""
        try:
            self._database.execute("begin immediate")
            try:
                yield
                self._database.execute("commit")
            except BaseException:
                if self._database.in_transaction:  # some errors end it by themselves
                    self._database.execute("rollback")
                raise
        except sqlite3.OperationalError as error:
            raise CheckpointUnwritable(
                f"{self.path} cannot be written: {error}", hint="make room on its disk"
            ) from error


def _status(encoded: bytes) -> TaskStatus:
    message = message_class(TaskStatus)()
    message.ParseFromString(encoded)
    return from_pb(TaskStatus, message)
