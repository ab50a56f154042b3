"""Replay protection: each proof is accepted once (RFC 9449 section 11.1).

The replicas of a service share the record in Valkey: one `SET NX GET EX` per proof. A script takes a batch of them and answers a
digit for each. In a batch of 64 a proof costs 2 us; as single commands they would cost 13.

Each service has its own keys in Valkey, because a proof names a path and a path belongs to one service. A proof's key is a hash of
its `jti` *and* of the public key that made it, so that no client can use up another's `jti`s. Only valid proofs come here.

One use means one request at the edge. When a replica dies while it handles a request, the edge retries it at another replica under
the same `x-request-id`, which the edge makes itself and takes from no client. That is not a second use.
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

#: Seconds. A proof is acceptable until `iat` + MAX_AGE by our clock, and `iat` may be MAX_AHEAD in the future: forgotten earlier,
#: it could be used again. The rest allows for differing clocks of replicas.
REMEMBERED: Final = MAX_AGE + MAX_AHEAD + 5
TIMEOUT: Final = 0.5  # seconds for one round trip

# KEYS: one for each proof. ARGV: for how many seconds to remember them, then for each key the id of the request that presents the
# proof. Answers a digit for each key: `1` if the proof is new or was presented by this same request, otherwise `0`.
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


def key_prefix(service: str) -> str:
    """The prefix of the Valkey keys of a service's proofs. All shards of the service share it: a proof does not name a shard, and is
    accepted once among all of them.

    The braces keep them in one slot of a Valkey cluster, because a script may not span slots.
    """
    return f"{service}:{{{service}-dpop}}:"


class ProofStore:
    """`await claim(proof, ...)` returns at the first use of a proof and raises at every other."""

    def __init__(self, valkey: Valkey, service: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._script = valkey.register_script(_SCRIPT)
        self._prefix = key_prefix(service).encode()
        self._batcher = Batcher(
            self._flush, max_batch=256, max_waiting=8192, concurrency=2, pace=CHECK_PACE, name="auth.replay"
        )
        self._memory = LocalMemory(monotonic)
        self._failing = False

    async def claim(self, proof: Proof, *, strict: bool, request: bytes = b"") -> None:
        """Raises Refused for a proof that was used before, unless by the same `request` (the id that the edge gave it).

        When Valkey doesn't answer, a `strict` request gets `ReplayCheckUnavailable`. For others the proof is looked up in this
        process's memory, which holds the proofs used here while Valkey was away, and is consulted after it is back as well. A
        stolen proof of a read could then be used once at each replica within its minute; the read still needs the token.
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
        """For each proof whether this use is accepted; None for all where Valkey's answer is missing, which may have noted them or not."""
        try:
            async with asyncio.timeout(TIMEOUT):
                answers = await self._script(
                    keys=[key for key, _ in uses], args=[REMEMBERED, *(request for _, request in uses)]
                )
        except (ValkeyError, OSError, TimeoutError) as error:
            self._log_change(error)
            return [None] * len(uses)
        self._log_change(None)
        return [answer == _GOOD for answer in answers]

    def _log_change(self, error: Exception | None) -> None:
        """Log when failures begin and when they end, not for each request."""
        if error is not None and not self._failing:
            telemetry.log.error("auth.replay_store_failed", error=error)
        elif error is None and self._failing:
            telemetry.log.info("auth.replay_store_back")
        self._failing = error is not None


class LocalMemory:
    """Proofs used at this process, bounded. While it is full it accepts none, until old ones expire."""

    LIMIT = 100_000

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._used: dict[bytes, tuple[float, bytes]] = {}  # in order of expiry, because each lives equally long

    def claim(self, key: bytes, request: bytes = b"") -> bool:
        """Note a use; whether it is accepted. Raises ReplayCheckUnavailable when there is no room."""
        if self.used(key, request):
            return False
        if key not in self._used:
            if len(self._used) >= self.LIMIT:
                raise ReplayCheckUnavailable
            self._used[key] = (self._monotonic() + REMEMBERED, request)
        return True

    def used(self, key: bytes, request: bytes) -> bool:
        """Whether another request has used the proof. A request without an id is never the same as another one."""
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
