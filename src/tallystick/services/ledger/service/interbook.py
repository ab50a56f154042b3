"""Money from one book to another, which may be on another shard.

Three steps, each safe to do again: a hold in the source's book, a post in the destination's book under the hold's id, and the hold's capture or
void. There is no state beside the books: an open hold on a transit account is a transfer that somebody has to finish, and its row says how.
What the other book answers is pinned to the id, so whoever asks gets the same answer; while it is not known, nothing is ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final, Literal, Protocol
from uuid import UUID

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.db import Database
from tallystick.chassis.idempotency import Entry
from tallystick.contracts.ledger.messages import Reason
from tallystick.contracts.ledger.problems import (
    BookElsewhere,
    BookQuarantined,
    TransferExists,
    TransferNotFound,
    TransferRefused,
)
from tallystick.kernel.clock import Clock
from tallystick.kernel.deployment import HOME
from tallystick.kernel.ids import AccountId, TransferId
from tallystick.kernel.problem import InvalidRequest, Problem, Unavailable
from tallystick.services.ledger.model import (
    ENDED,
    MOMENTARY,
    Crossing,
    InFlight,
    InTransit,
    Outcome,
    Result,
    State,
    Told,
    arrival,
    crossing_of,
    departure,
    ending,
    outcome_of,
    transit_account,
)
from tallystick.services.ledger.service.accounts import Accounts
from tallystick.services.ledger.service.asks import Ask, GuardRefused
from tallystick.services.ledger.service.poster import Poster
from tallystick.services.ledger.store import FIRST, Store

#: Open holds that the schedule looks at at once, and how many it finishes side by side.
PAGE: Final = 200
SIDE_BY_SIDE: Final = 16
#: The request that began it has that long before the schedule takes it up too. Both at once would do no harm.
GRACE: Final = timedelta(seconds=5)
#: Ids that are tried for a hold's end. The first is taken only if somebody used it for something else.
ENDINGS: Final = 5

#: Transit accounts that are known to be there, about 400 bytes each.
MAX_TRANSITS: Final = 20_000

#: Tenant, book, way, other book and currency of a transit account.
Place = tuple[str, str, Literal["in", "out"], str, str]

_CROSSINGS = telemetry.counter("ledger_interbook", "Transfers between books by how they ended", ["state"])
_IN_FLIGHT = telemetry.gauge(
    "ledger_interbook_in_flight", "Transfers between books that the schedule could not end yet"
)


#: Refusals that say that the id is another transfer's: one that was posted or held, or one that was refused.
_ANOTHERS: Final = ("exists_with_different_", Reason.ID_ALREADY_FAILED)


class _Begun(msgspec.Struct, frozen=True):
    """What is stored under an idempotency key: which transfer it was, and whether its hold was refused. How it stands is in the books."""

    id: TransferId
    reason: str | None


_encode = msgspec.json.Encoder().encode


def _begun(stored: bytes) -> _Begun:
    found = msgspec.json.decode(stored, type=dict[str, str | None])
    return _Begun(TransferId(UUID(found["id"])), found["reason"])


def _render(results: Sequence[Result], _receipt: str | None) -> tuple[int, bytes]:
    return 201, _encode({"id": str(results[0].id), "reason": results[0].reason})


class Shard(Protocol):
    """What is asked of the ledger that has the other book."""

    async def has_book(self, tenant: str, book: str, client: str) -> None:
        """Raises BookNotFound, BookElsewhere, or what says that it can't be known now."""

    async def arrive(self, tenant: str, crossing: Crossing) -> Outcome:
        """Posts in the destination's book, once; raises when it is not known or not settled whether it was: ask again."""


class Interbook:
    """`others` are the ways to the other shards by name. The one at home knows where every book is."""

    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        clock: Clock,
        poster: Poster,
        accounts: Accounts,
        others: Mapping[str, Shard],
    ) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._poster = poster
        self._accounts = accounts
        self._shards: dict[str, Shard] = {**others, poster.shard: self}
        self._known: dict[tuple[str, str], str] = {}
        self._transits: dict[Place, AccountId] = {}

    # ---- the source's side ------------------------------------------------------------------------------------------

    async def transfer(self, tenant: str, actor: str, trace: str | None, crossing: Crossing, entry: Entry | None = None) -> Told:  # fmt: skip
        """Begins it and takes it as far as it goes now. With the same id or key again: as it stands, and further if it can be.

        Raises BookNotFound and BookElsewhere of either book, TransferExists when the id is another transfer's, the idempotency contract's
        problems, and those of the database: then the same again will tell.
        """
        source, destination = crossing.source, crossing.destination
        if source.book == destination.book:
            raise InvalidRequest("both accounts are in one book: post a transfer there")
        await self._poster.book(tenant, source.book)
        await self._look_for(tenant, destination.book, crossing.client)
        transit = await self._transit((tenant, source.book, "out", destination.book, crossing.currency), actor, trace)
        ask = Ask(
            tenant,
            actor,
            trace,
            [departure(crossing, transit)],
            atomic=False,
            entry=entry,
            # What is stored under the key is which transfer it was: how that stands is in the books.
            render=None if entry is None else _render,
            book=source.book,
            crossing=True,
        )
        answered = await self._poster.post(ask)
        # With a key there is a stored answer, and nothing but that if it was looked up: replayed, or our own after a COMMIT without an answer.
        begun = _Begun(answered.results[0].id, answered.results[0].reason) if entry is None else _begun(answered.body)
        if begun.reason is not None and begun.reason.startswith(_ANOTHERS):
            raise TransferExists("take a new id for another transfer", reason=begun.reason)
        if begun.reason in MOMENTARY:
            raise BookQuarantined
        try:
            return await self._further(tenant, begun.id, source.book)
        except TransferNotFound:
            # Refused, and not for good.
            raise TransferRefused(reason=begun.reason) from None

    async def get(self, tenant: str, crossing: TransferId, book: str) -> Told:
        """How it stands, by its source's book. Raises TransferNotFound, BookNotFound, BookElsewhere."""
        number = await self._poster.book(tenant, book)
        state = await self._store.transfer(self._database, number, crossing)
        return await self._told(tenant, number, crossing, state)

    async def _further(self, tenant: str, crossing: TransferId, book: str) -> Told:
        """Goes on with it if it is in flight; what can't be known now is left to the schedule."""
        number = await self._poster.book(tenant, book)
        state = await self._store.transfer(self._database, number, crossing)
        hold = state.holds.get((number, crossing))
        if hold is None or hold.state != "held":
            return await self._told(tenant, number, crossing, state)
        try:
            await self._finish(tenant, book, number, state)
        except Problem as problem:
            telemetry.log.warning("ledger.interbook.waits", slug=problem.slug, book=number)
        return await self.get(tenant, crossing, book)

    async def _finish(self, tenant: str, book: str, number: int, state: State) -> None:
        """The second and the third step. Raises when it is not known what became of the second, and what the third's database raises."""
        crossing = crossing_of(tenant, next(iter(state.transfers.values())))
        if crossing is None:
            raise GuardRefused("a hold on a transit account is not that of a transfer", context={"book": number})
        outcome = await self._arrive(tenant, crossing)
        reason: str | None = None
        for attempt in range(ENDINGS):
            command = ending(f"{tenant}/{book}", crossing, outcome, attempt)
            ask = Ask(tenant, crossing.client, None, [command], atomic=False, book=book, crossing=True)
            result = (await self._poster.post(ask)).results[0]
            reason = result.reason
            if reason is None or reason in ENDED:
                _CROSSINGS.labels("posted" if outcome.reason is None else "rejected").inc()
                return
            if reason in MOMENTARY:
                raise BookQuarantined
        raise GuardRefused("a hold between books can't be ended", context={"book": number, "reason": str(reason)})

    async def _told(self, tenant: str, number: int, crossing: TransferId, state: State) -> Told:
        hold = state.holds.get((number, crossing))
        made = state.transfers.get((number, crossing))
        known = None if made is None else crossing_of(tenant, made)
        if hold is None or known is None:
            refused = state.rejections.get((number, crossing))
            if refused is None or not refused.crossing or made is not None:
                raise TransferNotFound
            return Told(id=crossing, state="rejected", reason=refused.reason, account=refused.account)
        outcome = Outcome()
        if hold.state == "voided":
            endings = await self._store.endings(self._database, number, crossing)
            outcome = next((outcome_of(code, metadata) for kind, code, metadata in endings if kind == "void"), outcome)
        return Told(
            id=crossing,
            state="posted" if hold.state == "captured" else "in_flight" if hold.state == "held" else "rejected",
            reason=outcome.reason,
            account=outcome.account,
            crossing=known,
            hold=made,
        )

    async def _transit(self, place: Place, actor: str, trace: str | None) -> AccountId:
        """The transit account at this place, opened if it is not there. Once there it stays: that is remembered."""
        known = self._transits.get(place)
        if known is None:
            account = transit_account(*place)
            await self._accounts.open(place[0], actor, trace, account, book=place[1], reserved=True)
            if len(self._transits) >= MAX_TRANSITS:
                self._transits.clear()
            known = self._transits[place] = account.id
        return known

    # ---- finding the other book -------------------------------------------------------------------------------------

    async def _look_for(self, tenant: str, book: str, client: str) -> None:
        """Before anything is held: the book must be known to be there. It will not go away, and not be opened meanwhile."""
        if (tenant, book) in self._known:
            return
        shard = HOME
        try:
            await self._at(shard).has_book(tenant, book, client)
        except BookElsewhere as elsewhere:
            shard = str(elsewhere.extensions["shard"])
            await self._at(shard).has_book(tenant, book, client)
        self._known[tenant, book] = shard

    async def _arrive(self, tenant: str, crossing: Crossing) -> Outcome:
        await self._look_for(tenant, crossing.destination.book, crossing.client)
        return await self._at(self._known[tenant, crossing.destination.book]).arrive(tenant, crossing)

    def _at(self, name: str) -> Shard:
        shard = self._shards.get(name)
        if shard is None:
            raise Unavailable(f"this ledger has no way to the shard {name}")
        return shard

    # ---- the destination's side -------------------------------------------------------------------------------------

    async def has_book(self, tenant: str, book: str, client: str) -> None:
        """Raises BookNotFound, BookElsewhere."""
        del client
        await self._poster.book(tenant, book)

    async def arrive(self, tenant: str, crossing: Crossing) -> Outcome:
        """The second step, in the book that is here."""
        source, book = crossing.source, crossing.destination.book
        number = await self._poster.book(tenant, book)
        transit = await self._transit((tenant, book, "in", source.book, crossing.currency), crossing.client, None)
        command = arrival(crossing, transit)
        ask = Ask(tenant, crossing.client, None, [command], atomic=False, book=book, crossing=True)
        result = (await self._poster.post(ask)).results[0]
        reason = result.reason
        if reason is None:
            return Outcome()
        # A refusal counts when the id can't become anything else any more.
        state = await self._store.transfer(self._database, number, crossing.id)
        existing = state.transfers.get((number, crossing.id))
        if existing is None and not state.rejections:
            raise BookQuarantined if reason in MOMENTARY else Unavailable(f"the other book says {reason} for now")
        # One that came from the transit account is this crossing, even if an earlier release told it in other words.
        if existing is not None and existing.debit_account == transit and existing.amount == crossing.amount:
            return Outcome()
        # Of two transit accounts the one that it comes from is the ledger's own.
        fault = crossing.destination.account if reason is Reason.TRANSIT_ACCOUNT else result.at_fault
        return Outcome(str(reason), fault)

    # ---- the schedule, and the proof --------------------------------------------------------------------------------

    async def resume(self) -> int:
        """Finishes what is in flight for longer than a request takes. Returns how many could not be finished yet."""
        waiting = 0
        after = FIRST
        before = self._clock.now() - GRACE
        places = asyncio.Semaphore(SIDE_BY_SIDE)
        while found := await self._store.in_flight(self._database, after, before, PAGE):
            done = await asyncio.gather(*(self._resume(one, places) for one in found))
            waiting += done.count(False)
            after = (found[-1].transit, found[-1].hold)
        _IN_FLIGHT.set(waiting)
        if waiting:
            telemetry.log.warning("ledger.interbook.in_flight", count=waiting)
        return waiting

    async def _resume(self, one: InFlight, places: asyncio.Semaphore) -> bool:
        async with places:
            try:
                state = await self._store.transfer(self._database, one.book, one.hold)
                await self._finish(one.tenant, one.book_name, one.book, state)
            except Problem as problem:
                telemetry.log.info("ledger.interbook.waits", slug=problem.slug, book=one.book)
                return False
        return True

    async def in_transit(self, tenant: str | None = None) -> list[InTransit]:
        """What went through each transit account here, and what is held for it: what `disagreements` compares between shards."""
        return await self._store.in_transit(self._database, tenant)
