"""What the reading queries look at, by PostgreSQL's own account: as much as they answer, not all that there is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from tallystick.chassis.db import Queries, Query
from tallystick.kernel import ids
from tallystick.services.ledger.model import EPOCH, ONE_BY_ONE, Header, pattern
from tallystick.services.ledger.service import Ask
from tests.services.ledger.support import Books, move
from tests.support.parts import ServiceDatabase, connect

REPORTS = Queries.load("tallystick.services.ledger", "reports")
SEARCH = Queries.load("tallystick.services.ledger", "search")

CROWD = 1500
DAY = timedelta(days=1)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


def looked_at(plan: dict[str, Any]) -> int:
    """Rows that scans met, kept or not."""
    return sum(
        round(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0))
            * node["Actual Loops"]
        )
        for node in nodes(plan)
        if node["Node Type"].endswith("Scan") and "Relation Name" in node
    )


def literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "'{" + ",".join(map(str, value)) + "}'"
    return "'" + str(value).replace("'", "''") + "'"


async def test_reading_queries_look_at_what_they_answer(service: ServiceDatabase, books: Books) -> None:
    await service.leave_alone()
    bank = await books.open(side="debit", path="bank")
    anna = await books.open(path="customers:1:wallet")
    bob = await books.open(path="customers:2:wallet")
    for begin in range(0, CROWD, 500):
        await books.post(*(move("post", bank, bob, 1) for _ in range(begin, begin + 500)))
    held = move("hold", bank, anna, 5)
    await books.post(
        move("post", bank, anna, 10), held, move("post", bank, anna, 3, code="rare"), move("post", bank, bob, 1)
    )
    await books.post(*(move("hold", bank, bob, 1) for _ in range(200)))
    last = CROWD + 4 + 200 + 20
    for nth in range(20):
        own = ids.transactions.new()
        header = Header(id=own, reference=f"order {nth}")
        command = move("post", bank, bob, 1, transaction=own, code="fee" if nth % 4 == 0 else "sale")
        await books.ledger.poster.post(Ask("acme", "cli_test", None, [command], atomic=True, header=header))
    # in a book of its own, so that the others stay as they are
    many, few = await books.open(side="debit", tenant="beta"), await books.open(tenant="beta")
    rest, early = await books.open(tenant="beta"), books.clock.now() - timedelta(days=1)
    for nth in range(30):
        own, since = ids.transactions.new(), early - timedelta(minutes=nth)
        command = move("post", many, rest if nth % 10 else few, 1, transaction=own, effective_at=since)
        ask = Ask("beta", "cli_test", None, [command], atomic=True, header=Header(id=own, effective_at=since))
        assert (await books.ledger.poster.post(ask)).results[0].status == "posted"
    begun, later = books.clock.now(), books.clock.now() + DAY
    wallets, bare = pattern("customers:1:*"), (None,) * 10
    # the number of the account on each side, and of each entry that is shown the id of the other account
    cases: list[tuple[Query, tuple[Any, ...], int]] = [
        (REPORTS.booked, (anna, 0, last, 10), 3 + 3 + 2),
        (REPORTS.booked, (bank, 5, last, 10), 12 + 12),
        (REPORTS.booked_count, (anna, 0, last), 3 + 2),
        (REPORTS.turn, (1, last - 1), 2),
        # one entry of each side, and what was dated back within the hour and since the sequence
        (REPORTS.posted_effective, (bank, 1, later, 0, CROWD), 2 + 2),
        (REPORTS.posted_effective, (few, 2, later, 0, 30), 10),
        (REPORTS.posted_effective, (many, 2, early - timedelta(minutes=9), 20, 25), 20 + 5 + 1 + 2),
        (REPORTS.booked_effective, (bank, 1, begun + timedelta(microseconds=100), 0, later, last, 10), 10 + 10 + 2),
        (REPORTS.booked_effective, (anna, 1, EPOCH, 0, later, last, 10), 3 + 3 + 2),
        # the page, five times: the adjustment, the transfer, both accounts' ids, its transaction; of what is recorded later nothing
        (REPORTS.booked_effective, (many, 2, early - timedelta(minutes=20), 0, later, 30, 5), 25 + 2),
        (REPORTS.booked_effective_count, (few, EPOCH, later, 30, 0, 30), 3 + 3 + 3 + 2),
        (REPORTS.booked_effective_count, (anna, EPOCH, later, last, 0, last), 3 + 2),
        (REPORTS.many_dated_back, (many, EPOCH, later, 30, 5), 5),
        (REPORTS.many_dated_back, (many, early - timedelta(minutes=3), later, 30, 50), 4 + 30),
        (REPORTS.turn, (1, last - 1), 2),
        (REPORTS.account_lines, (1, last, None, 10), 3),
        (REPORTS.account_lines, (1, CROWD, None, 10), 6),
        (REPORTS.group_lines, (1, CROWD, 1, 10), 6),
        (REPORTS.group_lines_effective, (1, books.clock.now(), 1, 10), 60),
        (REPORTS.many_accounts, (1, 10), 3),
        (REPORTS.dated_back, (few, early, 0, 10), 6 + 6 + 2),
        (REPORTS.dated_back, (many, early, 0, 5), 10 + 10 + 2),
        (REPORTS.dated_back, (many, early, 28, 5), 4 + 4 + 2),
        (REPORTS.dated_back_before, (few, early, 0, 30), 3),
        (REPORTS.open_holds, (1, anna, last, 10), 3),
        (REPORTS.closed_holds, (1, anna, CROWD + 3, 10), 20),
        (SEARCH.accounts_fitting, (1, wallets.low, wallets.high, wallets.regex, ONE_BY_ONE), 1),
        (SEARCH.reach, ([anna], 0, last, 2), 4),
        (SEARCH.found_of, (1, 0, last, [anna], *bare, 10), 20),
        # of each the ids of its accounts, and what they are
        (SEARCH.found, (1, 0, last, *bare, 10, None, None, None), 51),
        (SEARCH.found, (1, last - 50, last, None, "rare", *bare[:8], 10, None, None, None), 60),
        (SEARCH.referred, (1, "order 7"), 1),
        (SEARCH.before_cut, (1, last - 1), 2),
        (SEARCH.transactions_reach, (1, 0, last + 1, 3), 4),
        (SEARCH.transactions_found, (1, 0, last + 1, *bare[:5], False, *bare[:9], 5), 6),
        (SEARCH.transactions_found, (1, 0, last + 1, *bare[:5], True, None, "fee", *bare[:7], 5), 70),
    ]
    tested: set[str] = set()
    connection = await connect(books.database.dsn)
    try:
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        for query, arguments, most in cases:
            # as the service runs it: prepared once, with one plan for all arguments
            await connection.execute(f"PREPARE {query.name}_{len(tested)} AS {query.sql}")
            said = ", ".join(map(literal, arguments))
            answer = await connection.fetchval(
                f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE {query.name}_{len(tested)}({said})"
            )
            await connection.execute("DEALLOCATE ALL")
            plan = json.loads(answer)[0]["Plan"]
            scans = [node["Relation Name"] for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
            assert not scans, (query.name, scans)
            assert looked_at(plan) <= most, (query.name, looked_at(plan), answer)
            tested.add(query.name)
    finally:
        await connection.close()
    assert tested == {query.name for query in (*REPORTS, *SEARCH)}
