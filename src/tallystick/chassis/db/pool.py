"""A small pool of connections to one database.

The driver's own pool resets a connection at each release (one more round trip) and wraps each call. Our connections need no reset:
only transactions of `chassis.db` run on them, and those leave no state behind. The connection used last is given out first, because
its caches are warm. The number of waiters is bounded here, their time by the caller's timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from tallystick.chassis.waiting import Waiters
from tallystick.kernel.problem import Overloaded

if TYPE_CHECKING:
    from tallystick.chassis.db.database import Connection


class Pool:
    def __init__(self, connect: Callable[[], Awaitable[Connection]], *, size: int, waiting: int) -> None:
        self._connect = connect
        self._size = size
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        #: Places in which a connection is being opened, or will be, by a waiter that was just handed the place.
        self._opening = 0
        #: A waiter is handed a connection, or None: a place in which to open one.
        self._waiters: Waiters[Connection | None] = Waiters(waiting, self._pass_on)
        self._closed = False

    @property
    def busy(self) -> int:
        return len(self._busy)

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    def take_idle(self) -> Connection | None:
        """A connection at once, without waiting, or None."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                self._busy.add(connection)
                return connection
        return None

    async def acquire(self) -> Connection:
        """A connection, which the caller must `release`. Raises Overloaded when too many wait, and what connecting raises."""
        while True:
            if self._closed:
                raise ConnectionError("the pool is closed")
            if not self._waiters and (connection := self.take_idle()) is not None:
                return connection
            if len(self._busy) + self._opening < self._size and not self._waiters:
                return await self._open()
            if self._waiters.full:
                raise Overloaded("too many requests wait for the database")
            handed = await self._waiters.wait()
            if handed is None:
                self._opening -= 1  # `_open` counts it again
            elif not handed.is_closed():
                return handed
            else:
                self._busy.discard(handed)
            # A place came free, or the connection died on its way here: open one, ahead of those who wait behind.
            if not self._closed:
                return await self._open()

    def release(self, connection: Connection) -> None:
        """Give a connection back. One that is closed leaves its place to a new one."""
        if connection.is_closed() or self._closed:
            self._busy.discard(connection)
            if not connection.is_closed():
                connection.terminate()
            self._hand_place()
        else:
            self._pass_on(connection)

    def _hand_place(self) -> bool:
        """Let the first waiter open a connection. The place counts as taken at once: somebody else may ask before the waiter runs."""
        handed = self._waiters.hand(None)
        self._opening += handed
        return handed

    def _pass_on(self, connection: Connection | None) -> None:
        """Give what is free to the first waiter: a connection, or (None) a place that was handed out and not used."""
        if connection is None:
            self._opening -= 1
            self._hand_place()
        elif connection.is_closed():
            self._busy.discard(connection)
            self._hand_place()
        elif not self._waiters.hand(connection):
            self._busy.discard(connection)
            self._idle.append(connection)

    async def _open(self) -> Connection:
        self._opening += 1
        try:
            connection = await self._connect()
        except BaseException:
            self._opening -= 1
            self._hand_place()
            raise
        self._opening -= 1
        self._busy.add(connection)
        return connection

    async def close(self, within: float) -> None:
        """Wait up to `within` seconds for connections in use to come back, then close all."""
        self._closed = True
        while self._hand_place():
            pass  # they find the pool closed
        ending = asyncio.get_running_loop().time() + within
        while self._busy and asyncio.get_running_loop().time() < ending:
            await asyncio.sleep(0.01)
        for connection in (*self._idle, *self._busy):
            connection.terminate()
        self._idle.clear()
        self._busy.clear()
