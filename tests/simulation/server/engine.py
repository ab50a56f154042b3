"""PostgreSQL as the ledger sees it, in memory: rows, row locks, READ COMMITTED, and everything that can go wrong between two statements.

Each query of the ledger and of the chassis' tables that it writes to is a small function beside this module, by its file's and its own name. A
statement sees what was committed before it and what its own transaction wrote; a row that another transaction has changed is waited for.
`Faults` decides what breaks, before or after it took effect. A query that is not known is an error: then these functions are behind the `.sql`
files. That they mean the same is seen by `test_server.py`, which asks PostgreSQL too.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, NamedTuple

from tallystick.chassis.db import (
    CheckViolation,
    CommitUnknown,
    Contended,
    DatabaseUnavailable,
    Query,
    Signal,
    UniqueViolation,
)

#: Seconds that a lock is waited for, as in `Bounds`.
LOCK_S = 2.0

Key = tuple[Any, ...]
Values = dict[str, Any]


class Row:
    """As asyncpg's Record: by place, by name, in order."""

    __slots__ = ("_names", "_values")

    def __init__(self, **values: Any) -> None:
        self._names = list(values)
        self._values = list(values.values())

    @classmethod
    def of(cls, pairs: Sequence[tuple[str, Any]]) -> Row:
        """For a query that gives two columns of one name."""
        row = cls()
        row._names, row._values = [name for name, _ in pairs], [value for _, value in pairs]
        return row

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
    request_lost: float = 0.0
    answer_lost: float = 0.0
    reached: Counter[str] = field(default_factory=Counter)

    def heal(self) -> None:
        self.lost_before = self.lost_after = self.no_lock = self.slow = self.request_lost = self.answer_lost = 0.0
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


class Change(NamedTuple):
    """What was said of a book or an account, and how far the book was when that was stored: what comes later was decided knowing it."""

    book: int
    sequence: int
    kind: str
    said: Any


class Server:
    """The committed rows, who has locked which, and who waits for whom. `changes`: what the rules read besides transfers, in its order."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.changes: list[Change] = []
        self.tables: dict[str, dict[Key, Values]] = {
            name: {}
            for name in (
                "book",
                "account",
                "path",
                "transfer",
                "number",
                "transaction",
                "reversed",
                "hold",
                "reversal",
                "rejection",
                "proposal",
                "decision",
                "idempotency",
                "outbox",
                "chart",
                "import",
                "import_line",
                "import_refusal",
                "import_wait",
            )
        }
        self.locks: dict[tuple[str, Key], Transaction] = {}
        #: Locks that several transactions have at once, in the order in which they got them.
        self.shares: dict[tuple[str, Key], dict[Transaction, None]] = {}
        self.queues: dict[tuple[str, Key], deque[tuple[asyncio.Future[None], Transaction]]] = {}
        self.deadlocks = 0
        self.books = 0
        #: Accounts by their numbers less one. A number that was drawn stays drawn, whatever becomes of its account.
        self.numbered: list[Any] = []
        self.late: set[asyncio.Task[None]] = set()
        self.hung: list[asyncio.Future[None]] = []
        self.over = False

    def account(self, number: int) -> Any:
        """The id of the account with this number, None if there never was one."""
        return self.numbered[number - 1] if 0 < number <= len(self.numbered) else None

    def wake(self, place: tuple[str, Key]) -> None:
        """The next in the queue may look whether the row is free now."""
        queue = self.queues.get(place)
        while queue and place not in self.locks:
            turn, tx = queue.popleft()
            if not (turn.done() or tx.over):
                turn.set_result(None)
                break


class Asked(ABC):
    """What is asked of a database or a transaction, all of it by `fetch`."""

    @abstractmethod
    async def fetch(self, query: Query, *args: Any) -> list[Any]: ...

    async def fetchrow(self, query: Query, *args: Any) -> Any:
        rows = await self.fetch(query, *args)
        return rows[0] if rows else None

    async def fetchval(self, query: Query, *args: Any) -> Any:
        row = await self.fetchrow(query, *args)
        return None if row is None else row[0]

    async def execute(self, query: Query, *args: Any) -> int:
        return len(await self.fetch(query, *args))


class Transaction(Asked):
    """Has both sides: what the service holds in its hand, and what the server knows of it."""

    def __init__(self, database: SimDatabase, *, snapshot: bool = False) -> None:
        """`snapshot`: all statements see what the first one saw."""
        self.database = database
        self.server = database.server
        self.tables = self.server.tables
        self.snapshot = snapshot
        self.writes: dict[tuple[str, Key], Values] = {}
        self.owned: list[tuple[str, Key]] = []
        self.shared: list[tuple[str, Key]] = []
        self.over = False
        self.waits_for: Transaction | None = None
        self.after: list[Callable[[], None]] = []
        self.noted: list[tuple[int, str, Any]] = []

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
            rows: list[Row] = await meaning(query)(self, *args)
        except (Contended, UniqueViolation, CheckViolation):
            self.abort()
            raise
        await database.alive()
        if faults.chance("lost_after"):
            self.abort()
            raise DatabaseUnavailable("lost after it was run")
        return rows

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

    async def lock(self, table: str, key: Key, *, shared: bool = False) -> None:
        """Waits for whoever has changed or locked this row, or is about to insert it. A `shared` lock goes with others of its kind. Raises
        Contended.
        """
        place, server = (table, key), self.server
        while (other := self._in_the_way(place, shared=shared)) is not None:
            self.waits_for = other
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
        if shared:
            server.shares.setdefault(place, {})[self] = None
            self.shared.append(place)
            server.wake(place)
        elif place not in server.locks:
            server.locks[place] = self
            self.owned.append(place)

    def _in_the_way(self, place: tuple[str, Key], *, shared: bool) -> Transaction | None:
        owner = self.server.locks.get(place)
        if owner is not None or shared:
            return None if owner is self else owner
        return next((tx for tx in self.server.shares.get(place, ()) if tx is not self), None)

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
        for book, kind, said in self.noted:
            self.server.changes.append(Change(book, self.server.tables["book"][book,]["sequence"], kind, said))
        self._end()

    def _end(self) -> None:
        self.over = True
        for place in self.owned:
            self.unlock(*place)
        self.owned.clear()
        for place in self.shared:
            self.server.shares[place].pop(self, None)
            self.server.wake(place)
        self.shared.clear()

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


class SimDatabase(Asked):
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


# ---- the statements -------------------------------------------------------------------------------------------------

Statement = Callable[..., Any]
#: By file and name: the names of one file are its own.
STATEMENTS: dict[tuple[str, str], Statement] = {}
_AT: dict[str, Statement] = {}


def of_file(file: str) -> Callable[[Statement], Statement]:
    """What the queries of `sql/<file>.sql` do, each by the function of its name."""

    def known(function: Statement) -> Statement:
        STATEMENTS[file, function.__name__.rstrip("_")] = function
        return function

    return known


def meaning(query: Query) -> Statement:
    found = _AT.get(query.place)
    if found is None:
        file = PurePath(query.place.rpartition(":")[0]).stem
        found = STATEMENTS.get((file, query.name))
        if found is None:
            raise NotImplementedError(f"the simulated PostgreSQL does not know {query} yet: add it beside {__file__}")
        _AT[query.place] = found
    return found
