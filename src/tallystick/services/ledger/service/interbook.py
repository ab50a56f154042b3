"""Transfers from one book to another, which may be on another shard.

Three steps, each safe to repeat: a hold in the source book, a post in the destination book under the hold's id, and the hold's capture or void.
There is no state besides the books: an open hold on a transit account is a transfer still to be finished, and its row says how. The
destination's answer is pinned to the id, so everybody who asks gets the same answer. Until it is known, the hold stays open.
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

#: Open holds that the schedule reads at a time.
PAGE: Final = 200
#: Open holds that the schedule finishes concurrently.
SIDE_BY_SIDE: Final = 16
#: The request that began a transfer has this long before the schedule takes it up too. Both at once would be harmless.
GRACE: Final = timedelta(seconds=5)
#: Ids that are tried for ending a hold. One after the first is needed only if somebody used that for something else.
ENDINGS: Final = 5

#: Cached transit accounts, about 400 bytes each.
MAX_TRANSITS: Final = 20_000

#: Tenant, book, direction, other book and currency of a transit account.
Place = tuple[str, str, Literal["in", "out"], str, str]

_CROSSINGS = telemetry.counter("ledger_interbook", "Transfers between books by how they ended", ["state"])
_IN_FLIGHT = telemetry.gauge(
    "ledger_interbook_in_flight", "Transfers between books that the schedule could not end yet"
)


#: Refusals (reasons or their beginnings) that mean that the id belongs to another transfer, which was posted, held or refused.
_ID_TAKEN: Final = ("exists_with_different_", Reason.ID_ALREADY_FAILED)


class _Begun(msgspec.Struct, frozen=True):
    """What is stored under an idempotency key: the transfer's id, and why its hold was refused, if it was. Its current state is in the books."""

    id: TransferId
    reason: str | None


_encode = msgspec.json.Encoder().encode


def _begun(stored: bytes) -> _Begun:
    found = msgspec.json.decode(stored, type=dict[str, str | None])
    return _Begun(TransferId(UUID(found["id"])), found["reason"])


def _render(results: Sequence[Result], _receipt: str | None) -> tuple[int, bytes]:
    return 201, _encode({"id": str(results[0].id), "reason": results[0].reason})


class Shard(Protocol):
    """The ledger that has the other book."""

    async def has_book(self, tenant: str, book: str, client: str) -> None:
        """Raises BookNotFound, BookElsewhere, or the problem because of which it can't be known now."""

    async def arrive(self, tenant: str, crossing: Crossing) -> Outcome:
        """Posts in the destination book, once. Raises while the outcome is not known or not final: ask again."""


class Interbook:
    """`others` are the other shards by name. The home shard knows where every book is."""

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
        """Begins the transfer and takes it as far as possible now. Repeated with the same id or key, it returns the current state, and goes on if
        possible.

        Raises BookNotFound and BookElsewhere for either book, TransferExists when the id is another transfer's, TransferRefused and
        BookQuarantined for refusals that are not final, the idempotency contract's problems, and those of the database; after the latter,
        repeat the request to find out.
        """
        source, destination = crossing.source, crossing.destination
        if source.book == destination.book:
            raise InvalidRequest("both accounts are in one book: post a transfer there")
        await self._poster.book(tenant, source.book)
        await self._find_shard(tenant, destination.book, crossing.client)
        transit = await self._transit((tenant, source.book, "out", destination.book, crossing.currency), actor, trace)
        ask = Ask(
            tenant,
            actor,
            trace,
            [departure(crossing, transit)],
            atomic=False,
            entry=entry,
            # Under the key only the transfer's id is stored: its state is in the books.
            render=None if entry is None else _render,
            book=source.book,
            crossing=True,
        )
        answered = await self._poster.post(ask)
        # With a key there is always a stored answer, and sometimes nothing else: if it was replayed, or is our own after an unknown COMMIT.
        begun = _Begun(answered.results[0].id, answered.results[0].reason) if entry is None else _begun(answered.body)
        if begun.reason is not None and begun.reason.startswith(_ID_TAKEN):
            raise TransferExists("take a new id for another transfer", reason=begun.reason)
        if begun.reason in MOMENTARY:
            raise BookQuarantined
        try:
            return await self._advance(tenant, begun.id, source.book)
        except TransferNotFound:
            # The hold was refused, but not finally.
            raise TransferRefused(reason=begun.reason) from None

    async def get(self, tenant: str, crossing: TransferId, book: str) -> Told:
        """The transfer's state by its source book. Raises TransferNotFound, BookNotFound, BookElsewhere."""
        number = await self._poster.book(tenant, book)
        state = await self._store.transfer(self._database, number, crossing)
        return await self._state_of(tenant, number, crossing, state)

    async def _advance(self, tenant: str, crossing: TransferId, book: str) -> Told:
        """Tries to finish the transfer if it is in flight. What can't be finished now is left to the schedule."""
        number = await self._poster.book(tenant, book)
        state = await self._store.transfer(self._database, number, crossing)
        hold = state.holds.get((number, crossing))
        if hold is None or hold.state != "held":
            return await self._state_of(tenant, number, crossing, state)
        try:
            await self._finish(tenant, book, number, state)
        except Problem as problem:
            telemetry.log.warning("ledger.interbook.waits", slug=problem.slug, book=number)
        return await self.get(tenant, crossing, book)

    async def _finish(self, tenant: str, book: str, number: int, state: State) -> None:
        """The second and the third step. Raises when the outcome of the second is not known, and what the database raises in the third."""
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

    async def _state_of(self, tenant: str, number: int, crossing: TransferId, state: State) -> Told:
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
        """The transit account at this place, opened if necessary. It is cached, since a transit account is never closed."""
        known = self._transits.get(place)
        if known is None:
            account = transit_account(*place)
            await self._accounts.open(place[0], actor, trace, account, book=place[1], reserved=True)
            if len(self._transits) >= MAX_TRANSITS:
                self._transits.clear()
            known = self._transits[place] = account.id
        return known

    # ---- finding the other book -------------------------------------------------------------------------------------

    async def _find_shard(self, tenant: str, book: str, client: str) -> None:
        """Finds the shard of the destination book, and remembers it, since books don't move. Called before anything is held, so that nothing is held
        for a book that does not exist.
        """
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
        await self._find_shard(tenant, crossing.destination.book, crossing.client)
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
        """The second step, in a book of this shard. Raises while the refusal is not final."""
        source, book = crossing.source, crossing.destination.book
        number = await self._poster.book(tenant, book)
        transit = await self._transit((tenant, book, "in", source.book, crossing.currency), crossing.client, None)
        command = arrival(crossing, transit)
        ask = Ask(tenant, crossing.client, None, [command], atomic=False, book=book, crossing=True)
        result = (await self._poster.post(ask)).results[0]
        reason = result.reason
        if reason is None:
            return Outcome()
        # A refusal is final once it is pinned to the id.
        state = await self._store.transfer(self._database, number, crossing.id)
        existing = state.transfers.get((number, crossing.id))
        if existing is None and not state.rejections:
            raise BookQuarantined if reason in MOMENTARY else Unavailable(f"the other book says {reason} for now")
        # A post from the transit account under this id is this transfer, even if an earlier release stored it with other details.
        if existing is not None and existing.debit_account == transit and existing.amount == crossing.amount:
            return Outcome()
        # If the destination is a transit account too, that one is at fault: the other is the ledger's own end.
        fault = crossing.destination.account if reason is Reason.TRANSIT_ACCOUNT else result.at_fault
        return Outcome(str(reason), fault)

    # ---- the schedule, and the proof --------------------------------------------------------------------------------

    async def resume(self) -> int:
        """Finishes transfers that have been in flight for longer than GRACE. Returns how many could not be finished yet."""
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
        """What went through each transit account of this shard, and what is held for it. `disagreements` compares it between shards."""
        return await self._store.in_transit(self._database, tenant)
