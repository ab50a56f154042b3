"""Rows against the facts that told them: what a service keeps of a thing is what it told of it last.

A fact is in the log, which is signed, so whoever changes a row afterwards, takes one away or puts one in by hand is found here. A table's facts
are read with its rows, at one moment. Facts are kept for a while only (`outboxes = log` says what of them is in the log): a thing whose facts have
all gone is compared with nothing. Which things are told, and what of them, is in `things.py`.
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
#: Between the clock of a service, which a thing's time is of, and the database's, by which facts are kept.
APART: Final = timedelta(hours=1)

Fact = Mapping[str, Any]
NOT_THERE: Final = "not there"
#: What of a row is other than the newest fact of it says: names of columns.
Compare = Callable[[Any, Fact], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Things:
    """What is told by facts of `types`. `key`: of which thing a fact is, in SQL over the fact `f` (and each `item` of the list at `items` in it);
    `parse`: the same as `rows` has it.

    `rows` is a statement with the columns `key` and what `compare` looks at, for the keys $1. `all` counts the rows there are since $1 (their column
    `created_at`), where every such thing is told. `may_go`: the row may be gone, and `compare` is given None then.
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
        """The newest fact of each thing."""
        items = f", jsonb_array_elements(f #> '{self.items}') AS item" if self.items else ""
        facts = f"FROM outbox AS o, LATERAL (SELECT convert_from(o.fact, 'UTF8')::jsonb AS f) AS said{items} WHERE o.type = ANY($1)"
        each = f"SELECT {self.key} AS key, o.fact, o.xid, o.position {facts}"
        return f"SELECT DISTINCT ON (key) key, fact FROM ({each}) AS told ORDER BY key, xid DESC, position DESC"  # noqa: S608


#: Whether some have gone, and the time of the first in order that is there, which need not be the earliest: the clock may have been ahead once.
_KEPT_SINCE: Final = (
    "SELECT count(*) < (SELECT seq FROM outbox_cursor) AS gone, (SELECT at FROM outbox ORDER BY xid, position LIMIT 1) AS since "
    "FROM outbox WHERE (xid, position) <= (SELECT xid, position FROM outbox_cursor)"
)
_EVER: Final = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_NEVER: Final = datetime.fromisoformat("9999-01-01T00:00:00+00:00")


async def as_told(source: Source, service: str, kinds: Sequence[Things]) -> tuple[list[str], str]:
    """Each thing's row beside the newest fact of it, and as many rows as things were told of."""
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
                    fault = f"{things.what} {key}: {', '.join(wrong)}, which is not as it was told last"
                    # What is not there is missed by each that tells of it.
                    faults += [fault] if fault not in faults else []
            seen += len(facts)
            known += sum(1 for row in rows.values() if things.all and row["created_at"] >= since)
            if len(faults) > SHOWN:
                return faults[:SHOWN], counted(seen, "thing")
        if things.all:
            there = (await source.rows(service, things.all, since))[0]["count"]
            if there != known:
                faults.append(f"{things.what}: there are {there}, and {known} of them were told")
    return faults[:SHOWN], counted(seen, "thing")
