"""Each proof once (RFC 9449 section 11.1): one `SET NX GET EX` per proof in Valkey, shared by a service's replicas. A script takes a
batch of them and answers a digit for each: of 64 at once each costs 2 us, where as many commands and answers cost 13.

Every service has its own keys there: a proof names a path, and a path belongs to one service. The key of a proof is a hash of
its `jti` *and* of the key that made it, so that no client can use up another's `jti`s. Only proofs that held come here.

One use is one request at the edge. When a replica dies with a request in its hands, the edge gives the same request to another one,
under the same `x-request-id`, which it makes itself and takes from no client: that is not a second use.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Final

from valkey.asyncio import Valkey
from valkey.exceptions import ValkeyError

from tallystick.chassis import telemetry
from tallystick.chassis.auth.dpop import MAX_AGE, MAX_AHEAD, Proof
from tallystick.chassis.auth.jose import Refused
from tallystick.chassis.auth.problems import ReplayCheckUnavailable
from tallystick.chassis.batching import CHECK_PACE, Batcher

#: A proof may be shown until `iat` + MAX_AGE by our clock, and `iat` may be MAX_AHEAD in the future: remembering for shorter
#: would open the door again. The rest is for clocks of replicas that differ.
REMEMBERED: Final = MAX_AGE + MAX_AHEAD + 5
TIMEOUT: Final = 0.5  # seconds for one round trip

# KEYS: one a proof. ARGV: seconds to remember it, then for each key the request that shows it. Answers for each `1`, if nobody has
# shown it or this very request has, or `0`.
_SCRIPT: Final = """
local answers = {}
for i, key in ipairs(KEYS) do
  local request = ARGV[i+1]
  local held = redis.call('SET', key, request, 'NX', 'GET', 'EX', ARGV[1])
  answers[i] = (not held or (held ~= '' and held == request)) and '1' or '0'
end
return table.concat(answers)
"""

_GOOD: Final = ord("1")

_fallbacks = telemetry.counter("auth_replay_fallbacks_total", "Proofs checked against this process's memory only")


def keys(service: str) -> str:
    """What the keys of a service's proofs begin with, those of all its shards: a proof does not name one, and is good once for all.

    The braces put them on one shard of a Valkey cluster: a script may not span shards.
    """
    return f"{service}:{{{service}-dpop}}:"


class ProofStore:
    """`await claim(proof, ...)` returns for the first use of a proof and raises for every other."""

    def __init__(self, valkey: Valkey, service: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._script = valkey.register_script(_SCRIPT)
        self._prefix = keys(service).encode()
        self._batcher = Batcher(
            self._flush, max_batch=256, max_waiting=8192, concurrency=2, pace=CHECK_PACE, name="auth.replay"
        )
        self._memory = LocalMemory(monotonic)
        self._failing = False

    async def claim(self, proof: Proof, *, strict: bool, request: bytes = b"") -> None:
        """Raises Refused for a proof that was seen, but with the same `request`: the id that the edge gave it.

        When Valkey doesn't answer: `ReplayCheckUnavailable` if `strict`; otherwise the proof is looked up in the memory of
        this process, which knows the proofs it saw while Valkey was away, and goes on knowing them when it is back. A stolen proof
        for a read could then be used once per replica within its minute; the read itself still needs the token.
        """
        key = hashlib.sha256(f"{proof.jkt}\0{proof.jti}".encode()).digest()[:16]
        fresh = await self._batcher.submit((self._prefix + key, request))
        if fresh is None:
            if strict:
                raise ReplayCheckUnavailable
            fresh = self._memory.claim(key, request)
            _fallbacks.inc()
        elif self._memory.used(key, request):
            fresh = False
        if not fresh:
            raise Refused("the proof was used before")

    async def _flush(self, uses: list[tuple[bytes, bytes]]) -> list[bool | Exception | None]:
        """For each key whether it is new or its own request's, None where that can't be told (a lost answer may have set it or not)."""
        try:
            async with asyncio.timeout(TIMEOUT):
                answers = await self._script(
                    keys=[key for key, _ in uses], args=[REMEMBERED, *(request for _, request in uses)]
                )
        except (ValkeyError, OSError, TimeoutError) as error:
            self._told(error)
            return [None] * len(uses)
        self._told(None)
        return [answer == _GOOD for answer in answers]

    def _told(self, error: Exception | None) -> None:
        """Log when it begins to fail and when it ends, not for each request."""
        if error is not None and not self._failing:
            telemetry.log.error("auth.replay_store_failed", error=error)
        elif error is None and self._failing:
            telemetry.log.info("auth.replay_store_back")
        self._failing = error is not None


class LocalMemory:
    """Proofs seen by this process, bounded. Full: nothing is let in until old ones expire."""

    LIMIT = 100_000

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._used: dict[bytes, tuple[float, bytes]] = {}  # in order of expiry, because each lives equally long

    def claim(self, key: bytes, request: bytes = b"") -> bool:
        if self.used(key, request):
            return False
        if key not in self._used:
            if len(self._used) >= self.LIMIT:
                raise ReplayCheckUnavailable
            self._used[key] = (self._monotonic() + REMEMBERED, request)
        return True

    def used(self, key: bytes, request: bytes) -> bool:
        """Whether another request has shown the proof. One without a name is never the same as another one."""
        for oldest in self._expired(self._monotonic()):
            del self._used[oldest]
        held = self._used.get(key)
        return held is not None and (request == b"" or held[1] != request)

    def _expired(self, now: float) -> list[bytes]:
        expired: list[bytes] = []
        for key, (until, _) in self._used.items():
            if until > now:
                break
            expired.append(key)
        return expired
