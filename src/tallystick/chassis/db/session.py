"""A connection outside the pool, for work that is bound to a database session: an advisory lock says who leads."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from tallystick.chassis.db.errors import DRIVER_ERRORS, DatabaseUnavailable, translate
from tallystick.chassis.db.query import Queries
from tallystick.chassis.deadline import budget

if TYPE_CHECKING:
    from tallystick.chassis.db.database import Connection, Database, Row
    from tallystick.chassis.db.query import Query

T = TypeVar("T")
Q: Final = Queries.load("tallystick.chassis", "locks")


class Session:
    """Statements on one connection, each a transaction of its own. When the connection is lost, so is the session, for good."""

    def __init__(self, connection: Connection, statement_s: float) -> None:
        self._connection = connection
        self._statement_s = statement_s

    @property
    def lost(self) -> bool:
        return self._connection.is_closed()

    async def fetch(self, query: Query, *args: Any) -> list[Row]:
        return await self._bounded(query, self._connection.fetch(query.sql, *args))

    async def fetchrow(self, query: Query, *args: Any) -> Row | None:
        return await self._bounded(query, self._connection.fetchrow(query.sql, *args))

    async def fetchval(self, query: Query, *args: Any) -> Any:
        row = await self.fetchrow(query, *args)
        return None if row is None else row[0]

    async def lock(self, name: str) -> bool:
        """Take the lock `name` until the session ends; False when another session of this database has it."""
        return bool(await self.fetchval(Q.try_lock, lock_key(name)))

    async def let_go(self) -> None:
        """Release all locks now: that a connection has ended the server notices a moment later only."""
        await self.fetchval(Q.let_go)

    async def _bounded(self, query: Query, call: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(budget(self._statement_s)):
                return await call
        except DRIVER_ERRORS as error:
            if isinstance(error, TimeoutError):
                self._connection.terminate()
                raise DatabaseUnavailable(
                    "the database did not answer in time", context={"query": query.name}
                ) from None
            raise translate(error, query.name) from None


def lock_key(name: str) -> int:
    """The number of the advisory lock of this name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


@asynccontextmanager
async def session(database: Database) -> AsyncIterator[Session]:
    """A session for a block; at its end the connection is closed, which releases its locks. Raises DatabaseUnavailable."""
    try:
        connection = await database.connect()
    except DRIVER_ERRORS as error:
        raise translate(error, "connect") from None
    try:
        yield Session(connection, database.bounds.statement_s)
    finally:
        connection.terminate()
