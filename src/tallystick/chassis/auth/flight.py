"""Single flight: of many callers that need the same answer one asks, and all wait for it."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

from tallystick.chassis.deadline import budget

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """While a load for a key is in flight, further callers wait for that load.

    The load runs in an empty context: no caller's deadline applies to it, and it isn't cancelled when the first caller goes away.
    A caller waits until its own deadline, and for `timeout` seconds at most.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._under_way: dict[K, asyncio.Task[T]] = {}

    def under_way(self, key: K) -> bool:
        return key in self._under_way

    async def do(self, key: K, load: Callable[[], Awaitable[T]]) -> T:
        """What the load in flight for `key` gives, or else `load`. Raises what the load raises, and TimeoutError."""
        task = self._under_way.get(key)
        if task is None:
            task = asyncio.create_task(self._load(load), context=contextvars.Context())
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        # Not wait_for: before Python 3.12 it swallows a cancellation that comes in the moment in which the load ends.
        async with asyncio.timeout(budget(self._timeout)):
            return await asyncio.shield(task)

    async def _load(self, load: Callable[[], Awaitable[T]]) -> T:
        async with asyncio.timeout(self._timeout):
            return await load()

    def _landed(self, key: K, task: asyncio.Task[Any]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not complain when every caller has given up waiting
