"""When to stop asking: a circuit breaker and a retry budget for one target, without I/O."""

import time
from collections.abc import Callable
from typing import Final


class Breaker:
    """Closed; open after `threshold` failures in a row; after `pause` seconds one call may try (half-open).

    The mesh ejects single replicas. This is for the case that the whole target is gone: callers then hear so at once instead of
    each waiting out its budget.
    """

    def __init__(
        self, *, threshold: int = 5, pause: float = 1.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._threshold = threshold
        self._pause = pause
        self._monotonic = monotonic
        self._failures = 0
        self._tries_again_at = 0.0

    @property
    def open(self) -> bool:
        return self._failures >= self._threshold

    def allow(self) -> bool:
        """Whether a call may go out now. In half-open state the one that is told yes is the probe."""
        if not self.open:
            return True
        now = self._monotonic()
        if now < self._tries_again_at:
            return False
        self._tries_again_at = now + self._pause  # a probe that never reports back isn't waited for longer than that
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> bool:
        """Returns whether this failure opened it."""
        self._failures += 1
        if self.open:
            self._tries_again_at = self._monotonic() + self._pause
        return self._failures == self._threshold


class RetryBudget:
    """At most one retry for ten successes, `saved` at most: retries heal a blip and can't multiply an outage."""

    PRICE: Final = 10  # successes for one retry

    def __init__(self, saved: int = 10) -> None:
        self._limit = saved * self.PRICE
        self._credit = self._limit

    def succeeded(self) -> None:
        self._credit = min(self._limit, self._credit + 1)

    def take(self) -> bool:
        if self._credit < self.PRICE:
            return False
        self._credit -= self.PRICE
        return True
