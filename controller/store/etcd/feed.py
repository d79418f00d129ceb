"""Feeds the mirror: one complete list at one revision, then one watch from there on.

A broken watch is resumed at the revision after the last event taken over. Where etcd has
compacted that away, everything is listed again and compared with the mirror, so that deletions
nobody saw are seen.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import structlog

from bayplan.model.errors import BayplanError
from bayplan.wire._pb.etcd.kv import kv_pb2
from bayplan.wire._pb.etcd.rpc import rpc_pb2
from controller.store import codec, keys
from controller.store.base import Key, Kind, Stored, StoreRefused, StoreUnavailable
from controller.store.cache import Mirror, Update
from controller.store.etcd.client import BACKOFF_MAX_S, EtcdClient, reason_of, said

PAGE_KEYS_MAX = 2000
BREATH_EVENTS = 500
"""Events decoded (15 µs each) before the loop's other work gets a turn."""

PREFIX = keys.PREFIX.encode()
PREFIX_END = PREFIX[:-1] + bytes([PREFIX[-1] + 1])
LEADER = keys.LEADER_KEY.encode()

log = structlog.get_logger()


class Compacted(Exception):
    """The revision asked for is not kept any more."""


class Rewound(BayplanError):
    """etcd holds less than it did: what the mirror holds may not exist any more."""

    code = "rewound"


class Feed:
    """Keeps `mirror` up to date until cancelled. `reason` says why it is behind; empty: it is
    not. `holder` is the leader key's value in the newest view."""

    def __init__(self, client: EtcdClient, mirror: Mirror) -> None:
        self._client = client
        self._mirror = mirror
        self._next_revision = 0
        self._progressed = False
        self.reason = "nothing was read from etcd yet"
        self.refused: StoreRefused | None = None  # as `reason`, where etcd answers so
        self.holder = ""
        self.pages = 0  # listed so far: who waits for the first list sees it move
        self.complete = asyncio.Event()

    async def run(self) -> None:
        """Ends only by cancellation, or by Undecodable or Rewound: then the mirror has ended."""
        delay_s = 0.0
        while True:
            self._progressed = False
            self.refused = None
            try:
                if not self._next_revision:
                    await self._list()
                await self._watch()
                self.reason = "etcd ended the watch"
            except Compacted:
                log.warning("watch compacted, listing again", revision=self._next_revision)
                self._next_revision = 0
                continue
            except StoreUnavailable as error:
                self.reason = str(error)
                self.refused = error if isinstance(error, StoreRefused) else None
            except (codec.Undecodable, Rewound) as error:
                self.reason = str(error)
                self._mirror.end(self.reason)
                log.error("cannot read the store", reason=self.reason)
                raise
            again = not self._progressed and delay_s
            delay_s = min(BACKOFF_MAX_S, 2 * delay_s) if again else 0.05
            what = "watch broken" if self._next_revision else "cannot read the store"
            log.warning(what, reason=self.reason, retry_s=delay_s)
            await asyncio.sleep(delay_s)

    async def _list(self) -> None:
        listed: dict[tuple[Kind, Key], Stored[Any]] = {}
        holder = ""
        revision = 0
        start = PREFIX
        while True:
            page = await self._page(start, revision)
            self.pages += 1
            revision = revision or page.header.revision
            for kv in page.kvs:
                if kv.key == LEADER:
                    holder = kv.value.decode(errors="replace")
                elif (parsed := keys.parse(kv.key.decode(errors="replace"))) is not None:
                    path = kv.key.decode(errors="replace")
                    listed[parsed] = codec.decode(parsed[0], kv.value, kv.mod_revision, path=path)
            if not page.more:
                break
            start = page.kvs[-1].key + b"\0"
            await asyncio.sleep(0)  # a page at a time: the loop has other work
        self._refuse_rewound(revision)
        self.holder = holder
        self._mirror.replace(revision, listed)
        self._next_revision = revision + 1
        self.reason = ""
        self.complete.set()

    async def _page(self, start: bytes, revision: int) -> rpc_pb2.RangeResponse:
        request = rpc_pb2.RangeRequest(
            key=start, range_end=PREFIX_END, limit=PAGE_KEYS_MAX, revision=revision
        )
        try:
            return await self._client.range(request, 2 * self._client.config.call_timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.OUT_OF_RANGE:  # compacted between two pages
                raise Compacted from None
            raise StoreRefused(
                f"etcd refused to list {keys.PREFIX}: {said(error)}",
                hint="the controller's user needs a role with readwrite on that prefix",
            ) from None

    async def _watch(self) -> None:
        """One watch stream, until it breaks."""
        connection = self._client.connection()
        try:
            metadata = await self._client.metadata(connection)
            stream = connection.watch.Watch(metadata=metadata)
            try:
                async with asyncio.timeout(self._client.config.call_timeout_s):
                    await stream.write(self._create_request())
                    answer: Any = await stream.read()
                events: list[kv_pb2.Event] = []
                while answer is not grpc.aio.EOF:
                    await self._check(answer)
                    events.extend(answer.events)
                    if not answer.fragment:
                        await self._take(answer, events)
                        events = []
                    answer = await stream.read()
            finally:
                stream.cancel()
        except TimeoutError:
            self._client.give_up_on(connection)
            raise StoreUnavailable(
                f"etcd at {connection.endpoint} does not confirm the watch"
            ) from None
        except grpc.aio.AioRpcError as error:
            self._client.give_up_on(connection)
            self._client.forget_token()
            raise StoreUnavailable(reason_of(error, connection.endpoint)) from None

    def _create_request(self) -> rpc_pb2.WatchRequest:
        return rpc_pb2.WatchRequest(
            create_request=rpc_pb2.WatchCreateRequest(
                key=PREFIX,
                range_end=PREFIX_END,
                start_revision=self._next_revision,
                progress_notify=True,
                fragment=True,
            )
        )

    async def _check(self, answer: rpc_pb2.WatchResponse) -> None:
        if answer.compact_revision:
            raise Compacted
        if answer.canceled:
            self._client.forget_token()
            raise StoreUnavailable(f"etcd ended the watch: {answer.cancel_reason or 'no reason'}")
        if answer.created:
            self.reason = ""
            self._progressed = True
            if answer.header.revision < self._mirror.revision:
                await self._check_not_rewound()

    async def _check_not_rewound(self) -> None:
        """A member may lag behind what was seen from another; the cluster as a whole may not."""
        request = rpc_pb2.RangeRequest(key=LEADER, count_only=True)
        try:
            answer = await self._client.range(request)
        except grpc.aio.AioRpcError as error:
            raise StoreUnavailable(f"etcd refused a read: {error.details()}") from None
        self._refuse_rewound(answer.header.revision)

    def _refuse_rewound(self, revision: int) -> None:
        if revision < self._mirror.revision:
            raise Rewound(
                f"etcd went back from revision {self._mirror.revision} to {revision}: "
                "it was restored from a backup or lost data",
                hint="restart every controller, so that they read it anew",
            )

    async def _take(self, answer: rpc_pb2.WatchResponse, events: list[kv_pb2.Event]) -> None:
        """Everything an answer tells, at once: it holds whole revisions."""
        if not events:
            # A progress notification: nothing of ours up to this revision is still to come.
            # (The confirmation of the watch is none: its revision says nothing of events.)
            if not answer.created and answer.header.revision >= self._next_revision:
                self._next_revision = answer.header.revision + 1
                self._mirror.apply(answer.header.revision, ())
            return
        updates: list[Update] = []
        holder = self.holder
        for i, event in enumerate(events, 1):
            if i % BREATH_EVENTS == 0:
                await asyncio.sleep(0)
            path = event.kv.key.decode(errors="replace")
            gone = event.type == kv_pb2.Event.DELETE
            if event.kv.key == LEADER:
                holder = "" if gone else event.kv.value.decode(errors="replace")
            elif (parsed := keys.parse(path)) is not None:
                kind, key = parsed
                stored = (
                    None
                    if gone
                    else codec.decode(kind, event.kv.value, event.kv.mod_revision, path=path)
                )
                updates.append((kind, key, stored))
        last = events[-1].kv.mod_revision
        self.holder = holder
        self._mirror.apply(last, updates)
        self._next_revision = last + 1
