"""The store over etcd: guarded transactions beside a mirror that one watch feeds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import structlog

from bayplan.model.errors import Conflict
from bayplan.wire._pb.etcd.rpc import rpc_pb2
from controller.store import codec, keys, limits
from controller.store.base import (
    Change,
    Changes,
    Delete,
    Deposed,
    Guard,
    Key,
    Kind,
    Lead,
    Put,
    Require,
    StoreRefused,
    StoreUnavailable,
    Tables,
    TooLarge,
    stale,
)
from controller.store.cache import Mirror
from controller.store.etcd import diagnosis
from controller.store.etcd.client import EtcdClient, EtcdConfig, said
from controller.store.etcd.feed import Feed

START_TIMEOUT_S = 60.0
LOOK_S = 0.5
"""How often a start that has not read the store yet looks at why."""
MIRROR_TIMEOUT_S = 10.0
"""How long the mirror may take to reach a write of our own."""

STALE_TIMEOUT_S = 1.0
"""How long a conflict waits for the mirror to show what it is about."""

IN_FLIGHT_MAX = 8
"""Transactions of one commit_each under way at a time: etcd syncs the disk once for several."""

BREATH_GROUPS = 200
"""Groups encoded before the loop's other work gets a turn."""

COMPACT_KEEP_S = 600.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Operations:
    """A group of changes as etcd's compares and writes."""

    compares: tuple[rpc_pb2.Compare, ...]
    writes: tuple[rpc_pb2.RequestOp, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Of one transaction: `revision` (0: it failed) and, where it failed, the keys as they
    were then: mod revisions, 0 for one that is not there."""

    revision: int
    wrote: bool
    found: dict[bytes, int]
    guard_created: int


class EtcdStore:
    """See `base.Store` and `base.Seat`. Belongs to one event loop."""

    def __init__(self, config: EtcdConfig) -> None:
        self._client = EtcdClient(config)
        self._mirror = Mirror()
        self._feed = Feed(self._client, self._mirror)
        self._feeding: asyncio.Task[None] | None = None
        self._told = ""

    # Life

    async def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Returns once the mirror is complete. Raises StoreUnavailable where nothing comes for
        `timeout_s`, StoreRefused where every endpoint answers and wants none of us, Undecodable
        where what comes cannot be read."""
        self._feeding = asyncio.create_task(self._feed.run(), name="etcd-feed")
        complete = asyncio.create_task(self._feed.complete.wait())
        try:
            await self._read(complete, timeout_s)
        except BaseException:
            await self.close()
            raise
        finally:
            complete.cancel()
        if self._client.config.sole:
            await self._evict()

    async def _read(self, complete: asyncio.Task[Any], timeout_s: float) -> None:
        """Until the first list is there, however long it moves. Raises as `start`."""
        assert self._feeding is not None
        deadline = time.monotonic() + timeout_s
        seen = 0
        while time.monotonic() < deadline:
            await asyncio.wait(
                {self._feeding, complete}, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED
            )
            if complete.done():
                return
            if self._feeding.done():
                self._feeding.result()
            if self._feed.pages > seen:
                seen, deadline = self._feed.pages, time.monotonic() + timeout_s
            elif self._client.failure or self._feed.refused:
                await self._give_up_where_refused()
        reason = self._client.failure or self._feed.reason
        raise StoreUnavailable(
            f"the state could not be read from etcd within {timeout_s:g} s: {reason}",
            hint="check --etcd and that etcd runs",
        )

    async def _give_up_where_refused(self) -> None:
        """Raises StoreRefused where no endpoint is left that may yet take us."""
        if self._feed.refused is not None:
            raise self._feed.refused
        config = self._client.config
        refusals = [
            await asyncio.to_thread(diagnosis.refusal, config, endpoint)
            for endpoint in config.endpoints
        ]
        told = [refused for refused in refusals if refused is not None]
        if len(told) == len(refusals):
            raise told[0]
        if told and str(told[0]) != self._told:
            self._told = str(told[0])
            log.warning("an endpoint of etcd refuses us", reason=self._told)

    async def _evict(self) -> None:
        """Whoever led before this process was its predecessor, and is dead."""
        try:
            await self._client.delete(keys.LEADER_KEY.encode(), START_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise StoreUnavailable(f"cannot end the term of who led before: {error}") from None

    async def close(self) -> None:
        if self._feeding:
            self._feeding.cancel()
            await asyncio.wait({self._feeding})
        self._mirror.end("the store is closed")
        await self._client.close()

    async def feed_ended(self) -> None:
        """Raises what ended the mirror for good (Undecodable, Rewound): the process cannot go on
        with it. Otherwise waits until cancelled."""
        assert self._feeding is not None, "start() first"
        await asyncio.wait({self._feeding})
        if not self._feeding.cancelled():
            self._feeding.result()

    @property
    def behind_reason(self) -> str:
        """Why the mirror may be behind etcd; empty where the watch is up."""
        return self._feed.reason

    # Reading

    @property
    def tables(self) -> Tables:
        return self._mirror.tables

    async def wait_changed(self, after_revision: int) -> Tables:
        return await self._mirror.wait_changed(after_revision)

    async def wait_for(self, revision: int, timeout_s: float) -> Tables:
        return await self._mirror.wait_for(revision, timeout_s)

    async def catch_up(self, timeout_s: float) -> Tables:
        # A linearizable read answers with a revision that no committed write is above.
        request = rpc_pb2.RangeRequest(key=keys.PREFIX.encode(), count_only=True)
        answer = await self._client.range(request, timeout_s)
        return await self.wait_for(answer.header.revision, timeout_s)

    # Writing

    async def commit(self, changes: Changes, guard: Guard | None) -> int:
        operations = self._operations(changes)
        outcome = await self._transact([operations], guard)
        if outcome.revision:
            return await self._reached(outcome)
        failed = _failed(changes, outcome)
        if failed is None:
            raise StoreUnavailable("etcd refused a write though every condition holds; retry")
        await self._show([failed])
        raise stale(failed.kind, failed.key)

    async def commit_each(
        self, groups: Sequence[Changes], guard: Guard | None
    ) -> list[int | Conflict]:
        results: dict[int, int | Conflict] = {}
        ready: list[int] = []
        operations: dict[int, _Operations] = {}
        for i, group in enumerate(groups):
            if i % BREATH_GROUPS == BREATH_GROUPS - 1:
                await asyncio.sleep(0)
            try:
                operations[i] = self._operations(group)
                ready.append(i)
            except TooLarge as failure:
                results[i] = failure
        packed = limits.pack([groups[i] for i in ready], [operations[i].size_bytes for i in ready])
        batches = [[ready[j] for j in batch] for batch in packed]
        for wave in _waves(groups, batches):
            gate = asyncio.Semaphore(IN_FLIGHT_MAX)

            async def run(batch: list[int], gate: asyncio.Semaphore = gate) -> None:
                async with gate:
                    results.update(await self._commit_batch(batch, groups, operations, guard))

            outcomes = await asyncio.gather(*map(run, wave), return_exceptions=True)
            for outcome in outcomes:
                if isinstance(outcome, BaseException):
                    raise outcome
        return [results[i] for i in range(len(groups))]

    async def _commit_batch(
        self,
        batch: list[int],
        groups: Sequence[Changes],
        operations: dict[int, _Operations],
        guard: Guard | None,
    ) -> dict[int, int | Conflict]:
        """One transaction; where it fails, the groups that conflict are taken out by what the
        failed transaction found, and the others are sent again."""
        results: dict[int, int | Conflict] = {}
        while batch:
            outcome = await self._transact([operations[i] for i in batch], guard)
            if outcome.revision:
                revision = await self._reached(outcome)
                results.update(dict.fromkeys(batch, revision))
                break
            failed = {
                i: change for i in batch if (change := _failed(groups[i], outcome)) is not None
            }
            if not failed:
                raise StoreUnavailable("etcd refused a write though every condition holds; retry")
            await self._show(failed.values())
            results.update({i: stale(c.kind, c.key) for i, c in failed.items()})
            batch = [i for i in batch if i not in failed]
        return results

    def _operations(self, changes: Changes) -> _Operations:
        compares: list[rpc_pb2.Compare] = []
        writes: list[rpc_pb2.RequestOp] = []
        size = 0
        for change in changes:
            path = keys.path(change.kind, change.key).encode()
            size += len(path)
            if change.expect is not None:
                compares.append(
                    rpc_pb2.Compare(
                        target=rpc_pb2.Compare.MOD, key=path, mod_revision=change.expect
                    )
                )
            match change:
                case Put():
                    held = self._mirror.get(change.kind, change.key)
                    value = codec.encode(change.value, held.unknown if held else b"")
                    size += len(value)
                    put = rpc_pb2.PutRequest(key=path, value=value)
                    writes.append(rpc_pb2.RequestOp(request_put=put))
                case Delete():
                    delete = rpc_pb2.DeleteRangeRequest(key=path)
                    writes.append(rpc_pb2.RequestOp(request_delete_range=delete))
        limits.check(changes, size)
        return _Operations(tuple(compares), tuple(writes), size)

    async def _transact(self, parts: list[_Operations], guard: Guard | None) -> _Outcome:
        """Raises Deposed, StoreUnavailable."""
        # Groups that share a transaction may require the same object: it is compared once.
        compares = list({c.key: c for part in parts for c in part.compares}.values())
        probed = [c.key for c in compares]
        if guard is not None:
            compares.insert(0, _created(guard.key, guard.create_revision))
            probed.insert(0, guard.key.encode())
        request = rpc_pb2.TxnRequest(
            compare=compares,
            success=[w for part in parts for w in part.writes],
            failure=[
                rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=k, keys_only=True))
                for k in probed
            ],
        )
        try:
            answer = await self._client.txn(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.PERMISSION_DENIED:
                raise StoreRefused(
                    f"etcd refused to write below {keys.PREFIX}: {said(error)}",
                    hint="the controller's user needs a role with readwrite on that prefix",
                ) from None
            raise StoreUnavailable(
                f"etcd refused a write: {said(error)}",
                hint="see `etcdctl endpoint status` and the limits of etcd",
            ) from None
        outcome = _outcome(answer, probed)
        deposed = guard is not None and outcome.guard_created != guard.create_revision
        if deposed and not answer.succeeded:
            raise Deposed("this controller does not lead any more; the write was refused")
        return outcome

    async def _reached(self, outcome: _Outcome) -> int:
        """Wait until the mirror holds what was written."""
        if not outcome.wrote:  # no revision of ours: there is nothing to wait for
            return self._mirror.revision
        await self._mirror.wait_for(outcome.revision, MIRROR_TIMEOUT_S)
        return outcome.revision

    async def _show(self, failed: Iterable[Change]) -> None:
        """Wait until the mirror shows why the changes conflict, so that the next decision is made
        from newer state. In vain where the watch is down: the next try meets the same conflict."""
        deadline = time.monotonic() + STALE_TIMEOUT_S
        for change in failed:
            while self._mirror.mod_revision(change.kind, change.key) == change.expect:
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        await self._mirror.wait_changed(self._mirror.revision)
                except TimeoutError:
                    return

    # Leading

    @property
    def holder(self) -> str:
        return self._feed.holder

    async def take_lead(self, holder: str, ttl_s: int) -> Lead | None:
        put = rpc_pb2.PutRequest(key=keys.LEADER_KEY.encode(), value=holder.encode())
        lease_id, revision = await self._put_leased(put, ttl_s, _created(keys.LEADER_KEY, 0))
        return Lead(Guard(keys.LEADER_KEY, revision), lease_id) if revision else None

    async def change_lease(self, lead: Lead, holder: str, ttl_s: int) -> Lead:
        # Where the answer is lost the new lease is dropped, and the key with it if it is there.
        put = rpc_pb2.PutRequest(key=lead.guard.key.encode(), value=holder.encode())
        holds = _created(lead.guard.key, lead.guard.create_revision)
        lease_id, revision = await self._put_leased(put, ttl_s, holds)
        if not revision:
            raise Deposed("this controller does not lead any more: somebody else has the seat")
        await self._drop_lease(lead.lease_id)  # holds nothing any more
        return Lead(lead.guard, lease_id)

    async def _put_leased(
        self, put: rpc_pb2.PutRequest, ttl_s: int, condition: rpc_pb2.Compare
    ) -> tuple[int, int]:
        """The id of a new lease that keeps the key, and the revision; 0: the condition does not
        hold, and there is no lease. Raises StoreUnavailable."""
        try:
            lease_id = await self._client.grant(ttl_s)
            put.lease = lease_id
            request = rpc_pb2.TxnRequest(
                compare=[condition], success=[rpc_pb2.RequestOp(request_put=put)]
            )
            try:
                answer = await self._client.txn(request)
            except BaseException:
                await self._drop_lease(lease_id)
                raise
        except grpc.aio.AioRpcError as error:
            raise StoreUnavailable(f"etcd refused to let us lead: {error.details()}") from None
        if not answer.succeeded:
            await self._drop_lease(lease_id)
            return 0, 0
        return lease_id, answer.header.revision

    async def _drop_lease(self, lease_id: int) -> None:
        """Whatever the lease holds goes with it, also where the answer to a write was lost."""
        try:
            await self._client.revoke(lease_id)
        except StoreUnavailable as error:
            log.info("lease left to run out", reason=str(error))

    async def renew_lead(self, lead: Lead) -> float:
        try:
            granted_s = await self._client.keep_alive(lead.lease_id)
        except grpc.aio.AioRpcError as error:
            raise StoreUnavailable(f"etcd refused to renew: {error.details()}") from None
        if granted_s <= 0:
            raise Deposed("this controller does not lead any more: its lease is over")
        return float(granted_s)

    async def resign_lead(self, lead: Lead) -> None:
        await self._client.revoke(lead.lease_id)

    # Upkeep

    async def keep_compacted(self, keep_s: float = COMPACT_KEEP_S) -> None:
        """The leader's: forget revisions older than `keep_s`, until cancelled. Not for a managed
        etcd, which compacts by itself."""
        while True:
            revision = self._mirror.revision
            await asyncio.sleep(keep_s)
            try:
                await self._client.compact(revision)
                log.info("compacted", revision=revision)
            except StoreUnavailable as error:
                log.warning("cannot compact", revision=revision, reason=str(error))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.OUT_OF_RANGE:  # done by somebody else
                    log.warning("cannot compact", revision=revision, reason=error.details())

    async def status(self) -> rpc_pb2.StatusResponse:
        """Version, size and alarms of the member in use. Raises StoreUnavailable."""
        try:
            return await self._client.status()
        except grpc.aio.AioRpcError as error:
            raise StoreUnavailable(f"etcd does not tell its status: {error.details()}") from None


def _created(key: str, revision: int) -> rpc_pb2.Compare:
    return rpc_pb2.Compare(
        target=rpc_pb2.Compare.CREATE, key=key.encode(), create_revision=revision
    )


def _outcome(answer: rpc_pb2.TxnResponse, probed: list[bytes]) -> _Outcome:
    if answer.succeeded:
        wrote = any(
            r.HasField("response_put") or r.response_delete_range.deleted for r in answer.responses
        )
        return _Outcome(answer.header.revision, wrote, {}, 0)
    found = dict.fromkeys(probed, 0)
    guard_created = 0
    for i, response in enumerate(answer.responses):
        for kv in response.response_range.kvs:
            found[kv.key] = kv.mod_revision
            if i == 0:
                guard_created = kv.create_revision
    return _Outcome(0, False, found, guard_created)


def _failed(changes: Changes, outcome: _Outcome) -> Change | None:
    """The first of a group's conditions that did not hold; None: all did."""
    for change in changes:
        if change.expect is None:
            continue
        if outcome.found[keys.path(change.kind, change.key).encode()] != change.expect:
            return change
    return None


def _waves(groups: Sequence[Changes], batches: list[list[int]]) -> list[list[list[int]]]:
    """Batches that may be under way together: none writes what another one names."""
    waves: list[list[list[int]]] = []
    written: set[tuple[Kind, Key]] = set()
    required: set[tuple[Kind, Key]] = set()
    for batch in batches:
        changes = [c for i in batch for c in groups[i]]
        writes = {(c.kind, c.key) for c in changes if not isinstance(c, Require)}
        needs = {(c.kind, c.key) for c in changes if isinstance(c, Require)}
        clash = written & (writes | needs) or required & writes
        if not waves or clash:
            waves.append([])
            written, required = set(), set()
        waves[-1].append(batch)
        written |= writes
        required |= needs
    return waves
