"""Access to PostgreSQL, by transactions and single statements. From outside this package only `Query` objects reach the driver, no SQL
text.

Round trips are the cost of a transaction: BEGIN, its statements, COMMIT, and nothing else. The server's timeouts are set when a
connection opens. The application has a deadline as well, for the transaction as a whole, because a stopped server answers nothing,
not even a timeout.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import WeakSet

import asyncpg

from tallystick.chassis.db.errors import (
    DRIVER_ERRORS,
    DatabaseError,
    DatabaseUnavailable,
    after_commit,
    translate,
)
from tallystick.chassis.db.pool import Pool
from tallystick.chassis.deadline import Deadline, budget
from tallystick.chassis.shares import Shares
from tallystick.chassis.telemetry import metrics
from tallystick.kernel.problem import DeadlineExceeded
from tallystick.kernel.secret import Secret

if TYPE_CHECKING:
    from tallystick.chassis.db.query import Query

Row: TypeAlias = "asyncpg.Record"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

ROLLBACK_S: Final = 2.0
#: Bytes that a Unix socket accepts at once (the kernel may allow less). With the default of 200 KiB the second half of a large batch
#: would stay in the process until the event loop runs again, and the server would wait for whatever the process computes meanwhile.
SEND_BUFFER: Final = 1 << 20

_BUSY: Final = metrics.gauge("database_connections_busy", "Connections to the database that are in use")
_WAITING: Final = metrics.gauge("database_waiting", "Requests that wait for a connection to the database")
#: A process may have several: the ledger's imports have one with other limits.
_POOLS: Final[WeakSet[Pool]] = WeakSet()
_BUSY.set_function(lambda: sum(pool.busy for pool in _POOLS))
_WAITING.set_function(lambda: sum(pool.waiting for pool in _POOLS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dsn:
    """Where a database is and who connects. `host` is the directory of a Unix socket, or a host name; for a name, TLS with a verified
    certificate is required (`ca`: the authority's PEM file; None: the system's authorities).
    """

    host: str
    port: int = 5432
    database: str
    user: str
    password: Secret[str]
    ca: Path | None = None

    def tls(self) -> ssl.SSLContext | None:
        if self.host.startswith("/"):
            return None
        context = ssl.create_default_context(cafile=self.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def arguments(self) -> dict[str, Any]:
        """The arguments of `asyncpg.connect`, with the password in clear."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password.reveal(),
            "database": self.database,
            "ssl": self.tls() or False,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits of one process's use of its database; those in `_s` are seconds. The service's are in its charter, `[limits]`."""

    connections: int = 8
    waiting: int = 1024
    connect_s: float = 5.0
    lock_s: float = 2.0
    statement_s: float = 5.0
    transaction_s: float = 10.0
    commit_s: float = 10.0


@dataclass(slots=True)
class Signal:
    """Wakes a waiting task. Signals that are sent between two waits count as one."""

    _event: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self) -> None:
        self._event.set()

    async def wait(self, timeout: float) -> bool:
        """True once it has been sent since the last wait, False after `timeout` seconds without."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._event.wait()
        happened = self._event.is_set()
        self._event.clear()
        return happened


class Transaction:
    """An open transaction. Its statements run one after another; an error of one of them aborts it."""

    __slots__ = ("_after", "_connection", "database")

    def __init__(self, database: Database, connection: Connection) -> None:
        self.database = database
        self._connection = connection
        self._after: list[Callable[[], None]] = []

    async def fetch(self, query: Query, *args: Any) -> list[Row]:
        try:
            rows = await self._connection.fetch(query.sql, *args)
        except DRIVER_ERRORS as error:
            raise translate(error, query.name) from None
        self._noted(query)
        return rows

    async def fetchrow(self, query: Query, *args: Any) -> Row | None:
        try:
            row = await self._connection.fetchrow(query.sql, *args)
        except DRIVER_ERRORS as error:
            raise translate(error, query.name) from None
        self._noted(query)
        return row

    async def fetchval(self, query: Query, *args: Any) -> Any:
        """The first column of the first row; None when there is no row."""
        row = await self.fetchrow(query, *args)
        return None if row is None else row[0]

    async def execute(self, query: Query, *args: Any) -> int:
        """Run a statement for its effect; returns the number of rows affected."""
        try:
            status = await self._connection.execute(query.sql, *args)
        except DRIVER_ERRORS as error:
            raise translate(error, query.name) from None
        self._noted(query)
        return touched(status)

    def _noted(self, query: Query) -> None:
        if query.tells and self.database.appended.send not in self._after:
            self._after.append(self.database.appended.send)

    def on_commit(self, call: Callable[[], None]) -> None:
        """Call `call` after the commit, and not at all if the transaction is not committed. It must not raise."""
        self._after.append(call)


class Database:
    """One service's database. Open with `Database.open`, close with `close`.

    Errors of every call: `DatabaseUnavailable`, `DeadlineExceeded`, `Overloaded`, `StorageFull`, `Contended`, `DatabaseError` and its
    kinds by constraint; of a transaction also `CommitUnknown`.
    """

    def __init__(self, dsn: Dsn, bounds: Bounds, application: str) -> None:
        self.dsn = dsn
        self.bounds = bounds
        self.application = application
        self.appended = Signal()
        """Facts were stored in the outbox: the relay waits for it."""
        self._pool = Pool(self.connect, size=bounds.connections, waiting=bounds.waiting)
        self._shares = Shares(bounds.connections)
        _POOLS.add(self._pool)

    @classmethod
    async def open(cls, dsn: Dsn, *, bounds: Bounds | None = None, application: str = "tallystick") -> Database:
        """Connect once, so that a wrong password or address is noticed at the start. Raises DatabaseUnavailable."""
        database = cls(dsn, bounds or Bounds(), application)
        try:
            connection = await database._acquire()
        except DRIVER_ERRORS as error:
            raise translate(error, "connect") from None
        database._pool.release(connection)
        return database

    async def close(self, within: float = 5.0) -> None:
        await self._pool.close(within)

    async def connect(self) -> Connection:
        """A new connection outside the pool, for a session's advisory locks. The caller closes it. Raises the driver's errors."""
        bounds = self.bounds
        connection: Connection = await asyncpg.connect(
            **self.dsn.arguments(),
            timeout=budget(bounds.connect_s),
            statement_cache_size=512,
            max_cached_statement_lifetime=0,
            max_cacheable_statement_size=0,
            server_settings={
                "application_name": self.application,
                "timezone": "UTC",
                "lock_timeout": _ms(bounds.lock_s),
                "statement_timeout": _ms(bounds.statement_s),
                "idle_in_transaction_session_timeout": _ms(bounds.transaction_s),
                "jit": "off",
            },
        )
        try:
            if self.dsn.host.startswith("/"):
                _widen(connection)
            # Not among the start-up settings: servers before PostgreSQL 17 don't know it and would refuse the connection.
            if connection.get_server_version() >= (17, 0):
                await connection.execute(
                    f"SET transaction_timeout = {_ms(bounds.transaction_s)}", timeout=bounds.connect_s
                )
        except BaseException:
            connection.terminate()
            raise
        return connection

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False) -> AsyncIterator[Transaction]:
        """A READ COMMITTED transaction, committed when the block ends and rolled back when it raises. No network call belongs in it.

        `snapshot=True`: read-only, and all statements see the same snapshot (REPEATABLE READ), for reports and checks.
        The block may take `bounds.transaction_s`, or until the current deadline if that is sooner.
        """
        async with self._shares.share(), self._transaction(snapshot=snapshot) as tx:
            yield tx

    @asynccontextmanager
    async def _transaction(self, *, snapshot: bool) -> AsyncIterator[Transaction]:
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if snapshot else "BEGIN"
        timeout = asyncio.timeout(budget(self.bounds.transaction_s))
        connection: Connection | None = None
        try:
            try:
                async with timeout:
                    connection = await self._begin(begin)
                    tx = Transaction(self, connection)
                    yield tx
            except BaseException as error:
                if timeout.expired() and isinstance(error, TimeoutError):
                    if connection is not None:
                        connection.terminate()  # it may not answer a ROLLBACK either; the server rolls back when it is gone
                    raise self._late() from None
                if connection is not None:
                    await self._roll_back(connection)
                raise
            cancelled = await self._commit(connection)
        finally:
            if connection is not None:
                self._pool.release(connection)
        for call in tx._after:
            call()
        if cancelled:
            raise asyncio.CancelledError

    async def fetch(self, query: Query, *args: Any) -> list[Row]:
        """One statement as a transaction of its own: a single round trip. One that writes may end in `CommitUnknown`."""
        rows: list[Row] = await self._single(query, lambda connection: connection.fetch(query.sql, *args))
        return rows

    async def fetchrow(self, query: Query, *args: Any) -> Row | None:
        row: Row | None = await self._single(query, lambda connection: connection.fetchrow(query.sql, *args))
        return row

    async def fetchval(self, query: Query, *args: Any) -> Any:
        row = await self.fetchrow(query, *args)
        return None if row is None else row[0]

    async def execute(self, query: Query, *args: Any) -> int:
        """As `Transaction.execute`. Like any COMMIT it may end in `CommitUnknown`."""
        return touched(await self._single(query, lambda connection: connection.execute(query.sql, *args)))

    async def _single(self, query: Query, call: Callable[[Connection], Awaitable[Any]]) -> Any:
        async with self._shares.share():
            return await self._in_time(query, call)

    async def _in_time(self, query: Query, call: Callable[[Connection], Awaitable[Any]]) -> Any:
        timeout = asyncio.timeout(budget(self.bounds.statement_s))
        sent = False

        def send(connection: Connection) -> Awaitable[Any]:
            nonlocal sent
            sent = True
            return call(connection)

        try:
            async with timeout:
                result = await self._attempt(query, send, retry=not query.writes)
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise (after_commit(error) if query.writes and sent else self._late()) from None
        if query.tells:
            self.appended.send()
        return result

    async def _attempt(self, query: Query, call: Callable[[Connection], Awaitable[Any]], *, retry: bool) -> Any:
        try:
            connection = await self._acquire()
        except DRIVER_ERRORS as error:
            raise translate(error, query.name) from None
        try:
            return await call(connection)
        except DRIVER_ERRORS as error:
            lost = connection.is_closed()
            if query.writes and lost:
                raise after_commit(error) from None
            if not (lost and retry):
                raise translate(error, query.name) from None
        except BaseException:
            connection.terminate()  # cancelled in the middle of a statement, by the deadline or the caller
            raise
        finally:
            self._pool.release(connection)
        # A read, on a connection that had died while it was idle: try once more on another.
        return await self._attempt(query, call, retry=False)

    async def _acquire(self) -> Connection:
        """A connection of the pool. Raises the driver's errors and Overloaded. The caller bounds the time."""
        return (None if self._pool.waiting else self._pool.take_idle()) or await self._pool.acquire()

    async def _begin(self, statement: str) -> Connection:
        for attempt in (1, 2):
            try:
                connection = await self._acquire()
            except DRIVER_ERRORS as error:
                raise translate(error, "BEGIN") from None
            try:
                await connection.execute(statement)
                return connection
            except DRIVER_ERRORS as error:
                died = connection.is_closed()
                self._discard(connection)
                if died and attempt == 1:
                    continue  # the server was restarted while the connection was idle
                raise translate(error, "BEGIN") from None
            except BaseException:
                self._discard(connection)
                raise
        raise AssertionError("unreachable")

    async def _commit(self, connection: Connection) -> bool:
        """COMMIT. Neither a deadline nor a caller that goes away cancels it on the way: whether it took effect would be left to chance.
        It has its own time limit, after which the connection is closed and the outcome is unknown. Returns whether the caller was
        cancelled meanwhile.
        """
        loop = asyncio.get_running_loop()
        task = loop.create_task(connection.execute("COMMIT"))
        alarm = loop.call_later(self.bounds.commit_s, connection.terminate)
        cancelled = False
        try:
            while not task.done():
                try:
                    await asyncio.shield(task)
                except asyncio.CancelledError:
                    cancelled = True
            status = task.result()
        except DRIVER_ERRORS as error:
            connection.terminate()
            raise after_commit(error) from None
        finally:
            alarm.cancel()
        if status != "COMMIT":
            # The server answers ROLLBACK when a statement has failed and its error was swallowed by the block.
            raise DatabaseError(
                "COMMIT", "25P02", None, "an earlier statement failed and its error was swallowed; nothing was stored"
            )
        return cancelled

    async def _roll_back(self, connection: Connection) -> None:
        if connection.is_closed():
            return
        try:
            async with asyncio.timeout(ROLLBACK_S):
                await connection.execute("ROLLBACK")
        except (TimeoutError, *DRIVER_ERRORS):
            connection.terminate()
        except BaseException:
            connection.terminate()
            raise

    def _discard(self, connection: Connection) -> None:
        connection.terminate()
        self._pool.release(connection)

    def _late(self) -> Exception:
        deadline = Deadline.current()
        if deadline is not None and deadline.expired:
            return DeadlineExceeded("the database did not answer in time; nothing was stored", outcome_unknown=False)
        return DatabaseUnavailable("the database did not answer in time; nothing was stored")


def _widen(connection: Connection) -> None:
    """Enlarge the send buffer of the connection's socket, for which the driver has no option."""
    descriptor = connection._transport.get_extra_info("socket").fileno()  # type: ignore[attr-defined]
    with socket.socket(fileno=os.dup(descriptor)) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)


def _ms(seconds: float) -> str:
    return str(int(seconds * 1000))


def touched(status: str) -> int:
    """The number of rows in a command tag: `INSERT 0 5` -> 5."""
    count = status.rpartition(" ")[2]
    return int(count) if count.isdigit() else 0
