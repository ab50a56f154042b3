"""Waiting: for an event, but not for ever; and in order, for what somebody else gives back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Returns as soon as it is set, True, or after `seconds`, False."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Waiters(Generic[T]):
    """Those who wait for a connection, or a place; at most `most`. Whoever is told to stop in the very moment in which it is handed something does not keep it: it
    goes to `give_back`.
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
        """What is handed to the caller when its turn comes. Whether there is room, `full`, is for the caller to ask."""
        place: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._places.append(place)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give_back(place.result())
            else:
                # Not there any more if its turn came between the cancelling and now.
                with suppress(ValueError):
                    self._places.remove(place)
            raise

    def hand(self, thing: T) -> bool:
        """Give it to the one who has waited longest; False if nobody waits."""
        while self._places:
            place = self._places.popleft()
            if not place.done():
                place.set_result(thing)
                return True
        return False
