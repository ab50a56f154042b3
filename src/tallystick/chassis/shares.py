"""How many of a process's database connections the requests of one tenant may hold at once.

There are few connections, and a request that waits for a lock holds one. Without a bound, a handful of requests for something
that the same tenant keeps locked, by an import say, would hold them all, and every other tenant would wait. Work that serves
many tenants at once, and work that no request asked for, is not bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from contextvars import ContextVar
from typing import Final
from weakref import WeakValueDictionary

#: The tenant whose request this is, while it holds no connection. None while it does: a task that waited for a second place
#: while it holds the first could wait for ever.
OWNER: Final[ContextVar[str | None]] = ContextVar("owner", default=None)


class Shares:
    """Places for three quarters of `connections`, for each owner."""

    def __init__(self, connections: int) -> None:
        self._most = max(1, connections * 3 // 4)
        self._of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def share(self) -> AbstractAsyncContextManager[None]:
        """One of the owner's places, for a block; nothing to wait for without an owner. The request's deadline bounds the wait."""
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
