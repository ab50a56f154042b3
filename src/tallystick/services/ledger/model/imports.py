"""An import as it is stored, and the outcome of its lines."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

import msgspec

from tallystick.kernel.ids import ImportId

#: An import that could not be run waits for as long as it has been waiting, within these bounds: pauses double, then stay the same.
SHORTEST: Final = timedelta(seconds=1)
LONGEST: Final = timedelta(minutes=5)


def pause(since: datetime, now: datetime) -> timedelta:
    """How long an import waits before it is run again that has been waiting since then."""
    return min(max(now - since, SHORTEST), LONGEST)


class ImportRow(msgspec.Struct, frozen=True, kw_only=True):
    """An import; see the message `Import`. `tries` counts the runs since the last one that made progress of which the end is not known, or
    that took too long. It has been waiting since `waiting_since` to get further, because of `waits_for`, and is run again at `due_at`.
    """

    id: ImportId
    book: int
    book_name: str
    tenant: str
    actor: str
    mode: str
    dry_run: bool
    state: str
    rows: int
    sha256: bytes
    wanted_sequence: int | None
    staged: int
    line: int
    tries: int
    accounts: int
    accounts_known: int
    transfers: int
    transfers_known: int
    refused: int
    reason: str | None
    sequence: int | None
    created_at: datetime
    finished_at: datetime | None
    waiting_since: datetime | None = None
    due_at: datetime | None = None
    waits_for: str | None = None


class Tally(msgspec.Struct):
    """The progress of an import: its last line, what was new, what the book had already, and how many lines were refused."""

    line: int
    accounts: int
    accounts_known: int
    transfers: int
    transfers_known: int
    refused: int

    @classmethod
    def of(cls, row: ImportRow) -> Tally:
        return cls(row.line, row.accounts, row.accounts_known, row.transfers, row.transfers_known, row.refused)


class Refusal(NamedTuple):
    """A line that was refused. `field` is a JSON pointer into its record."""

    line: int
    field: str | None
    reason: str
    detail: str


class FileLine(NamedTuple):
    line: int
    record: str
