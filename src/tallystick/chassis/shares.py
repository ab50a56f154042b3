"""How many of a process's connections the requests of one tenant may have at once.

Connections are few, and whoever waits for a lock has one: without a bound, some requests of a tenant for what it keeps locked itself, by an
import say, would have them all, and everybody else would wait. Work for many tenants at once, and what no request asks for, has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import ContextVar
from typing import Final
from weakref import WeakValueDictionary

#: Whose request this is, for as long as it has no connection: a second one is not waited for by who holds the first.
OWNER: Final[ContextVar[str | None]] = ContextVar("owner", default=None)


class Shares:
    """Three quarters of `connections`, for each owner."""

    def __init__(self, connections: int) -> None:
        self._most = max(1, connections * 3 // 4)
        self._of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def share(self) -> AbstractAsyncContextManager[None]:
        """A place among the owner's, if this is somebody's; whoever waits for it is stopped by the request's deadline."""
        owner = OWNER.get()
        return nullcontext() if owner is None else self._share(owner)

    @asynccontextmanager
    async def _share(self, owner: str) -> AsyncIterator[None]:
        places = self._of.get(owner)
        if places is None:
            places = self._of[owner] = asyncio.Semaphore(self._most)
        async with places:
            OWNER.set(None)
            try:
                yield
            finally:
                OWNER.set(owner)
