"""Books whose lock somebody keeps for seconds: an import that comes in whole, a chart that is compared with all accounts. What is for one of
them waits apart, so that nobody's transfers wait for another tenant's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from tallystick.chassis.batching import Batcher
from tallystick.chassis.db import Contended
from tallystick.services.ledger.service.asks import Answered, Work

#: Seconds for which a book is taken for held after it was seen to be.
LASTS: Final = 5.0
#: Requests that are stored together, and as many wait: each has a place among all that are under way while it waits for what nobody can hurry.
MOST: Final = 64


class Held:
    """Their numbers: the database knows, this only remembers for a moment. `store` stores requests, `free` says which books' locks nobody has."""

    def __init__(
        self,
        store: Callable[[list[Work]], Awaitable[list[Answered | Exception]]],
        free: Callable[[set[int]], Awaitable[set[int]]],
    ) -> None:
        self._store = store
        self._free = free
        self._until: dict[int, float] = {}
        # Each flush has a connection while it waits for the lock; the others are everybody's.
        self._waiting: Batcher[Work, Answered] = Batcher(
            self._flush, max_batch=MOST, max_waiting=MOST, concurrency=2, name="ledger.post-held"
        )

    async def without(self, works: list[Work], contended: Contended) -> list[Answered | Exception]:
        """A flush that waited for a lock in vain, stored without what is for the books that somebody has. Raises `contended` when nothing is left."""
        books = {work.book for work in works}
        held = books - await self._free(books)
        self._add(held)
        rest = [work for work in works if work.book not in held]
        if not held or not rest:
            raise contended
        answers = iter(await self._store(rest))
        return [contended if work.book in held else next(answers) for work in works]

    def _add(self, books: Iterable[int]) -> None:
        self._until |= dict.fromkeys(books, asyncio.get_running_loop().time() + LASTS)

    def __contains__(self, book: int) -> bool:
        return bool(self._until) and self._until.get(book, 0.0) > asyncio.get_running_loop().time()

    async def post(self, work: Work) -> Answered:
        """For a book that is held. Raises Contended when it is still, after as long as any statement waits for a lock."""
        return await self._waiting.submit(work)

    async def close(self) -> None:
        await self._waiting.close()

    async def _flush(self, works: list[Work]) -> list[Answered | Exception]:
        """One book after the other."""
        answers: dict[int, Answered | Exception] = {}
        for book in dict.fromkeys(work.book for work in works):
            places = [place for place, work in enumerate(works) if work.book == book]
            try:
                found = await self._store([works[place] for place in places])
            except Contended as contended:
                self._add((book,))
                found = [contended] * len(places)
            except Exception as error:  # noqa: BLE001 - it is this book's answer
                found = [error] * len(places)
            else:
                self._until.pop(book, None)
            answers |= dict(zip(places, found, strict=True))
        return [answers[place] for place in range(len(works))]
