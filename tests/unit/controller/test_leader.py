"""Election over the memory store; the lease ends when the test says so."""

from __future__ import annotations

import asyncio

import pytest

from controller import leader
from controller.leader import Election, Leader, Leadership
from controller.store.base import Deposed, Lead, StoreUnavailable
from controller.store.keys import LEADER_KEY
from controller.store.memory import MemoryStore


class Cut(MemoryStore):
    """A store whose renewals can be made to fail, as over a broken network."""

    cut = False

    async def renew_lead(self, lead: Lead) -> float:
        if self.cut:
            raise StoreUnavailable("no route to etcd")
        return await super().renew_lead(lead)


class Terms:
    """Work that notes its terms and goes on until it is ended."""

    def __init__(self) -> None:
        self.begun: list[Leadership] = []
        self.ended = 0

    async def __call__(self, term: Leadership) -> None:
        self.begun.append(term)
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1


async def until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def stop(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_one_leads_and_the_next_follows_at_once() -> None:
    """A cancelled leader's work has ended before the next leader's begins."""
    store, one, two = MemoryStore(), Terms(), Terms()
    first = asyncio.create_task(Election(store, Leader("one", "h:1")).run(one))
    await until(lambda: one.begun)
    election = Election(store, Leader("two", "h:2"))
    second = asyncio.create_task(election.run(two))
    await asyncio.sleep(0.02)
    assert not two.begun
    assert Leader("one", "h:1") == election.leader
    await stop(first)
    await until(lambda: two.begun)
    assert one.ended == 1
    assert election.term is two.begun[0]
    await stop(second)
    assert store.holder_of(LEADER_KEY) == ""


async def test_a_lost_lease_ends_the_work() -> None:
    """Where the server says the lease is over, the work ends and the campaign starts anew."""
    store, terms = MemoryStore(), Terms()
    running = asyncio.create_task(Election(store, Leader("one", "h:1"), ttl_s=1).run(terms))
    await until(lambda: terms.begun)
    store.release(terms.begun[0].guard)
    await until(lambda: len(terms.begun) == 2)
    assert terms.ended == 1
    assert terms.begun[0].guard != terms.begun[1].guard
    await stop(running)


async def test_unrenewed_the_term_ends_before_the_lease() -> None:
    """The local deadline is 0.8 of the TTL, counted from before the last renewal."""
    store, terms = Cut(), Terms()
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(Election(store, Leader("one", "h:1"), ttl_s=1).run(terms))
    await until(lambda: terms.begun)
    store.cut = True
    begun = loop.time()
    await until(lambda: terms.ended)
    assert 0.5 < loop.time() - begun < 1.0
    assert not terms.begun[0].holds
    await stop(running)


async def test_a_stalled_leader_knows() -> None:
    """After a stall longer than the lease `holds` is false before anything else runs, and it does
    not name itself as the leader, whom the store last knew."""
    now = 100.0
    store, terms = MemoryStore(), Terms()
    election = Election(store, Leader("one", "h:1"), clock=lambda: now)
    running = asyncio.create_task(election.run(terms))
    await until(lambda: terms.begun)
    assert election.term
    assert election.leader == Leader("one", "h:1")
    now += 8
    assert election.term is None
    assert election.leader is None
    assert store.holder
    assert not terms.begun[0].holds
    await stop(running)


async def test_a_deposed_write_steps_down() -> None:
    """Work that meets Deposed ends its term only; the campaign goes on."""
    store, terms = MemoryStore(), 0

    async def work(term: Leadership) -> None:
        nonlocal terms
        terms += 1
        if terms == 1:
            raise Deposed("refused")
        await asyncio.Event().wait()

    running = asyncio.create_task(Election(store, Leader("one", "h:1")).run(work))
    await until(lambda: terms == 2)
    await stop(running)


class Slow(MemoryStore):
    """A store whose answers to a campaign take `take_s` of a clock that only they move, or that
    answers no renewal of a lease shorter than `needs_s`."""

    now = 100.0
    take_s = 0.0
    needs_s = 0.0

    async def take_lead(self, holder: str, ttl_s: int) -> Lead | None:
        self.now += self.take_s
        return await super().take_lead(holder, ttl_s)

    async def renew_lead(self, lead: Lead) -> float:
        granted_s = await super().renew_lead(lead)
        if granted_s < self.needs_s:
            self.now += granted_s
            raise StoreUnavailable("no answer in time")
        return granted_s


async def test_a_store_slower_than_the_lease_is_led_with_a_longer_one() -> None:
    """An answer that takes longer than the lease is not asked for with the same lease again."""
    store, terms = Slow(), Terms()
    store.take_s = 6.0
    election = Election(store, Leader("one", "h:1"), clock=lambda: store.now)
    running = asyncio.create_task(election.run(terms))
    await until(lambda: terms.begun)
    assert election.ttl_s == 15
    assert terms.begun[0].holds
    await stop(running)


async def test_a_lease_that_cannot_be_renewed_in_time_is_followed_by_longer_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each lost term lengthens the next one's lease, until renewals arrive; to a maximum."""
    monkeypatch.setattr(leader, "RENEWALS_PER_TTL", 1000)
    store, terms = Slow(), Terms()
    store.needs_s = 46
    election = Election(store, Leader("one", "h:1"), clock=lambda: store.now)
    running = asyncio.create_task(election.run(terms))
    await until(lambda: len(terms.begun) == 4)
    assert election.ttl_s == 60
    store.needs_s = 0
    await asyncio.sleep(0.2)
    assert (len(terms.begun), terms.ended) == (4, 3)
    await stop(running)


async def test_among_others_a_lost_term_makes_no_lease_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are to take over as soon as ever."""
    monkeypatch.setattr(leader, "RENEWALS_PER_TTL", 1000)
    store, terms = Slow(), Terms()
    store.needs_s = 46
    election = Election(store, Leader("one", "h:1"), alone=False, clock=lambda: store.now)
    running = asyncio.create_task(election.run(terms))
    await until(lambda: len(terms.begun) == 4)
    assert election.ttl_s == 5
    await stop(running)


async def test_a_calm_leader_takes_a_shorter_lease_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within its term: the work goes on under the same guard."""
    monkeypatch.setattr(leader, "RENEWALS_PER_TTL", 1000)
    store, terms = Slow(), Terms()
    store.take_s = 6.0
    election = Election(store, Leader("one", "h:1"), clock=lambda: store.now)
    running = asyncio.create_task(election.run(terms))
    await until(lambda: terms.begun)
    before = terms.begun[0].lead
    monkeypatch.setattr(leader, "CALM_S", -1.0)
    await until(lambda: election.ttl_s == 5)
    after = terms.begun[0].lead
    assert (after.guard, len(terms.begun), terms.ended) == (before.guard, 1, 0)
    assert after.lease_id != before.lease_id
    await stop(running)


async def test_a_bug_is_loud() -> None:
    """Anything else that work raises ends the election, after resigning."""
    store = MemoryStore()

    async def work(term: Leadership) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Election(store, Leader("one", "h:1")).run(work)
    assert store.holder == ""


async def test_work_that_is_done() -> None:
    """Work that returns ends the election, too."""
    store = MemoryStore()

    async def work(term: Leadership) -> None:
        return

    await asyncio.wait_for(Election(store, Leader("one", "h:1")).run(work), 5)
    assert store.holder == ""


def test_a_leader_of_another_version() -> None:
    """What cannot be read is no leader one could name."""
    assert Leader("a", "h:1") == Leader.decode(Leader("a", "h:1").encode())
    assert Leader.decode("") is Leader.decode("{}") is Leader.decode("[1]") is None
