"""A small pool of connections to one database.

The driver's own pool resets a connection at each release (one more round trip) and wraps each call. Ours need no reset: nothing but
transactions of `chassis.db` runs on them, and those leave nothing behind. The last one used is the first one given out again, its
caches are warm. Waiting is bounded in number and, by the caller's timeout, in time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from tallystick.kernel.problem import Overloaded

if TYPE_CHECKING:
    from tallystick.chassis.db.database import Connection


class Pool:
    def __init__(self, connect: Callable[[], Awaitable[Connection]], *, size: int, waiting: int) -> None:
        self._connect = connect
        self._size = size
        self._most_waiting = waiting
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._opening = 0
        self._waiters: deque[asyncio.Future[Connection | None]] = deque()
        self._closed = False

    @property
    def open(self) -> int:
        """Connections that exist, in use or not."""
        return len(self._idle) + len(self._busy)

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
        """A connection; the caller must `release` it. Raises Overloaded when too many wait, and what connecting raises."""
        while True:
            if self._closed:
                raise ConnectionError("the pool is closed")
            if not self._waiters and (connection := self.take_idle()) is not None:
                return connection
            if len(self._busy) + self._opening < self._size and not self._waiters:
                return await self._open()
            if len(self._waiters) >= self._most_waiting:
                raise Overloaded("too many requests wait for the database")
            waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                handed = await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._pass_on(waiter.result())  # it came at the same moment: somebody else may have it
                else:
                    # Not there any more if one was handed out between the cancelling and now.
                    with suppress(ValueError):
                        self._waiters.remove(waiter)
                raise
            if handed is not None:
                if not handed.is_closed():
                    return handed
                self._busy.discard(handed)
            # A place came free (or a connection died on its way here): open one, before those who wait behind.
            if not self._closed:
                return await self._open()

    def release(self, connection: Connection) -> None:
        """Give it back; a closed one leaves its place to a new one."""
        if connection.is_closed() or self._closed:
            self._busy.discard(connection)
            if not connection.is_closed():
                connection.terminate()
            self._wake(None)
        else:
            self._pass_on(connection)

    def _pass_on(self, connection: Connection | None) -> None:
        if connection is None:
            self._wake(None)
        elif connection.is_closed():
            self._busy.discard(connection)
            self._wake(None)
        elif not self._wake(connection):
            self._busy.discard(connection)
            self._idle.append(connection)

    def _wake(self, connection: Connection | None) -> bool:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    async def _open(self) -> Connection:
        self._opening += 1
        try:
            connection = await self._connect()
        except BaseException:
            self._opening -= 1
            self._wake(None)
            raise
        self._opening -= 1
        self._busy.add(connection)
        return connection

    async def close(self, within: float) -> None:
        """Let what is in use come back for `within` seconds, then end everything."""
        self._closed = True
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(ConnectionError("the pool is closed"))
        ending = asyncio.get_running_loop().time() + within
        while self._busy and asyncio.get_running_loop().time() < ending:
            await asyncio.sleep(0.01)
        for connection in (*self._idle, *self._busy):
            connection.terminate()
        self._idle.clear()
        self._busy.clear()
