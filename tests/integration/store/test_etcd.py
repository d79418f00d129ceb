"""What only a real etcd can do to a store."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from signal import SIGCONT, SIGSTOP

import pytest

from bayplan.model.node import Node
from bayplan.wire import convert
from bayplan.wire._pb.bayplan.v1 import store_pb2
from bayplan.wire._pb.etcd.rpc import rpc_pb2
from controller.leader import Election, Leader, Leadership
from controller.store import codec
from controller.store.base import Conflict, Deposed, Kind, StoreUnavailable
from controller.store.etcd import EtcdStore
from controller.store.etcd.client import EtcdClient
from controller.store.etcd.feed import Rewound
from tests.integration.store.etcds import Etcd
from tests.integration.store.test_store import a_node, a_slot


async def started(etcd: Etcd) -> EtcdStore:
    store = EtcdStore(etcd.config)
    await store.start(20)
    return store


async def until(condition: object, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.02)


def put_by_ctl(etcd: Etcd, name: str, content: bytes) -> None:
    etcd.ctl("put", f"/bayplan/v1/nodes/{name}", content.decode("latin-1"))


async def test_a_start_reads_everything(etcd: Etcd) -> None:
    """More objects than a page holds are all there, at one revision."""
    writer = await started(etcd)
    await writer.commit_each([(a_slot(i),) for i in range(4500)], None)
    reader = await started(etcd)
    assert len(reader.tables.slots) == 4500
    assert writer.tables.revision == reader.tables.revision
    await writer.close()
    await reader.close()


async def test_the_watch_resumes_after_kill_9(etcd: Etcd) -> None:
    """What was written before, during and after etcd's restart is seen once etcd is back."""
    store, other = await started(etcd), await started(etcd)
    await other.commit((a_node("before"),), None)
    etcd.kill()
    with pytest.raises(StoreUnavailable):
        await other.commit((a_node("during"),), None)
    await until(lambda: store.behind_reason)
    etcd.start()
    await until(lambda: not other.behind_reason)
    await other.commit((a_node("after"),), None)
    await store.wait_for(other.tables.revision, 10)
    assert {("", "before"), ("", "after")} <= set(store.tables.nodes)
    assert not store.behind_reason
    await store.close()
    await other.close()


async def test_compaction_under_a_broken_watch(etcd: Etcd) -> None:
    """Deletes that nobody can tell any more are seen by listing again."""
    store = await started(etcd)
    await store.commit((a_node("kept"), a_node("gone")), None)
    held = store.tables
    store._feed._client.give_up_on(store._client.connection())
    assert store._feeding
    store._feeding.cancel()
    await asyncio.wait({store._feeding})
    etcd.ctl("del", "/bayplan/v1/nodes/gone")
    etcd.ctl("del", "/bayplan/v1/nodes/nobody")
    other = await started(etcd)
    await other.commit((a_node("new"),), None)
    etcd.ctl("compact", str(other.tables.revision))
    store._feeding = asyncio.create_task(store._feed.run())
    await store.wait_for(other.tables.revision, 10)
    assert {("", "kept"), ("", "new")} == set(store.tables.nodes)
    assert held.nodes["", "kept"] is store.tables.nodes["", "kept"]
    await store.close()
    await other.close()


async def test_fields_of_newer_versions_survive(etcd: Etcd) -> None:
    """An older controller's write keeps what a newer one added, at the top and deeper."""
    store = await started(etcd)
    message = convert.to_pb(Node(name="a", uid="u"))
    message.MergeFromString(b"\xba\x3e\x03new")  # field 999, "new"
    content = store_pb2.Envelope(
        schema_version=2, min_reader_version=1, value=message.SerializeToString()
    ).SerializeToString()
    path = "/bayplan/v1/nodes/a"
    await store._client.txn(
        rpc_pb2.TxnRequest(
            success=[
                rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=path.encode(), value=content))
            ]
        )
    )
    await until(lambda: store.tables.nodes)
    revision = store.tables.nodes["", "a"].mod_revision
    await store.commit((a_node("a", revision, cordoned=True),), None)
    raw = (await store._client.range(rpc_pb2.RangeRequest(key=path.encode()))).kvs[0].value
    assert b"\xba\x3e\x03new" in raw
    assert codec.decode(Kind.NODE, raw, 1).value.cordoned
    await store.close()


async def test_what_needs_a_newer_controller_stops_this_one(etcd: Etcd) -> None:
    """A value this version must not touch ends the start with a sentence that says so."""
    content = store_pb2.Envelope(schema_version=9, min_reader_version=9).SerializeToString()
    put_by_ctl(etcd, "a", content)
    with pytest.raises(codec.Undecodable, match="upgrade this controller"):
        await started(etcd)


async def test_the_wait_for_etcd_ends(tmp_path: object) -> None:
    """Without etcd a start fails in time and says where it looked."""
    store = EtcdStore(Etcd(tmp_path).config)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable, match=r"client\.sock"):
        await store.start(1.0)


async def test_a_conflict_waits_for_newer_state(etcd: Etcd) -> None:
    """After a conflict the view shows what the decision missed."""
    one, two = await started(etcd), await started(etcd)
    revision = await one.commit((a_node("a"),), None)
    await two.wait_for(revision, 5)
    for _ in range(20):
        seen = two.tables.nodes["", "a"].mod_revision
        await one.commit((a_node("a", one.tables.nodes["", "a"].mod_revision),), None)
        try:
            await two.commit((a_node("a", seen),), None)
        except Conflict:
            assert two.tables.nodes["", "a"].mod_revision > seen
    await one.close()
    await two.close()


async def lead(store: EtcdStore, name: str, terms: list[str]) -> None:
    """Campaign for good; notes each term and its end."""

    async def work(term: Leadership) -> None:
        terms.append(name)
        try:
            await asyncio.Event().wait()
        finally:
            terms.append(f"{name} ends")

    await Election(store, Leader(name, f"{name}:1"), ttl_s=2).run(work)


async def test_a_clean_end_hands_over_at_once(etcd: Etcd) -> None:
    """Resignation makes the next leader within a fraction of the lease, and it is known."""
    one, two = await started(etcd), await started(etcd)
    terms: list[str] = []
    first = asyncio.create_task(lead(one, "one", terms))
    await until(lambda: terms == ["one"])
    second = asyncio.create_task(lead(two, "two", terms))
    observer = Election(two, Leader("x", ""))
    await until(lambda: observer.leader == Leader("one", "one:1"))
    await asyncio.sleep(3)  # longer than the lease: it is renewed
    assert terms == ["one"]
    before = time.monotonic()
    first.cancel()
    await until(lambda: "two" in terms)
    assert time.monotonic() - before < 1
    assert terms == ["one", "one ends", "two"]
    await until(lambda: observer.leader == Leader("two", "two:1"))
    second.cancel()
    await asyncio.wait({first, second})
    await one.close()
    await two.close()


async def test_losing_etcd_ends_the_term_in_time(etcd: Etcd) -> None:
    """A leader cut off from etcd stops before its lease is over; it leads again afterwards."""
    store = await started(etcd)
    terms: list[str] = []
    leading = asyncio.create_task(lead(store, "one", terms))
    await until(lambda: terms == ["one"])
    before = time.monotonic()
    etcd.signal(SIGSTOP)
    await until(lambda: len(terms) == 2)
    assert time.monotonic() - before < 2
    etcd.signal(SIGCONT)
    await until(lambda: terms == ["one", "one ends", "one"], 20)
    leading.cancel()
    await asyncio.wait({leading})
    await store.close()


async def test_a_revoked_lease_ends_the_term(etcd: Etcd) -> None:
    """An operator who revokes the lease deposes the leader; its guard is worthless."""
    store = await started(etcd)
    guards = []

    async def work(term: Leadership) -> None:
        guards.append(term.guard)
        await asyncio.Event().wait()

    leading = asyncio.create_task(Election(store, Leader("one", "a:1"), ttl_s=2).run(work))
    await until(lambda: guards)
    lease = etcd.ctl("lease", "list").stdout.split()[-1]
    etcd.ctl("lease", "revoke", lease)
    with pytest.raises(Deposed):
        await store.commit((a_node("a"),), guards[0])
    await until(lambda: len(guards) == 2)
    assert guards[1].create_revision > guards[0].create_revision
    leading.cancel()
    await asyncio.wait({leading})
    await store.close()


async def test_a_killed_leader_is_followed_after_its_lease(etcd: Etcd) -> None:
    """Without resignation or renewal the next leader comes when the lease has run out."""
    killed, store = await started(etcd), await started(etcd)
    assert await killed.take_lead("killed", 2)
    terms: list[str] = []
    began = time.monotonic()
    leading = asyncio.create_task(lead(store, "next", terms))
    await until(lambda: terms)
    assert 1 < time.monotonic() - began < 5
    leading.cancel()
    await asyncio.wait({leading})
    await killed.close()
    await store.close()


async def test_a_lease_is_changed_under_its_leader(etcd: Etcd) -> None:
    """The old lease is gone, the hold goes on under the same guard, and ends with the new one."""
    store = await started(etcd)
    lead = await store.take_lead("one", 60)
    assert lead
    changed = await store.change_lease(lead, "one", 30)
    assert changed.guard == lead.guard
    assert changed.lease_id != lead.lease_id
    assert etcd.ctl("lease", "list").stdout.split()[-1] == f"{changed.lease_id:x}"
    await store.commit((a_node("a"),), lead.guard)
    assert await store.renew_lead(changed) == 30
    await store.resign_lead(changed)
    with pytest.raises(Deposed):
        await store.change_lease(changed, "one", 5)
    with pytest.raises(Deposed):
        await store.commit((a_node("b"),), lead.guard)
    await store.close()


async def test_a_short_outage_does_not_cost_a_lease(etcd: Etcd) -> None:
    """A leader that gave up while etcd restarted leads again without waiting for its own
    lease, which lives on."""
    store = await started(etcd)
    begun = 0

    async def work(term: Leadership) -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            etcd.kill()
            await store.commit((a_node("a"),), term.guard)  # as a loop does: gives up
        await asyncio.Event().wait()

    leading = asyncio.create_task(Election(store, Leader("one", "a:1"), ttl_s=60).run(work))
    await until(lambda: begun == 1)
    await asyncio.sleep(3)  # longer than a resignation is tried
    etcd.start()
    await until(lambda: begun == 2, 15)
    leading.cancel()
    await asyncio.wait({leading})
    await store.close()


async def test_a_stalled_leader_writes_nothing(etcd: Etcd) -> None:
    """A leader whose process stood still for longer than its lease has been replaced."""
    store = await started(etcd)
    outcome = []

    async def work(term: Leadership) -> None:
        if outcome:
            await asyncio.Event().wait()
        time.sleep(4)
        outcome.append(term.holds)
        try:
            await store.commit((a_node("a"),), term.guard)
        finally:
            outcome.append(not store.tables.nodes)

    leading = asyncio.create_task(Election(store, Leader("one", "a:1"), ttl_s=2).run(work))
    await until(lambda: len(outcome) == 2)
    assert outcome == [False, True]
    leading.cancel()
    await asyncio.wait({leading})
    await store.close()


async def test_old_revisions_are_compacted(etcd: Etcd) -> None:
    """The leader's upkeep makes etcd forget, and the watch does not suffer from it."""
    store = await started(etcd)
    await store.commit((a_node("a"),), None)
    first = store.tables.revision
    for i in range(3):
        await store.commit((a_slot(i),), None)
    upkeep = asyncio.create_task(store.keep_compacted(0.3))
    old = ("get", "/bayplan/v1/nodes/a", f"--rev={first}")
    await until(lambda: "compacted" in etcd.ctl(*old, check=False).stderr)
    await store.commit((a_node("b"),), None)
    assert {("", "a"), ("", "b")} == set(store.tables.nodes)
    upkeep.cancel()
    await asyncio.wait({upkeep})
    await store.close()


async def test_an_etcd_that_lost_data_is_noticed(etcd: Etcd) -> None:
    """Where etcd comes back with less than was seen, the mirror ends and says so."""
    store = await started(etcd)
    for i in range(5):
        await store.commit((a_slot(i),), None)
    etcd.kill()
    shutil.rmtree(etcd.directory / "data")
    etcd.start()
    with pytest.raises(Rewound, match="restart every controller"):
        await asyncio.wait_for(store.feed_ended(), 15)
    with pytest.raises(StoreUnavailable, match="went back"):
        await store.wait_changed(store.tables.revision)
    await store.close()


async def test_nothing_is_left_open(etcd: Etcd) -> None:
    """A closed store leaves no task of its own behind."""
    before = asyncio.all_tasks()
    store = await started(etcd)
    await store.commit((a_node("a"),), None)
    await store.close()
    await until(lambda: asyncio.all_tasks() == before)
    assert os.path.exists(etcd.directory / "client.sock:0")


async def test_catching_up_holds_what_others_wrote(etcd: Etcd) -> None:
    """After a write of unknown outcome: the view holds it, if it happened, when this returns."""
    store, writer = await started(etcd), EtcdClient(etcd.config)  # which waits for no mirror
    for i in range(50):
        key, value = f"/bayplan/v1/nodes/n{i}".encode(), codec.encode(Node(name=f"n{i}", uid="u"))
        put = rpc_pb2.PutRequest(key=key, value=value)
        await writer.txn(rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=put)]))
        assert ("", f"n{i}") in (await store.catch_up(10)).nodes
    await store.close()
    await writer.close()
