"""Compares rows with facts: what a service stores of a thing must be what it told about it last.

Facts are in the signed log, so a row that was changed, deleted or inserted by hand is found here. A table's facts and rows are read at the
same moment. Facts are kept for a limited time (`outboxes = log` checks them against the log), and a thing whose facts are all gone is not
compared. `things.py` says which things are told, and which of their columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from tallystick.kernel.words import counted
from tallystick.local.verify.source import Source

SHOWN: Final = 20
#: The most that a service's clock (of a thing's time) and the database's (by which facts are kept) are taken to differ.
APART: Final = timedelta(hours=1)

Fact = Mapping[str, Any]
NOT_THERE: Final = "not there"
#: Compares a row with its newest fact; gives the names of the columns that differ.
Compare = Callable[[Any, Fact], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Things:
    """Things told by facts of `types`, and how to compare them with their rows.

    `key`: SQL for the thing's key in a fact `f` (and in each `item` of the list at `items`, if that is given); `parse` turns it into the key
    that `rows` gives. `rows`: a statement for the keys $1, with the columns `key` and those that `compare` needs. `all`: a statement that
    counts the rows since $1 (by `created_at`), for things every one of which is told. `may_go`: the row may be gone; `compare` then gets None.
    """

    what: str
    types: tuple[str, ...]
    rows: str
    compare: Compare
    key: str = "f ->> 'resource'"
    parse: Callable[[str], Any] = str
    items: str = ""
    all: str = ""
    may_go: bool = False

    @property
    def told(self) -> str:
        """SQL for the newest fact of each thing."""
        items = f", jsonb_array_elements(f #> '{self.items}') AS item" if self.items else ""
        facts = f"FROM outbox AS o, LATERAL (SELECT convert_from(o.fact, 'UTF8')::jsonb AS f) AS said{items} WHERE o.type = ANY($1)"
        each = f"SELECT {self.key} AS key, o.fact, o.xid, o.position {facts}"
        return f"SELECT DISTINCT ON (key) key, fact FROM ({each}) AS told ORDER BY key, xid DESC, position DESC"  # noqa: S608


#: Whether facts are gone already, and the time of the first one left. (Not the earliest time: the clock may have been ahead once.)
_KEPT_SINCE: Final = (
    "SELECT count(*) < (SELECT seq FROM outbox_cursor) AS gone, (SELECT at FROM outbox ORDER BY xid, position LIMIT 1) AS since "
    "FROM outbox WHERE (xid, position) <= (SELECT xid, position FROM outbox_cursor)"
)
_EVER: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_NEVER: Final = datetime.fromisoformat("9999-01-01T00:00:00+00:00")


async def as_told(source: Source, service: str, kinds: Sequence[Things]) -> tuple[list[str], str]:
    """Compare each thing's row with its newest fact, and the number of rows with the number of things told."""
    faults: list[str] = []
    seen = 0
    (kept,) = await source.rows(service, _KEPT_SINCE)
    since = (kept["since"] + APART if kept["since"] else _NEVER) if kept["gone"] else _EVER
    for things in kinds:
        known = 0
        async for told in source.pages(service, things.told, list(things.types)):
            facts = {row["key"]: msgspec.json.decode(row["fact"]) for row in told}
            keys = {key: things.parse(key) for key in facts}
            rows = {row["key"]: row for row in await source.rows(service, things.rows, list(keys.values()))}
            for key, fact in facts.items():
                row = rows.get(keys[key])
                wrong = things.compare(row, fact) if row is not None or things.may_go else (NOT_THERE,)
                if wrong := sorted(set(wrong)):
                    fault = f"{things.what} {key}: differs from its last fact in: {', '.join(wrong)}"
                    # Several kinds of things may miss the same row: report it once.
                    faults += [fault] if fault not in faults else []
            seen += len(facts)
            known += sum(1 for row in rows.values() if things.all and row["created_at"] >= since)
            if len(faults) > SHOWN:
                return faults[:SHOWN], counted(seen, "thing")
        if things.all:
            there = (await source.rows(service, things.all, since))[0]["count"]
            if there != known:
                faults.append(f"{things.what}: there are {there}, but facts tell of {known}")
    return faults[:SHOWN], counted(seen, "thing")
