"""Counts failed authentications by client and minute, so that each minute is told as one fact per client, not as a flood."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from datetime import datetime

#: The most (client, reason) pairs of a minute that are counted separately; the rest are counted together.
MAX_COUNTERS = 512

OTHER = "other"


@dataclass(frozen=True, slots=True)
class Failures:
    """How often authentication failed in the minute that began at `minute`, for a client (None: unknown clients), by reason."""

    minute: datetime
    client: str | None
    reasons: dict[str, int]


class FailureCounts:
    """Bounded counts. Invented client ids can't make it grow: only existing clients are counted by name."""

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
        """Remove and return the counts of minutes before that of `before`; of all minutes if None."""
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
        """Put back counts that could not be told, to be told with the next."""
        for each in failures:
            counter = self._counts.setdefault(each.minute, Counter())
            for reason, count in each.reasons.items():
                counter[(each.client, reason)] += count


class FailureLimit:
    """A leaky bucket of failures per address: an address with too many failures must wait, and no other.

    It is not per client: then anybody who knows a client's id could lock that client out. A signature can't be guessed, so the limit only keeps
    noise and load down, behind the coarse limits of the edge.
    """

    __slots__ = ("_burst", "_kept", "_levels", "_per_second")

    def __init__(self, *, burst: int = 200, per_second: float = 5.0, kept: int = 10_000) -> None:
        self._burst = burst
        self._per_second = per_second
        self._kept = kept
        self._levels: OrderedDict[str, tuple[float, datetime]] = OrderedDict()

    def wait(self, source: str, now: datetime) -> float:
        """Seconds until another attempt is allowed; 0.0 if it is now."""
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
