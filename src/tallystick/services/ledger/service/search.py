"""Search for entries, transfers and transactions of a book."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from tallystick.chassis.db import Database, Transaction
from tallystick.contracts.ledger.problems import AccountNotFound, HistoryNotKept, NoAccountMatches
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import AccountId
from tallystick.kernel.problem import InvalidRequest
from tallystick.services.ledger.model import (
    LOOKED_AT,
    ONE_BY_ONE,
    BookRow,
    Hit,
    Listing,
    Side,
    TransactionRow,
    Transfer,
    Wanted,
    sides,
)
from tallystick.services.ledger.service.accounts import Accounts, At
from tallystick.services.ledger.service.asof import AsOf, check_past
from tallystick.services.ledger.store import Store

#: Most transactions that one request examines, with all of their transfers if necessary.
TRANSACTIONS_LOOKED_AT: Final = 2000

_INSTANT: Final = timedelta(microseconds=1)


class Recorded(msgspec.Struct, frozen=True):
    """A period of recorded time, from `start` to before `end`; None: no bound."""

    start: datetime | None = None
    end: datetime | None = None


class _Seen(msgspec.Struct, frozen=True):
    """What was found after the sequence `low`. If `following` is set, only the sequences from there up were examined, and there is more below."""

    as_of: int
    low: int
    hits: list[Hit]
    following: int | None


class Search:
    """Lists are newest first. All pages of a list are as of the first page's sequence: what is recorded later is not in them."""

    def __init__(self, *, database: Database, store: Store, clock: Clock, accounts: Accounts, as_of: AsOf) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._accounts = accounts
        self._as_of = as_of

    async def transfers(  # noqa: PLR0917 - what is asked
        self, tenant: str, name: str, wanted: Wanted, recorded: Recorded, place: tuple[int, int] | None, limit: int
    ) -> Listing[Hit]:
        """A page of transfers. `place` is the sequence as of which the list is, and the one before which the page begins.

        Raises BookNotFound, AccountNotFound, NoAccountMatches for a pattern that matches no account, HistoryNotKept for a time before the book
        was opened or still to come.
        """
        goes_on = None if place is None else (place[0], place[1] - 1)
        seen = await self._search(tenant, name, wanted, recorded, goes_on, limit + 1)
        page = seen.hits[:limit]
        following = page[-1].transfer.sequence if len(seen.hits) > limit else seen.following
        return Listing(
            book=name,
            as_of=seen.as_of,
            found=page,
            down_to=seen.low if following is None else following - 1,
            next_before=following,
        )

    async def entries(  # noqa: PLR0917 - what is asked
        self, tenant: str, name: str, wanted: Wanted, recorded: Recorded, place: tuple[int, int] | None, limit: int
    ) -> Listing[Side]:
        """A page of entries: the sides of transfers that match. `place` is the list's sequence, and the `Side.place` before which the page
        begins. Raises as `transfers`.
        """
        goes_on = None if place is None else (place[0], (place[1] - 1) // 2)
        seen = await self._search(tenant, name, wanted, recorded, goes_on, limit + 1)
        entries = sides(seen.hits, None if place is None else place[1])
        page = entries[:limit]
        if len(entries) > limit:
            following: int | None = page[-1].place
        elif len(seen.hits) > limit:
            following = 2 * seen.hits[-1].transfer.sequence
        else:
            following = None if seen.following is None else 2 * seen.following
        return Listing(
            book=name,
            as_of=seen.as_of,
            found=page,
            down_to=seen.low if following is None else (following - 1) // 2,
            next_before=following,
        )

    async def transactions(  # noqa: PLR0917 - what is asked
        self, tenant: str, name: str, wanted: Wanted, recorded: Recorded, place: tuple[int, int] | None, limit: int
    ) -> Listing[tuple[TransactionRow, Sequence[Transfer]]]:
        """A page of transactions that match and have a transfer that matches, each with all of its transfers. `place` is the list's sequence, and
        the sequence before which the page's first transaction begins. Raises as `transfers`.
        """
        now = self._clock.now()
        await self._as_of.number(tenant, name)
        async with self._database.transaction(snapshot=True) as tx:
            row = (await self._as_of.book(tx, tenant, name, At(), now)).row
            as_of, before = (row.sequence, row.sequence + 1) if place is None else place
            if as_of > row.sequence:
                raise InvalidRequest("not a cursor of this list")
            low, top = await self._bounds(tx, row, wanted, recorded, as_of, now)
            # A transaction counts as recorded with its last transfer. So one that begins before the period and ends in it belongs to it.
            low, top = [await self._store.before_cut(tx, row.id, bound) for bound in (low, top)]
            before = max(min(before, top + 1), low + 1)
            accounts = await self._accounts_wanted(tx, tenant, row, wanted, now)
            if wanted.account is not None and accounts:
                wanted = msgspec.structs.replace(wanted, account=accounts[0])
            down = await self._store.transactions_reach(tx, row.id, low, before, TRANSACTIONS_LOOKED_AT)
            rows = await self._store.transactions_found(tx, row.id, down, before, wanted, limit + 1)
            page = [(one, await self._store.between(tx, row.id, one.first, one.last)) for one in rows[:limit]]
        if len(rows) > limit:
            following: int | None = page[-1][0].first
        else:
            following = None if down == low else down + 1
        return Listing(
            book=name,
            as_of=as_of,
            found=page,
            down_to=low if following is None else following - 1,
            next_before=following,
        )

    async def _search(  # noqa: PLR0917 - what is asked
        self,
        tenant: str,
        name: str,
        wanted: Wanted,
        recorded: Recorded,
        place: tuple[int, int] | None,
        limit: int,
    ) -> _Seen:
        """The newest matching transfers, at most `limit`, up to the sequence of `place`. It examines at most LOOKED_AT entries."""
        now = self._clock.now()
        await self._as_of.number(tenant, name)
        async with self._database.transaction(snapshot=True) as tx:
            row = (await self._as_of.book(tx, tenant, name, At(), now)).row
            as_of, high = (row.sequence, row.sequence) if place is None else place
            if as_of > row.sequence:
                raise InvalidRequest("not a cursor of this list")
            low, top = await self._bounds(tx, row, wanted, recorded, as_of, now)
            high = max(min(high, top), low)
            accounts = await self._accounts_wanted(tx, tenant, row, wanted, now)
            if accounts is None:
                down = max(low, high - LOOKED_AT)
                hits = await self._store.found(tx, row.id, down, high, wanted, limit)
            else:
                down = await self._store.reach(tx, accounts, low, high, LOOKED_AT // (2 * len(accounts)))
                hits = await self._store.found_of(tx, row.id, down, high, accounts, wanted, limit)
        return _Seen(as_of, low, hits, None if down == low else down + 1)

    async def _bounds(  # noqa: PLR0917 - what is asked
        self, tx: Transaction, row: BookRow, wanted: Wanted, recorded: Recorded, as_of: int, now: datetime
    ) -> tuple[int, int]:
        """The sequences (after the first, up to the second) of what was recorded in the period and belongs to the transaction with the wanted
        reference, if one is wanted.
        """
        start, end = recorded.start, recorded.end
        for since, until in ((start, end), (wanted.effective_from, wanted.effective_to)):
            if since is not None and until is not None and since >= until:
                raise InvalidRequest("a time begins before it ends")
            if any(said is not None and said > now for said in (since, until)):
                raise HistoryNotKept("that time is still to come", as_of=row.sequence)
        if end is not None:
            check_past(end, row, now)
        low = 0 if start is None else await self._store.sequence_at(tx, row.id, start - _INSTANT)
        top = as_of if end is None else min(as_of, await self._store.sequence_at(tx, row.id, end - _INSTANT))
        if wanted.reference is not None:
            span = await self._store.referred(tx, row.id, wanted.reference)
            if span is None:
                return low, low
            low, top = max(low, span[0]), min(top, span[1])
        return low, max(low, top)

    async def _accounts_wanted(
        self, tx: Transaction, tenant: str, row: BookRow, wanted: Wanted, now: datetime
    ) -> list[AccountId] | None:
        """The accounts whose entries to examine; None: examine the whole book, because no account is wanted or too many match."""
        if wanted.account is not None:
            account = await self._accounts.found(tx, tenant, wanted.account, row.name, now)
            if account.book != row.id:
                raise AccountNotFound("it is in another book", book=account.book_name)
            return [account.id]
        if wanted.pattern is None:
            return None
        fitting = await self._store.accounts_fitting(tx, row.id, wanted.pattern, ONE_BY_ONE + 1)
        if not fitting:
            raise NoAccountMatches("no account of the book ever had such a path", book=row.name)
        return fitting if len(fitting) <= ONE_BY_ONE else None
