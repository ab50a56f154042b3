"""Books: open them, change their settings, and give them a chart of accounts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from tallystick.chassis.db import Database, Transaction
from tallystick.chassis.idempotency import Answer, Entry, complete
from tallystick.chassis.outbox import Fact, Outbox
from tallystick.contracts.ledger.messages import BookFact, BookSealed, ChartChanged
from tallystick.contracts.ledger.problems import (
    BookElsewhere,
    BookExists,
    BookNotFound,
    BookQuarantined,
    ChartOrphansAccounts,
    PeriodSealed,
)
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock, rfc3339
from tallystick.kernel.deployment import HOME
from tallystick.kernel.ids import AccountId
from tallystick.kernel.problem import InvalidRequest, Unavailable
from tallystick.services.ledger.model import BookRow, Chart, Charted, unsealable
from tallystick.services.ledger.service.asks import Answered, taken
from tallystick.services.ledger.service.poster import Poster
from tallystick.services.ledger.store import Store

#: Who makes the request: tenant, actor, and the request's trace id.
Who = tuple[str, str, str | None]

#: The chart of a book that has none.
NO_CHART: Final = Chart(0, "open", ())


#: How often the accounts are compared with a new chart without the book's lock, before they are compared under it.
COMPARISONS: Final = 3


class Compared(NamedTuple):
    """What was compared with a new chart: the book at this revision, that is its `accounts` up to the number `last`, but for those that were being
    opened.
    """

    revision: int
    accounts: int
    last: int


class Orphans:
    """Open accounts that a chart would not allow."""

    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        self._count = 0
        self._first: dict[str, Any] = {}

    def look(self, account: AccountId, charted: Charted) -> None:
        fault = self._chart.fault(charted)
        if fault is not None:
            self._count += 1
            self._first = self._first or {"first": ids.accounts.text(account), "why": fault[0]}

    def check(self) -> None:
        """Raises ChartOrphansAccounts."""
        if self._count:
            raise ChartOrphansAccounts(count=self._count, **self._first)


class Other(Protocol):
    """The ledger of another shard, as far as opening books needs it."""

    async def has_book(self, tenant: str, book: str, client: str) -> None:
        """Raises BookNotFound, BookElsewhere, or the problem because of which it can't be known now."""


class Books:
    """`others` are the other shards by name. The home shard is the directory: a book's name is unique across all shards."""

    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        outbox: Outbox,
        clock: Clock,
        poster: Poster,
        others: Mapping[str, Other],
    ) -> None:
        self._others = others
        self._database = database
        self._store = store
        self._outbox = outbox
        self._clock = clock
        self._poster = poster

    async def open(
        self,
        who: Who,
        name: str,
        description: str | None,
        backdating: str,
        shard: str | None = None,
        *,
        entry: Entry | None = None,
        render: Callable[[BookRow], bytes] | None = None,
    ) -> BookRow | Answered:
        """The new book, or the stored answer of an earlier request with this key. Opening it again with the same settings is harmless.
        Raises BookExists when it exists with other settings, and the idempotency contract's problems.

        At home, with another `shard`, only the assignment to that shard is stored. The book is then opened there, and that shard asks home
        whether it may. Raises InvalidRequest for an unknown shard, or for a book that home has not assigned to this shard; and what asking
        home raises.
        """
        tenant = who[0]
        now = self._clock.now()
        shard = shard or self._poster.shard
        if self._poster.shard != HOME:
            await self._ask_home(who, name, shard)
        elif shard != HOME and shard not in self._others:
            raise InvalidRequest(f"there is no shard {shard} of the ledger")
        async with self._database.transaction() as tx:
            if entry is not None and (before := await taken(tx, entry, None)) is not None:
                return before
            new = await self._store.insert_book(tx, tenant, name, description, backdating, shard, now)
            row = await self._store.book(tx, tenant, name)
            if row is None:
                raise BookNotFound
            if (row.description, row.backdating, row.shard) != (description, backdating, shard):
                raise BookExists("change its settings, or take another name")
            if new:
                await self._tell(tx, who, "ledger.book.opened", row, now, settings_of(row))
            if entry is not None and render is not None:
                await complete(tx, [Answer(entry, 201, render(row))])
        return row

    async def _ask_home(self, who: Who, name: str, shard: str) -> None:
        """Asks home whether a book of this name may be opened here. Raises if not, or if home does not answer."""
        if shard != self._poster.shard:
            raise BookElsewhere("the shard at home says where a book is", shard=HOME)
        home = self._others.get(HOME)
        if home is None:
            raise Unavailable("this ledger has no way to the shard at home")
        tenant, client, _ = who
        try:
            await home.has_book(tenant, name, client)
        except BookElsewhere as elsewhere:
            if elsewhere.extensions["shard"] != shard:
                raise
        except BookNotFound:
            raise InvalidRequest(f'first open it at home, with "shard": "{shard}"') from None
        else:
            raise BookElsewhere(shard=HOME)

    async def get(self, tenant: str, name: str) -> BookRow:
        """The book. Raises BookNotFound; but the main book is opened on first use, which this is."""
        await self._poster.book(tenant, name)
        row = await self._store.book(self._database, tenant, name)
        if row is None:
            raise BookNotFound
        return row

    async def page(self, tenant: str, after: str | None, limit: int) -> list[BookRow]:
        """A page of the tenant's books, by name, after `after`."""
        return await self._store.books(self._database, tenant, after, limit)

    async def change(self, who: Who, name: str, change: Callable[[BookRow], BookRow]) -> BookRow:
        """Stores the settings that `change` returns for the present ones. Raises BookNotFound, BookQuarantined."""
        now = self._clock.now()
        number = await self._poster.book(who[0], name)
        async with self._database.transaction() as tx:
            await self._store.lock_books(tx, [number])
            row = await self._writable(tx, who[0], name)
            wanted = change(row)
            if wanted == row:
                return row
            await self._store.set_book(tx, wanted)
            wanted = msgspec.structs.replace(wanted, revision=row.revision + 1)
            await self._tell(tx, who, "ledger.book.changed", wanted, now, settings_of(wanted))
        return wanted

    async def seal(self, who: Who, name: str, until: datetime) -> BookRow:
        """Seals the book: nothing can become effective at or before `until` any more. Repeating it is harmless.

        Raises BookNotFound, BookQuarantined, InvalidRequest for a time up to which no book can be sealed, and PeriodSealed when the book is
        already sealed up to a later time.
        """
        now = self._clock.now()
        if (no := unsealable(until, now)) is not None:
            raise InvalidRequest(no)
        number = await self._poster.book(who[0], name)
        async with self._database.transaction() as tx:
            await self._store.lock_books(tx, [number])
            row = await self._writable(tx, who[0], name)
            if row.sealed_until is not None and row.sealed_until >= until:
                if row.sealed_until > until:
                    raise PeriodSealed("a seal is not taken back", sealed_until=rfc3339(row.sealed_until))
                return row
            await self._store.seal_book(tx, number, until)
            row = msgspec.structs.replace(row, sealed_until=until, revision=row.revision + 1)
            sealed = BookSealed(book=row.id, name=row.name, until=rfc3339(until))
            await self._tell(tx, who, "ledger.book.sealed", row, now, sealed)
        return row

    async def revise(
        self,
        who: Who,
        name: str,
        kind: str,
        said: Callable[[BookRow], msgspec.Struct],
        store: Callable[[Transaction, int], Awaitable[None]],
    ) -> None:
        """Lets `store` change what the posting rules read about the book, while nobody posts to it. `said` makes the fact's message.

        Raises BookNotFound, BookQuarantined.
        """
        number = await self._poster.book(who[0], name)
        async with self._database.transaction() as tx:
            await self._store.lock_books(tx, [number])
            row = await self._writable(tx, who[0], name)
            await store(tx, number)
            await self._tell(tx, who, kind, row, self._clock.now(), said(row))

    # ---- the chart --------------------------------------------------------------------------------------------------

    async def chart(self, tenant: str, name: str, version: int | None = None) -> tuple[Chart, datetime | None]:
        """The book's chart, or an earlier `version` of it, and since when it has been in force. Version 0 (NO_CHART) if there is none. Raises
        BookNotFound.
        """
        number = await self._poster.book(tenant, name)
        return await self._store.chart(self._database, number, version) or (NO_CHART, None)

    async def set_chart(self, who: Who, name: str, make: Callable[[int], Chart]) -> tuple[Chart, datetime | None]:
        """Sets the book's chart. `make` gets the new version's number; the same rules again make no new version.

        All accounts are compared with it first without a lock, then those that were opened meanwhile, under the book's lock, for which transfers
        wait. If others were changed meanwhile, it begins anew; in the end it compares all under the lock.

        Raises BookNotFound, BookQuarantined, and ChartOrphansAccounts when it would not allow open accounts.
        """
        number = await self._poster.book(who[0], name)
        done = None
        looks = 0
        while done is None:
            compared = None
            if looks < COMPARISONS:
                async with self._database.transaction(snapshot=True) as tx:
                    row = await self._writable(tx, who[0], name)
                    chart, since, new = await self._new_chart(tx, number, make)
                    if not new:
                        return chart, since
                    compared = Compared(row.revision, *await self._store.extent(tx, number))
                    await self._look_for_orphans(tx, number, chart)
            looks += 1
            done = await self._set_chart(who, name, number, make, compared)
        return done

    async def _set_chart(
        self, who: Who, name: str, number: int, make: Callable[[int], Chart], compared: Compared | None
    ) -> tuple[Chart, datetime | None] | None:
        """Sets the chart, under the lock. None if the accounts that were compared have changed. Raises as `set_chart`."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            await self._store.lock_whole_book(tx, number)
            row = await self._writable(tx, who[0], name)
            chart, since, new = await self._new_chart(tx, number, make)
            if not new:
                return chart, since
            if compared is None:
                await self._look_for_orphans(tx, number, chart)
            else:
                opened = await self._store.charted_after(tx, number, compared.last)
                count = await self._store.count_accounts(tx, number)
                # An account whose opening was not committed yet when they were compared may have a lower number; then the count is another.
                if (row.revision, count) != (compared.revision, compared.accounts + len(opened)):
                    return None
                orphans = Orphans(chart)
                for own, charted, closed in opened:
                    if not closed:
                        orphans.look(own, charted)
                orphans.check()
            await self._store.insert_chart(tx, number, chart, now)
            changed = ChartChanged(book=row.id, name=row.name, version=chart.version, mode=chart.mode)
            await self._tell(tx, who, "ledger.chart.changed", row, now, changed)
        return chart, now

    async def _new_chart(
        self, tx: Transaction, number: int, make: Callable[[int], Chart]
    ) -> tuple[Chart, datetime | None, bool]:
        """The chart to set, None, True; or the present one, since when, False if it has the same rules."""
        present, since = await self._store.chart(tx, number) or (NO_CHART, None)
        chart = make(present.version + 1)
        if (chart.mode, chart.rules) == (present.mode, present.rules):
            return present, since, False
        return chart, None, True

    async def _look_for_orphans(self, tx: Transaction, number: int, chart: Chart) -> None:
        orphans = Orphans(chart)
        async for own, charted in self._store.charted(tx, number):
            orphans.look(own, charted)
        orphans.check()

    async def _writable(self, tx: Transaction, tenant: str, name: str) -> BookRow:
        row = await self._store.book(tx, tenant, name)
        if row is None:
            raise BookNotFound
        check_writable(row)
        return row

    async def check_writable(self, tx: Transaction, tenant: str, name: str) -> None:
        """Raises BookNotFound, BookQuarantined."""
        await self._writable(tx, tenant, name)

    async def sequence(self, tx: Transaction, tenant: str, name: str) -> int:
        """The sequence of the book's last transfer. Raises BookNotFound."""
        found = await self._store.book_named(tx, tenant, name)
        if found is None:
            raise BookNotFound
        return found[1]

    async def _tell(  # noqa: PLR0917 - the parts of a fact
        self, tx: Transaction, who: Who, kind: str, row: BookRow, at: datetime, said: msgspec.Struct
    ) -> None:
        await self._outbox.append(tx, [book_fact(who, kind, row.name, at, said)])


def book_fact(who: Who, kind: str, book: str, at: datetime, said: msgspec.Struct) -> Fact:
    """`book` is its name."""
    tenant, actor, trace = who
    return Fact(
        id=ids.facts.new(),
        type=kind,
        tenant=tenant,
        actor=actor,
        resource=book,
        at=at,
        trace=trace,
        data=msgspec.to_builtins(said),
    )


def settings_of(row: BookRow) -> BookFact:
    return BookFact(book=row.id, name=row.name, backdating=row.backdating)


def check_writable(row: BookRow) -> None:
    """Raises BookQuarantined."""
    if row.quarantined_at is not None:
        raise BookQuarantined(reason=row.quarantine_reason)
