"""Accounts: opened, closed, and read as of now, of a sequence, or of an instant. What isn't known is an error, never an empty answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from tallystick.chassis.db import Database, Transaction
from tallystick.chassis.idempotency import Answer, Entry, Replay, claim, complete
from tallystick.chassis.outbox import Fact, Outbox
from tallystick.contracts.ledger.problems import AccountExists, AccountHasHolds, AccountNotFound, HistoryNotKept
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock, rfc3339
from tallystick.kernel.ids import AccountId
from tallystick.kernel.problem import InvalidRequest, Problem
from tallystick.services.ledger.model import AccountRow, EntryRow, Found, NewAccount
from tallystick.services.ledger.service.poster import Answered, Poster
from tallystick.services.ledger.store import Store


class At(msgspec.Struct, frozen=True):
    """As of when to read: now if both are None; never both."""

    sequence: int | None = None
    instant: datetime | None = None

    def __post_init__(self) -> None:
        if self.sequence is not None and self.instant is not None:
            raise InvalidRequest("as of a sequence or of an instant, not both")


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
    ) -> AccountRow | Answered:
        """The new account, or the stored answer of an earlier request with this key. An account with this id that is the same is given
        as it is. Raises AccountExists when it is another, and the idempotency contract's problems.
        """
        book = await self._poster.book(tenant)
        now = self._clock.now()
        async with self._database.transaction() as tx:
            if entry is not None:
                outcome = (await claim(tx, [entry], resource=[account.id]))[0]
                if isinstance(outcome, Replay):
                    return Answered((), None, outcome.status, outcome.body, replayed=True)
                outcome.raise_or_replay()
            new = await self._store.insert_account(tx, book, account, now)
            row = await self._store.account(tx, tenant, account.id, now)
            if row is None or not (new or _same(row, account)):
                raise AccountExists("take a new id for another account")
            if new:
                await self._outbox.append(
                    tx, [_fact("ledger.account.created", row, tenant=tenant, actor=actor, trace=trace, at=now)]
                )
            if entry is not None and render is not None:
                await complete(tx, [Answer(entry, 201, render(row))])
        return row

    async def close(self, tenant: str, actor: str, trace: str | None, account: AccountId) -> AccountRow:
        """Closes an account for good; closing it again is harmless. Money may be left on it, but nothing may be held.

        Raises AccountNotFound, AccountHasHolds.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            known = await self._store.book_of(tx, tenant)
            if known is None:
                raise AccountNotFound
            await self._store.lock_books(tx, [known[0]])
            done = await self._store.close_account(tx, known[0], account, now)
            row = await self._store.account(tx, tenant, account, now)
            if row is None:
                raise AccountNotFound
            if not row.closed:
                raise AccountHasHolds("void or capture the holds first; expired ones are released within seconds")
            if done:
                await self._outbox.append(
                    tx, [_fact("ledger.account.closed", row, tenant=tenant, actor=actor, trace=trace, at=now)]
                )
        return row

    async def page(
        self, tenant: str, *, after: AccountId | None, currency: str | None, code: str | None, limit: int
    ) -> list[AccountRow]:
        """Newest first, before `after`."""
        return await self._store.accounts(
            self._database, tenant, self._clock.now(), after=after, currency=currency, code=code, limit=limit
        )

    async def find(self, wanted: Sequence[tuple[str, AccountId]]) -> list[Found | Problem]:
        """For each (tenant, id) what never changes about the account, or AccountNotFound. In order."""
        found = {(each.tenant, each.id): each for each in await self._store.find_accounts(self._database, wanted)}
        return [found.get(key) or AccountNotFound() for key in wanted]

    async def get(self, tenant: str, account: AccountId, at: At) -> AccountRow:
        """The account as of `at`. Raises AccountNotFound, and HistoryNotKept for a time before it was opened or still to come."""
        now = self._clock.now()
        if at.sequence is None and at.instant is None:
            row = await self._store.account(self._database, tenant, account, now)
            if row is None:
                raise AccountNotFound
            return row
        async with self._database.transaction(snapshot=True) as tx:
            row, book, last = await self._found(tx, tenant, account, now)
            sequence = await self._sequence(tx, row, (book, last), at, now)
            version, dp, d, cp, c = await self._store.account_at(tx, book, account, sequence)
        return msgspec.structs.replace(
            row,
            version=version,
            as_of=sequence,
            debits_pending=dp,
            debits_posted=d,
            credits_pending=cp,
            credits_posted=c,
        )

    async def entries(
        self, tenant: str, account: AccountId, *, before: int | None, limit: int
    ) -> tuple[AccountRow, list[EntryRow]]:
        """The account and its entries before the sequence `before`, newest first. Raises AccountNotFound."""
        async with self._database.transaction(snapshot=True) as tx:
            row, book, last = await self._found(tx, tenant, account, self._clock.now())
            upto = last + 1 if before is None else min(before, last + 1)
            return row, await self._store.entries(tx, book, account, upto, limit)

    async def _found(
        self, tx: Transaction, tenant: str, account: AccountId, now: datetime
    ) -> tuple[AccountRow, int, int]:
        known = await self._store.book_of(tx, tenant)
        row = None if known is None else await self._store.account(tx, tenant, account, now)
        if known is None or row is None:
            raise AccountNotFound
        return row, *known

    async def _sequence(self, tx: Transaction, row: AccountRow, known: tuple[int, int], at: At, now: datetime) -> int:
        book, last = known
        if at.instant is not None:
            if at.instant > now:
                raise HistoryNotKept("that time is still to come", as_of=last)
            if at.instant < row.created_at:
                raise HistoryNotKept("the account was opened later", created_at=rfc3339(row.created_at))
            return max(await self._store.sequence_at(tx, book, at.instant), row.created_sequence)
        sequence = last if at.sequence is None else at.sequence
        if sequence > last:
            raise HistoryNotKept("the book has not come to that sequence yet", as_of=last)
        if sequence < row.created_sequence:
            raise HistoryNotKept("the account was opened later", created_sequence=row.created_sequence)
        return sequence


def _same(row: AccountRow, account: NewAccount) -> bool:
    return (row.name, row.currency, row.normal_side, row.floor, row.code, row.metadata) == (
        account.name,
        account.currency,
        account.normal_side,
        account.floor,
        account.code,
        account.metadata,
    )


def _fact(kind: str, row: AccountRow, *, tenant: str, actor: str, trace: str | None, at: datetime) -> Fact:
    """What an account is, without what people typed (its name and metadata)."""
    account = ids.accounts.text(row.id)
    return Fact(
        id=ids.facts.new(),
        type=kind,
        tenant=tenant,
        actor=actor,
        resource=account,
        at=at,
        trace=trace,
        data={
            "account": account,
            "currency": row.currency,
            "normal_side": row.normal_side,
            "floor": None if row.floor is None else str(row.floor),
        },
    )
