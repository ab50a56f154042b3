"""PostgreSQL as the ledger sees it, in memory: rows, row locks, READ COMMITTED, and everything that can go wrong between two statements.

Each query of the ledger and of the chassis' tables that it writes to is a small function here, by the query's name. A statement sees what was
committed before it and what its own transaction wrote; a row that another transaction has changed is waited for. `Faults` decides what
breaks, before or after it took effect. A query that is not known is an error: then this file is behind the `.sql` files.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import msgspec

from tallystick.chassis.db import (
    CheckViolation,
    CommitUnknown,
    Contended,
    DatabaseUnavailable,
    Query,
    Signal,
    UniqueViolation,
)
from tallystick.services.ledger.model import MICROSECOND, TransactionRow, Transfer

#: Seconds that a lock is waited for, as in `Bounds`.
LOCK_S = 2.0

Key = tuple[Any, ...]
Values = dict[str, Any]
_TRANSFER = [field.name for field in msgspec.structs.fields(Transfer)]
_TRANSACTION = [field.name for field in msgspec.structs.fields(TransactionRow)]
#: Kinds that move what is posted.
_POSTED = ("post", "capture", "reverse")


class Row:
    """As asyncpg's Record: by place, by name, in order."""

    __slots__ = ("_names", "_values")

    def __init__(self, **values: Any) -> None:
        self._names = list(values)
        self._values = list(values.values())

    def __getitem__(self, key: int | str) -> Any:
        return self._values[key if isinstance(key, int) else self._names.index(key)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def items(self) -> Iterator[tuple[str, Any]]:
        return zip(self._names, self._values, strict=True)


@dataclass
class Faults:
    """What breaks, by chance: shares of all statements or commits. `reached` counts what really did."""

    rng: random.Random
    lost_before: float = 0.0
    lost_after: float = 0.0
    no_lock: float = 0.0
    commit_lost: float = 0.0
    commit_unanswered: float = 0.0
    commit_late: float = 0.0
    slow: float = 0.0
    reached: Counter[str] = field(default_factory=Counter)

    def heal(self) -> None:
        self.lost_before = self.lost_after = self.no_lock = self.slow = 0.0
        self.commit_lost = self.commit_unanswered = self.commit_late = 0.0

    def chance(self, name: str) -> bool:
        share: float = getattr(self, name)
        if share and self.rng.random() < share:
            self.reached[name] += 1
            return True
        return False

    async def pause(self) -> None:
        """The way to the server or back."""
        seconds = self.rng.expovariate(2000)
        if self.chance("slow"):
            seconds += self.rng.uniform(0, 1.5)
        await asyncio.sleep(seconds)


class Server:
    """The committed rows, who has locked which, and who waits for whom."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.tables: dict[str, dict[Key, Values]] = {
            name: {}
            for name in (
                "book",
                "account",
                "transfer",
                "number",
                "transaction",
                "reversed",
                "hold",
                "reversal",
                "rejection",
                "idempotency",
                "outbox",
            )
        }
        self.locks: dict[tuple[str, Key], Transaction] = {}
        self.queues: dict[tuple[str, Key], deque[tuple[asyncio.Future[None], Transaction]]] = {}
        self.deadlocks = 0
        self.books = 0
        self.late: set[asyncio.Task[None]] = set()
        self.hung: list[asyncio.Future[None]] = []
        self.over = False

    def wake(self, place: tuple[str, Key]) -> None:
        """The next in the queue may look whether the row is free now."""
        queue = self.queues.get(place)
        while queue and place not in self.locks:
            turn, tx = queue.popleft()
            if not (turn.done() or tx.over):
                turn.set_result(None)
                break


class Transaction:
    """Has both sides: what the service holds in its hand, and what the server knows of it."""

    def __init__(self, database: SimDatabase, *, snapshot: bool = False) -> None:
        """`snapshot`: all statements see what the first one saw."""
        self.database = database
        self.server = database.server
        self.tables = self.server.tables
        self.snapshot = snapshot
        self.writes: dict[tuple[str, Key], Values] = {}
        self.owned: list[tuple[str, Key]] = []
        self.over = False
        self.waits_for: Transaction | None = None
        self.after: list[Callable[[], None]] = []

    # ---- the service's side -----------------------------------------------------------------------------------------

    async def fetch(self, query: Query, *args: Any) -> list[Row]:
        database, faults = self.database, self.server.faults
        await database.alive()
        await faults.pause()
        await database.alive()
        if self.over:
            raise DatabaseUnavailable("the connection is lost")
        if faults.chance("lost_before"):
            self.abort()
            raise DatabaseUnavailable("lost before it was run")
        if self.snapshot and self.tables is self.server.tables:
            self.tables = {name: dict(table) for name, table in self.tables.items()}
        try:
            rows: list[Row] = await STATEMENTS[query.name](self, *args)
        except (Contended, UniqueViolation, CheckViolation):
            self.abort()
            raise
        await database.alive()
        if faults.chance("lost_after"):
            self.abort()
            raise DatabaseUnavailable("lost after it was run")
        return rows

    async def fetchrow(self, query: Query, *args: Any) -> Row | None:
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None

    async def fetchval(self, query: Query, *args: Any) -> Any:
        row = await self.fetchrow(query, *args)
        return None if row is None else row[0]

    async def execute(self, query: Query, *args: Any) -> int:
        return len(await self.fetch(query, *args))

    def on_commit(self, call: Callable[[], None]) -> None:
        self.after.append(call)

    # ---- the server's side ------------------------------------------------------------------------------------------

    def get(self, table: str, key: Key) -> Values | None:
        """The row as this transaction sees it now."""
        own = self.writes.get((table, key))
        return self.tables[table].get(key) if own is None else own

    def rows(self, table: str) -> list[Values]:
        found = dict(self.tables[table])
        found.update((key, row) for (name, key), row in self.writes.items() if name == table)
        return list(found.values())

    async def lock(self, table: str, key: Key) -> None:
        """Waits for whoever has changed or locked this row, or is about to insert it. Raises Contended."""
        place, server = (table, key), self.server
        while (owner := server.locks.get(place)) is not None and owner is not self:
            self.waits_for = owner
            if self._in_a_circle():
                server.deadlocks += 1
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            server.queues.setdefault(place, deque()).append((turn, self))
            server.faults.reached["waited"] += 1
            try:
                async with asyncio.timeout(LOCK_S):
                    await turn
            except TimeoutError:
                server.faults.reached["lock_timeout"] += 1
                server.wake(place)
                raise Contended("the row is locked by others") from None
            finally:
                self.waits_for = None
            if self.over:
                server.wake(place)
                await self.database.alive()
                raise DatabaseUnavailable("the connection is lost")
        if owner is None:
            server.locks[place] = self
            self.owned.append(place)

    def _in_a_circle(self) -> bool:
        seen, one = {self}, self.waits_for
        while one is not None:
            if one in seen:
                return True
            seen.add(one)
            one = one.waits_for
        return False

    def unlock(self, table: str, key: Key) -> None:
        del self.server.locks[table, key]
        self.server.wake((table, key))

    async def insert(self, table: str, key: Key, row: Values) -> bool:
        """False when there is one. Waits for another transaction that inserts the same."""
        had = self.server.locks.get((table, key)) is self
        await self.lock(table, key)
        if self.get(table, key) is not None:
            if not had:
                self.owned.remove((table, key))
                self.unlock(table, key)
            return False
        self.writes[table, key] = row
        return True

    async def update(self, table: str, key: Key, **changes: Any) -> Values | None:
        """The row after the change: of the newest version, once its lock is had."""
        if self.get(table, key) is None:
            return None
        await self.lock(table, key)
        row = {**(self.get(table, key) or {}), **changes}
        self.writes[table, key] = row
        return row

    def abort(self) -> None:
        self.writes.clear()
        self._end()

    def store(self) -> None:
        for (table, key), row in self.writes.items():
            self.server.tables[table][key] = row
        self._end()

    def _end(self) -> None:
        self.over = True
        for place in self.owned:
            self.unlock(*place)
        self.owned.clear()

    async def commit(self) -> None:
        faults, database = self.server.faults, self.database
        await database.alive()
        if self.over:
            raise CommitUnknown("the connection is lost")
        await faults.pause()
        if database.dead:
            # The process died while COMMIT was under way: nobody knows, and the server decides.
            self.store() if faults.rng.random() < 0.5 and not self.over else self.abort()
            faults.reached["died_in_commit"] += 1
            await database.alive()
        if faults.chance("commit_lost"):
            self.abort()
            raise CommitUnknown("lost on its way")
        if faults.chance("commit_late"):
            task = asyncio.get_running_loop().create_task(self._late(faults.rng.uniform(0, 3)))
            self.server.late.add(task)
            task.add_done_callback(self.server.late.discard)
            raise CommitUnknown("nobody waited for it any longer")
        self.store()
        if faults.chance("commit_unanswered"):
            raise CommitUnknown("its answer was lost")
        await faults.pause()
        await database.alive()

    async def _late(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if not self.over:
            self.store()


class SimDatabase:
    """One replica's way to the server, with `Database`'s methods. When the replica dies, what it awaits never comes."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.dead = False
        self.appended = Signal()
        self.open: set[Transaction] = set()

    async def alive(self) -> None:
        """In a process that died nothing happens after this."""
        if self.dead and not self.server.over:
            never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.server.hung.append(never)
            await never

    def kill(self) -> None:
        """The process is gone. The server rolls back what it had open, but for a COMMIT that was under way."""
        self.dead = True
        for tx in self.open:
            if not tx.over:
                tx.abort()

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False) -> AsyncIterator[Transaction]:
        await self.alive()
        await self.server.faults.pause()
        if self.server.faults.chance("lost_before"):
            raise DatabaseUnavailable("no connection")
        tx = Transaction(self, snapshot=snapshot)
        async with self._committed(tx):
            yield tx
        for call in tx.after:
            call()

    @asynccontextmanager
    async def _committed(self, tx: Transaction) -> AsyncIterator[None]:
        self.open.add(tx)
        try:
            try:
                yield
            except BaseException:
                await self.alive()
                if not tx.over:
                    tx.abort()
                raise
            self.open.discard(tx)
            await tx.commit()
        finally:
            self.open.discard(tx)

    async def fetch(self, query: Query, *args: Any) -> list[Row]:
        """A statement of its own; one that writes is a transaction, and what becomes of it may stay unknown."""
        if query.writes:
            return await self._store(query, *args)
        tx = Transaction(self)
        try:
            rows = await tx.fetch(query, *args)
        finally:
            if not tx.over:
                assert not tx.writes, f"{query.name} writes"
                tx.abort()
        await self.server.faults.pause()
        await self.alive()
        return rows

    async def _store(self, query: Query, *args: Any) -> list[Row]:
        tx = Transaction(self)
        async with self._committed(tx):
            try:
                return await tx.fetch(query, *args)
            except DatabaseUnavailable:
                raise CommitUnknown("the connection is lost") from None

    async def fetchrow(self, query: Query, *args: Any) -> Row | None:
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None

    async def fetchval(self, query: Query, *args: Any) -> Any:
        row = await self.fetchrow(query, *args)
        return None if row is None else row[0]


# ---- the statements -------------------------------------------------------------------------------------------------


class _Statements(dict[str, Callable[..., Any]]):
    def __missing__(self, name: str) -> Any:
        raise NotImplementedError(f"the simulated PostgreSQL does not know the query {name} yet: add it to {__file__}")


STATEMENTS = _Statements()


def statement(function: Callable[..., Any]) -> Callable[..., Any]:
    STATEMENTS[function.__name__] = function
    return function


@statement
async def open_main(tx: Transaction, tenant: str, now: datetime) -> list[Row]:
    server = tx.server
    await tx.lock("tenant", (tenant,))
    for book in tx.rows("book"):
        if book["tenant"] == tenant:
            await tx.update("book", (book["id"],))
            return [Row(id=book["id"])]
    server.books += 1
    row = {
        "id": server.books,
        "tenant": tenant,
        "name": "main",
        "sequence": 0,
        "recorded_at": now - MICROSECOND,
        "created_at": now,
        "revision": 0,
        "flush": 0,
        "quarantined_at": None,
    }
    await tx.insert("book", (server.books,), row)
    return [Row(id=server.books)]


def _named(tx: Transaction, tenant: str, name: str) -> Values | None:
    return next((book for book in tx.rows("book") if (book["tenant"], book["name"]) == (tenant, name)), None)


@statement
async def book_named(tx: Transaction, tenant: str, name: str) -> list[Row]:
    book = _named(tx, tenant, name)
    return [] if book is None else [Row(id=book["id"], sequence=book["sequence"])]


@statement
async def book(tx: Transaction, tenant: str, name: str) -> list[Row]:
    found = _named(tx, tenant, name)
    settings = {
        "description": None,
        "backdating": "strict",
        "sealed_until": None,
        "quarantine_reason": None,
        "shard": "default",
    }
    kept = ("id", "tenant", "name", "quarantined_at", "sequence", "revision", "created_at")
    return [] if found is None else [Row(**{key: found[key] for key in kept}, **settings)]


@statement
async def chart(tx: Transaction, _book: int, _version: int | None) -> list[Row]:
    return []


def _book(row: Values) -> Row:
    return Row(
        id=row["id"],
        sequence=row["sequence"],
        recorded_at=row["recorded_at"],
        revision=row["revision"],
        quarantined=row["quarantined_at"] is not None,
        strict=True,
        sealed_until=None,
        flush=row["flush"],
        approvals=None,
    )


@statement
async def lock_books(tx: Transaction, books: Sequence[int]) -> list[Row]:
    if tx.server.faults.chance("no_lock"):
        raise Contended("the row is locked by others")
    found = []
    for book in sorted(books):
        await tx.lock("book", (book,))
        if (row := tx.get("book", (book,))) is not None:
            found.append(_book(row))
    return found


@statement
async def heads(tx: Transaction, wanted: Sequence[int]) -> list[Row]:
    return [_book(row) for book in wanted if (row := tx.get("book", (book,))) is not None]


@statement
async def known(tx: Transaction, books_: Sequence[int], ids: Sequence[Any]) -> list[Row]:
    found = []
    for key in zip(books_, ids, strict=True):
        transfer, refusal = tx.get("transfer", key), tx.get("rejection", key)
        if transfer is None and refusal is None:
            continue
        hold = tx.get("hold", key) if transfer is not None and transfer["kind"] == "hold" else None
        drawn = tx.get("reversal", key) if transfer is not None and transfer["kind"] in {"post", "capture"} else None
        no = refusal or {}
        found.append(
            Row(
                **(transfer or dict.fromkeys(_TRANSFER)),
                digest=no.get("digest"),
                reason=no.get("reason"),
                available=no.get("available"),
                required=no.get("required"),
                refused_currency=no.get("currency"),
                refused=no.get("id"),
                in_book=key[0],
                hold_amount=None if hold is None else hold["amount"],
                hold_expires_at=None if hold is None else hold["expires_at"],
                captured=None if hold is None else hold["captured"],
                remaining=None if hold is None else hold["remaining"],
                state=None if hold is None else hold["state"],
                reversed=None if drawn is None else drawn["reversed"],
            )
        )
    return found


_POSTING = ("version", "debits_pending", "debits_posted", "credits_pending", "credits_posted")


@statement
async def accounts_for_posting(tx: Transaction, ids: Sequence[Any]) -> list[Row]:
    return [
        Row(
            id=row["id"],
            book=row["book"],
            currency=row["currency"],
            debit_normal=row["normal_side"] == "debit",
            floor=row["floor"],
            closed=row["closed_at"] is not None,
            **{name: row[name] for name in _POSTING},
            ceiling=row["ceiling"],
            frozen=row["frozen_at"] is not None,
            transit=(row.get("path") or "").startswith("transit:"),
            path=row.get("path"),
        )
        for account in ids
        if (row := tx.get("account", (account,))) is not None
    ]


def _failed(constraint: str) -> CheckViolation:
    return CheckViolation("save", "23514", constraint, "")


@statement
async def save(tx: Transaction, *args: Any) -> list[Row]:
    """As the `.sql`, part by part: the books as they were known, ids and keys that nobody has, then all the rest."""
    if not any(was is None for was in args[1]) and tx.server.faults.chance("no_lock"):
        raise Contended("the row is locked by others")
    before = {}
    # What it looks up it sees as it was when it began, before it waited for a lock.
    refusals, transfers = dict(tx.tables["rejection"]), dict(tx.tables["transfer"])
    for number, was, revision, last, sequence, instant, refused, flush in zip(*args[:8], strict=True):
        await tx.lock("book", (number,))
        row = tx.get("book", (number,)) or {}
        if was is not None and (row["sequence"], row["revision"], row["flush"]) != (was, revision, last):
            raise _failed("book_moved")
        before[number] = row["sequence"]
        await tx.update(
            "book",
            (number,),
            sequence=sequence,
            recorded_at=instant,
            revision=row["revision"] + refused,
            flush=flush,
        )
    if any(key in refusals for key in zip(*args[9:11], strict=True)):
        raise _failed("id_taken")
    if any(key in transfers for key in zip(*args[11:13], strict=True)):
        raise _failed("id_taken")
    for *key, digest, fields, resource, status, body in sorted(zip(*args[19:28], strict=True), key=lambda one: one[:4]):
        row = {"digest": digest, "fields": fields, "resource": resource, "status": status, "body": body}
        if not await tx.insert("idempotency", tuple(key), row):
            raise _failed("key_taken")
    names = ("book", "id", "digest", "reason", "available", "required", "currency")
    for values in zip(*args[11:18], strict=True):
        row = dict(zip(names, values, strict=True)) | {"after": before[values[0]]}
        if not await tx.insert("rejection", (row["book"], row["id"]), row):
            raise UniqueViolation("save", "23505", "rejection_pkey", "")
    await _post(tx, args[8])
    await append(tx, *args[28:31])
    return [Row(ours=True)]


async def _post(tx: Transaction, rows: Sequence[Any]) -> None:
    """Totals move by sums made here, running totals come from the model, and both guards look at the whole write."""
    firsts: dict[int, int] = {}
    touched: dict[Any, tuple[Values, str]] = {}
    for values in rows:
        new = dict(zip(_TRANSFER, values, strict=True))
        transfer = {name: new[name] for name in _TRANSFER}
        book, number = transfer["book"], transfer["sequence"]
        firsts.setdefault(book, number)
        if not await tx.insert("number", (book, number), {"id": transfer["id"]}):
            raise UniqueViolation("save", "23505", "transfer_sequence", "")
        if not await tx.insert("transfer", (book, transfer["id"]), transfer):
            raise UniqueViolation("save", "23505", "transfer_pkey", "")
        amount, kind = transfer["amount"], transfer["kind"]
        pending = amount if kind == "hold" else -transfer["released"]
        posted = amount if kind in _POSTED else 0
        for side, name in (("debit_account", "debits"), ("credit_account", "credits")):
            key = (transfer[side],)
            await tx.lock("account", key)
            row = tx.get("account", key)
            if row is None:
                raise _failed("transfer_running_totals")
            changes = {
                "version": row["version"] + 1,
                "sequence": number,
                f"{name}_pending": row[f"{name}_pending"] + pending,
                f"{name}_posted": row[f"{name}_posted"] + posted,
            }
            await tx.update("account", key, **changes)
            touched[transfer[side]] = (transfer, side[:2].replace("de", "dr"))
    for account, (transfer, side) in touched.items():
        row = tx.get("account", (account,)) or {}
        if any(row[name] != transfer[f"{side}_{name}"] for name in _POSTING):
            raise _failed("transfer_running_totals")
        if row["floor"] is not None and _available(row) < row["floor"]:
            raise _failed("account_floor")
    for book, first in firsts.items():
        if first > 1 and tx.get("number", (book, first - 1)) is None:
            raise _failed("transfer_sequence_gap")


def _available(row: Values) -> int:
    if row["normal_side"] == "debit":
        return int(row["debits_posted"] - row["credits_posted"] - row["credits_pending"])
    return int(row["credits_posted"] - row["debits_posted"] - row["debits_pending"])


@statement
async def insert_holds(tx: Transaction, *columns: Sequence[Any]) -> list[Row]:
    names = ("book", "id", "debit_account", "credit_account", "amount", "expires_at")
    for values in zip(*columns, strict=True):
        row = dict(zip(names, values, strict=True))
        row |= {"captured": 0, "remaining": row["amount"], "state": "held"}
        if not await tx.insert("hold", (row["book"], row["id"]), row):
            raise UniqueViolation("insert_holds", "23505", "hold_pkey", "")
    return []


@statement
async def draw_holds(tx: Transaction, *columns: Sequence[Any]) -> list[Row]:
    ends = {"capture": "captured", "void": "voided", "expire": "expired"}
    for book, target, kind, amount, released, expires_at in zip(*columns, strict=True):
        await tx.lock("hold", (book, target))
        row = tx.get("hold", (book, target))
        if row is None:
            continue
        left = row["remaining"] - released
        captured = row["captured"] + (amount if kind == "capture" else 0)
        whole = row["amount"] + (amount if kind == "increase" else 0)
        if left < 0 or captured > whole - left:
            raise CheckViolation("draw_holds", "23514", "hold_not_overdrawn", "")
        state = "held" if left else ends[kind]
        await tx.update(
            "hold",
            (book, target),
            amount=whole,
            captured=captured,
            remaining=left,
            state=state,
            expires_at=expires_at or row["expires_at"],
        )
    return []


@statement
async def insert_transactions(tx: Transaction, *columns: Sequence[Any]) -> list[Row]:
    for values in zip(*columns, strict=True):
        row = dict(zip(_TRANSACTION, values, strict=True))
        if not await tx.insert("transaction", (row["book"], row["id"]), row):
            raise UniqueViolation("insert_transactions", "23505", "transaction_pkey", "")
        undone = row["reverses"]
        if undone is not None and not await tx.insert("reversed", (row["book"], undone), row):
            raise UniqueViolation("insert_transactions", "23505", "transaction_reverses", "")
    return []


@statement
async def transactions_of(tx: Transaction, books_: Sequence[int], ids: Sequence[Any]) -> list[Row]:
    keys = zip(books_, ids, strict=True)
    return [Row(**row) for key in keys if (row := tx.get("transaction", key)) is not None]


@statement
async def draw_reversals(tx: Transaction, *columns: Sequence[Any]) -> list[Row]:
    for book, target, whole, amount in zip(*columns, strict=True):
        await tx.lock("reversal", (book, target))
        before = tx.get("reversal", (book, target))
        undone = amount + (0 if before is None else before["reversed"])
        if undone > whole:
            raise CheckViolation("draw_reversals", "23514", "reversal_not_exceeded", "")
        row = {"book": book, "id": target, "amount": whole, "reversed": undone}
        tx.writes["reversal", (book, target)] = row
    return []


def _due(tx: Transaction, now: datetime, limit: int, accounts: Sequence[Any] | None) -> list[Row]:
    tenants = {book["id"]: book["tenant"] for book in tx.rows("book")}
    found = [
        hold
        for hold in tx.rows("hold")
        if hold["remaining"] > 0
        and hold["expires_at"] is not None
        and hold["expires_at"] <= now
        and (accounts is None or hold["debit_account"] in accounts or hold["credit_account"] in accounts)
    ]
    found.sort(key=lambda hold: (hold["expires_at"], hold["id"]))
    return [Row(tenant=tenants[one["book"]], book=one["book"], hold=one["id"]) for one in found[:limit]]


@statement
async def due_holds(tx: Transaction, now: datetime, limit: int) -> list[Row]:
    return _due(tx, now, limit, None)


@statement
async def due_holds_of(tx: Transaction, now: datetime, limit: int, accounts: Sequence[Any]) -> list[Row]:
    return _due(tx, now, limit, accounts)


# ---- what was -------------------------------------------------------------------------------------------------------


def _numbered(tx: Transaction, of_book: int) -> list[Values]:
    return sorted((row for row in tx.rows("transfer") if row["book"] == of_book), key=lambda row: row["sequence"])


def _sequence_at(tx: Transaction, of_book: int, at: datetime) -> int:
    begun = (tx.get("book", (of_book,)) or {})["created_at"]
    return 0 if at < begun else sum(row["recorded_at"] <= at for row in _numbered(tx, of_book))


def _totals_at(tx: Transaction, account: Any, of_book: int, upto: int) -> list[Row]:
    """As the account's last entry up to there says."""
    for row in reversed(_numbered(tx, of_book)[:upto]):
        for side, key in (("dr", "debit_account"), ("cr", "credit_account")):
            if row[key] == account:
                return [Row(**{name: row[f"{side}_{name}"] for name in _POSTING})]
    return []


def _adjustments(tx: Transaction, account: Any) -> Iterator[tuple[datetime, int, int]]:
    """When it counts, debits and credits: from when it is effective, and no longer from when it was recorded."""
    for row in tx.rows("transfer"):
        if row["effective_at"] is not None and account in (row["debit_account"], row["credit_account"]):
            debits, credits_ = (row["amount"], 0) if row["debit_account"] == account else (0, row["amount"])
            yield row["effective_at"], debits, credits_
            yield row["recorded_at"], -debits, -credits_


@statement
async def between(tx: Transaction, of_book: int, first: int, last: int) -> list[Row]:
    return [Row(**row) for row in _numbered(tx, of_book)[first - 1 : last]]


@statement
async def sequence_at(tx: Transaction, of_book: int, at: datetime) -> list[Row]:
    return [Row(sequence=_sequence_at(tx, of_book, at))]


@statement
async def account_at(tx: Transaction, of_book: int, wanted: Any, sequence: int) -> list[Row]:
    return _totals_at(tx, wanted, of_book, sequence)


@statement
async def adjusted_at(tx: Transaction, wanted: Any, at: datetime) -> list[Row]:
    found = [one for one in _adjustments(tx, wanted) if one[0] <= at]
    return [Row(debits=sum(one[1] for one in found), credits=sum(one[2] for one in found))]


@statement
async def days(
    tx: Transaction, accounts: Sequence[Any], books_: Sequence[int], firsts: Sequence[date], today: date
) -> list[Row]:
    found = []
    for wanted, of_book, first in sorted(zip(accounts, books_, firsts, strict=True)):
        for nth in range((today - first).days):
            day = first + timedelta(days=nth)
            end = datetime.combine(day + timedelta(days=1), time(), UTC) - MICROSECOND
            totals = _totals_at(tx, wanted, of_book, _sequence_at(tx, of_book, end))
            debits, credits_ = (totals[0]["debits_posted"], totals[0]["credits_posted"]) if totals else (0, 0)
            found.append(Row(account=wanted, day=day, debits=debits, credits=credits_))
    return found


@statement
async def day_adjustments(tx: Transaction, accounts: Sequence[Any]) -> list[Row]:
    return [
        Row(account=wanted, day=at.date(), debits=debits, credits=credits_)
        for wanted in sorted(accounts)
        for at, debits, credits_ in _adjustments(tx, wanted)
    ]


@statement
async def insert_account(tx: Transaction, *values: Any) -> list[Row]:
    names = (
        "id", "book", "name", "path", "kind", "currency", "normal_side", "floor", "ceiling", "code", "metadata", "created_at",
    )  # fmt: skip
    row = dict(zip(names, values, strict=True))
    book = tx.get("book", (row["book"],))
    if book is None:
        return []
    row |= {
        "created_sequence": book["sequence"],
        "closed_at": None,
        "frozen_at": None,
        "sequence": 0,
        **dict.fromkeys(_POSTING, 0),
    }
    return [Row(id=row["id"])] if await tx.insert("account", (row["id"],), row) else []


@statement
async def close_account(tx: Transaction, account: Any, book: int, now: datetime) -> list[Row]:
    found = tx.get("book", (book,)) or {}
    await tx.update("book", (book,), revision=found["revision"] + 1)
    await tx.lock("account", (account,))
    row = tx.get("account", (account,))
    if row is None or row["book"] != book or row["closed_at"] is not None:
        return []
    if row["debits_pending"] or row["credits_pending"]:
        return []
    await tx.update("account", (account,), closed_at=now)
    return [Row(id=account)]


@statement
async def account(tx: Transaction, tenant: str, wanted: Any, now: datetime) -> list[Row]:
    row = tx.get("account", (wanted,))
    book = None if row is None else tx.get("book", (row["book"],))
    if row is None or book is None or book["tenant"] != tenant:
        return []
    due = [
        hold
        for hold in tx.rows("hold")
        if hold["remaining"] > 0 and hold["expires_at"] is not None and hold["expires_at"] <= now
    ]
    taken_off = {
        side: sum(hold["remaining"] for hold in due if hold[f"{side}_account"] == wanted)
        for side in ("debit", "credit")
    }
    kept = ("id", "book", "name", "path", "kind", "currency", "normal_side", "floor", "ceiling", "code", "metadata")
    return [
        Row(
            **{name: row[name] for name in (*kept, "created_at", "created_sequence", *_POSTING)},
            tenant=tenant,
            book_name=book["name"],
            closed=row["closed_at"] is not None,
            frozen=row["frozen_at"] is not None,
            as_of=book["sequence"],
            due_debits=taken_off["debit"],
            due_credits=taken_off["credit"],
        )
    ]


# ---- the chassis' tables --------------------------------------------------------------------------------------------


@statement
async def claim(tx: Transaction, *columns: Sequence[Any]) -> list[Row]:
    wanted = sorted(enumerate(zip(*columns, strict=True), 1), key=lambda one: one[1][:4])
    taken_ = []
    for place, (*key, digest, fields, resource) in wanted:
        row = {"digest": digest, "fields": fields, "resource": resource, "status": None, "body": None}
        if await tx.insert("idempotency", tuple(key), row):
            taken_.append(Row(place=place))
    return taken_


@statement
async def claimed(tx: Transaction, *columns: Sequence[Any]) -> list[Row]:
    return [
        Row(place=place, **row)
        for place, key in enumerate(zip(*columns, strict=True), 1)
        if (row := tx.get("idempotency", key)) is not None
    ]


@statement
async def complete(tx: Transaction, *columns: Sequence[Any]) -> list[Row]:
    done = []
    for place, (*key, status, body) in enumerate(zip(*columns, strict=True), 1):
        row = tx.get("idempotency", tuple(key))
        if row is not None and row["status"] is None:
            await tx.update("idempotency", tuple(key), status=status, body=body)
            done.append(Row(place=place))
    return done


@statement
async def append(tx: Transaction, ids: Sequence[Any], types: Sequence[str], facts: Sequence[bytes]) -> list[Row]:
    for one, kind, fact in zip(ids, types, facts, strict=True):
        await tx.insert("outbox", (one,), {"type": kind, "fact": fact})
    return []
