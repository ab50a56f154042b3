"""Limits: a rate for each subject, and a bound on the requests that one process handles at once.

Rates are counted in Valkey, for all replicas together, as a token bucket in its shortest form (the generic cell rate
algorithm, ITU-T I.371): one number per key, the instant at which the bucket will be full again. Concurrent requests share
one round trip. A subject that asks often gets a lease (docs/adr/0022): tokens taken in advance, which this process hands out for a
moment without asking Valkey. When Valkey is away each replica counts for itself with buckets of the same size. A client may then
reach the limit once per replica, which is better than no limit and better than no service.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from valkey.exceptions import ValkeyError

from tallystick.chassis import telemetry
from tallystick.chassis.batching import CHECK_PACE, Batcher
from tallystick.chassis.waiting import Waiters
from tallystick.kernel.problem import Overloaded, RateLimited

if TYPE_CHECKING:
    from valkey.asyncio import Valkey

    from tallystick.chassis.auth import Subject
    from tallystick.chassis.charter import Rate

#: Seconds that counting may take: a request must not wait longer for that than for its work.
TIMEOUT = 0.1
#: Seconds for which Valkey is not asked again after it did not answer.
PAUSE = 1.0
MAX_LOCAL_KEYS = 50_000

_REFUSED = telemetry.counter("rate_limited", "Requests refused by a rate", ["class"])
_SHED = telemetry.counter("requests_shed", "Requests refused because too many were in flight")
_LOCAL = telemetry.counter("rates_counted_locally", "Requests counted in this process because Valkey did not answer")
_IN_FLIGHT = telemetry.gauge("requests_in_flight", "Requests that this process works on")
_QUEUED = telemetry.gauge("requests_queued", "Requests that wait for that")

#: Seconds for which tokens taken in advance may be handed out.
LEASE: Final = 0.2
#: A lease is at most the 16th part of the bucket: a replica keeps no more from the others, and of a small bucket nothing.
LEASED: Final = 16

# KEYS: one per request. ARGV: for each key microseconds per token, size in tokens, tokens wanted, tokens of an old lease to put
# back first, tokens to take in advance if there are any. Answers for each key the microseconds to wait; or, if the request may go on,
# the tokens taken in advance, as 0, -1, -2 ... The server's clock is used, so replicas need not agree on the time.
_SCRIPT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local answers = {}
for i, key in ipairs(KEYS) do
  local interval, size, wanted = tonumber(ARGV[5*i-4]), tonumber(ARGV[5*i-3]), tonumber(ARGV[5*i-2])
  local back, ahead = tonumber(ARGV[5*i-1]), tonumber(ARGV[5*i])
  -- No bucket is further from full than when it is empty: what says so was written before the clock was set back.
  local before = math.min(tonumber(redis.call('GET', key) or '0'), now + interval * size)
  before = math.max(before - interval * back, now)
  local full = before + interval * wanted
  local wait = full - interval * size - now
  if wait <= 0 then
    ahead = math.min(ahead, math.floor(-wait / interval))
    full = full + interval * ahead
    answers[i] = -ahead
  else
    full = before
    answers[i] = math.ceil(wait)
  end
  if full > now then
    redis.call('SET', key, string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1)
  elseif back > 0 then
    redis.call('DEL', key)
  end
end
return answers
"""


class Bucket(NamedTuple):
    """The parameters of a token bucket: it gains a token every `interval` microseconds and holds `size` of them."""

    interval: float
    size: int


def take(full_at: float, now: float, bucket: Bucket, wanted: int) -> tuple[float, float]:
    """One decision, in microseconds: (the instant when the bucket will be full, how long to wait; 0: go on).

    The same as the Lua script above, without leases.
    """
    full = max(min(full_at, now + bucket.interval * bucket.size), now) + bucket.interval * wanted
    wait = full - bucket.interval * bucket.size - now
    return (full, 0.0) if wait <= 0 else (full_at, wait)


class LocalBuckets:
    """Buckets of this process, for while there are no shared ones. A bounded LRU."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, key: str, bucket: Bucket, wanted: int) -> float:
        """Microseconds to wait, 0 to go on."""
        full_at, wait = take(self._full_at.get(key, 0.0), self._monotonic() * 1e6, bucket, wanted)
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        if len(self._full_at) > MAX_LOCAL_KEYS:
            self._full_at.popitem(last=False)
        return wait


class Lease:
    """Tokens of one bucket that were taken in advance. A lease grows while it is used up before its end, so that a subject that asks
    ever faster soon causes five calls to Valkey a second, and one that asks seldom never has a lease. Tokens that are left at its
    end are put back.
    """

    __slots__ = ("_most", "_size", "_spent", "_tokens", "_until")

    def __init__(self, bucket: Bucket) -> None:
        self._most = bucket.size // LEASED
        self._size = 0
        self._spent = 0
        self._tokens = 0
        self._until = 0.0

    def take(self, tokens: int, now: float) -> bool:
        """Take tokens from the lease; whether it had enough. `now` is in monotonic seconds, here and below."""
        self._spent += tokens
        if tokens > self._tokens or now >= self._until:
            return False
        self._tokens -= tokens
        return True

    def renew(self, now: float) -> tuple[int, int]:
        """Begin the next lease: (tokens to put back, tokens to ask for in advance)."""
        back = 0
        if now >= self._until:
            back, self._tokens = self._tokens, 0
            # Asked again within two leases: take as much as was spent meanwhile. Otherwise the need is not known.
            self._size = self._spent if now < self._until + LEASE else 0
        else:
            self._size = max(1, 2 * self._size)
        self._size = min(self._size, self._most)
        self._spent = 0
        self._until = now + LEASE
        return back, max(0, self._size - self._tokens)

    def add(self, tokens: int) -> None:
        self._tokens += tokens


class Gate:
    """A bound on requests in flight. One more waits in turn if the queue has room, and is refused at once otherwise: an answer that
    comes too late is wasted work.
    """

    def __init__(self, max_in_flight: int, max_queue: int) -> None:
        self.max_in_flight = max_in_flight
        self.in_flight = 0
        self._waiters: Waiters[None] = Waiters(max_queue, lambda _: self.leave())

    @property
    def queued(self) -> int:
        return len(self._waiters)

    async def enter(self) -> None:
        """Take a place; `leave` gives it back. Raises Overloaded (503, Retry-After)."""
        if self.in_flight < self.max_in_flight:
            self.in_flight += 1
            return
        if self._waiters.full:
            _SHED.inc()
            raise Overloaded("Too many requests are in flight.", headers={"Retry-After": "1"})
        await self._waiters.wait()

    def leave(self) -> None:
        if not self._waiters.hand(None):
            self.in_flight -= 1


class _Wanted(NamedTuple):
    key: str
    bucket: Bucket
    tokens: int


class Limits:
    """The limits of one service, as its charter sets them. Without `valkey` rates are counted by this process alone."""

    def __init__(
        self,
        service: str,
        rates: Mapping[str, Rate],
        *,
        max_in_flight: int,
        max_queue: int,
        valkey: Valkey | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gate = Gate(max_in_flight, max_queue)
        for name in rates:
            _REFUSED.labels(name)  # 0 from the start
        self._buckets = {name: Bucket(1e6 / rate.per_second, rate.burst) for name, rate in rates.items()}
        # The braces keep a service's keys in one slot of a Valkey cluster, because a script may not span slots.
        self._prefix = f"{service}:{{{service}-rate}}:"
        self._monotonic = monotonic
        self._local = LocalBuckets(monotonic)
        self._leases: OrderedDict[str, Lease] = OrderedDict()
        self._paused_until = 0.0
        self._script: Any = None if valkey is None else valkey.register_script(_SCRIPT)
        self._batcher = Batcher(
            self._flush, max_batch=256, max_waiting=8192, concurrency=4, pace=CHECK_PACE, name="limits"
        )
        _IN_FLIGHT.set_function(lambda: self.gate.in_flight)
        _QUEUED.set_function(lambda: self.gate.queued)

    async def rate(self, subject: Subject, name: str, tokens: int = 1) -> None:
        """Count a request of this subject against the rate class. Raises RateLimited (429, Retry-After)."""
        await self.take(f"{subject.tenant}:{subject.client_id}", name, tokens)

    async def take(self, who: str, name: str, tokens: int = 1) -> None:
        """Like `rate`, for `who` that is no subject, such as an address. Raises KeyError for a class that the charter does not have."""
        bucket = self._buckets[name]
        key = f"{name}:{who}"
        lease = self._leases.get(key)
        now = self._monotonic()
        if lease is not None and lease.take(tokens, now):
            return
        if self._script is None or now < self._paused_until:
            wait = self._take_locally(key, bucket, tokens)
        else:
            wait = await self._batcher.submit(_Wanted(key, bucket, tokens))
        if wait > 0:
            _REFUSED.labels(name).inc()
            raise RateLimited(
                f"More requests than the rate class {name} allows.",
                headers={"Retry-After": str(math.ceil(wait / 1e6))},
                retry_after_ms=math.ceil(wait / 1e3),
            )

    async def close(self) -> None:
        await self._batcher.close()

    async def _flush(self, wanted: list[_Wanted]) -> list[float | Exception]:
        now = self._monotonic()
        last = {each.key: place for place, each in enumerate(wanted)}
        # An old lease is put back with the first request of its key, a new one is taken with the last.
        renewed = {key: self._lease(key, wanted[place].bucket).renew(now) for key, place in last.items()}
        arguments: list[float] = []
        begun: set[str] = set()
        for place, (key, bucket, tokens) in enumerate(wanted):
            back, ahead = renewed[key]
            arguments += (
                bucket.interval,
                bucket.size,
                tokens,
                0 if key in begun else back,
                ahead if last[key] == place else 0,
            )
            begun.add(key)
        try:
            async with asyncio.timeout(TIMEOUT):
                answers = await self._script(keys=[self._prefix + each.key for each in wanted], args=arguments)
        except (ValkeyError, OSError, TimeoutError) as error:
            self._paused_until = self._monotonic() + PAUSE
            telemetry.log.warning("limits.local", error=error)
            return [self._take_locally(*each) for each in wanted]
        for each, answer in zip(wanted, answers, strict=True):
            if answer < 0:
                self._lease(each.key, each.bucket).add(-answer)
        return [max(0, answer) for answer in answers]

    def _lease(self, key: str, bucket: Bucket) -> Lease:
        """The lease of a key. Of too many the least recently used are dropped; their tokens come back with time."""
        lease = self._leases.get(key)
        if lease is None:
            lease = self._leases[key] = Lease(bucket)
            if len(self._leases) > MAX_LOCAL_KEYS:
                self._leases.popitem(last=False)
        else:
            self._leases.move_to_end(key)
        return lease

    def _take_locally(self, key: str, bucket: Bucket, tokens: int) -> float:
        if self._script is not None:
            _LOCAL.inc()
        return self._local.take(key, bucket, tokens)
