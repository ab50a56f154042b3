"""The write path: lock, load, save."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

import msgspec

from tallystick.chassis import idempotency, outbox
from tallystick.chassis.db import Database, Row, Transaction, arguments
from tallystick.chassis.outbox import Fact
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import (
    Account,
    Book,
    Days,
    Decided,
    Due,
    Hold,
    Key,
    Rejection,
    Reversal,
    Stand,
    State,
    TransactionRow,
    Transfer,
    Unit,
)
from tallystick.services.ledger.store.approvals import approval_rules
from tallystick.services.ledger.store.sql import queries

_FIELDS: Final = msgspec.structs.fields(Transfer)
#: Stored transfers refer to accounts by number instead of id.
NUMBERS: Final = {"debit_account": "debit_number", "credit_account": "credit_number"}
#: The fields of the database type `decided_transfer`, in which `save` is given each transfer.
DECIDED: Final = tuple(NUMBERS.get(field.name, field.name) for field in _FIELDS if field.name not in NUMBERS.values())
_DECIDED: Final = attrgetter(*DECIDED)
#: Kinds that touch nothing but accounts. A flush of only these skips the statements about holds and reversals.
_PLAIN: Final = frozenset({"post"})
#: The constraint by which `save` refuses when a book's sequence, revision or last flush has changed.
MOVED: Final = "book_moved"
#: The constraints by which it refuses when an id or an idempotency key was used before.
TAKEN: Final = frozenset({"id_taken", "key_taken"})


def _rejected(one: Rejection) -> tuple[Any, ...]:
    """A refusal in the form that `save` takes. Its list of days becomes a text, because an array of arrays must be rectangular."""
    *said, days = msgspec.structs.astuple(one)
    return *said, f"{{{','.join(day.isoformat() for day in days)}}}" if days else None


def _book(row: Row) -> Book:
    *fields, approvals = row
    found = Book(*fields)
    found.approvals = approval_rules(approvals)
    return found


class Writing(msgspec.Struct):
    """What one flush stores: rows for the query `save` and for the queries before it. `books` has each book's number, the stand that it must have
    (None if its lock is held, which ensures it), and its new sequence, instant and flush number. `answers` are stored under new keys, each with
    the resource in `about`.
    """

    books: list[tuple[int, int | None, int | None, int | None, int, datetime, int]]
    transfers: list[tuple[Any, ...]]
    rejections: list[tuple[Any, ...]]
    holds: list[tuple[Any, ...]] = []
    draws: list[tuple[Any, ...]] = []
    reversals: list[tuple[Any, ...]] = []
    transactions: list[tuple[Any, ...]] = []
    answers: list[idempotency.Answer] = []
    about: list[UUID | None] = []
    facts: list[Fact] = []

    @property
    def plain(self) -> bool:
        """Whether no query has to run before `save`. Then `save` can be the whole transaction."""
        return not (self.holds or self.draws or self.reversals or self.transactions)


class Posting:
    async def lock_books(self, tx: Transaction, books: Iterable[int]) -> dict[int, Book]:
        """Locks the books' rows, in the order of their numbers. Nobody else posts to them until this transaction ends."""
        rows = await tx.fetch(queries.lock_books, sorted(books))
        return {row[0]: _book(row) for row in rows}

    async def free_books(self, database: Database, books: Iterable[int]) -> set[int]:
        """Those of the books whose locks are free at this moment."""
        return {row[0] for row in await database.fetch(queries.free_books, sorted(books))}

    async def load(self, tx: Transaction, units: Sequence[Unit], locked: dict[int, Book]) -> State:
        """Everything that the commands of these units refer to. Their books are locked."""
        state = State(locked, {})
        wanted: set[AccountId] = set()
        keys: set[Key] = set()
        paths: set[tuple[int, str]] = set()
        headers: set[Key] = set()
        for unit in units:
            if unit.header is not None:
                headers.add((unit.book, unit.header.id))
            for command in unit.commands:
                keys.add((unit.book, command.id))
                if command.target is not None:
                    keys.add((unit.book, command.target))
                for named in (command.debit, command.credit):
                    if isinstance(named, str):
                        paths.add((unit.book, named))
                    elif named is not None:
                        wanted.add(named)
        await self._known(tx, keys, state)
        if headers:
            for row in await tx.fetch(queries.transactions_of, *arguments(headers, 2)):
                state.transactions[row[0], row[1]] = TransactionRow(*row)
        for transfer in state.transfers.values():
            wanted.add(transfer.debit_account)
            wanted.add(transfer.credit_account)
        if paths:
            await self._at_paths(tx, paths, state)
        if wanted:
            rows = await tx.fetch(queries.accounts_for_posting, list(wanted))
            state.accounts.update((row[0], Account(*row)) for row in rows)
        return state

    async def learn_days(self, tx: Transaction, since: Mapping[AccountId, date], state: State, now: datetime) -> None:
        """Adds to `state` the past days of these accounts, each from its day in `since` on."""
        if not since:
            return
        today = max(book.next_instant(now) for book in state.books.values()).date()
        rows = [(account, state.accounts[account].book, day) for account, day in since.items() if day < today]
        signs = {account: 1 if state.accounts[account].debit_normal else -1 for account, _, _ in rows}
        changes = {account: Counter({first: 0}) for account, _, first in rows}

        def change(row: Row, by: int) -> None:
            changes[row["account"]][max(row["day"], since[row["account"]])] += by

        recorded = dict.fromkeys(signs, 0)
        for row in await tx.fetch(queries.days, *arguments(rows, 3), today):
            account, balance = row["account"], signs[row["account"]] * (row["debits"] - row["credits"])
            change(row, balance - recorded[account])
            recorded[account] = balance
        for row in await tx.fetch(queries.day_adjustments, list(signs)):
            change(row, signs[row["account"]] * (row["debits"] - row["credits"]))
        state.days.update((account, Days.of(today, found)) for account, found in changes.items())

    async def _at_paths(self, source: Database | Transaction, paths: Iterable[tuple[int, str]], state: State) -> None:
        for path, *row in await source.fetch(queries.accounts_at_paths_for_posting, *arguments(paths, 2)):
            found = Account(*row)
            state.accounts[found.id] = found
            state.paths[found.book, path] = found.id

    async def _known(self, tx: Transaction, keys: Iterable[Key], state: State) -> None:
        for row in await tx.fetch(queries.known, *arguments(keys, 2)):
            take(row, state)

    async def learn(
        self,
        source: Database | Transaction,
        keys: Iterable[Key],
        accounts: Iterable[AccountId],
        paths: Sequence[tuple[int, str]],
        state: State,
    ) -> None:
        """Adds to `state` these targets (`keys`), these accounts (by id or by path), and the targets' accounts, as far as it lacks them. Nothing is
        locked: the result is valid as long as the books do not move on.
        """
        if paths:
            await self._at_paths(source, paths, state)
        if keys := list(keys):
            for row in await source.fetch(queries.known, *arguments(keys, 2)):
                take(row, state)
        wanted = set(accounts)
        for key in keys:
            target = state.transfers.get(key)
            if target is not None:
                wanted.update((target.debit_account, target.credit_account))
        if missing := [each for each in wanted if each not in state.accounts]:
            rows = await source.fetch(queries.accounts_for_posting, missing)
            state.accounts.update((row[0], Account(*row)) for row in rows)

    async def heads(self, source: Database | Transaction, books: Iterable[int]) -> dict[int, Book]:
        """The books as they are, without locks."""
        return {row[0]: _book(row) for row in await source.fetch(queries.heads, list(books))}

    @staticmethod
    def prepare(state: State, decided: Decided, known: Mapping[int, Stand] | None = None) -> Writing:
        """What `save` is to store, in the database's terms. Gives the flush its number. The result is independent of `state`, which the next flush
        may go on to change. `known` is the stand of the books that it was decided on, if their locks are not held.
        """
        transfers = decided.transfers
        pinned = {rejection.book for rejection in decided.rejections}
        books: list[tuple[int, int | None, int | None, int | None, int, datetime, int]] = []
        flush = secrets.randbits(63)
        for number in sorted({transfer.book for transfer in transfers} | pinned | (known or {}).keys()):
            book = state.books[number]
            was = (None, None, None) if known is None else known[number]
            books.append((number, *was, book.sequence, book.recorded_at, flush))
            book.flush = flush
        writing = Writing(
            books=books,
            transfers=list(map(_DECIDED, transfers)),
            rejections=list(map(_rejected, decided.rejections)),
            transactions=[msgspec.structs.astuple(transaction) for transaction in decided.transactions],
        )
        for t in transfers:
            if t.kind in _PLAIN:
                continue
            if t.kind == "hold":
                writing.holds.append((t.book, t.id, t.debit_account, t.credit_account, t.amount, t.expires_at))
            elif t.kind == "reverse" and t.target is not None:
                writing.reversals.append((t.book, t.target, state.reversals[t.book, t.target].amount, t.amount))
            else:
                writing.draws.append((t.book, t.target, t.kind, t.amount, t.released, t.expires_at))
        return writing

    async def save(self, at: Database | Transaction, writing: Writing, now: datetime) -> None:
        """Stores what was decided. A `plain` writing may be stored directly on the database, since it is one statement and so one transaction.

        Raises CheckViolation: with the constraint `MOVED` or one of `TAKEN` when what it was decided on has changed, with another one when the
        database disagrees with the rules. Raises UniqueViolation when an id was posted before.
        """
        if writing.holds:
            await at.execute(queries.insert_holds, *arguments(writing.holds, 6))
        if writing.draws:
            await at.execute(queries.draw_holds, *arguments(writing.draws, 6))
        if writing.reversals:
            await at.execute(queries.draw_reversals, *arguments(writing.reversals, 4))
        if writing.transactions:
            await at.execute(queries.insert_transactions, *arguments(writing.transactions, 11))
        if not (writing.books or writing.facts or writing.answers):
            return
        await at.fetchval(
            queries.save,
            *arguments(writing.books, 7), writing.transfers, *arguments(writing.rejections, 10), now,
            *idempotency.answered(writing.answers, writing.about), *outbox.columns(writing.facts),
        )  # fmt: skip

    async def due_holds(self, database: Database, now: datetime, limit: int) -> list[Due]:
        return [Due(*row) for row in await database.fetch(queries.due_holds, now, limit)]

    async def due_holds_of(
        self, tx: Transaction, accounts: Iterable[AccountId], now: datetime, limit: int
    ) -> list[Due]:
        return [Due(*row) for row in await tx.fetch(queries.due_holds_of, now, limit, list(accounts))]


def transfer_of(row: Row) -> Transfer:
    return Transfer(*(row[field.name] for field in _FIELDS))


def take(row: Row, state: State) -> None:
    """Adds a row of the query `known` to the state: the refusal, or the transfer with its hold and its reversal."""
    if row["refused"] is not None:
        state.rejections[row["in_book"], row["refused"]] = Rejection(
            row["in_book"],
            row["refused"],
            row["digest"],
            row["reason"],
            row["available"],
            row["required"],
            row["refused_currency"],
            row["refused_crossing"],
            row["refused_account"],
            tuple(row["refused_breached_on"] or ()),
        )
    if row["id"] is None:
        return
    transfer = transfer_of(row)
    key = (transfer.book, transfer.id)
    state.transfers[key] = transfer
    if row["remaining"] is not None:
        state.holds[key] = Hold(
            *key,
            transfer.debit_account,
            transfer.credit_account,
            row["hold_amount"],
            row["captured"],
            row["remaining"],
            row["state"],
            row["hold_expires_at"],
        )
    if row["reversed"] is not None:
        state.reversals[key] = Reversal(*key, transfer.amount, row["reversed"])
