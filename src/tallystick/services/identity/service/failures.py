"""Failed authentications: rate-limited by address, counted by client and minute, and told as facts."""

from __future__ import annotations

import math

from tallystick.chassis import telemetry
from tallystick.chassis.db import Database
from tallystick.chassis.fact import PLATFORM
from tallystick.chassis.outbox import Fact, Outbox
from tallystick.contracts.identity.messages import AuthenticationsFailed
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock, rfc3339
from tallystick.kernel.problem import RateLimited
from tallystick.services.identity.model.failures import FailureCounts, FailureLimit, Failures
from tallystick.services.identity.model.refusals import AuthenticationFailed
from tallystick.services.identity.service.facts import fact
from tallystick.services.identity.store import Store

_FAILED = telemetry.counter("identity_authentication_failures", "Client authentications that failed", ["reason"])


class FailureLog:
    def __init__(self, *, database: Database, store: Store, outbox: Outbox, clock: Clock, limit: FailureLimit) -> None:
        self._database = database
        self._outbox = outbox
        self._store = store
        self._clock = clock
        self._limit = limit
        self._counts = FailureCounts()

    def admit(self, source: str) -> None:
        """Raises RateLimited if too many attempts from this address failed."""
        if wait := self._limit.wait(source, self._clock.now()):
            raise RateLimited(
                "too many failed authentications from this address", headers={"Retry-After": str(math.ceil(wait))}
            )

    def add(self, source: str, failure: AuthenticationFailed) -> None:
        now = self._clock.now()
        self._limit.failed(source, now)
        self._counts.add(failure.client, failure.reason, now)
        _FAILED.labels(failure.reason).inc()

    async def tell(self, *, all_of_it: bool = False) -> None:
        """Tell the counts of finished minutes (at shutdown, of all) as facts. Each replica tells its own counts."""
        failures = self._counts.take(None if all_of_it else self._clock.now())
        if not failures:
            return
        try:
            facts = [await self._fact(each) for each in failures]
            async with self._database.transaction() as tx:
                await self._outbox.append(tx, facts)
        except BaseException:
            self._counts.put_back(failures)
            raise

    async def _fact(self, failures: Failures) -> Fact:
        client = await self._store.get_client(ids.clients.parse(failures.client)) if failures.client else None
        return fact(
            "identity.authentication.failed",
            tenant=client.tenant if client else PLATFORM,
            resource=failures.client or "unknown",
            at=self._clock.now(),
            data=AuthenticationsFailed(
                minute=rfc3339(failures.minute), count=sum(failures.reasons.values()), reasons=failures.reasons
            ),
        )
