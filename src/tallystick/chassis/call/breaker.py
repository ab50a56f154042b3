"""When to stop calling: a circuit breaker and a retry budget for one target, without I/O."""

import time
from collections.abc import Callable
from typing import Final


class Breaker:
    """A circuit breaker: open after `threshold` failures in a row; after `pause` seconds one call may try again (half-open).

    The mesh ejects single replicas. This is for a target that is gone as a whole: callers are then told at once instead of waiting
    until their budgets end.
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
        """Whether a call may be made now. In the half-open state the call that is allowed is the probe."""
        if not self.open:
            return True
        now = self._monotonic()
        if now < self._tries_again_at:
            return False
        self._tries_again_at = now + self._pause  # if the probe never reports back, another one follows
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> bool:
        """Count a failure; whether it opened the breaker."""
        self._failures += 1
        if self.open:
            self._tries_again_at = self._monotonic() + self._pause
        return self._failures == self._threshold


class RetryBudget:
    """One retry for every ten successes, with at most `saved` retries in reserve: retries bridge a short failure, and can't multiply
    the load of an outage.
    """

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
