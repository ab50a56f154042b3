"""Accounts: open, change, freeze, close, and read as of now, of a sequence, or of an instant. Asking for what is not known is an error, never
an empty answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from tallystick.chassis.db import CheckViolation, Database, Transaction, UniqueViolation
from tallystick.chassis.idempotency import Answer, Entry, complete
from tallystick.chassis.outbox import Fact, Outbox
from tallystick.contracts.ledger.messages import MAIN, OWN, AccountFact, AccountKind, Side
from tallystick.contracts.ledger.problems import (
    AccountClosed,
    AccountExists,
    AccountHasHolds,
    AccountLimitBroken,
    AccountNotFound,
    AccountPathTaken,
    AccountReserved,
    BookNotFound,
    HistoryNotKept,
    NotInChart,
)
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock, rfc3339
from tallystick.kernel.ids import AccountId
from tallystick.kernel.problem import InvalidRequest, Problem
from tallystick.services.ledger.model import (
    AccountRow,
    BookRow,
    Charted,
    EntryRow,
    Found,
    NewAccount,
    Pattern,
    balance,
    is_reserved,
    usual_kind,
)
from tallystick.services.ledger.model.paths import TRANSIT
from tallystick.services.ledger.service.asks import Answered, taken
from tallystick.services.ledger.service.books import NO_CHART, Who, check_writable
from tallystick.services.ledger.service.poster import Poster
from tallystick.services.ledger.store import Store


class At(msgspec.Struct, frozen=True):
    """The time as of which to read: now if all are None; at most one may be set. `effective` selects transfers by effective time, as known now."""

    sequence: int | None = None
    instant: datetime | None = None
    effective: datetime | None = None

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.sequence, self.instant, self.effective)) > 1:
            raise InvalidRequest("as of a sequence, of an instant, or effective at one: not several of them")


class Accounts:
    def __init__(self, *, database: Database, store: Store, outbox: Outbox, clock: Clock, poster: Poster) -> None:
        self._database = database
        self._store = store
        self._outbox = outbox
        self._clock = clock
        self._poster = poster

    async def open(
        self,
        tenant: str,
        actor: str,
        trace: str | None,
        account: NewAccount,
        *,
        entry: Entry | None = None,
        render: Callable[[AccountRow], bytes] | None = None,
        book: str = MAIN,
        reserved: bool = False,
    ) -> AccountRow | Answered:
        """The new account, or the stored answer of an earlier request with this key. If an identical account with this id exists, it is returned
        as it is. `reserved`: its path is the platform's own. Raises AccountExists when another account has the id, AccountPathTaken,
        NotInChart, BookNotFound, BookQuarantined, InvalidRequest, and the idempotency contract's problems.
        """
        if is_reserved(account.path) != reserved:
            raise InvalidRequest(f"paths below {TRANSIT} and {OWN} are the platform's own")
        number = await self._poster.book(tenant, book)
        now = self._clock.now()
        for _ in range(2):
            try:
                async with self._database.transaction() as tx:
                    if entry is not None and (before := await taken(tx, entry, account.id)) is not None:
                        return before
                    chart, _ = await self._store.chart(tx, number) or (NO_CHART, None)
                    account = chart.filled(account)
                    new = await self._store.insert_account(tx, number, account, now)
                    row = await self._store.account(tx, tenant, account.id, now)
                    if row is None or not (new or _same(row, account, number)):
                        raise AccountExists("take a new id for another account")
                    if new:
                        # The new account's foreign key locks its book's row against a change of the chart. So the chart read from here on is
                        # the one that counts.
                        await self._check_chart(tx, row)
                        check_writable(await self._book(tx, tenant, book))
                        await self._tell(tx, "ledger.account.created", row, actor, trace, now)
                    if entry is not None and render is not None:
                        await complete(tx, [Answer(entry, 201, render(row))])
                return row
            except UniqueViolation as error:
                if error.constraint != "account_path":
                    raise
                # When two requests open the same account at once, the later one may find its path taken. The second attempt finds the account.
        raise AccountPathTaken(path=account.path)

    async def change(
        self, who: Who, account: AccountId | str, change: Callable[[AccountRow], AccountRow], book: str = MAIN
    ) -> AccountRow:
        """Stores the name, metadata and limits that `change` returns for the present account.

        Raises AccountNotFound, AccountReserved, AccountClosed, NotInChart, BookQuarantined, and AccountLimitBroken for a limit that the account
        does not keep now.
        """
        tenant, actor, trace = who
        now = self._clock.now()
        async with self._database.transaction() as tx:
            row = await self._locked(tx, tenant, account, book, now)
            if row.closed:
                raise AccountClosed
            wanted = change(row)
            if wanted == row:
                return row
            await self._check_chart(tx, wanted)
            try:
                await self._store.change_account(tx, wanted)
            except CheckViolation as error:
                if error.constraint not in {"account_floor", "account_ceiling"}:
                    raise
                raise _broken(row) from None
            await self._tell(tx, "ledger.account.changed", wanted, actor, trace, now)
        return wanted

    async def freeze(self, who: Who, account: AccountId | str, *, frozen: bool, book: str = MAIN) -> AccountRow:
        """Freezes the account, so that nothing moves on it, or unfreezes it. Repeating it is harmless. Existing holds can be voided and can
        expire, but not be captured.

        Raises AccountNotFound, AccountReserved, AccountClosed, BookQuarantined.
        """
        tenant, actor, trace = who
        now = self._clock.now()
        async with self._database.transaction() as tx:
            row = await self._locked(tx, tenant, account, book, now)
            if row.closed:
                raise AccountClosed
            if not await self._store.freeze_account(tx, row.book, row.id, now if frozen else None):
                return row
            row = msgspec.structs.replace(row, frozen=frozen)
            kind = "ledger.account.frozen" if frozen else "ledger.account.unfrozen"
            await self._tell(tx, kind, row, actor, trace, now)
        return row

    async def close(
        self, tenant: str, actor: str, trace: str | None, account: AccountId | str, book: str = MAIN
    ) -> AccountRow:
        """Closes an account for good. Repeating it is harmless. Money may be left on it, but nothing may be held.

        Raises AccountNotFound, AccountReserved, AccountHasHolds, BookQuarantined.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            row = await self._locked(tx, tenant, account, book, now)
            if await self._store.close_account(tx, row.book, row.id, now):
                row = msgspec.structs.replace(row, closed=True)
                await self._tell(tx, "ledger.account.closed", row, actor, trace, now)
            if not row.closed:
                raise AccountHasHolds("void or capture the holds first; expired ones are released within seconds")
        return row

    async def page(
        self,
        tenant: str,
        *,
        after: AccountId | str | None,
        currency: str | None,
        code: str | None,
        limit: int,
        kind: str | None = None,
        pattern: Pattern | None = None,
        book: str = MAIN,
    ) -> list[AccountRow]:
        """A page of accounts, newest first, before the id `after`. With a pattern in the order of paths, after the path `after`. Raises
        BookNotFound.
        """
        number = await self._poster.book(tenant, book)
        return await self._store.accounts(
            self._database,
            number,
            self._clock.now(),
            after=after,
            currency=currency,
            code=code,
            kind=kind,
            pattern=pattern,
            limit=limit,
        )

    async def find(self, wanted: Sequence[tuple[str, AccountId]]) -> list[Found | Problem]:
        """For each (tenant, id), in order: what never changes about the account, or AccountNotFound."""
        found = {(each.tenant, each.id): each for each in await self._store.find_accounts(self._database, wanted)}
        return [found.get(key) or AccountNotFound() for key in wanted]

    async def get(self, tenant: str, account: AccountId | str, at: At, book: str = MAIN) -> AccountRow:
        """The account as of `at`. Raises AccountNotFound, and HistoryNotKept for a time before it was opened or still to come.

        By effective time, the posted balance is what is known now about that time; holds are as they were recorded then.
        """
        if at == At():
            return await self.found(self._database, tenant, account, book, self._clock.now())
        async with self._database.transaction(snapshot=True) as tx:
            return await self.read(tx, tenant, account, at, book)

    async def read(
        self, tx: Transaction, tenant: str, account: AccountId | str, at: At, book: str = MAIN
    ) -> AccountRow:
        """As `get`, in a transaction of the caller."""
        now = self._clock.now()
        row = await self.found(tx, tenant, account, book, now)
        if at == At():
            return row
        if at.effective is not None:
            return await self._effective(tx, row, at.effective, now)
        sequence = await self.sequence(tx, row, at, now)
        version, dp, d, cp, c = await self._store.account_at(tx, row.book, row.id, sequence)
        return msgspec.structs.replace(
            row,
            version=version,
            as_of=sequence,
            debits_pending=dp,
            debits_posted=d,
            credits_pending=cp,
            credits_posted=c,
        )

    async def _effective(self, tx: Transaction, row: AccountRow, effective: datetime, now: datetime) -> AccountRow:
        if effective > now:
            raise HistoryNotKept("that time is still to come", as_of=row.as_of)
        sequence = await self._store.sequence_at(tx, row.book, effective)
        version, dp, d, cp, c = await self._store.account_at(tx, row.book, row.id, sequence)
        debits, credits_ = await self._store.adjusted_at(tx, row.id, effective)
        return msgspec.structs.replace(
            row,
            version=version,
            debits_pending=dp,
            debits_posted=d + debits,
            credits_pending=cp,
            credits_posted=c + credits_,
        )

    async def entries(
        self, tenant: str, account: AccountId | str, *, before: int | None, limit: int, book: str = MAIN
    ) -> tuple[AccountRow, list[EntryRow]]:
        """The account and its entries before the sequence `before`, newest first. Raises AccountNotFound."""
        async with self._database.transaction(snapshot=True) as tx:
            row = await self.found(tx, tenant, account, book, self._clock.now())
            upto = row.as_of + 1 if before is None else min(before, row.as_of + 1)
            return row, await self._store.entries(tx, row.book, row.id, upto, limit)

    # ---- inside -----------------------------------------------------------------------------------------------------

    async def found(
        self, source: Database | Transaction, tenant: str, account: AccountId | str, book: str, now: datetime
    ) -> AccountRow:
        """The account as of now. Raises AccountNotFound."""
        if isinstance(account, str):
            row = await self._store.account_at_path(source, tenant, book, account, now)
        else:
            row = await self._store.account(source, tenant, account, now)
        if row is None:
            await self._poster.not_elsewhere(source, tenant, book)
            raise AccountNotFound
        return row

    async def sequence(self, tx: Transaction, row: AccountRow, at: At, now: datetime) -> int:
        """The sequence of its book that `at` means for the account. Raises HistoryNotKept for one before it was opened or still to come."""
        last = row.as_of
        if at.instant is not None:
            if at.instant > now:
                raise HistoryNotKept("that time is still to come", as_of=last)
            if at.instant < row.created_at:
                raise HistoryNotKept("the account was opened later", created_at=rfc3339(row.created_at))
            return max(await self._store.sequence_at(tx, row.book, at.instant), row.created_sequence)
        sequence = last if at.sequence is None else at.sequence
        if sequence > last:
            raise HistoryNotKept("the book has not come to that sequence yet", as_of=last)
        if sequence < row.created_sequence:
            raise HistoryNotKept("the account was opened later", created_sequence=row.created_sequence)
        return sequence

    async def _locked(
        self, tx: Transaction, tenant: str, account: AccountId | str, book: str, now: datetime
    ) -> AccountRow:
        """The account, read under its book's lock: nobody posts to it until this transaction ends. Raises AccountNotFound, BookQuarantined, and
        AccountReserved for one of the platform's, which no client may change.
        """
        row = await self.found(tx, tenant, account, book, now)
        if is_reserved(row.path):
            raise AccountReserved
        await self._store.lock_books(tx, [row.book])
        check_writable(await self._book(tx, tenant, row.book_name))
        return await self.found(tx, tenant, row.id, book, now)

    async def _book(self, tx: Transaction, tenant: str, name: str) -> BookRow:
        row = await self._store.book(tx, tenant, name)
        if row is None:
            raise BookNotFound
        return row

    async def _check_chart(self, tx: Transaction, row: AccountRow) -> None:
        chart, _ = await self._store.chart(tx, row.book) or (NO_CHART, None)
        fault = chart.fault(Charted(row.path, row.kind, row.normal_side, row.currency, row.floor, row.ceiling))
        if fault is not None:
            why, rule = fault
            raise NotInChart(why, rule=None if rule is None else rule.pattern, version=chart.version)

    async def _tell(  # noqa: PLR0917 - the parts of a fact
        self, tx: Transaction, kind: str, row: AccountRow, actor: str, trace: str | None, at: datetime
    ) -> None:
        await self._outbox.append(tx, [account_fact((row.tenant, actor, trace), kind, row, row.book, at)])


def _same(row: AccountRow, account: NewAccount, book: int) -> bool:
    return (
        row.book, row.name, row.path, row.kind, row.currency, row.normal_side, row.floor, row.ceiling, row.code, row.metadata,
    ) == (
        book, account.name, account.path, account.kind, account.currency, account.normal_side, account.floor, account.ceiling,
        account.code, account.metadata,
    )  # fmt: skip


def _broken(row: AccountRow) -> AccountLimitBroken:
    found = balance(
        row.normal_side == "debit", row.debits_pending, row.debits_posted, row.credits_pending, row.credits_posted
    )
    return AccountLimitBroken(
        "holds count too; expired ones are released within seconds",
        posted={"amount": str(found.posted), "currency": row.currency},
        available={"amount": str(found.available), "currency": row.currency},
    )


def account_fact(who: Who, kind: str, row: AccountRow | NewAccount, book: int, at: datetime) -> Fact:
    """The fact about an account, without what people typed (its name, path and metadata)."""
    tenant, actor, trace = who
    account = ids.accounts.text(row.id)
    return Fact(
        id=ids.facts.new(),
        type=kind,
        tenant=tenant,
        actor=actor,
        resource=account,
        at=at,
        trace=trace,
        data=msgspec.to_builtins(
            AccountFact(
                account=account,
                book=book,
                kind=msgspec.convert(row.kind or usual_kind(row.normal_side), AccountKind),
                currency=row.currency,
                normal_side=msgspec.convert(row.normal_side, Side),
                floor=None if row.floor is None else str(row.floor),
                ceiling=None if row.ceiling is None else str(row.ceiling),
            )
        ),
    )
