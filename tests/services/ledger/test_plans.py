"""The queries of the write path and of single reads never read a table from its beginning, whatever plan is kept."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tallystick.chassis.db import Queries, Query
from tallystick.kernel import ids
from tallystick.services.ledger.model import pattern
from tests.services.ledger.support import START, Books, move
from tests.services.ledger.test_report_plans import literal, looked_at, nodes
from tests.support.parts import ServiceDatabase, connect

POSTING = Queries.load("tallystick.services.ledger")
BOOKS = Queries.load("tallystick.services.ledger", "books")
CHECK = Queries.load("tallystick.services.ledger", "check")


async def test_hot_queries_look_at_what_they_are_about(service: ServiceDatabase, books: Books) -> None:
    await service.leave_alone()
    bank = await books.open(side="debit", path="bank")
    anna = await books.open(path="anna")
    others = [await books.open(path=f"other:{n}") for n in range(40)]
    for begin in range(0, 1200, 400):
        await books.post(*(move("post", bank, others[n % 40], 1) for n in range(begin, begin + 400)))
    paid, held = move("post", bank, anna, 10), move("hold", bank, anna, 5)
    await books.post(paid, held)
    nobody = ids.transfers.new()
    one = pattern("anna")
    cases: list[tuple[Query, tuple[Any, ...], int]] = [
        # two transfers, the ids of their accounts, the hold
        (POSTING.known, ([1, 1, 1], [paid.id, held.id, nobody]), 7),
        (POSTING.accounts_for_posting, ([bank, anna],), 2),
        (POSTING.accounts_at_paths_for_posting, ([1], ["anna"]), 1),
        (POSTING.transactions_of, ([1], [nobody]), 0),
        (POSTING.account, ("acme", anna, START), 3),
        (POSTING.account_at_path, ("acme", "main", "anna", START), 4),
        (POSTING.accounts, (1, None, START, None, None, None, 5), 12),
        (POSTING.accounts_at_paths, (1, None, START, None, None, None, 5, one.low, one.high, one.regex), 3),
        # two entries, the ids of the other accounts; for each side the account's number
        (POSTING.entries, (1, anna, 10**6, 5), 2 + 2 + 2),
        (POSTING.due_holds, (START, 10), 0),
        (BOOKS.book, ("acme", "main"), 1),
        (BOOKS.chart, (1, None), 0),
        (BOOKS.charted, (1, anna, 5), 6),
        (BOOKS.roll_up, (1, [one.low], [one.high], [one.regex]), 3),
    ]
    connection = await connect(books.database.dsn)
    try:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        for query, arguments, most in cases:
            await connection.execute(f"PREPARE asked AS {query.sql}")
            said = await connection.fetchval(
                f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE asked ({', '.join(map(literal, arguments))})"
            )
            await connection.execute("DEALLOCATE asked")
            plan = json.loads(said)[0]["Plan"]
            scans = [node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
            assert scans == [], f"{query.name} reads {scans} from the beginning"
            assert looked_at(plan) <= most, f"{query.name} looked at {looked_at(plan)} rows"
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "queries",
    [
        (POSTING.save, POSTING.insert_holds, POSTING.draw_holds, POSTING.draw_reversals),
        # the continuous check, which goes through all of a book piece by piece
        (CHECK.transfers, CHECK.accounts, CHECK.holds, CHECK.reversals, CHECK.adjustments),
    ],
    ids=["save", "check"],
)
async def test_what_runs_all_the_time_is_planned_by_indexes(books: Books, queries: tuple[Query, ...]) -> None:
    """These are not run here: their plans are looked at, as they are kept for all arguments."""
    connection = await connect(books.database.dsn)
    try:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        for query in queries:
            given = max(map(int, re.findall(r"\$(\d+)", query.sql)))
            await connection.execute(f"PREPARE asked AS {query.sql}")
            said = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE asked ({', '.join(['NULL'] * given)})")
            await connection.execute("DEALLOCATE asked")
            plan = json.loads(said)[0]["Plan"]
            scans = [node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
            assert scans == [], f"{query.name} reads {scans} from the beginning"
    finally:
        await connection.close()
