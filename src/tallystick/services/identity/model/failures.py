"""Failed authentications, counted by client and minute: told as one fact each, not as a flood of them."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from datetime import datetime

#: Different (client, reason) pairs of a minute that are counted apart; the rest is counted as one.
MAX_COUNTERS = 512

OTHER = "other"


@dataclass(frozen=True, slots=True)
class Failures:
    """How often authentication failed in the minute that began at `minute`, by client (None: no known one) and reason."""

    minute: datetime
    client: str | None
    reasons: dict[str, int]


class FailureCounts:
    """Bounded counts. Names that a caller invents can't make it grow: only clients that exist are counted by name."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[datetime, Counter[tuple[str | None, str]]] = {}

    def add(self, client: str | None, reason: str, now: datetime) -> None:
        counter = self._counts.setdefault(now.replace(second=0, microsecond=0), Counter())
        key = (client, reason)
        if key not in counter and len(counter) >= MAX_COUNTERS:
            key = (None, OTHER)
        counter[key] += 1

    def take(self, before: datetime | None = None) -> list[Failures]:
        """The finished minutes, removed: those that began before `before`'s minute; all when None."""
        limit = before.replace(second=0, microsecond=0) if before else None
        done = sorted(minute for minute in self._counts if limit is None or minute < limit)
        found: list[Failures] = []
        for minute in done:
            by_client: dict[str | None, dict[str, int]] = {}
            for (client, reason), count in self._counts.pop(minute).items():
                by_client.setdefault(client, {})[reason] = count
            found.extend(Failures(minute, client, reasons) for client, reasons in by_client.items())
        return found

    def put_back(self, failures: list[Failures]) -> None:
        """Counts that could not be told; they are told with the next."""
        for each in failures:
            counter = self._counts.setdefault(each.minute, Counter())
            for reason, count in each.reasons.items():
                counter[(each.client, reason)] += count


class FailureLimit:
    """A bucket of failures per address: who fails too often waits, and nobody else does.

    Not per client: then anyone who knows a client's id could lock that client out. A signature can't be guessed, so the
    limit is there to keep noise and load down; the coarse limits of the edge stand before it.
    """

    __slots__ = ("_burst", "_kept", "_levels", "_per_second")

    def __init__(self, *, burst: int = 200, per_second: float = 5.0, kept: int = 10_000) -> None:
        self._burst = burst
        self._per_second = per_second
        self._kept = kept
        self._levels: OrderedDict[str, tuple[float, datetime]] = OrderedDict()

    def wait(self, source: str, now: datetime) -> float:
        """Seconds until another attempt is let in; 0.0 is now."""
        return max(0.0, self._level(source, now) - (self._burst - 1)) / self._per_second

    def failed(self, source: str, now: datetime) -> None:
        level = min(self._level(source, now) + 1.0, float(self._burst))
        self._levels[source] = (level, now)
        self._levels.move_to_end(source)
        if len(self._levels) > self._kept:
            self._levels.popitem(last=False)

    def _level(self, source: str, now: datetime) -> float:
        level, at = self._levels.get(source, (0.0, now))
        if at > now:  # the clock was set back: the bucket leaks from now on, rather than fill up with the difference
            self._levels[source] = (level, now)
            return level
        return max(0.0, level - (now - at).total_seconds() * self._per_second)
