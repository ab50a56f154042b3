"""Times in queries: an instant or a day, and which of a transfer's two times is meant."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

from msgspec import Meta

from tallystick.chassis.web import invalid
from tallystick.kernel.clock import MAX_INSTANT, parse_rfc3339

#: `2026-01-31T09:00:00Z`, or `2026-01-31` for the day in UTC.
When = Annotated[
    str,
    Meta(
        max_length=MAX_INSTANT,
        description="an instant (RFC 3339) or a day in UTC",
        extra_json_schema={"anyOf": [{"format": "date-time"}, {"format": "date"}]},
    ),
]
#: Recorded time, or effective time as known so far.
By = Literal["recorded", "effective"]

_MIN: Final = datetime.min.replace(tzinfo=UTC)
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def start(said: str | None, name: str = "from") -> datetime | None:
    """The start of a period: the instant, or the beginning of the day. Raises InvalidRequest."""
    return None if said is None else _read(said, name, timedelta(0))


def end(said: str | None, name: str = "to") -> datetime | None:
    """The (exclusive) end of a period: the instant, or the end of the day. Raises InvalidRequest."""
    return None if said is None else _read(said, name, timedelta(days=1))


def instant(said: str | None, name: str = "at") -> datetime | None:
    """An instant. Raises InvalidRequest."""
    if said is None:
        return None
    try:
        return parse_rfc3339(said)
    except ValueError as error:
        raise invalid(f"/{name}", str(error)) from None


def numbered(instant: datetime) -> int:
    """An instant as it stands in a cursor: microseconds since the year 1."""
    return (instant - _MIN) // timedelta(microseconds=1)


def of_number(number: int) -> datetime:
    """The instant of a cursor; the inverse of `numbered`. Raises InvalidRequest."""
    try:
        return _MIN + timedelta(microseconds=number)
    except OverflowError:
        raise invalid("/after", "not a cursor of this list") from None


def _read(said: str, name: str, day: timedelta) -> datetime:
    if _DAY.fullmatch(said):
        try:
            return parse_rfc3339(f"{said}T00:00:00Z") + day
        except (ValueError, OverflowError):
            raise invalid(f"/{name}", f"{said} is not a day of the years 1 to 9999") from None
    try:
        return parse_rfc3339(said)
    except ValueError:
        raise invalid(
            f"/{name}", "neither a day such as 2026-11-23 nor an RFC 3339 time such as 2026-11-23T16:32:50Z"
        ) from None
