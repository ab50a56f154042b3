"""A balance's history as a step function."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

#: The most steps that are drawn. A longer history is cut into stretches, each drawn by its first, lowest, highest and last step.
DRAWN: Final = 2000
#: A picture of no time at all would have no width.
SHORTEST: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Series:
    """An account's balance over time. `steps` are (start, minor units); the last one ends at `end`. `effective`: by effective time, as far as
    known now; else by recorded time.
    """

    title: str
    currency: str
    steps: Sequence[tuple[datetime, int]]
    end: datetime
    effective: bool = False

    def points(self) -> list[dict[str, object]]:
        return [
            {"since": when.isoformat(), "balance": {"amount": str(minor), "currency": self.currency}}
            for when, minor in self.steps
        ]

    def drawn(self) -> list[tuple[datetime, int]]:
        """The corners of the line."""
        steps = thinned(self.steps, DRAWN)
        line: list[tuple[datetime, int]] = []
        for when, minor in steps:
            if line:
                line.append((when, line[-1][1]))
            line.append((when, minor))
        if line:
            line.append((max(self.end, line[-1][0], line[0][0] + SHORTEST), line[-1][1]))
        return line


def thinned(steps: Sequence[tuple[datetime, int]], most: int) -> list[tuple[datetime, int]]:
    """At most `most` steps, which keep the peaks."""
    if len(steps) <= most:
        return list(steps)
    stretch = -(-len(steps) // (most // 4))
    kept: list[tuple[datetime, int]] = []
    for begin in range(0, len(steps), stretch):
        part = range(begin, min(begin + stretch, len(steps)))
        places = {
            part[0],
            min(part, key=lambda place: steps[place][1]),
            max(part, key=lambda place: steps[place][1]),
            part[-1],
        }
        kept += [steps[place] for place in sorted(places)]
    return kept


def span(values: Sequence[int]) -> tuple[int, int]:
    """The range of the axis of amounts: includes zero, with a small margin."""
    low, high = min(0, *values), max(0, *values)
    air = max((high - low) // 20, 1)
    return low - (air if low < 0 else 0), high + (air if high > 0 or low == 0 else 0)


def rising() -> Iterator[int]:
    """Round numbers: 1, 2, 5, 10, 20, 50 ..."""
    step = 1
    while True:
        yield step
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2


def day(value: datetime, begin: datetime, end: datetime) -> str:
    """A time as a label of the axis, as precise as the axis' length requires."""
    seconds = (end - begin).total_seconds()
    if seconds < 10:
        return f"{value:%M:%S}.{value.microsecond // 1000:03d}"
    if seconds < 3600:
        return f"{value:%H:%M:%S}"
    if seconds < 2 * 86400:
        return f"{value:%H:%M}"
    return f"{value:%m-%d %Hh}" if seconds < 10 * 86400 else f"{value:%Y-%m-%d}"


def since(begin: datetime, end: datetime) -> str:
    """What the times on the axis do not say, being short: the day on which it begins, and always the time zone."""
    seconds = (end - begin).total_seconds()
    if seconds < 10:
        return f"{begin:%Y-%m-%d %Hh} UTC"
    if seconds < 2 * 86400:
        return f"{begin:%Y-%m-%d} UTC"
    return f"{begin:%Y} UTC" if seconds < 10 * 86400 else "UTC"
