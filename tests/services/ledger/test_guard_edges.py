"""The database's guard at its edges: each thing that it compares is made wrong alone, and it says which of its checks refused that.

Everything is tried in transactions that are rolled back, on one book, so that it is quick enough to be run for each mutant of the guards
(`python -m tools.mutation sql`).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from tallystick.kernel import ids
from tallystick.kernel.clock import ManualClock
from tests.services.ledger.support import START, Books, draw, ledger_on, move
from tests.support.guards import refused_by
from tests.support.parts import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOTALS = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
COLUMNS = ("version", *TOTALS)
RUNNING, SEQUENCE, ENTRIES = "transfer_running_totals", "transfer_sequence_gap", "account_totals_are_entries"
HOLDS, REVERSALS = "transfer_hold_totals", "transfer_reversed_totals"

#: A whole write, as `save` makes it: one statement, so that every guard sees all of it.
WRITE = """
WITH moved AS (
    UPDATE book SET sequence = $1 WHERE id = $2
)
INSERT INTO transfer_row SELECT (jsonb_populate_record(NULL::transfer_row, t.said || jsonb_build_object(
    'debit_number', (SELECT number FROM account WHERE id = (t.said ->> 'debit_account')::uuid),
    'credit_number', (SELECT number FROM account WHERE id = (t.said ->> 'credit_account')::uuid)
))).* FROM jsonb_array_elements($3::jsonb) AS t (said)
"""


def stored(row: dict[str, Any]) -> dict[str, Any]:
    """As `save` stores it: what is zero is not there."""
    absent = {"released", *(f"{side}_{total}" for side in ("dr", "cr") for total in TOTALS)}
    return {name: None if name in absent and value == 0 else value for name, value in row.items()}


@dataclass
class Hand:
    """A write made by hand: right, unless something is changed in `rows` afterwards. `accounts` are as they will be after it."""

    connection: asyncpg.Connection[asyncpg.Record]
    transfers: list[dict[str, Any]]
    accounts: dict[str, dict[str, Any]]
    book: int
    sequence: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    before: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    def again(self) -> Hand:
        return Hand(self.connection, self.transfers, deepcopy(self.accounts), self.book, self.sequence)

    def add(self, kind: str, debit: str, credit: str, amount: int, *, released: int = 0, **more: Any) -> dict[str, Any]:
        pending = amount if kind == "hold" else -released
        posted = amount if kind in {"post", "capture", "reverse"} else 0
        self.sequence += 1
        row = {
            **self.transfers[0],
            "id": str(ids.transfers.new()),
            "sequence": self.sequence,
            "kind": kind,
            "target": None,
            "debit_account": debit,
            "credit_account": credit,
            "amount": amount,
            "released": released,
            **more,
        }
        for account, side in ((debit, "debits"), (credit, "credits")):
            one = self.accounts[account]
            one["version"] += 1
            one["sequence"] = self.sequence
            one[f"{side}_pending"] += pending
            one[f"{side}_posted"] += posted
        for account, side in ((debit, "dr"), (credit, "cr")):
            row |= {f"{side}_{name}": self.accounts[account][name] for name in COLUMNS}
        self.rows.append(row)
        return row

    def first(self, sql: str, *args: Any) -> None:
        """Something before the write."""
        self.before.append((sql, args))

    async def refused(self) -> str | None:
        """What refuses it, None if nothing does. Nothing is kept."""
        write = (WRITE, (self.sequence, self.book, json.dumps(list(map(stored, self.rows)))))
        return await refused_by(self.connection, [*self.before, write])


@dataclass
class Filled:
    """Bank to anna 100 (1), hold of 30 from anna to shop (2), 10 of it captured (3), 5 of (1) reversed (4)."""

    hand: Hand
    bank: str
    anna: str
    shop: str
    dollars: str
    post: UUID
    hold: UUID

    @property
    def connection(self) -> asyncpg.Connection[asyncpg.Record]:
        return self.hand.connection


@asynccontextmanager
async def filled_on(server: Server) -> AsyncIterator[Filled]:
    service = await server.database("tallystick.services.ledger")
    database = await service.open()
    clock = ManualClock(START)
    books = Books(ledger_on(database, clock), clock, database)
    bank, anna, shop = await books.open(side="debit"), await books.open(), await books.open()
    dollars = await books.open(currency="USD")
    (post,) = await books.post(move("post", bank, anna, 100))
    (hold,) = await books.post(move("hold", anna, shop, 30))
    await books.post(draw("capture", hold.id, 10), draw("reverse", post.id, 5))
    connection = await service.connection()
    transfers = await connection.fetch("SELECT to_jsonb(t) FROM transfer AS t ORDER BY sequence")
    accounts = await connection.fetch("SELECT id, to_jsonb(a) FROM account AS a")
    hand = Hand(
        connection,
        [json.loads(row[0]) for row in transfers],
        {str(row[0]): json.loads(row[1]) for row in accounts},
        json.loads(transfers[0][0])["book"],
        4,
    )
    yield Filled(hand, str(bank), str(anna), str(shop), str(dollars), post.id, hold.id)
    await connection.close()
    await books.sound()
    await server.drop(service)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(postgres_server: Server) -> AsyncIterator[Filled]:
    async with filled_on(postgres_server) as made:
        yield made


async def test_right_writes_are_taken(filled: Filled) -> None:
    """Else the refusals below would prove nothing."""
    for kind in ("post", "hold", "increase", "capture", "void", "expire", "reverse"):
        assert await right(filled, kind).refused() is None, kind
    for kind, more in (
        ("hold", {"expires_at": "2030-01-01T00:00:00Z"}),
        ("increase", {"expires_at": "2030-01-01T00:00:00Z"}),
        ("post", {"code": "x", "metadata": "{}"}),
        ("post", {"code": "x" * 64}),
    ):
        said = right(filled, kind)
        said.rows[0] |= more
        assert await said.refused() is None, more
    many = filled.hand.again()
    for n in range(1, 6):
        many.add("post", filled.bank, filled.anna, n)
        many.add("post", filled.anna, filled.shop, n)
    assert await many.refused() is None


async def test_what_an_account_has_none_of_is_nothing(filled: Filled) -> None:
    """Totals that are not stored count as zero, on both sides, in a first entry and in the next."""
    for debit, credit in ((filled.dollars, filled.shop), (filled.shop, filled.dollars)):
        for kind in ("post", "hold"):
            hand = filled.hand.again()
            hand.first("UPDATE account SET currency = 'EUR'")
            for amount in (3, 4):
                row = hand.add(kind, debit, credit, amount, currency="EUR")
                if kind == "hold":
                    hold_row(hand, row)
            assert await hand.refused() is None, (kind, debit)


def right(filled: Filled, kind: str) -> Hand:
    """The next transfer of this kind, with all that belongs to it."""
    hand = filled.hand.again()
    if kind == "post":
        hand.add("post", filled.bank, filled.anna, 7)
    elif kind == "hold":
        row = hand.add("hold", filled.anna, filled.shop, 7)
        hold_row(hand, row)
    elif kind == "reverse":
        hand.add("reverse", filled.anna, filled.bank, 7, target=str(filled.post))
        hand.first("UPDATE reversal SET reversed = reversed + 7 WHERE id = $1", filled.post)
    elif kind == "increase":
        hand.add("increase", filled.anna, filled.shop, 7, released=-7, target=str(filled.hold))
        hand.first("UPDATE hold SET amount = amount + 7, remaining = remaining + 7 WHERE id = $1", filled.hold)
    else:
        amount = 7 if kind == "capture" else 20
        hand.add(kind, filled.anna, filled.shop, amount, released=amount, target=str(filled.hold))
        state = {"capture": "held", "void": "voided", "expire": "expired"}[kind]
        captured = 7 if kind == "capture" else 0
        hand.first(
            "UPDATE hold SET captured = captured + $2, remaining = remaining - $3, state = $4 WHERE id = $1",
            filled.hold, captured, amount, state,
        )  # fmt: skip
    return hand


def hold_row(hand: Hand, row: dict[str, Any], **changes: Any) -> None:
    new = {"debit_account": row["debit_account"], "credit_account": row["credit_account"], "amount": row["amount"], "captured": 0, "remaining": row["amount"], **changes}  # fmt: skip
    hand.first(
        "INSERT INTO hold (book, id, debit_account, credit_account, amount, captured, remaining, state)"
        " VALUES ($1, $2::text::uuid, $3::text::uuid, $4::text::uuid, $5, $6, $7, 'held')",
        row["book"], row["id"], new["debit_account"], new["credit_account"], new["amount"], new["captured"], new["remaining"],
    )  # fmt: skip


# ---- running totals -------------------------------------------------------------------------------------------------


async def test_each_running_total_of_the_last_entry_counts(filled: Filled) -> None:
    for kind in ("post", "hold", "capture", "void", "reverse"):
        for side in ("dr", "cr"):
            for column in COLUMNS:
                hand = right(filled, kind)
                hand.rows[0][f"{side}_{column}"] += 1
                assert await hand.refused() == RUNNING, (kind, side, column)


async def test_each_running_total_between_entries_counts(filled: Filled) -> None:
    for place in (0, 1):
        for side in ("dr", "cr"):
            for column in COLUMNS:
                hand = filled.hand.again()
                for _ in range(3):
                    hand.add("post", filled.bank, filled.anna, 7)
                hand.rows[place][f"{side}_{column}"] += 1
                assert await hand.refused() == RUNNING, (place, side, column)


async def test_what_each_kind_moves_counts(filled: Filled) -> None:
    """The amount between an entry and the one before it, for each kind."""
    pairs = {"post": (filled.bank, filled.anna), "reverse": (filled.anna, filled.bank)}
    for kind in ("post", "hold", "capture", "void", "reverse"):
        for side in range(2):
            later = right(filled, kind)
            first = filled.hand.again()
            account = pairs.get(kind, (filled.anna, filled.shop))[side]
            # On one of its accounts only, so that the other side can't be what refuses it.
            first.add("post", *((account, filled.dollars) if side else (filled.dollars, account)), 3, currency="EUR")
            first.before = [("UPDATE account SET currency = 'EUR'", ()), *later.before]
            given = later.rows[0]
            more = {name: given[name] for name in ("released", "target", "id")}
            row = first.add(kind, given["debit_account"], given["credit_account"], given["amount"], **more)
            assert await first.refused() is None, kind
            row["amount"] -= 1
            if kind in {"capture", "void"}:
                row["released"] -= 1
            assert await first.refused() == RUNNING, (kind, side)


async def test_what_an_account_had_before_the_write_counts(filled: Filled) -> None:
    """Also when it is wrong by so much that the entries and it would agree afterwards, if the write brought its totals along."""
    for account in (filled.bank, filled.anna):
        for column in COLUMNS:
            for many in (1, 2):
                hand = filled.hand.again()
                for _ in range(many):
                    hand.add("post", filled.bank, filled.anna, 7)
                hand.first("ALTER TABLE account DISABLE TRIGGER account_guard")
                hand.first(f"UPDATE account SET {column} = {column} + 1 WHERE id = $1", UUID(account))
                assert await hand.refused() == RUNNING, (account, column)


async def test_the_database_moves_the_accounts_by_the_amounts(filled: Filled) -> None:
    connection = filled.hand.connection
    for kind in ("post", "hold", "capture", "void", "reverse"):
        hand = right(filled, kind)
        for _ in range(3):
            hand.add("post", filled.bank, filled.anna, 1)
            hand.add("post", filled.anna, filled.shop, 2)
        transaction = connection.transaction()
        await transaction.start()
        for sql, args in hand.before:
            await connection.execute(sql, *args)
        await connection.execute(WRITE, hand.sequence, hand.book, json.dumps(hand.rows))
        for row in await connection.fetch("SELECT * FROM account"):
            wanted = hand.accounts[str(row["id"])]
            assert {name: row[name] for name in (*COLUMNS, "sequence")} == {
                name: wanted[name] for name in (*COLUMNS, "sequence")
            }, kind
        await transaction.rollback()


async def test_an_account_of_another_currency_or_book_is_found(filled: Filled) -> None:
    hand = filled.hand.again()
    hand.add("post", filled.dollars, filled.anna, 7)
    assert await hand.refused() == RUNNING
    hand = filled.hand.again()
    hand.add("post", filled.bank, filled.dollars, 7)
    assert await hand.refused() == RUNNING
    hand = right(filled, "post")
    hand.first("INSERT INTO book (tenant, recorded_at, created_at) VALUES ('beta', now(), now())")
    hand.first("UPDATE account SET book = (SELECT id FROM book WHERE tenant = 'beta') WHERE id = $1 AND version = 0", UUID(filled.dollars))  # fmt: skip
    assert await hand.refused() is None
    hand.rows[0]["currency"] = hand.accounts[filled.dollars]["currency"]
    assert await hand.refused() == RUNNING
    hand = filled.hand.again()
    hand.first("INSERT INTO book (tenant, recorded_at, created_at) VALUES ('beta', now(), now())")
    hand.first("UPDATE account SET book = (SELECT id FROM book WHERE tenant = 'beta'), currency = 'EUR' WHERE id = $1", UUID(filled.dollars))  # fmt: skip
    hand.add("post", filled.dollars, filled.anna, 7)
    assert await hand.refused() == RUNNING


async def test_each_entry_has_its_accounts_currency_and_book(filled: Filled) -> None:
    """Not only the last one of each account."""
    hand = filled.hand.again()
    for _ in range(3):
        hand.add("post", filled.bank, filled.anna, 7)
    assert await hand.refused() is None
    for place in (0, 1):
        other = hand.again()
        other.rows = deepcopy(hand.rows)
        other.rows[place]["currency"] = "USD"
        assert await other.refused() == RUNNING, place
    other = hand.again()
    other.first(
        "INSERT INTO book (id, tenant, recorded_at, created_at, sequence) OVERRIDING SYSTEM VALUE VALUES (78, 'beta', now(), now(), 1)"
    )
    other.rows = deepcopy(hand.rows[1:])
    other.rows.append({**hand.rows[0], "book": 78, "sequence": 1})
    for row in other.rows[:2]:
        row["sequence"] -= 1
    other.sequence -= 1
    assert await other.refused() == RUNNING


# ---- numbers --------------------------------------------------------------------------------------------------------


async def test_numbers_follow(filled: Filled) -> None:
    skipped = filled.hand.again()
    skipped.sequence += 1
    skipped.add("post", filled.bank, filled.anna, 7)
    assert await skipped.refused() == SEQUENCE
    hole = filled.hand.again()
    hole.add("post", filled.bank, filled.anna, 7)
    hole.sequence += 1
    hole.add("post", filled.bank, filled.anna, 7)
    assert await hole.refused() == SEQUENCE
    for ahead in (1, -1):
        hand = right(filled, "post")
        hand.sequence += ahead
        assert await hand.refused() == SEQUENCE, ahead


async def test_nothing_is_posted_in_a_book_that_is_not_there(filled: Filled) -> None:
    hand = right(filled, "post")
    hand.rows[0] |= {"book": 78, "sequence": 1}
    assert await hand.refused() == SEQUENCE


async def test_a_first_transfer_has_no_predecessor_and_a_second_has(filled: Filled) -> None:
    """In a new book."""
    for number, expected in ((1, None), (2, SEQUENCE)):
        hand = filled.hand.again()
        hand.book = 77
        hand.first(
            "INSERT INTO book (id, tenant, recorded_at, created_at) OVERRIDING SYSTEM VALUE VALUES (77, 'beta', now(), now())"
        )
        for account, own in ((filled.bank, UUID(int=1)), (filled.anna, UUID(int=2))):
            hand.first(
                "INSERT INTO account (id, book, name, currency, normal_side, created_at, created_sequence) SELECT $1, 77, name, currency,"
                " normal_side, created_at, 0 FROM account WHERE id = $2", own, UUID(account),
            )  # fmt: skip
        hand.accounts = {
            str(UUID(int=n)): {
                **hand.accounts[account],
                "id": str(UUID(int=n)),
                **dict.fromkeys((*COLUMNS, "sequence"), 0),
            }
            for n, account in ((1, filled.bank), (2, filled.anna))
        }
        hand.sequence = number - 1
        hand.add("post", str(UUID(int=1)), str(UUID(int=2)), 7, book=77)
        assert await hand.refused() == expected, number


# ---- holds and reversals --------------------------------------------------------------------------------------------


async def test_a_hold_and_its_row_say_the_same(filled: Filled) -> None:
    for change in (
        {"amount": 8},
        {"amount": 8, "remaining": 8},
        {"debit_account": filled.bank},
        {"credit_account": filled.bank},
        {"captured": 1, "remaining": 6},
        {"remaining": 6},
    ):
        hand = filled.hand.again()
        row = hand.add("hold", filled.anna, filled.shop, 7)
        hold_row(hand, row, **change)
        assert await hand.refused() == HOLDS, change
    bare = filled.hand.again()
    bare.add("hold", filled.anna, filled.shop, 7)
    assert await bare.refused() == HOLDS


async def test_what_is_drawn_and_the_holds_row_say_the_same(filled: Filled) -> None:
    for kind in ("capture", "void"):
        for column, by in (("captured", 1), ("remaining", -1), ("amount", 1)):
            hand = right(filled, kind)
            if kind == "void":
                hand.first("UPDATE hold SET remaining = 1, state = 'held' WHERE id = $1 AND $2 = 'remaining'", filled.hold, column)  # fmt: skip
            if column != "remaining" or kind == "capture":
                more = ", remaining = remaining - 1" if column == "captured" and kind == "capture" else ""
                hand.first(f"UPDATE hold SET {column} = {column} + $2{more} WHERE id = $1", filled.hold, by)
            assert await hand.refused() in {HOLDS, "hold_not_overdrawn"}, (kind, column)
        nothing = right(filled, kind)
        nothing.before.clear()
        assert await nothing.refused() == HOLDS, kind
    for debit, credit in ((filled.bank, filled.shop), (filled.anna, filled.bank)):
        hand = right(filled, "capture")
        again = filled.hand.again()
        again.before = hand.before
        # From accounts that have as much on hold as it takes, so that only the hold itself is against it.
        row = again.add("hold", debit, credit, 7)
        hold_row(again, row)
        again.add("capture", debit, credit, 7, released=7, target=str(filled.hold))
        assert await again.refused() == HOLDS, (debit, credit)


async def test_a_draw_needs_a_hold(filled: Filled) -> None:
    hand = filled.hand.again()
    row = hand.add("hold", filled.anna, filled.shop, 7)
    hold_row(hand, row)
    hand.add("void", filled.anna, filled.shop, 7, released=7, target=str(ids.transfers.new()))
    assert await hand.refused() == HOLDS
    hand = filled.hand.again()
    hand.add("hold", filled.anna, filled.shop, 7)
    hold_row(hand, hand.rows[0])
    hand.add("expire", filled.anna, filled.shop, 7, released=7, target=str(filled.post))
    assert await hand.refused() == HOLDS


async def test_a_reversal_and_its_row_say_the_same(filled: Filled) -> None:
    for column, by in (("reversed", 1), ("reversed", -1), ("amount", 1)):
        hand = right(filled, "reverse")
        hand.first(f"UPDATE reversal SET {column} = {column} + $2 WHERE id = $1", filled.post, by)
        assert await hand.refused() == REVERSALS, (column, by)
    nothing = right(filled, "reverse")
    nothing.before.clear()
    assert await nothing.refused() == REVERSALS
    for debit, credit in ((filled.bank, filled.anna), (filled.anna, filled.shop), (filled.shop, filled.bank)):
        hand = filled.hand.again()
        hand.add("reverse", debit, credit, 7, target=str(filled.post))
        hand.before = right(filled, "reverse").before
        assert await hand.refused() == REVERSALS, (debit, credit)


async def test_only_what_was_posted_is_reversed(filled: Filled) -> None:
    insert = "INSERT INTO reversal (book, id, amount, reversed) VALUES ($1, $2, $3, 7)"
    for target, amount, expected in ((filled.hold, 30, REVERSALS), (ids.transfers.new(), 7, REVERSALS)):
        hand = filled.hand.again()
        hand.add("reverse", filled.shop, filled.anna, 7, target=str(target))
        hand.first(insert, hand.book, target, amount)
        assert await hand.refused() == expected, target
    capture = UUID(filled.hand.transfers[2]["id"])
    hand = filled.hand.again()
    hand.add("reverse", filled.shop, filled.anna, 7, target=str(capture))
    assert await hand.refused() == REVERSALS, "nobody has counted it"
    hand.first(insert, hand.book, capture, 10)
    assert await hand.refused() is None


async def test_what_is_wrong_is_found_among_what_is_right(filled: Filled) -> None:
    draws = ("increase", "capture", "void", "expire")
    for kind, constraint in (("hold", HOLDS), *((kind, HOLDS) for kind in draws), ("reverse", REVERSALS)):
        alone_, among, beside = right(filled, kind), right(filled, kind), right(filled, kind)
        for hand in (alone_, among, beside):
            hand.before.clear()
        among.add("post", filled.bank, filled.anna, 7)
        with_another_book(beside)
        for hand in (alone_, among, beside):
            assert await hand.refused() == constraint, kind


async def test_several_books_in_one_write_are_each_right(filled: Filled) -> None:
    for kind in ("hold", "reverse"):
        hand = right(filled, kind)
        with_another_book(hand)
        assert await hand.refused() is None, kind


def with_another_book(hand: Hand) -> None:
    """A post in a book of its own, written with the others."""
    hand.first(
        "INSERT INTO book (id, tenant, recorded_at, created_at, sequence) OVERRIDING SYSTEM VALUE VALUES (78, 'beta', now(), now(), 1)"
    )
    for n in (1, 2):
        hand.first(
            "INSERT INTO account (id, book, name, currency, normal_side, created_at, created_sequence)"
            f" VALUES ('{UUID(int=n)}', 78, 'one', 'EUR', 'credit', now(), 0)"
        )
        hand.accounts[str(UUID(int=n))] = dict.fromkeys((*COLUMNS, "sequence"), 0)
    sequence = hand.sequence
    hand.add("post", str(UUID(int=1)), str(UUID(int=2)), 7, book=78)
    hand.rows[-1]["sequence"] = 1
    hand.sequence = sequence


# ---- rows alone -----------------------------------------------------------------------------------------------------


async def alone(filled: Filled, sql: str, *args: Any) -> str | None:
    return await refused_by(filled.hand.connection, [(sql, args)])


async def test_no_total_moves_without_its_entry(filled: Filled) -> None:
    for account in (filled.bank, filled.anna, filled.shop):
        for column in (*COLUMNS, "sequence"):
            sql = f"UPDATE account SET {column} = {column} + 1 WHERE id = $1"
            assert await alone(filled, sql, UUID(account)) == ENTRIES, (account, column)
        back = "UPDATE account SET sequence = (SELECT min(sequence) FROM entry WHERE account = $1) WHERE id = $1"
        assert await alone(filled, back, UUID(account)) == ENTRIES
    for column in (*COLUMNS, "sequence"):
        assert await alone(filled, f"UPDATE account SET {column} = 1 WHERE id = $1", UUID(filled.dollars)) == ENTRIES
    assert await alone(filled, "UPDATE account SET version = 0 WHERE id = $1", UUID(filled.bank)) == ENTRIES


async def test_a_new_account_has_nothing(filled: Filled) -> None:
    names = ("version", "sequence", *TOTALS)
    for name in ("", *names):
        values = [int(each == name) for each in names]
        sql = (
            f"INSERT INTO account (id, book, name, currency, normal_side, created_at, created_sequence, {', '.join(names)})"
            " SELECT gen_random_uuid(), book, name, currency, normal_side, created_at, 0, $1, $2, $3, $4, $5, $6 FROM account LIMIT 1"
        )
        assert await alone(filled, sql, *values) == (ENTRIES if name else None), name


#: What an account may still do, to the last minor unit: what is held counts against its floor and its ceiling, on the side that it takes from or
#: brings to. With what holds come to, of the limit that is given.
LIMITS = tuple(
    (
        (
            "ALTER TABLE account DISABLE TRIGGER account_guard;"
            f" UPDATE account SET floor = NULL, ceiling = NULL, {side}s_pending = 0, {other}s_pending = 0 WHERE normal_side = '{side}';"
            f" UPDATE account SET {limit}, {held}s_pending = {{held}} WHERE normal_side = '{side}' AND {side}s_posted > {other}s_posted"
        ),
        constraint,
        last,
    )
    for side, other in (("debit", "credit"), ("credit", "debit"))
    for constraint, limit, held, last in (
        ("account_floor", "floor = 0", other, f"{side}s_posted - {other}s_posted"),
        ("account_ceiling", f"ceiling = {side}s_posted - {other}s_posted + 5", side, "5"),
    )
)
#: What is at its bounds.
TAKEN = (
    *(f"UPDATE account SET kind = '{kind}'" for kind in ("asset", "liability", "equity", "income", "expense")),
    *(f"UPDATE account SET name = repeat('x', {name}), code = repeat('x', {code}), metadata = '{{}}'" for name, code in ((1, 1), (200, 64))),
    "UPDATE account SET floor = -9223372036854775807",
    "UPDATE account SET floor = 0, ceiling = 0 WHERE version = 0",
    "UPDATE account SET ceiling = debits_posted WHERE normal_side = 'debit'",
    "UPDATE account SET ceiling = credits_posted + credits_pending - debits_posted WHERE normal_side = 'credit'",
    *(
        f"ALTER TABLE account DISABLE TRIGGER account_guard;"
        f" UPDATE account SET {side}_posted = 9223372036854775806, {side}_pending = 1, floor = NULL, ceiling = NULL"
        for side in ("debits", "credits")
    ),
    *(f"UPDATE hold SET state = '{state}', remaining = 0" for state in ("captured", "voided", "expired")),
    "UPDATE hold SET amount = 1, captured = 0, remaining = 1",
    "UPDATE reversal SET amount = 1, reversed = 1",
    "UPDATE book SET tenant = 'a', name = '0', shard = '0', description = 'x', quarantined_at = now(), quarantine_reason = 'x'",
    "UPDATE book SET tenant = 'a' || repeat('-', 39), name = '0' || repeat('-', 62), shard = '0' || repeat('-', 62)",
    "UPDATE book SET description = repeat('x', 500), quarantined_at = now(), quarantine_reason = repeat('x', 500)",
    *(f"UPDATE book SET backdating = '{one}'" for one in ("strict", "report")),
)  # fmt: skip
CHECKED = (
    ("UPDATE account SET name = ''", "account_name_check"),
    ("UPDATE account SET name = repeat('x', 201)", "account_name_check"),
    ("UPDATE account SET currency = 'eur'", "account_currency_check"),
    ("UPDATE account SET currency = 'EURO'", "account_currency_check"),
    ("UPDATE account SET currency = 'xEUR'", "account_currency_check"),
    ("UPDATE account SET book = 99 WHERE version = 0", "account_book_fkey"),
    ("UPDATE account SET normal_side = 'left'", "account_normal_side_check"),
    ("UPDATE account SET floor = 1 WHERE credits_posted > 20", "account_floor_check"),
    ("UPDATE account SET floor = -9223372036854775808", "account_floor_check"),
    ("UPDATE account SET code = ''", "account_code_check"),
    ("UPDATE account SET code = repeat('x', 65)", "account_code_check"),
    ("UPDATE account SET metadata = '[]'", "account_metadata_check"),
    ("UPDATE account SET created_sequence = -1", "account_created_sequence_check"),
    ("UPDATE account SET version = -1", "account_version_check"),
    ("UPDATE account SET sequence = -1", "account_sequence_check"),
    *((f"UPDATE account SET {name} = -1", f"account_{name}_check") for name in TOTALS),
    *(
        (f"UPDATE account SET {side}_posted = 9223372036854775807, {side}_pending = 1, floor = NULL", "account_totals_fit")
        for side in ("debits", "credits")
    ),
    ("UPDATE account SET floor = 0 WHERE normal_side = 'debit'; UPDATE account SET floor = -9 WHERE normal_side = 'credit'; UPDATE account SET debits_pending = 1000", "account_floor"),
    ("UPDATE account SET floor = 0 WHERE normal_side = 'debit'; UPDATE account SET credits_pending = 1000 WHERE normal_side = 'debit'", "account_floor"),
    ("UPDATE book SET sequence = -1", "book_sequence_check"),
    ("UPDATE book SET tenant = 'Acme'", "book_tenant_check"),
    ("UPDATE book SET tenant = '1acme'", "book_tenant_check"),
    ("UPDATE book SET tenant = 'acme!'", "book_tenant_check"),
    ("UPDATE book SET tenant = 'a' || repeat('-', 40)", "book_tenant_check"),
    ("UPDATE book SET name = '!a'", "book_name_check"),
    ("UPDATE book SET name = 'a!'", "book_name_check"),
    ("UPDATE book SET name = '0' || repeat('-', 63)", "book_name_check"),
    ("UPDATE book SET shard = '!a'", "book_shard_check"),
    ("UPDATE book SET shard = 'a!'", "book_shard_check"),
    ("UPDATE book SET shard = '0' || repeat('-', 63)", "book_shard_check"),
    ("UPDATE hold SET amount = 0, captured = 0", "hold_amount_check"),
    ("UPDATE hold SET captured = -1", "hold_captured_check"),
    ("UPDATE hold SET remaining = -1, state = 'voided'", "hold_remaining_check"),
    ("UPDATE hold SET state = 'gone', remaining = 0", "hold_state_check"),
    ("UPDATE hold SET captured = 11", "hold_not_overdrawn"),
    ("UPDATE hold SET state = 'voided'", "hold_open"),
    ("UPDATE hold SET remaining = 0", "hold_open"),
    ("UPDATE reversal SET amount = 0, reversed = 0", "reversal_amount_check"),
    ("UPDATE reversal SET reversed = 0", "reversal_reversed_check"),
    ("UPDATE reversal SET reversed = amount + 1", "reversal_not_exceeded"),
    ("INSERT INTO rejection (book, id, digest, reason, recorded_at) VALUES (1, gen_random_uuid(), '\\x00', 'x', now())", "rejection_digest_check"),
)  # fmt: skip


async def test_what_is_at_its_bounds_is_taken(filled: Filled) -> None:
    for sql in TAKEN:
        assert await alone(filled, sql) is None, sql


async def test_what_is_held_counts_against_floor_and_ceiling(filled: Filled) -> None:
    for sql, constraint, last in LIMITS:
        assert await alone(filled, sql.format(held=last)) is None, sql
        assert await alone(filled, sql.format(held=f"{last} + 1")) == constraint, sql


async def test_each_check_of_a_row(filled: Filled) -> None:
    for sql, constraint in CHECKED:
        assert await alone(filled, sql) == constraint, sql


ROWS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("post", {"amount": 0}, "transfer_amount_check"),
    ("post", {"sequence": 0}, "transfer_sequence_check"),
    ("post", {"kind": "gift"}, "transfer_kind_check"),
    ("post", {"code": ""}, "transfer_code_check"),
    ("post", {"code": "x" * 65}, "transfer_code_check"),
    ("post", {"metadata": "1"}, "transfer_metadata_check"),
    ("post", {"dr_version": 0}, "transfer_dr_version_check"),
    ("post", {"cr_version": 0}, "transfer_cr_version_check"),
    ("post", {"released": 1}, "transfer_released"),
    ("capture", {"released": 6}, "transfer_released"),
    ("void", {"released": 21}, "transfer_released"),
    ("expire", {"released": 21}, "transfer_released"),
    ("increase", {"released": -8}, "transfer_released"),
    ("increase", {"released": 7}, "transfer_released"),
    ("increase", {"target": None}, "transfer_target"),
    ("post", {"expires_at": "2030-01-01T00:00:00Z"}, "transfer_expires"),
    ("capture", {"target": None}, "transfer_target"),
)


async def test_each_check_of_a_transfers_row(filled: Filled) -> None:
    for kind, change, constraint in ROWS:
        hand = right(filled, kind)
        hand.rows[0] |= change
        assert await hand.refused() == constraint, change
    hand = right(filled, "post")
    hand.rows[0]["credit_account"] = hand.rows[0]["debit_account"]
    assert await hand.refused() == "transfer_two_accounts"
    hand = right(filled, "post")
    hand.rows[0]["target"] = str(filled.post)
    assert await hand.refused() == "transfer_target"


async def test_nothing_is_there_twice(filled: Filled) -> None:
    hand = right(filled, "post")
    hand.rows[0]["id"] = str(filled.post)
    assert await hand.refused() == "transfer_pkey"
    hand = right(filled, "post")
    hand.rows[0]["sequence"] = 4
    assert await hand.refused() == "transfer_sequence"
    for table in ("hold", "reversal", "account"):
        assert (
            await alone(filled, f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM {table} LIMIT 1")
            == f"{table}_pkey"
        )
    number = (
        "INSERT INTO account (id, book, name, currency, normal_side, created_at, created_sequence, number) OVERRIDING SYSTEM VALUE"
        " SELECT gen_random_uuid(), book, name, currency, normal_side, created_at, 0, number FROM account LIMIT 1"
    )
    assert await alone(filled, number) == "account_number"
    refusal = "INSERT INTO rejection (book, id, digest, reason, recorded_at) SELECT 1, $1::uuid, decode(repeat('00', 16), 'hex'), 'x', now() FROM generate_series(1, 2)"  # fmt: skip
    assert await alone(filled, refusal, filled.post) == "rejection_pkey"
    assert await alone(filled, "INSERT INTO book (tenant, recorded_at, created_at) SELECT tenant, now(), now() FROM book") == "book_name"  # fmt: skip


async def test_what_is_required_is_true_or_refused(filled: Filled) -> None:
    """What `save` asks for besides its rows."""
    assert await filled.connection.fetchval("SELECT required(true, 'this')")
    for no in ("false", "NULL"):
        assert await alone(filled, f"SELECT required({no}, 'this')") == "this"


# ---- books, paths and charts ----------------------------------------------------------------------------------------

BOOKS = (
    ("UPDATE book SET name = 'Main'", "book_name_check"),
    ("UPDATE book SET name = '-'", "book_name_check"),
    ("UPDATE book SET description = ''", "book_description_check"),
    ("UPDATE book SET description = repeat('x', 501)", "book_description_check"),
    ("UPDATE book SET backdating = 'never'", "book_backdating_check"),
    ("UPDATE book SET quarantined_at = now(), quarantine_reason = ''", "book_quarantine_reason_check"),
    ("UPDATE book SET quarantined_at = now(), quarantine_reason = repeat('x', 501)", "book_quarantine_reason_check"),
    ("UPDATE book SET quarantined_at = now()", "book_quarantine"),
    ("UPDATE book SET quarantine_reason = 'why'", "book_quarantine"),
    ("UPDATE book SET shard = 'North'", "book_shard_check"),
    ("UPDATE account SET kind = 'gift'", "account_kind"),
    ("UPDATE account SET ceiling = -1, debits_posted = 1000 WHERE normal_side = 'credit'", "account_ceiling_check"),
    ("UPDATE account SET ceiling = 1, debits_pending = 50 WHERE normal_side = 'debit'", "account_ceiling"),
    ("UPDATE account SET ceiling = 1, credits_pending = 50 WHERE normal_side = 'credit'", "account_ceiling"),
    ("UPDATE account SET path = 'a:b'", "account_path"),
    (
        "INSERT INTO chart (book, version, mode, rules, created_at) VALUES (1, 0, 'open', '[]', now())",
        "chart_version_check",
    ),
    (
        "INSERT INTO chart (book, version, mode, rules, created_at) VALUES (1, 1, 'loose', '[]', now())",
        "chart_mode_check",
    ),
    (
        "INSERT INTO chart (book, version, mode, rules, created_at) VALUES (1, 1, 'open', '{}', now())",
        "chart_rules_check",
    ),
    (
        "INSERT INTO chart (book, version, mode, rules, created_at) SELECT 1, 1, 'open', '[]', now() FROM generate_series(1, 2)",
        "chart_pkey",
    ),
)


async def test_each_check_of_a_book_and_its_chart(filled: Filled) -> None:
    for sql, constraint in BOOKS:
        assert await alone(filled, sql) == constraint, sql


async def test_an_account_begins_at_a_path_and_with_a_kind(filled: Filled) -> None:
    new = (
        "INSERT INTO account (id, book, name, currency, normal_side, created_at, created_sequence, path)"
        " SELECT gen_random_uuid(), book, name, currency, normal_side, created_at, 0, $1 FROM account LIMIT 1"
    )
    good = [
        "a",
        "a:b",
        "my_acc_1",
        "a:acc_1",
        ":".join("p" * 16),
        "x" * 64,
        ":".join([*["x" * 64] * 7, "x" * 57]),
        None,
    ]
    bad = [
        "",
        ":",
        "a:",
        ":a",
        "a b",
        "a:b/c",
        ":".join("p" * 17),
        "x" * 65,
        "a:" + "x" * 65,
        "acc_1",
        ":".join(["x" * 64] * 8),
        ":".join([*["x" * 64] * 7, "x" * 58]),
    ]
    assert len(str(good[6])) == 512
    for path in good:
        assert await alone(filled, new, path) is None, path
    for path in bad:
        assert await alone(filled, new, path) == "account_path_form", path


async def test_what_is_said_of_an_account_is_checked_when_it_is_opened_too(filled: Filled) -> None:
    new = (
        "INSERT INTO account (id, book, name, currency, normal_side, kind, code, metadata, created_at, created_sequence)"
        " SELECT gen_random_uuid(), book, {name}, {currency}, {side}, {kind}, {code}, {metadata}, created_at, 0 FROM account LIMIT 1"
    )
    usual = {"name": "name", "currency": "currency", "side": "normal_side", "kind": "kind", "code": "NULL", "metadata": "NULL"}  # fmt: skip
    assert await alone(filled, new.format(**usual)) is None
    for said, value, constraint in (
        ("name", "''", "account_name_check"),
        ("currency", "'eur'", "account_currency_check"),
        ("side", "'left'", "account_normal_side_check"),
        ("kind", "'gift'", "account_kind"),
        ("code", "''", "account_code_check"),
        ("metadata", "'[]'", "account_metadata_check"),
    ):
        assert await alone(filled, new.format(**{**usual, said: value})) == constraint, said


async def moved(filled: Filled, sql: str) -> list[int]:
    """By how much the statement moves the revisions of both books."""
    connection = filled.hand.connection
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("INSERT INTO book (tenant, recorded_at, created_at) VALUES ('beta', now(), now())")
        before = await connection.fetch("SELECT revision FROM book ORDER BY id")
        await connection.execute(sql)
        after = await connection.fetch("SELECT revision FROM book ORDER BY id")
        return [two[0] - one[0] for one, two in zip(before, after, strict=True)]
    finally:
        await transaction.rollback()


async def test_what_the_rules_read_moves_the_revision_of_its_book(filled: Filled) -> None:
    """What was decided in memory is stored only if the revision stands still."""
    one = f"WHERE id = '{filled.bank}'"
    for sql in (
        f"UPDATE account SET ceiling = 1000 {one}",
        f"UPDATE account SET floor = -1000 {one}",
        f"UPDATE account SET frozen_at = now() {one}",
        f"UPDATE account SET closed_at = now() {one}",
        f"UPDATE account SET name = 'other' {one}",
        f"UPDATE account SET metadata = '{{}}' {one}",
        "UPDATE book SET description = 'other' WHERE id = 1",
        "UPDATE book SET quarantined_at = NULL WHERE id = 1",
        "UPDATE book SET quarantine_reason = NULL WHERE id = 1",
        "UPDATE book SET shard = 'other' WHERE id = 1",
        "UPDATE book SET approvals = '[]' WHERE id = 1",
        "UPDATE book SET sealed_until = now() WHERE id = 1",
        "UPDATE book SET backdating = 'report' WHERE id = 1",
        "INSERT INTO chart (book, version, mode, rules, created_at) VALUES (1, 1, 'open', '[]', now())",
    ):
        assert await moved(filled, sql) == [1, 0], sql
    assert await moved(filled, "UPDATE book SET sequence = sequence") == [0, 0]
