"""Books whose lock is held for seconds, as by the import of a whole file. Requests for such a book wait apart from the others, so that one
tenant's transfers don't wait for another tenant's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from tallystick.chassis.batching import Batcher
from tallystick.chassis.db import Contended
from tallystick.services.ledger.service.asks import Answered, Work

#: Seconds for which a book counts as held after its lock was found to be.
LASTS: Final = 5.0
#: Most requests that are stored together, and most that wait. The bound is low because each occupies one of the service's places for
#: requests in flight while it waits for a lock that nobody can hurry.
MOST: Final = 64


class Held:
    """The numbers of held books. The database knows the truth; this is a short-lived memory of it. `store` stores requests, `free` tells which
    books' locks are free.
    """

    def __init__(
        self,
        store: Callable[[list[Work]], Awaitable[list[Answered | Exception]]],
        free: Callable[[set[int]], Awaitable[set[int]]],
    ) -> None:
        self._store = store
        self._free = free
        self._until: dict[int, float] = {}
        # Each flush occupies a connection while it waits for the lock. So at most two run; the other connections stay free.
        self._waiting: Batcher[Work, Answered] = Batcher(
            self._flush, max_batch=MOST, max_waiting=MOST, concurrency=2, name="ledger.post-held"
        )

    async def without(self, works: list[Work], contended: Contended) -> list[Answered | Exception]:
        """Stores a flush that timed out waiting for a lock, without the requests for held books; these get `contended`. Raises `contended` if
        no book is found to be held, or no other request is left.
        """
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
        """Posts to a held book. Raises Contended if the book is still held when the lock timeout ends."""
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
            except Exception as error:  # noqa: BLE001 - the exception is the answer to this book's requests
                found = [error] * len(places)
            else:
                self._until.pop(book, None)
            answers |= dict(zip(places, found, strict=True))
        return [answers[place] for place in range(len(works))]
