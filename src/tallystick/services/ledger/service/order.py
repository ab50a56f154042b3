"""The order in which the flushes of one replica are decided and stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Final

#: Flushes of one replica that are stored at a time: while the database works on one, the next has been sent and waits for the lock.
STORED: Final = 2


class Place:
    """The place of one flush in the order. First it alone is decided; then it is stored. `before` are the flushes being stored ahead of it."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._deciding = True
        self.before: list[asyncio.Future[None]] = []

    def taken(self, most: int) -> bool:
        """Joins the flushes being stored, unless there would be more than `most` of them. Returns whether it did."""
        storing = self._order.storing
        if len(storing) >= most:
            return False
        self.before = list(storing)
        storing.append(self._stored)
        return True

    async def one_is_stored(self) -> None:
        await asyncio.wait(self._order.storing, return_when=asyncio.FIRST_COMPLETED)

    def decided(self) -> None:
        """Lets the next flush be decided, as this one is."""
        if self._deciding:
            self._deciding = False
            self._order.deciding.release()

    def leave(self) -> None:
        if self._stored in self._order.storing:
            self._order.storing.remove(self._stored)
        self._stored.set_result(None)
        self.decided()


class Order:
    """`deciding` is held by the flush being decided. `storing` are the flushes being stored, in order."""

    def __init__(self) -> None:
        self.deciding = asyncio.Lock()
        self.storing: list[asyncio.Future[None]] = []
        self._kept_back: dict[int, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def place(self, books: Collection[int]) -> AsyncIterator[Place]:
        """The next place, for a flush about these books."""
        await self.deciding.acquire()
        while waits := [wait for book, wait in self._kept_back.items() if book in books]:
            self.deciding.release()
            await asyncio.wait(waits)
            await self.deciding.acquire()
        place = Place(self)
        try:
            yield place
        finally:
            place.leave()

    def is_kept_back(self, books: Collection[int]) -> bool:
        return not self._kept_back.keys().isdisjoint(books)

    @asynccontextmanager
    async def kept_back(self, books: Collection[int]) -> AsyncIterator[None]:
        """Keeps flushes about these books from being decided inside the context. Whoever leaves it is the first to get a place then."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._kept_back.update(dict.fromkeys(books, over))
        try:
            yield
        finally:
            for book in books:
                del self._kept_back[book]
            over.set_result(None)
