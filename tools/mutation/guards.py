"""The database's guards, changed: each CHECK left out, each comparison of the guard functions turned round or left out. The tests of the guards have
to make it fail.

They are taken from a migrated database, so they are those that are in force, whichever migration wrote them.
"""

from __future__ import annotations

import asyncio
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, SERVICE = "tallystick.services.ledger", "ledger"
#: The guards, and the tables whose CHECKs are the ledger's.
FUNCTIONS = "SELECT proname, pg_get_functiondef(p.oid) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = pronamespace WHERE nspname = 'public' AND prorettype = 'trigger'::regtype ORDER BY proname"  # fmt: skip
CHECKS = "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0 ORDER BY 1, 2"  # fmt: skip
UNIQUE = "SELECT tablename, indexname FROM pg_indexes WHERE schemaname = 'public' AND indexdef LIKE 'CREATE UNIQUE%' ORDER BY 1, 2"
#: The ledger's own tables. Those of the chassis are for its own tests.
TABLES = frozenset(
    re.findall(
        r"CREATE TABLE (\w+)",
        "".join(
            path.read_text("utf-8") for path in (ROOT / "src/tallystick/services/ledger/sql/migrations").glob("*.sql")
        ),
    )
)


@dataclass(frozen=True)
class Change:
    name: str
    sql: str


def of_function(name: str, text: str) -> Iterator[Change]:
    """Changes to the text of one guard. Pure."""

    def change(start: int, end: int, new: str, what: str) -> Change:
        line = text.count("\n", 0, start) + 1
        return Change(f"{name}:{line}: {what}", text[:start] + new + text[end:])

    swaps = {
        r"IS DISTINCT FROM": "IS NOT DISTINCT FROM",
        r"<>": "=",
        r"(?<![<>!:])=(?!>)": "<>",
        r" > ": " >= ",
        r" AND ": " OR ",
        r" OR ": " AND ",
        r" IS NULL": " IS NOT NULL",
        r" \+ 1": " + 2",
        r" - 1": " - 2",
        r"-coalesce\(released, 0\)": "coalesce(released, 0)",
        r"(?<=coalesce\()(\w+), 0(?=\))": r"\1, 1",
        r"coalesce\(sum\(d\.released\), 0\)": "0",
        r"IF bad IS NOT NULL THEN": "IF false THEN",
        r"DISTINCT ": "",
    }
    body = text.index("$function$")
    for pattern, new in swaps.items():
        for found in re.finditer(pattern, text[body:]):
            start = body + found.start()
            if "ERRCODE" in text[text.rfind("\n", 0, start) : text.find("\n", start)] or text[:start].rstrip().endswith(
                ":"
            ):
                continue
            made = found.expand(new)
            yield change(start, body + found.end(), made, f"{found[0].strip()} -> {made.strip() or 'nothing'}")
    for start, end, elements in _rows(text):
        other = text.find("(", end)
        rest = text[end:other]
        if not re.fullmatch(r"\s*(IS DISTINCT FROM|<>)\s*", rest):
            continue
        matching = next((row for row in _rows(text) if row[0] == other), None)
        if matching is None or len(matching[2]) != len(elements):
            continue
        for place, element in enumerate(elements):
            one = elements[:place] + elements[place + 1 :]
            two = matching[2][:place] + matching[2][place + 1 :]
            new = f"({', '.join(one)}){rest}({', '.join(two)})"
            yield change(start, matching[1], new, f"does not compare {element}")


def _rows(text: str) -> list[tuple[int, int, list[str]]]:
    """Where in the text there is `(a, b, ...)`, and what is in it."""
    found, opened = [], []
    for place, sign in enumerate(text):
        if sign == "(":
            opened.append(place)
        elif sign == ")" and opened:
            start = opened.pop()
            elements = _split(text[start + 1 : place])
            if len(elements) > 1:
                found.append((start, place + 1, elements))
    return found


def _split(text: str) -> list[str]:
    parts, depth, last = [], 0, 0
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if sign == "," and depth == 0:
            parts.append(text[last:place].strip())
            last = place + 1
    return [*parts, text[last:].strip()]


async def changes(database: Any) -> list[Change]:
    """All of them, for this migrated database."""
    made: list[Change] = []
    for name, text in await database.query(FUNCTIONS):
        made += of_function(name, text)
    for table, name, _ in await database.query(CHECKS):
        if table in TABLES:
            made.append(Change(f"{table}: without CHECK {name}", f"ALTER TABLE {table} DROP CONSTRAINT {name}"))
    for table, name in await database.query(UNIQUE):
        if table not in TABLES:
            continue
        plain = f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name} CASCADE; DROP INDEX IF EXISTS {name}"
        if not await database.query(
            "SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = $1::text::regclass", table
        ):
            made.append(Change(f"{table}: without {name}", plain))
    return made


async def killed(connection: Any, tests: list[Any], filled: Any, change: Change) -> bool | None:
    """Whether a test fails with this change; None when PostgreSQL won't have it. All of it is one transaction, which is rolled back."""
    import asyncpg

    transaction = connection.transaction()
    await transaction.start()
    try:
        try:
            await connection.execute(change.sql)
        except asyncpg.PostgresError:
            return None
        for test in tests:
            try:
                await test(filled)
            except (AssertionError, asyncpg.PostgresError):
                return True
        return False
    finally:
        await transaction.rollback()


def run(sample: int | None, seed: int, *, only: str = "") -> int:
    """Tries all changes, or a random sample; prints survivors and the score, answers how many survived."""
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    return asyncio.run(_run(sample, seed, only))


async def _run(sample: int | None, seed: int, only: str) -> int:
    from tests.services.ledger import test_guard_edges as edges
    from tests.services.ledger import test_guard_tables as tables
    from tests.support.parts import Server, remove, short_directory

    folder = short_directory()
    server = Server(folder, settings={"fsync": "off", "shared_buffers": "'64MB'"})
    await server.part.start()
    try:
        every = [one for one in await _all(server) if only in one.name]
        every = random.Random(seed).sample(every, min(sample or len(every), len(every)))  # noqa: S311 - a choice, not a secret
        tests = [test for module in (edges, tables) for name, test in vars(module).items() if name.startswith("test_")]
        async with edges.filled_on(server) as filled:
            connection = filled.hand.connection
            if await killed(connection, tests, filled, Change("none", "SELECT")):
                raise SystemExit("the tests fail without any change")
            print(f"{len(every)} changes (seed {seed})", flush=True)
            verdicts: Counter[bool | None] = Counter()
            began = time.monotonic()
            for change in every:
                verdict = await killed(connection, tests, filled, change)
                verdicts[verdict] += 1
                if verdict is False:
                    print(f"survived: {change.name}", flush=True)
    finally:
        await server.part.stop()
        remove(folder)
    tried, took = verdicts[True] + verdicts[False], time.monotonic() - began
    score = 100 * verdicts[True] / max(1, tried)
    print(f"killed {verdicts[True]} of {tried}: {score:.1f} % ({verdicts[None]} are no SQL), {took:.0f} s")
    return verdicts[False]


async def _all(server: Any) -> list[Change]:
    database = await server.database(PACKAGE)
    try:
        return await changes(database)
    finally:
        await server.drop(database)
