"""Time as an argument: UTC, timezone-aware, in microseconds.

Rules get instants as arguments; only the outer layers hold a clock. `SystemClock` is the only place that reads the machine's clock
for them.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, Protocol

from msgspec import Meta


class Clock(Protocol):
    def now(self) -> datetime:
        """The current instant, aware, in UTC."""
        ...


class SystemClock:
    __slots__ = ()

    def now(self) -> datetime:
        return datetime.now(UTC)


def unix_nanoseconds() -> int:
    """The machine's clock in the unit of spans (OpenTelemetry). For telemetry only: rules get instants as arguments."""
    return time.time_ns()


class ManualClock:
    """A clock that moves only when it is told to, for tests and simulations."""

    __slots__ = ("_now",)

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            msg = "a clock needs an aware start"
            raise ValueError(msg)
        self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> None:
        if by < timedelta(0):
            msg = "time does not go back"
            raise ValueError(msg)
        self._now += by


MAX_INSTANT = 35
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_ENDS = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
#: An instant in a message, as RFC 3339; `parse_rfc3339` reads it.
InstantWire = Annotated[str, Meta(max_length=MAX_INSTANT, extra_json_schema={"format": "date-time"})]
#: A day, in UTC.
DayWire = Annotated[str, Meta(extra_json_schema={"format": "date"})]


def rfc3339(instant: datetime) -> str:
    """RFC 3339, such as `2026-11-23T16:32:50.123456Z`: always in UTC and with six digits, so that the texts sort by time."""
    if instant.tzinfo is None:
        msg = "a naive datetime has no place on a timeline"
        raise ValueError(msg)
    return instant.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_rfc3339(text: str) -> datetime:
    """The instant in `text`. Raises ValueError unless it is RFC 3339 with an offset, of at most 35 characters. The first and the last
    instant that Python can represent are refused as well: the PostgreSQL client stores them as infinities.
    """
    # `fromisoformat` alone would accept much more: week dates, commas, hours without minutes.
    if len(text) > MAX_INSTANT or not _RFC3339.fullmatch(text):
        msg = "not an RFC 3339 time such as 2026-11-23T16:32:50Z"
        raise ValueError(msg)
    instant = datetime.fromisoformat(text.upper())
    try:
        found = instant.astimezone(UTC)
    except OverflowError:
        found = _ENDS[0]
    if found in _ENDS:
        msg = "a time that is not within the years 1 to 9999"
        raise ValueError(msg)
    return found
