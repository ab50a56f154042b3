"""Waiting: for an event, for a bounded time; and in turn, for what somebody else gives back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event: True as soon as it is set, False after `seconds` without."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Waiters(Generic[T]):
    """A bounded queue of tasks that wait for a connection or a place; at most `most` wait. When a task is cancelled in the very
    moment in which it is handed something, that goes to `give_back`.
    """

    def __init__(self, most: int, give_back: Callable[[T], object]) -> None:
        self._most = most
        self._give_back = give_back
        self._places: deque[asyncio.Future[T]] = deque()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def full(self) -> bool:
        return len(self._places) >= self._most

    async def wait(self) -> T:
        """Wait in turn; returns what is handed over. The caller asks first whether the queue is `full`."""
        place: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._places.append(place)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give_back(place.result())
            else:
                # `hand` may have taken it off the queue already, between the cancellation and now.
                with suppress(ValueError):
                    self._places.remove(place)
            raise

    def hand(self, thing: T) -> bool:
        """Hand it to the task that has waited longest; False if none waits."""
        while self._places:
            place = self._places.popleft()
            if not place.done():
                place.set_result(thing)
                return True
        return False
