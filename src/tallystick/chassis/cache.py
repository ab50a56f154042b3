"""A read-through cache in Valkey with single flight. For values that may be a little old: never for money, tokens or keys.

The cache is never authoritative and never in the way: when Valkey does not answer, the value is loaded; a cached value that
can't be decoded as its type (another version wrote it) is loaded and stored anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import msgspec
from valkey.exceptions import ValkeyError

from tallystick.chassis import telemetry
from tallystick.chassis.auth.flight import SingleFlight
from tallystick.kernel.problem import DeadlineExceeded

if TYPE_CHECKING:
    from valkey.asyncio import Valkey

T = TypeVar("T")

#: Seconds that Valkey may take. After that loading is faster.
TIMEOUT = 0.1
LOAD_TIMEOUT = 10.0
MAX_VALUE_BYTES = 256 * 1024

_ASKED = telemetry.counter("cache_asked", "Values asked of the cache", ["result"])
_HIT, _MISS, _AWAY = (_ASKED.labels(result) for result in ("hit", "miss", "unavailable"))


class Cache:
    """The cache of one service. Its keys begin with the service's name, because its Valkey user may use no others."""

    def __init__(self, service: str, valkey: Valkey) -> None:
        self._prefix = f"{service}:cache:"
        self._valkey = valkey
        self._flights: SingleFlight[tuple[str, object], object] = SingleFlight(LOAD_TIMEOUT)

    async def get_or_load(self, key: str, ttl: timedelta, load: Callable[[], Awaitable[T]], kind: type[T]) -> T:
        """The cached value, or what `load` returns, which is cached for `ttl`. `kind` is its msgspec type.

        Within a process a key has one load at a time. Raises what `load` raises (errors are not cached), and DeadlineExceeded.
        """

        async def fly() -> T:
            found = await self._get(key, kind)
            if found is not None:
                return found[0]
            value = await load()
            await self._put(key, value, ttl)
            return value

        try:
            value = await self._flights.do((key, kind), fly)
        except TimeoutError:
            raise DeadlineExceeded(outcome_unknown=False) from None
        return value  # type: ignore[return-value]  # the flight's key holds the type

    async def forget(self, key: str) -> None:
        """Drop a value that is known to be outdated. Best effort: if Valkey does not answer, it lives until its `ttl` ends."""
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._valkey.unlink(self._prefix + key)
        except (ValkeyError, OSError, TimeoutError):
            _AWAY.inc()

    async def _get(self, key: str, kind: type[T]) -> tuple[T] | None:
        try:
            async with asyncio.timeout(TIMEOUT):
                raw = await self._valkey.get(self._prefix + key)
        except (ValkeyError, OSError, TimeoutError):
            _AWAY.inc()
            return None
        if raw is None:
            _MISS.inc()
            return None
        try:
            value = msgspec.json.decode(raw, type=kind)
        except ValueError:  # no such JSON, or no UTF-8
            _MISS.inc()
            return None
        _HIT.inc()
        return (value,)

    async def _put(self, key: str, value: object, ttl: timedelta) -> None:
        raw = msgspec.json.encode(value)
        if len(raw) > MAX_VALUE_BYTES:
            telemetry.log.warning("cache.value-too-large", size=len(raw))
            return
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._valkey.set(self._prefix + key, raw, px=ttl)
        except (ValkeyError, OSError, TimeoutError):
            _AWAY.inc()
