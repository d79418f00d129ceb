"""Who leads. One controller at a time holds the leader's key, by a lease it keeps renewing.

```
 campaign ── take_lead ──► lead: work(leadership) runs, lease renewed every ttl/4
    ▲                        │ lease lost · local deadline passed · deposed · work ended
    └──── resign ◄───────────┘ (work is cancelled and awaited first)
```

The local deadline counts from before a renewal was sent, on the monotonic clock, and ends earlier
than the server's: a leader that stalls or is cut off stops before another one can start. What it
might still write is refused by the store (`Guard`).

A machine that is too slow for its lease gets a longer one: a term that was lost for want of a
renewal is followed by one with LENGTHEN times the TTL, up to TTL_MAX_S. Otherwise the work of
taking over, begun again and again, would itself be what makes the next renewal late. Once
renewals have been quick for CALM_S the lease is shortened again, within the term.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass

import structlog

from controller.store.base import Deposed, Guard, Lead, Seat, StoreUnavailable

TTL_S = 5
"""Seconds without a renewal after which another controller may lead."""

TTL_MAX_S = 60
"""As long as that may become on a machine that has shown to be slow."""

LENGTHEN = 3
CALM_S = 600.0
CALM_FRACTION = 0.1
"""Share of the next shorter TTL that a renewal may be late for the leader to be called calm."""

RENEWALS_PER_TTL = 4
MARGIN_FRACTION = 0.2
"""Share of the TTL by which the local deadline is shorter than the server's."""

RETRY_MAX_S = 2.0
RESIGN_TIMEOUT_S = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Leader:
    """What a leader says of itself: a name of its own for each process, and the addresses
    (`host:port`) where it serves operators and agents, and those who join."""

    id: str
    address: str
    join_address: str = ""

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def decode(text: str) -> Leader | None:
        """None: nobody leads, or who leads wrote what this version cannot read."""
        try:
            fields = json.loads(text)
            return Leader(
                id=str(fields["id"]),
                address=str(fields["address"]),
                join_address=str(fields.get("join_address", "")),
            )
        except (ValueError, KeyError, TypeError):
            return None


class Leadership:
    """One term. Everything it runs ends with it."""

    def __init__(self, lead: Lead, deadline: float, clock: Callable[[], float]) -> None:
        self.lead = lead
        self._deadline = deadline
        self._clock = clock

    @property
    def guard(self) -> Guard:
        """What every write of this term is guarded by."""
        return self.lead.guard

    @property
    def holds(self) -> bool:
        """False once the lease may be over; ask before acting on the world without the store."""
        return self._clock() < self._deadline

    @property
    def remaining_s(self) -> float:
        return max(0.0, self._deadline - self._clock())

    def extend(self, deadline: float) -> None:
        self._deadline = deadline


Work = Callable[[Leadership], Awaitable[None]]


class Election:
    """Campaigns for the seat and runs the leader's work while it is held.

    `alone`: nobody else can lead (the store is this controller's own), so that a lease that is lost
    costs no more when it is longer, and taking over again and again does. Where others can, they
    are to take over as soon as ever."""

    def __init__(
        self,
        seat: Seat,
        me: Leader,
        *,
        ttl_s: int = TTL_S,
        alone: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seat = seat
        self._me = me
        self._ttl_s = self._least_s = ttl_s
        self._alone = alone
        self._clock = clock
        self._term: Leadership | None = None
        self.reason = ""  # why it cannot campaign; empty: it can
        self._left: Lead | None = None  # a term that is over, its lease not known to be

    @property
    def term(self) -> Leadership | None:
        """The present term, where this controller leads and its lease holds."""
        return self._term if self._term and self._term.holds else None

    @property
    def leader(self) -> Leader | None:
        """Who leads, as far as the mirror knows; this controller while its lease holds: where the
        store does not answer, the mirror names it for longer."""
        found = Leader.decode(self._seat.holder)
        stale = found is not None and found.id == self._me.id and self.term is None
        return None if stale else found

    async def run(self, work: Work) -> None:
        """Campaign and lead, again and again, until cancelled or until `work` returns or raises
        something else than Deposed and StoreUnavailable. Resigns before it ends."""
        while True:
            term = await self._campaign()
            log.info(
                "leading",
                leader=self._me.id,
                revision=term.guard.create_revision,
                lease_s=self._ttl_s,
            )
            self._term = term
            try:
                if await self._serve(term, work):
                    return
            finally:
                self._term = None
                await self._resign(term.lead)

    @property
    def ttl_s(self) -> int:
        """Of the lease this controller holds, or will take."""
        return self._ttl_s

    def _lost(self) -> None:
        if self._alone:
            self._lengthen()

    def _lengthen(self) -> None:
        longer_s = min(LENGTHEN * self._ttl_s, max(TTL_MAX_S, self._least_s))
        if longer_s > self._ttl_s:
            log.warning("the next lease is longer", leader=self._me.id, lease_s=longer_s)
        self._ttl_s = longer_s

    async def _campaign(self) -> Leadership:
        delay_s = 0.1
        while True:
            sent = self._clock()
            try:
                if self._left:  # our own lease must not keep us waiting
                    await self._seat.resign_lead(self._left)
                    self._left = None
                    sent = self._clock()
                lead = await self._seat.take_lead(self._me.encode(), self._ttl_s)
                self.reason = ""
                if lead:
                    term = Leadership(lead, self._deadline(sent, self._ttl_s), self._clock)
                    if term.holds:
                        return term
                    # The answer came too late to act on, and so will the next one.
                    log.warning("the store is slow to let us lead", leader=self._me.id)
                    self._lengthen()
                    await self._resign(lead)
                    continue
                await self._wait_vacant()
                delay_s = 0.1
            except StoreUnavailable as error:
                self.reason = str(error)
                log.warning("cannot campaign", reason=str(error), retry_s=delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(RETRY_MAX_S, 2 * delay_s)

    def _deadline(self, sent: float, granted_s: float) -> float:
        return sent + granted_s * (1 - MARGIN_FRACTION)

    async def _wait_vacant(self) -> None:
        """Returns when the mirror says that nobody leads, or after a TTL: the mirror may lag."""
        try:
            async with asyncio.timeout(self._ttl_s):
                revision = -1
                while True:
                    revision = (await self._seat.wait_changed(revision)).revision
                    if not self._seat.holder:
                        return
        except TimeoutError:
            return

    async def _serve(self, term: Leadership, work: Work) -> bool:
        """Run the work of one term; True where it returned by itself."""
        working = asyncio.ensure_future(work(term))
        keeping = asyncio.create_task(self._keep(term))
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = working.done()
            # The lease goes on being renewed while the work winds down, as long as it can be.
            working.cancel()
            await asyncio.wait({working})
            keeping.cancel()
            await asyncio.wait({keeping})
        if not keeping.cancelled() and (failure := keeping.exception()):
            raise failure
        return self._outcome(working, ended)

    def _outcome(self, working: asyncio.Future[None], ended: bool) -> bool:
        if working.cancelled():
            return False
        match working.exception():
            case None:
                return ended
            case Deposed() | StoreUnavailable() as failure:
                log.warning("stepping down", leader=self._me.id, reason=str(failure))
                return False
            case failure:
                raise failure

    async def _keep(self, term: Leadership) -> None:
        """Renews the lease; returns once it is lost, or may be."""
        interval_s = self._ttl_s / RENEWALS_PER_TTL
        calm_since = self._clock()
        while True:
            due = self._clock() + interval_s
            await asyncio.sleep(min(interval_s, term.remaining_s))
            if not term.holds:
                log.error("lease not renewed in time", leader=self._me.id)
                self._lost()
                return
            sent = self._clock()
            try:
                async with asyncio.timeout(term.remaining_s):
                    granted_s = await self._seat.renew_lead(term.lead)
                term.extend(self._deadline(sent, granted_s))
                if self._clock() - due > CALM_FRACTION * self._shorter_s:
                    calm_since = self._clock()
                elif self._clock() - calm_since > CALM_S and self._shorter_s < self._ttl_s:
                    await self._shorten(term)
                    calm_since = self._clock()
                interval_s = self._ttl_s / RENEWALS_PER_TTL
            except Deposed as lost:
                log.error("lease lost", leader=self._me.id, reason=str(lost))
                self._lost()
                return
            except (StoreUnavailable, TimeoutError) as error:
                log.warning(
                    "lease not renewed", leader=self._me.id, reason=str(error) or "no answer"
                )
                calm_since = self._clock()
                interval_s = min(0.2, interval_s)

    @property
    def _shorter_s(self) -> int:
        return max(self._least_s, self._ttl_s // LENGTHEN)

    async def _shorten(self, term: Leadership) -> None:
        """Go on with a shorter lease. Raises Deposed where it is not known which one holds."""
        sent, shorter_s = self._clock(), self._shorter_s
        try:
            term.lead = await self._seat.change_lease(term.lead, self._me.encode(), shorter_s)
        except StoreUnavailable as error:
            raise Deposed(f"the lease could not be changed: {error}") from error
        term.extend(self._deadline(sent, shorter_s))
        self._ttl_s = shorter_s
        log.info("lease shortened", leader=self._me.id, lease_s=shorter_s)

    async def _resign(self, lead: Lead) -> None:
        """So that the next leader need not wait for the lease to run out."""
        self._left = lead
        try:
            async with asyncio.timeout(RESIGN_TIMEOUT_S):
                await self._seat.resign_lead(lead)
            self._left = None
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("cannot resign", leader=self._me.id, reason=str(error))
