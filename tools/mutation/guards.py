"""The database's guards, changed: each constraint and trigger left out, each comparison of the guard functions, of the triggers' conditions and of the
CHECKs turned round, weakened or left out. The tests of the guards have to make it fail.

They are taken from a migrated database, so they are those that are in force, whichever migration wrote them.
"""

from __future__ import annotations

import asyncio
import importlib
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: Whose guards, and the tests that have to notice: each module of them has `filled_on`, which makes what they need on a server.
TESTS = {
    "ledger": ("tests.services.ledger.test_guard_edges", "tests.services.ledger.test_guard_tables"),
    "payments": ("tests.services.payments.test_guard_rows",),
}
#: The guards: what a trigger runs, and whatever else raises.
FUNCTIONS = """
SELECT proname, pg_get_functiondef(p.oid) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = pronamespace
WHERE nspname = 'public' AND (prorettype = 'trigger'::regtype OR prosrc LIKE '%RAISE EXCEPTION%') ORDER BY proname
"""
TRIGGERS = "SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2"
CONSTRAINTS = "SELECT conrelid::regclass::text, conname, contype::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype IN ('c', 'f') AND conrelid <> 0 ORDER BY 1, 2"  # fmt: skip
#: But for those that a foreign key rests on: without them there is no such key either.
UNIQUE = """
SELECT indrelid::regclass::text, indexrelid::regclass::text FROM pg_index
WHERE indisunique AND NOT EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND conindid = indexrelid)
    AND indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace) ORDER BY 1, 2
"""


def own(service: str, what: str) -> frozenset[str]:
    """Names of a service's own tables or functions. Those of the chassis are for its own tests."""
    migrations = (ROOT / f"src/tallystick/services/{service}/sql/migrations").glob("*.sql")
    return frozenset(
        re.findall(rf"CREATE (?:OR REPLACE )?{what} (\w+)", "".join(path.read_text("utf-8") for path in migrations))
    )


def _next(found: re.Match[str]) -> str:
    return str(int(found[0]) + 1)


#: What stands in the text of a guard, and what in its place.
SWAPS: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"IS DISTINCT FROM": "IS NOT DISTINCT FROM",
    r"<>": "=",
    r"(?<![<>!:])=(?!>)": "<>",
    r" > ": " >= ",
    r" >= ": " > ",
    r" < ": " <= ",
    r" <= ": " < ",
    r" AND ": " OR ",
    r" OR ": " AND ",
    r" IS NULL": " IS NOT NULL",
    r" IS NOT NULL": " IS NULL",
    r" IS NOT TRUE": " IS TRUE",
    r" \+ 1": " + 2",
    r" - 1": " - 2",
    r" \+ (?=[a-z(])": " - ",
    r" - (?=[a-z(])": " + ",
    r"(?<=\W)-(?=[a-z])": "",
    r"2 \* ": "",
    r"(?<=coalesce\()(\w+), 0(?=\))": r"\1, 1",
    r"coalesce\(sum\(d\.released\), 0\)": "0",
    r"\bIF [^;]*? THEN": "IF false THEN",
    r"DISTINCT ": "",
    r"\bbool_or\(": "bool_and(",
    r"\bbool_and\(": "bool_or(",
    r"\bmin\((?!format)": "max(",
    r"\bmax\(": "min(",
    r"LEFT JOIN ": "JOIN ",
    r" FILTER \(WHERE [^()]*\)": "",
    r"\btrue\b": "false",
    r"\bfalse\b": "true",
    r"(?<=[<>=] )\d+\b|(?<=BETWEEN )\d+|(?<=BETWEEN \d AND )\d+|(?<=,)\d+(?=\})": _next,
    r"(?<=~ ')\^|\$(?=')": "",
}
#: Lists of which each element counts.
LISTS = (
    r"(?<=[ (]IN \()[^()]+(?=\))|(?<=ARRAY\[)[^]]+(?=\])|(?<= UPDATE OF )\w+(?:, \w+)+|(?<=PARTITION BY )\w+(?:, \w+)+"
)


@dataclass(frozen=True)
class Change:
    name: str
    sql: str


def of_function(name: str, text: str) -> Iterator[Change]:
    """Changes to one guard function. Pure."""
    yield from _of_text(name, text, text.index("$function$"))


def of_trigger(table: str, name: str, text: str) -> Iterator[Change]:
    """That there is no such trigger, and changes to when it is asked. Pure."""
    gone = f"DROP TRIGGER {name} ON {table}"
    yield Change(f"{table}: without TRIGGER {name}", gone)
    for change in _of_text(f"TRIGGER {name}", text, 0):
        yield Change(change.name, f"{gone}; {change.sql}")


def of_constraint(table: str, name: str, kind: str, text: str) -> Iterator[Change]:
    """That there is no such constraint, and changes to what a CHECK says. Rows that are there already are left alone. Pure."""
    gone = f"ALTER TABLE {table} DROP CONSTRAINT {name}"
    yield Change(f"{table}: without {'CHECK' if kind == 'c' else 'key'} {name}", gone)
    if kind == "c":
        for change in _of_text(f"CHECK {name}", text.removesuffix(" NOT VALID"), 0):
            yield Change(change.name, f"{gone}; ALTER TABLE {table} ADD CONSTRAINT {name} {change.sql} NOT VALID")


def _of_text(name: str, text: str, body: int) -> Iterator[Change]:
    def change(start: int, end: int, new: str, what: str) -> Change:
        line = text.count("\n", 0, start) + 1
        return Change(f"{name}:{line}: {what}", text[:start] + new + text[end:])

    for pattern, new in SWAPS.items():
        for found in re.finditer(pattern, text[body:]):
            start = body + found.start()
            line = text[text.rfind("\n", 0, start) : text.find("\n", start)]
            if "ERRCODE" in line or text[:start].rstrip().endswith(":"):
                continue  # what is said, not what is asked
            made = found.expand(new) if isinstance(new, str) else new(found)
            old = " ".join(found[0].split())
            yield change(start, body + found.end(), made, f"{old} -> {made.strip() or 'nothing'}")
    for found in re.finditer(LISTS, text[body:]):
        elements = found[0].split(", ")
        for place, element in enumerate(elements):
            rest = ", ".join(elements[:place] + elements[place + 1 :])
            if rest:
                yield change(body + found.start(), body + found.end(), rest, f"without {element} in the list")
    for start, end, elements in _rows(text):
        other = text.find("(", end)
        rest = text[end:other]
        if not re.fullmatch(r"\s*(IS( NOT)? DISTINCT FROM|<>)\s*(ROW)?", rest):
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


async def changes(database: Any, service: str) -> list[Change]:
    """All of them, for this migrated database."""
    tables, functions = own(service, "TABLE"), own(service, "FUNCTION")
    made: list[Change] = []
    for name, text in await database.query(FUNCTIONS):
        if name in functions:
            made += of_function(name, text)
    for table, name, text in await database.query(TRIGGERS):
        if table in tables:
            made += of_trigger(table, name, text)
    for table, name, kind, text in await database.query(CONSTRAINTS):
        if table in tables:
            made += of_constraint(table, name, kind, text)
    for table, name in await database.query(UNIQUE):
        if table in tables:
            gone = f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name} CASCADE; DROP INDEX IF EXISTS {name}"
            made.append(Change(f"{table}: without {name}", gone))
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
            except asyncpg.SyntaxOrAccessError:
                # Found out only now that a function is no SQL.
                return None
            except (AssertionError, asyncpg.PostgresError):
                return True
        return False
    finally:
        await transaction.rollback()


def run(sample: int | None, seed: int, *, only: str = "") -> int:
    """Tries all changes, or a random sample; prints survivors and the score of each service, answers how many survived."""
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    return asyncio.run(_run(sample, seed, only))


async def _run(sample: int | None, seed: int, only: str) -> int:
    from tests.support.parts import Server, remove, short_directory

    folder = short_directory()
    server = Server(folder, settings={"fsync": "off", "shared_buffers": "'64MB'"})
    await server.part.start()
    try:
        return sum([await _of_service(server, service, sample, seed, only) for service in TESTS])
    finally:
        await server.part.stop()
        remove(folder)


async def _of_service(server: Any, service: str, sample: int | None, seed: int, only: str) -> int:
    modules = [importlib.import_module(name) for name in TESTS[service]]
    tests = [test for module in modules for name, test in vars(module).items() if name.startswith("test_")]
    database = await server.database(f"tallystick.services.{service}")
    every = [one for one in await changes(database, service) if only in f"{service} {one.name}"]
    await server.drop(database)
    if not every:
        return 0
    every = random.Random(seed).sample(every, min(sample or len(every), len(every)))  # noqa: S311 - a choice, not a secret
    async with modules[0].filled_on(server) as filled:
        if await killed(filled.connection, tests, filled, Change("none", "SELECT")) is not False:
            raise SystemExit(f"{service}: the tests fail without any change")
        print(f"{service}: {len(every)} changes (seed {seed})", flush=True)
        verdicts: Counter[bool | None] = Counter()
        began = time.monotonic()
        for change in every:
            verdict = await killed(filled.connection, tests, filled, change)
            verdicts[verdict] += 1
            if verdict is False:
                print(f"survived: {change.name}", flush=True)
    tried, took = verdicts[True] + verdicts[False], time.monotonic() - began
    score = 100 * verdicts[True] / max(1, tried)
    print(f"{service}: killed {verdicts[True]} of {tried}: {score:.1f} % ({verdicts[None]} are no SQL), {took:.0f} s")
    return verdicts[False]
