"""The database's guard of what lies around the entries: transactions, other times, categories, approvals, imports. As `test_guard_edges.py`: each
thing is made wrong alone, in transactions that are rolled back, and run for each mutant of the guards.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tallystick.kernel import ids
from tests.services.ledger.test_guard_edges import WRITE, Filled, Hand, alone, filled, right, with_another_book

__all__ = ["filled"]

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEW_TRANSACTION = "INSERT INTO transaction (book, id, first, last, recorded_at{names}) VALUES (1, gen_random_uuid(), {first}, {last}, now(){values})"
NEW_PROPOSAL = (
    "INSERT INTO proposal (id, book, proposer, content, plan, digest, rules, status, reason, created_at, expires_at)"
    " VALUES ('00000000-0000-0000-0000-00000000000a', 1, 'cli', {content}, '[]', {digest}, {rules}, {status}, {reason}, now(), now() {until})"
)
NEW_DECISION = "INSERT INTO proposal_decision VALUES ('00000000-0000-0000-0000-00000000000a', 'cli', {decision}, now(), {signature})"
NEW_IMPORT = (
    "INSERT INTO import (id, book, tenant, actor, mode, dry_run, state, rows, sha256, wanted_sequence, line, tries, reason, created_at, finished_at)"
    " VALUES ('00000000-0000-0000-0000-00000000000b', 1, 'acme', 'cli', {mode}, false, {state}, {rows}, {sha256}, {wanted_sequence}, {line},"
    " {tries}, {reason}, now(), {finished_at})"
)
NEW_REFUSAL = (
    "INSERT INTO import_refusal VALUES ('00000000-0000-0000-0000-00000000000b', 1, {field}, {reason}, {detail})"
)


def transaction(first: int = 5, last: int = 5, **more: str) -> str:
    names, values = "".join(f", {name}" for name in more), "".join(f", {value}" for value in more.values())
    return NEW_TRANSACTION.format(names=names, first=first, last=last, values=values)


def proposal(**changes: str) -> str:
    usual = {"content": "'{}'", "digest": "repeat('0', 64)", "rules": "'[]'", "status": "'pending'", "reason": "NULL", "until": "+ interval '1 hour'"}  # fmt: skip
    return NEW_PROPOSAL.format(**{**usual, **changes})


def decision(**changes: str) -> str:
    return NEW_DECISION.format(**{"decision": "'approve'", "signature": "'signed'", **changes})


def whole_import(**changes: str) -> str:
    usual = {
        "mode": "'whole'", "state": "'open'", "rows": "1", "sha256": "decode(repeat('00', 32), 'hex')", "wanted_sequence": "NULL", "line": "0",
        "tries": "0", "reason": "NULL", "finished_at": "NULL",
    }  # fmt: skip
    return NEW_IMPORT.format(**{**usual, **changes})


def other_import(**changes: str) -> str:
    return whole_import(**changes).replace("00000000000b'", "00000000000e'")


def refusal(**changes: str) -> str:
    return NEW_REFUSAL.format(**{"field": "NULL", "reason": "'no'", "detail": "''", **changes})


def then(*statements: str) -> str:
    return "; ".join(statements)


def twice(sql: str) -> str:
    return then(sql, sql)


LINE = "INSERT INTO import_line VALUES ('00000000-0000-0000-0000-00000000000b', {line}, true, '')"
ADJUSTMENT = (
    "INSERT INTO adjustment VALUES ('00000000-0000-0000-0000-00000000000c', '2026-01-01T00:00:00Z', 1, 1, 1, 0)"
)
TOTAL = (
    "INSERT INTO adjustment_total VALUES ('00000000-0000-0000-0000-00000000000c', {span}, '2026-01-01T00:00:00Z', 1, 0)"
)
CHART = "INSERT INTO chart (book, version, mode, rules, created_at) VALUES (1, {version}, {mode}, '[]', now())"
CATEGORY = "INSERT INTO category VALUES (1, {name}, '{{}}', '{{}}', now())"
REVERSES = "'00000000-0000-0000-0000-00000000000d'"

TAKEN = (
    transaction(),
    transaction(reference="'r'", description="'d'", metadata="'{}'", exchanges="'[]'", reverses=REVERSES),
    transaction(first=1, last=3000),
    proposal(),
    proposal(status="'refused'", reason="'why'"),
    then(proposal(), decision()),
    then(proposal(), decision(decision="'reject'", signature="repeat('x', 4096)")),
    whole_import(),
    whole_import(state="'done'", finished_at="now()", wanted_sequence="0", reason="'x'"),
    then(
        whole_import(),
        LINE.format(line=1),
        refusal(field="repeat('x', 200)", reason="repeat('x', 100)", detail="repeat('x', 500)"),
    ),
    CATEGORY.format(name="'cash-2'"),
    "UPDATE book SET approvals = '[]'",
    "UPDATE book SET sealed_until = '1970-01-01T00:00:00Z'",
    *(proposal(status=f"'{one}'") for one in ("pending", "approved", "posted", "rejected", "expired")),
    *(whole_import(mode=f"'{one}'") for one in ("whole", "parts", "valid")),
    *(whole_import(state=f"'{one}'") for one in ("open", "queued")),
    *(whole_import(state=f"'{one}'", finished_at="now()") for one in ("done", "failed")),
    then(whole_import(), other_import(mode="'parts'")),
    then(whole_import(), other_import(sha256="decode(repeat('01', 32), 'hex')")),
    then(whole_import(), other_import().replace("false", "true")),
    then(whole_import(state="'failed'", finished_at="now()"), other_import()),
    then(
        whole_import(state="'done'", finished_at="now()").replace("false", "true"),
        other_import().replace("false", "true"),
    ),
    *(TOTAL.format(span=f"'{one}'") for one in ("year", "day", "hour")),
    *(CHART.format(version=1, mode=f"'{one}'") for one in ("open", "strict")),
    # At their bounds.
    transaction(effective_at="now() - interval '1 microsecond'"),
    transaction(reference="repeat('x', 200)", description="repeat('x', 500)"),
    whole_import(reason="repeat('x', 1000)"),
    then(whole_import(), refusal(field="''", reason="'x'")),
    CATEGORY.format(name="'0'"),
    CATEGORY.format(name="'0' || repeat('-', 62)"),
)
CHECKED = (
    (transaction(first=0, last=0), "transaction_first_check"),
    (transaction(first=5, last=4), "transaction_transfers"),
    (transaction(first=1, last=3001), "transaction_transfers"),
    (transaction(effective_at="now()"), "transaction_effective"),
    (transaction(reference="''"), "transaction_reference_check"),
    (transaction(reference="repeat('x', 201)"), "transaction_reference_check"),
    (transaction(description="''"), "transaction_description_check"),
    (transaction(description="repeat('x', 501)"), "transaction_description_check"),
    (transaction(metadata="'[]'"), "transaction_metadata_check"),
    (transaction(exchanges="'{}'"), "transaction_exchanges_check"),
    (twice(transaction()), "transaction_first"),
    (then(transaction(first=5, last=5, reverses=REVERSES), transaction(first=6, last=6, reverses=REVERSES)), "transaction_reverses"),
    (then(transaction(), "INSERT INTO transaction SELECT book, id, 9, 9, recorded_at FROM transaction"), "transaction_pkey"),
    (twice(ADJUSTMENT), "adjustment_pkey"),
    (TOTAL.format(span="'week'"), "adjustment_total_span_check"),
    (twice(TOTAL.format(span="'day'")), "adjustment_total_pkey"),
    (CATEGORY.format(name="'Cash'"), "category_name_check"),
    (CATEGORY.format(name="'cash!'"), "category_name_check"),
    (CATEGORY.format(name="'0' || repeat('-', 63)"), "category_name_check"),
    (twice(CATEGORY.format(name="'cash'")), "category_pkey"),
    ("UPDATE book SET sealed_until = '1969-12-31T23:59:59Z'", "book_sealed_until"),
    ("UPDATE book SET sealed_until = '-infinity'", "book_sealed_until"),
    ("UPDATE book SET sealed_until = 'infinity'", "book_sealed_until"),
    ("UPDATE book SET approvals = '{}'", "book_approvals_check"),
    (proposal(content="'[]'"), "proposal_content_check"),
    (proposal(digest="repeat('0', 63)"), "proposal_digest_check"),
    (proposal(digest="'x' || repeat('0', 64)"), "proposal_digest_check"),
    (proposal(digest="repeat('0', 64) || 'x'"), "proposal_digest_check"),
    (proposal(rules="'{}'"), "proposal_rules_check"),
    (proposal(status="'maybe'"), "proposal_status_check"),
    (proposal(status="'refused'"), "proposal_reason"),
    (proposal(reason="'why'"), "proposal_reason"),
    (proposal(until=""), "proposal_check"),
    (then(proposal(), decision(decision="'maybe'")), "proposal_decision_decision_check"),
    (then(proposal(), decision(signature="repeat('x', 4097)")), "proposal_decision_signature_check"),
    (then(proposal(), twice(decision())), "proposal_decision_pkey"),
    (whole_import(mode="'some'"), "import_mode_check"),
    (whole_import(state="'lost'", finished_at="now()"), "import_state_check"),
    (whole_import(rows="0"), "import_rows_check"),
    (whole_import(sha256="'\\x00'"), "import_sha256_check"),
    (whole_import(wanted_sequence="-1"), "import_wanted_sequence_check"),
    (whole_import(line="-1"), "import_line_check"),
    (whole_import(tries="-1"), "import_tries_check"),
    (whole_import(reason="''"), "import_reason_check"),
    (whole_import(reason="repeat('x', 1001)"), "import_reason_check"),
    (whole_import(state="'done'"), "import_finished"),
    (whole_import(finished_at="now()"), "import_finished"),
    (then(whole_import(), LINE.format(line=0)), "import_line_line_check"),
    (then(whole_import(), twice(LINE.format(line=1))), "import_line_pkey"),
    (then(whole_import(), refusal(field="repeat('x', 201)")), "import_refusal_field_check"),
    (then(whole_import(), refusal(reason="''")), "import_refusal_reason_check"),
    (then(whole_import(), refusal(reason="repeat('x', 101)")), "import_refusal_reason_check"),
    (then(whole_import(), refusal(detail="repeat('x', 501)")), "import_refusal_detail_check"),
    (then(whole_import(), twice(refusal())), "import_refusal_pkey"),
    # The same content, which is there or on its way.
    *(
        (then(whole_import(**one), other_import(**two)), "import_content")
        for one, two in (
            ({}, {}), ({}, {"state": "'queued'"}), ({"state": "'done'", "finished_at": "now()"}, {}), ({}, {"state": "'done'", "finished_at": "now()"}),
        )
    ),
    # What is of a thing that is not there.
    (CHART.format(version=1, mode="'open'").replace("VALUES (1,", "VALUES (99,"), "chart_book_fkey"),
    (transaction().replace("VALUES (1,", "VALUES (99,"), "transaction_book_fkey"),
    (CATEGORY.format(name="'cash'").replace("VALUES (1,", "VALUES (99,"), "category_book_fkey"),
    (proposal().replace(", 1, 'cli'", ", 99, 'cli'"), "proposal_book_fkey"),
    (decision(), "proposal_decision_proposal_fkey"),
    (whole_import().replace(", 1, 'acme'", ", 99, 'acme'"), "import_book_fkey"),
    (LINE.format(line=1), "import_line_import_fkey"),
    (refusal(), "import_refusal_import_fkey"),
)  # fmt: skip


async def test_right_rows_are_taken(filled: Filled) -> None:
    for sql in TAKEN:
        assert await alone(filled, sql) is None, sql


async def test_each_check_of_the_tables_around_the_book(filled: Filled) -> None:
    for sql, constraint in CHECKED:
        assert await alone(filled, sql) == constraint, sql


# ---- transfers: other times, amounts that were asked for ------------------------------------------------------------

LATER, EARLIER = "2030-01-01T00:00:00Z", "2025-06-01T12:30:00Z"
ROWS: tuple[tuple[str, dict[str, Any], str | None], ...] = (
    ("post", {"effective_at": EARLIER}, None),
    ("reverse", {"effective_at": EARLIER}, None),
    ("capture", {"effective_at": EARLIER}, None),
    ("capture", {"effective_at": LATER}, "transfer_effective"),
    ("post", {"effective_at": LATER}, "transfer_effective"),
    ("hold", {"effective_at": EARLIER}, "transfer_effective"),
    ("post", {"asked": 7}, None),
    ("hold", {"asked": 8}, None),
    ("post", {"asked": 6}, "transfer_asked"),
    ("reverse", {"asked": 7}, "transfer_asked"),
)


async def test_nothing_is_dated_back_to_when_it_is_recorded(filled: Filled) -> None:
    recorded = filled.hand.transfers[0]["recorded_at"]
    hand = right(filled, "post")
    hand.rows[0]["effective_at"] = recorded
    assert await hand.refused() == "transfer_effective"


async def test_each_check_of_a_transfers_times_and_what_was_asked(filled: Filled) -> None:
    for kind, change, constraint in ROWS:
        hand = right(filled, kind)
        hand.rows[0] |= change
        assert await hand.refused() == constraint, (kind, change)


async def test_nothing_is_posted_into_a_sealed_period(filled: Filled) -> None:
    """By its effective time if it has one, else by that of its recording; of one book, not of another."""
    recorded = filled.hand.transfers[0]["recorded_at"]
    for sealed, effective, constraint in (
        (f"'{recorded}'::timestamptz - interval '1 microsecond'", None, None),
        (f"'{recorded}'", None, "transfer_sealed"),
        (f"'{EARLIER}'::timestamptz - interval '1 microsecond'", EARLIER, None),
        (f"'{EARLIER}'", EARLIER, "transfer_sealed"),
    ):
        hand = right(filled, "post")
        hand.rows[0]["effective_at"] = effective
        hand.first(f"UPDATE book SET sealed_until = {sealed}")
        assert await hand.refused() == constraint, sealed
    both = filled.hand.again()
    for effective in (EARLIER, None):
        both.add("post", filled.bank, filled.anna, 7, effective_at=effective)
    both.first(f"UPDATE book SET sealed_until = '{EARLIER}'")
    assert await both.refused() == "transfer_sealed", "whatever else is written"
    hand = right(filled, "post")
    hand.first(
        "INSERT INTO book (tenant, recorded_at, created_at, sealed_until) VALUES ('beta', now(), now(), '2100-01-01')"
    )
    assert await hand.refused() is None


# ---- transactions ---------------------------------------------------------------------------------------------------

OWN = str(ids.transactions.new())
OTHER = str(ids.transactions.new())


def grouped(filled: Filled, *, effective: str | None = None) -> Hand:
    """Two transfers (5, 6) of one transaction and one (7) of none."""
    hand = filled.hand.again()
    for n in (3, 4, 5):
        hand.add("post", filled.bank, filled.anna, n)
    for row in hand.rows[:2]:
        row |= {"transaction": OWN, "effective_at": effective}
    return hand


def told(hand: Hand, own: str = OWN, *, first: int = 5, last: int = 6, effective: str | None = None) -> Hand:
    at = "NULL" if effective is None else f"'{effective}'"
    hand.first(
        f"INSERT INTO transaction (book, id, first, last, recorded_at, effective_at) VALUES (1, '{own}', {first}, {last}, now(), {at})"
    )
    return hand


async def test_a_transaction_is_all_of_its_transfers(filled: Filled) -> None:
    wrong = "transfer_transaction"
    assert await told(grouped(filled)).refused() is None
    assert await grouped(filled).refused() == wrong
    assert await told(grouped(filled), OTHER).refused() == wrong
    beside = grouped(filled)
    with_another_book(beside)
    assert await beside.refused() == wrong, "whatever else is written"
    for first, last in ((4, 6), (6, 6), (5, 5), (5, 7)):
        assert await told(grouped(filled), first=first, last=last).refused() == wrong, (first, last)
    hand = told(grouped(filled), first=5, last=7)
    hand.rows[1]["transaction"] = None
    hand.rows[2]["transaction"] = OWN
    assert await hand.refused() == wrong, "one in the middle is nobody's"
    hand = told(grouped(filled))
    hand.first(
        "INSERT INTO book (id, tenant, recorded_at, created_at) OVERRIDING SYSTEM VALUE VALUES (77, 'beta', now(), now())"
    )
    hand.before[0] = (hand.before[0][0].replace("VALUES (1,", "VALUES (77,"), ())
    hand.before.reverse()
    assert await hand.refused() == wrong, "another book's"
    both = told(told(grouped(filled)), OTHER, first=7, last=7)
    both.rows[2]["transaction"] = OTHER
    assert await both.refused() is None


async def test_a_transaction_and_its_transfers_are_effective_at_once(filled: Filled) -> None:
    wrong = "transfer_transaction"
    assert await told(grouped(filled, effective=EARLIER), effective=EARLIER).refused() is None
    assert await told(grouped(filled, effective=EARLIER)).refused() == wrong
    assert await told(grouped(filled), effective=EARLIER).refused() == wrong
    for place in (0, 1):
        for other in (None, "2025-06-01T12:30:01Z", "2025-06-01T12:29:59Z"):
            hand = told(grouped(filled, effective=EARLIER), effective=EARLIER)
            hand.rows[place]["effective_at"] = other
            assert await hand.refused() == wrong, (place, other)


async def test_what_is_held_in_a_transaction_is_held_now_whatever_is_dated_back(filled: Filled) -> None:
    wrong = "transfer_transaction"

    def mixed(*times: str | None, header: str | None = EARLIER) -> Hand:
        """A capture and a void of the hold of 20, a post and a reversal."""
        hand = filled.hand.again()
        hand.add("capture", filled.anna, filled.shop, 5, released=5, target=str(filled.hold))
        hand.add("post", filled.bank, filled.anna, 4)
        hand.add("void", filled.anna, filled.shop, 15, released=15, target=str(filled.hold))
        hand.add("reverse", filled.anna, filled.bank, 2, target=str(filled.post))
        hand.first(
            "UPDATE hold SET captured = captured + 5, remaining = 0, state = 'captured' WHERE id = $1", filled.hold
        )
        hand.first("UPDATE reversal SET reversed = reversed + 2 WHERE id = $1", filled.post)
        for row, at in zip(hand.rows, times, strict=True):
            row |= {"transaction": OWN, "effective_at": at}
        return told(hand, first=5, last=8, effective=header)

    assert await mixed(EARLIER, EARLIER, None, EARLIER).refused() is None
    assert await mixed(None, None, None, None, header=None).refused() is None
    assert await mixed(EARLIER, EARLIER, EARLIER, EARLIER).refused() == "transfer_effective"
    for times in ((EARLIER, None, None, EARLIER), (None, EARLIER, None, EARLIER), (EARLIER, EARLIER, None, None)):
        assert await mixed(*times).refused() == wrong, times
    assert await mixed(None, None, None, None).refused() == wrong
    assert await mixed(EARLIER, EARLIER, None, EARLIER, header=None).refused() == wrong


async def test_what_is_dated_back_is_adjusted_by_the_database(filled: Filled) -> None:
    """As often as something is: the totals of a year, a day and an hour are sums."""
    connection = filled.hand.connection
    recorded = filled.hand.transfers[0]["recorded_at"]
    block = connection.transaction()
    await block.start()
    try:
        hand = filled.hand.again()
        for times in (1, 2):
            hand.rows, hand.before = [], []
            own = str(ids.transactions.new())
            for amount in (3, 4):
                hand.add("post", filled.bank, filled.anna, amount, transaction=own, effective_at=EARLIER)
            told(hand, own, first=hand.sequence - 1, last=hand.sequence, effective=EARLIER)
            for sql, args in hand.before:
                await connection.execute(sql, *args)
            await connection.execute(WRITE, hand.sequence, hand.book, json.dumps(hand.rows))
            sums = "SELECT account::text, sum(debits)::int, sum(credits)::int FROM {table} WHERE {where} GROUP BY 1"
            for sign, at in ((1, EARLIER), (-1, recorded)):
                by = {span: f"span = '{span}' AND starts_at = date_trunc('{span}', timestamptz '{at}', 'UTC')" for span in ("year", "day", "hour")}  # fmt: skip
                for table, where in (
                    ("adjustment", f"at = '{at}'"),
                    *(("adjustment_total", one) for one in by.values()),
                ):
                    rows = await connection.fetch(sums.format(table=table, where=where))
                    moved = sign * times * 7
                    assert {row[0]: (row[1], row[2]) for row in rows} == {
                        filled.bank: (moved, 0),
                        filled.anna: (0, moved),
                    }, (table, where)
    finally:
        await block.rollback()
