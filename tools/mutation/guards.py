"""The database's guards, changed: each CHECK left out, each comparison of the guard functions turned round or left out. The tests of the guards have
to make it fail.

They are taken from a migrated database, so they are those that are in force, whichever migration wrote them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, SERVICE = "tallystick.services.ledger", "ledger"
TESTS = ("tests/services/ledger/test_guard_edges.py", "tests/services/ledger/test_guards.py")
#: The guards, and the tables whose CHECKs are the ledger's.
FUNCTIONS = "SELECT proname, pg_get_functiondef(p.oid) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = pronamespace WHERE nspname = 'public' AND prorettype = 'trigger'::regtype ORDER BY proname"  # fmt: skip
CHECKS = "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c' AND conrelid <> 0 ORDER BY 1, 2"  # fmt: skip
UNIQUE = "SELECT tablename, indexname FROM pg_indexes WHERE schemaname = 'public' AND indexdef LIKE 'CREATE UNIQUE%' ORDER BY 1, 2"
#: Tables of the chassis: its own tests are for them.
OTHERS = frozenset({"idempotency", "inbox", "outbox", "outbox_batch", "outbox_cursor", "dead_letter", "audit_outbox", "schema_migration"})  # fmt: skip
SECONDS = 180


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
        r"-released": "released",
        r"coalesce\(sum\(d\.released\), 0\)": "0",
        r"IF bad IS NOT NULL THEN": "IF false THEN",
        r"DISTINCT ": "",
    }
    body = text.index("$function$")
    for pattern, new in swaps.items():
        for found in re.finditer(pattern, text[body:]):
            start = body + found.start()
            if "ERRCODE" in text[text.rfind("\n", 0, start) : text.find("\n", start)] or text[:start].rstrip().endswith(":"):
                continue
            yield change(start, body + found.end(), new, f"{found[0].strip()} -> {new.strip() or 'nothing'}")
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
        if table not in OTHERS:
            made.append(Change(f"{table}: without CHECK {name}", f"ALTER TABLE {table} DROP CONSTRAINT {name}"))
    for table, name in await database.query(UNIQUE):
        if table in OTHERS:
            continue
        plain = f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS {name} CASCADE; DROP INDEX IF EXISTS {name}"
        if not await database.query("SELECT FROM pg_constraint WHERE contype = 'f' AND confrelid = $1::text::regclass", table):
            made.append(Change(f"{table}: without {name}", plain))
    return made


class _Part:
    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


def attached(server: Any, template: str) -> type:
    """What the tests take for a server of their own: the running one, with the template that has the change in it."""
    from tests.support.parts import Server

    class Attached(Server):
        def __init__(self, *_: Any, **__: Any) -> None:
            self.password, self.superuser = server.password, server.superuser
            self.part = _Part()  # type: ignore[assignment]
            self._roles = dict(server._roles)
            self._templates = {(PACKAGE, SERVICE): template}
            self._made = os.getpid() * 1000

    return Attached


def killed(server: Any, template: str) -> bool:
    """In this process, which is not to be used any more."""
    import tests.support.parts

    tests.support.parts.Server = attached(server, template)  # type: ignore[misc]
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "--timeout=0", *(one for one in TESTS if (ROOT / one).exists())]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        return bool(pytest.main(arguments))


async def prepared(server: Any, number: int, change: Change) -> str | None:
    """The name of a template with the change; None when PostgreSQL won't have it."""
    import asyncpg

    from tests.support.parts import connect

    name, original = f"mutant_{number}", server._templates[PACKAGE, SERVICE]
    owner = server._roles[SERVICE][1]
    await server.run(f'CREATE DATABASE "{name}" TEMPLATE "{original}" OWNER "{owner.user}"')
    connection = await connect(replace(owner, database=name))
    try:
        await connection.execute(change.sql)
    except asyncpg.PostgresError:
        await connection.close()
        await server.run(f'DROP DATABASE "{name}"')
        return None
    await connection.close()
    return name


def run(sample: int | None, seed: int, *, only: str = "") -> int:
    """Tries all changes, or a random sample; prints survivors and the score, answers how many survived."""
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    from tests.support.parts import Server, remove, short_directory

    folder = short_directory()
    server = Server(folder, settings={"fsync": "off", "shared_buffers": "'64MB'"})
    with asyncio.Runner() as runner:
        runner.run(server.part.start())
        try:
            return _try_all(runner, server, sample, seed, only)
        finally:
            runner.run(server.part.stop())
            remove(folder)


def _try_all(runner: asyncio.Runner, server: Any, sample: int | None, seed: int, only: str) -> int:
    every = [one for one in runner.run(_all(server)) if only in one.name]
    if sample is not None and sample < len(every):
        every = random.Random(seed).sample(every, sample)  # noqa: S311 - a choice, not a secret
    if _dies(server, server._templates[PACKAGE, SERVICE]):
        raise SystemExit("the tests fail without any change")
    print(f"{len(every)} changes (seed {seed})", flush=True)
    survived, refused, began = 0, 0, time.monotonic()
    for number, change in enumerate(every):
        template = runner.run(prepared(server, number, change))
        if template is None:
            refused += 1
            continue
        if not _dies(server, template):
            survived += 1
            print(f"survived: {change.name}", flush=True)
        runner.run(server.run(f'DROP DATABASE "{template}" WITH (FORCE)'))
    tried = len(every) - refused
    score = 100 * (tried - survived) / max(1, tried)
    took = time.monotonic() - began
    print(f"killed {tried - survived} of {tried}: {score:.1f} % ({refused} are no SQL), {took:.0f} s")
    return survived


async def _all(server: Any) -> list[Change]:
    database = await server.database(PACKAGE)
    try:
        return await changes(database)
    finally:
        await server.drop(database)


def _dies(server: Any, template: str) -> bool:
    sys.stdout.flush()
    child = os.fork()
    if not child:
        signal.alarm(SECONDS)
        os._exit(int(killed(server, template)))
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) != 0
