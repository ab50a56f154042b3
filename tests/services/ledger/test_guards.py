"""The database's own guard, alone: what the rules would never say is written by hand and must be refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
import pytest_asyncio

from tallystick.kernel import ids
from tallystick.services.ledger.model import Decided, Transfer, decide
from tallystick.services.ledger.service import GuardRefused, locked, poster
from tests.services.ledger.support import Books, draw, move
from tests.support.parts import ServiceDatabase

COLUMNS = [
    "book",
    "sequence",
    "id",
    "kind",
    "target",
    "debit_number",
    "credit_number",
    "amount",
    "released",
    "currency",
    "recorded_at",
    "dr_version",
    "dr_debits_pending",
    "dr_debits_posted",
    "dr_credits_pending",
    "dr_credits_posted",
    "cr_version",
    "cr_debits_pending",
    "cr_debits_posted",
    "cr_credits_pending",
    "cr_credits_posted",
    "transaction",
    "effective_at",
    "asked",
]


@pytest_asyncio.fixture
async def filled(books: Books) -> Books:
    """A bank, a customer with a floor of 0 and 100 on it, 30 of them held."""
    bank, customer = await books.open(side="debit"), await books.open(floor=0)
    results = await books.post(move("post", bank, customer, 100), move("hold", customer, bank, 30))
    assert [one.status for one in results] == ["posted", "held"]
    return books


async def refused(service: ServiceDatabase, *statements: tuple[str, tuple[Any, ...]] | str) -> str:
    """Runs the statements as the owner in one transaction and returns what refused them."""
    connection = await service.connection()
    try:
        with pytest.raises(asyncpg.PostgresError) as caught:
            async with connection.transaction():
                for statement in statements:
                    sql, args = (statement, ()) if isinstance(statement, str) else statement
                    await connection.execute(sql, *args)
        assert isinstance(caught.value, asyncpg.IntegrityConstraintViolationError), caught.value
        return str(caught.value.constraint_name)
    finally:
        await connection.close()


def insert(row: dict[str, Any], **changes: Any) -> tuple[str, tuple[Any, ...]]:
    """A further transfer like `row`, at the next sequence of its book, as far as `changes` don't say otherwise."""
    new = {**row, "id": ids.transfers.new(), **changes}
    places = ", ".join(f"${place}" for place in range(1, len(COLUMNS) + 1))
    return (
        f"INSERT INTO transfer_row ({', '.join(COLUMNS)}) VALUES ({places})",
        tuple(new[column] for column in COLUMNS),
    )


async def last_post(service: ServiceDatabase) -> dict[str, Any]:
    rows = await service.query("SELECT * FROM transfer WHERE kind = 'post' ORDER BY sequence DESC LIMIT 1")
    return dict(rows[0])


NEXT = "UPDATE book SET sequence = sequence + 1"


MOVED_BY_HAND = (
        ("UPDATE account SET credits_posted = credits_posted + 1", "account_totals_are_entries"),
        ("UPDATE account SET version = version + 1", "account_totals_are_entries"),
        ("UPDATE account SET sequence = 1 WHERE floor = 0", "account_totals_are_entries"),
        ("UPDATE account SET debits_posted = 71 WHERE floor = 0", "account_floor"),
        ("UPDATE account SET debits_pending = 101 WHERE floor = 0", "account_floor"),
        ("UPDATE account SET debits_posted = -1", "account_debits_posted_check"),
        ("UPDATE account SET debits_posted = 9223372036854775807, debits_pending = 1 WHERE floor IS NULL", "account_totals_fit"),
        ("UPDATE account SET floor = 1", "account_floor_check"),
        ("UPDATE account SET ceiling = 99 WHERE floor = 0", "account_ceiling"),
        ("UPDATE account SET ceiling = 99 WHERE floor IS NULL", "account_ceiling"),
        ("UPDATE hold SET captured = 31", "hold_not_overdrawn"),
        ("UPDATE hold SET remaining = -1, state = 'voided'", "hold_remaining_check"),
        ("UPDATE hold SET state = 'voided'", "hold_open"),
        ("INSERT INTO reversal SELECT book, id, amount, amount + 1 FROM transfer LIMIT 1", "reversal_not_exceeded"),
)  # fmt: skip


async def test_totals_do_not_move_by_themselves(filled: Books, service: ServiceDatabase) -> None:
    for sql, constraint in MOVED_BY_HAND:
        assert await refused(service, sql) == constraint, sql
    await filled.sound()


BAD_ROWS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"amount": 0}, "transfer_amount_check"),
    ({"amount": -5}, "transfer_amount_check"),
    ({"kind": "gift"}, "transfer_kind_check"),
    ({"released": 5}, "transfer_released"),
    ({"kind": "void", "released": 100}, "transfer_target"),
    ({"target": ids.transfers.new()}, "transfer_target"),
    ({"kind": "increase", "released": -100}, "transfer_target"),
    ({"kind": "increase", "target": ids.transfers.new(), "released": 100}, "transfer_released"),
    ({"kind": "increase", "target": ids.transfers.new()}, "transfer_released"),
    ({"asked": 1}, "transfer_asked"),
    ({"effective_at": datetime(2026, 1, 2, tzinfo=UTC)}, "transfer_effective"),
    ({"kind": "hold", "effective_at": datetime(2025, 1, 2, tzinfo=UTC)}, "transfer_effective"),
    ({"credit_number": "debit_number"}, "transfer_two_accounts"),
    ({}, "transfer_sequence"),
    ({"sequence": 9}, "transfer_sequence_gap"),
    ({"sequence": 3}, "transfer_sequence_gap"),
)


async def test_a_bad_row_is_refused(filled: Books, service: ServiceDatabase) -> None:
    row = await last_post(service)
    for given, constraint in BAD_ROWS:
        changes = {**given, "credit_number": row["debit_number"]} if "credit_number" in given else given
        assert await refused(service, insert(row, **changes)) == constraint, changes


async def test_a_transfer_without_its_accounts_is_refused(filled: Books, service: ServiceDatabase) -> None:
    row = await last_post(service)
    assert await refused(service, NEXT, insert(row, sequence=3)) == "transfer_running_totals"


async def test_an_id_is_taken_once_in_its_book(filled: Books, service: ServiceDatabase) -> None:
    row = await last_post(service)
    assert await refused(service, NEXT, insert(row, sequence=3, id=row["id"])) == "transfer_pkey"


SAVE = "WITH moved AS (UPDATE book SET sequence = sequence + 1) {insert}"


def whole(row: dict[str, Any], **changes: Any) -> tuple[str, tuple[Any, ...]]:
    """A whole write, as the store makes it: numbering and transfer in one statement."""
    amount = 10
    right = {
        "sequence": 3,
        "recorded_at": row["recorded_at"] + timedelta(seconds=1),
        "amount": amount,
        "dr_version": 3,
        "dr_credits_pending": 30,
        "dr_debits_posted": row["dr_debits_posted"] + amount,
        "cr_version": 3,
        "cr_debits_pending": 30,
        "cr_credits_posted": row["cr_credits_posted"] + amount,
    }
    sql, args = insert(row, **{**right, **changes})
    return SAVE.format(insert=sql), args


async def test_the_whole_write_by_hand_is_taken(filled: Books, service: ServiceDatabase) -> None:
    """Else the refusals below would say nothing."""
    connection = await service.connection()
    sql, args = whole(await last_post(service))
    await connection.execute(sql, *args)
    await connection.close()
    await filled.sound()


WRONG_TOTALS: tuple[dict[str, Any], ...] = (
    {"dr_version": 4},
    {"cr_version": 2},
    {"dr_debits_posted": 111},
    {"dr_debits_pending": 1},
    {"cr_credits_posted": 109},
    {"cr_debits_pending": 0},
    {"currency": "USD"},
)


async def test_running_totals_that_are_not_the_accounts_are_refused(filled: Books, service: ServiceDatabase) -> None:
    row = await last_post(service)
    for changes in WRONG_TOTALS:
        constraint = await refused(service, whole(row, **changes))
        assert constraint in {"transfer_running_totals", "account_totals_are_entries"}, changes
    await filled.sound()


async def test_what_is_sealed_and_whose_transaction_it_is_the_database_knows_too(
    filled: Books, service: ServiceDatabase
) -> None:
    row = await last_post(service)
    seal = "UPDATE book SET sealed_until = '2026-01-01T00:00:00Z'"
    early = datetime(2025, 12, 31, tzinfo=UTC)
    assert await refused(service, seal, whole(row, effective_at=early)) == "transfer_sealed"
    later = ("UPDATE book SET sealed_until = $1", (row["recorded_at"] + timedelta(seconds=1),))
    assert await refused(service, later, whole(row)) == "transfer_sealed"
    own = ids.transactions.new()
    assert await refused(service, whole(row, transaction=own)) == "transfer_transaction"
    told = "INSERT INTO transaction (book, id, first, last, recorded_at, effective_at) SELECT book, $1, $2, $3, recorded_at, $4 FROM transfer LIMIT 1"
    for first, last, at in ((2, 3, None), (3, 4, None), (3, 3, early)):
        args = (own, first, last, at)
        assert await refused(service, (told, args), whole(row, transaction=own)) == "transfer_transaction", args
    connection = await service.connection()
    async with connection.transaction():
        await connection.execute(told, own, 3, 3, early)
        sql, args = whole(row, transaction=own, effective_at=early)
        await connection.execute(sql, *args)
    assert await connection.fetchval("SELECT count(*) FROM adjustment") == 4
    assert await connection.fetchval("SELECT sum(credits) FROM adjustment_total WHERE span = 'year'") == 0
    await connection.close()
    await filled.sound()


def decides(monkeypatch: pytest.MonkeyPatch, decide: Callable[..., Decided]) -> None:
    """On each way into the book."""
    for module in (poster, locked):
        monkeypatch.setattr(module, "decide", decide)


async def test_a_hold_that_grew_more_than_was_said_is_refused(
    filled: Books, service: ServiceDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = (await service.query("SELECT id FROM hold"))[0]["id"]

    def generous(*args: Any) -> Decided:
        decided = decide(*args)
        decided.transfers[:] = [_replaced(t, amount=t.amount - 1, released=1 - t.amount) for t in decided.transfers]
        return decided

    decides(monkeypatch, generous)
    with pytest.raises(GuardRefused):
        await filled.post(draw("increase", held, 10))
    decides(monkeypatch, decide)
    assert (await filled.post(draw("increase", held, 10)))[0].status == "posted"
    assert [dict(row) for row in await service.query("SELECT amount, remaining FROM hold")] == [
        {"amount": 40, "remaining": 40}
    ]
    await filled.sound()


async def test_the_service_can_not_change_or_delete_what_was_posted(filled: Books, service: ServiceDatabase) -> None:
    database = service.dsn
    connection = await asyncpg.connect(
        host=database.host, user=database.user, password=database.password.reveal(), database=database.database
    )
    try:
        for sql in (
            "UPDATE transfer_row SET amount = 1",
            "UPDATE transfer_row SET metadata = NULL",
            "DELETE FROM transfer_row",
            "TRUNCATE transfer_row",
            "DELETE FROM account",
            "UPDATE account SET normal_side = 'debit'",
            "UPDATE account SET path = 'a'",
            "UPDATE account SET credits_posted = credits_posted + 1",
            "UPDATE account SET version = version + 1, sequence = sequence + 1",
            "UPDATE account SET kind = 'income'",
            "UPDATE chart SET mode = 'open'",
            "DELETE FROM chart",
            "UPDATE book SET name = 'x'",
            "UPDATE account SET currency = 'USD'",
            "UPDATE rejection SET reason = 'x'",
            "DELETE FROM rejection",
            "DELETE FROM hold",
            "UPDATE hold SET debit_account = credit_account",
            "INSERT INTO adjustment VALUES (gen_random_uuid(), now(), 1, 1, 1, 0)",
            "DELETE FROM adjustment_total",
            "UPDATE transaction SET reference = 'x'",
            "DELETE FROM transaction",
            "DELETE FROM reversal",
            "DELETE FROM book",
            "UPDATE book SET tenant = 'other'",
            "ALTER TABLE transfer_row DISABLE TRIGGER transfer_guard",
            "DROP TRIGGER transfer_guard ON transfer_row",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(sql)
    finally:
        await connection.close()


# ---- the rules made wrong: the guard must catch it -------------------------------------------------------------------


def _replaced(transfer: Transfer, **changes: Any) -> Transfer:
    return msgspec.structs.replace(transfer, **changes)


def _swapped(decided: Decided) -> None:
    first, second = decided.transfers
    decided.transfers[:] = [_replaced(first, sequence=4), _replaced(second, sequence=3)]


MISTAKES: dict[str, Callable[[Decided], None]] = {
    "one unit too much": lambda d: d.transfers.__setitem__(0, _replaced(d.transfers[0], amount=11)),
    "a stale balance": lambda d: d.transfers.__setitem__(
        0, _replaced(d.transfers[0], dr_debits_posted=d.transfers[0].dr_debits_posted + 7)
    ),
    "a number skipped": lambda d: d.transfers.__setitem__(0, _replaced(d.transfers[0], sequence=4)),
    "a number twice": lambda d: d.transfers.__setitem__(1, _replaced(d.transfers[1], sequence=3)),
    "running totals in another order": _swapped,
    "a transfer forgotten": lambda d: d.transfers.__delitem__(0),
}


async def test_what_the_rules_get_wrong_the_database_refuses(filled: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, customer = filled.made
    for name, mistake in MISTAKES.items():

        def wrong(*args: Any, mistake: Callable[[Decided], None] = mistake) -> Decided:
            decided = decide(*args)
            mistake(decided)
            return decided

        decides(monkeypatch, wrong)
        with pytest.raises(GuardRefused):
            await filled.post(move("post", bank, customer, 10), move("post", bank, customer, 10))
            pytest.fail(f"nobody noticed: {name}")
    decides(monkeypatch, decide)
    assert await filled.balance(customer) == (100, 70)
    await filled.sound()


async def test_a_floor_that_the_rules_forgot_is_kept(filled: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, customer = filled.made

    def floorless(units: Any, state: Any, now: Any) -> Decided:
        for account in state.accounts.values():
            account.floor = None
        return decide(units, state, now)

    decides(monkeypatch, floorless)
    with pytest.raises(GuardRefused):
        await filled.post(move("post", customer, bank, 71))
    assert [one.status for one in await filled.post(move("post", customer, bank, 70))] == ["posted"]


async def test_a_hold_that_the_rules_forgot_was_captured_is_not_captured_again(
    filled: Books, service: ServiceDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = (await service.query("SELECT id FROM hold"))[0]["id"]
    assert (await filled.post(draw("capture", held, 30)))[0].status == "posted"

    def forgetful(units: Any, state: Any, now: Any) -> Decided:
        for hold in state.holds.values():
            hold.captured, hold.remaining, hold.state = 0, 30, "held"
        for account in state.accounts.values():
            if account.debits_pending == 0 and account.floor == 0:
                account.debits_pending = 30
            if account.credits_pending == 0 and account.floor is None:
                account.credits_pending = 30
        return decide(units, state, now)

    decides(monkeypatch, forgetful)
    with pytest.raises(GuardRefused):
        await filled.post(draw("capture", held, 30))
    await filled.sound()


async def test_one_bad_request_does_not_harm_those_that_shared_its_flush(
    filled: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, customer = filled.made
    poison = move("post", bank, customer, 13)

    def wrong(*args: Any) -> Decided:
        decided = decide(*args)
        decided.transfers[:] = [
            _replaced(t, amount=t.amount + 1) if t.id == poison.id else t for t in decided.transfers
        ]
        return decided

    decides(monkeypatch, wrong)
    answers = await asyncio.gather(
        *(filled.post(move("post", bank, customer, 1)) for _ in range(5)),
        filled.post(poison),
        *(filled.post(move("post", bank, customer, 1)) for _ in range(5)),
        return_exceptions=True,
    )
    assert [isinstance(one, GuardRefused) for one in answers] == [False] * 5 + [True] + [False] * 5
    assert await filled.balance(customer) == (110, 80)
    await filled.sound()


async def test_one_request_that_can_not_be_decided_does_not_harm_those_of_its_flush(
    filled: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does a hold that can't be taken off keep the sweep from those of other books."""
    bank, customer = filled.made
    poison = move("post", bank, customer, 13)
    other = Books(filled.ledger, filled.clock, filled.database, "beta")
    there, here = await other.open(), await other.open()
    await filled.post(move("hold", bank, customer, 5, expires_in=1))
    await other.post(move("hold", there, here, 5, expires_in=2))
    spoilt = set[int]()

    def unable(units: Any, *rest: Any) -> Decided:
        if any(command.id == poison.id for unit in units for command in unit.commands) or any(
            unit.book in spoilt for unit in units
        ):
            raise TypeError
        return decide(units, *rest)

    decides(monkeypatch, unable)
    answers = await asyncio.gather(
        *(other.post(move("post", there, here, 1)) for _ in range(5)),
        filled.post(poison),
        *(filled.post(move("post", bank, customer, 1)) for _ in range(5)),
        return_exceptions=True,
    )
    assert [isinstance(one, TypeError) for one in answers] == [False] * 5 + [True] + [False] * 5
    assert await filled.balance(customer) == (105, 75)
    filled.clock.advance(timedelta(seconds=5))
    spoilt.add(await filled.ledger.poster.book("acme"))
    assert await filled.ledger.sweep() == 1
    spoilt.clear()
    assert await filled.ledger.sweep() == 1
    await filled.sound()


async def test_the_check_of_the_books_finds_what_was_changed_behind_everybodys_back(
    filled: Books, service: ServiceDatabase
) -> None:
    connection = await service.connection(superuser=True)
    try:
        await connection.execute("SET session_replication_role = replica")  # no trigger fires
        for change, undo, found in (
            ("UPDATE transfer_row SET amount = 101 WHERE kind = 'post'", "UPDATE transfer_row SET amount = 100 WHERE kind = 'post'", "running_balances_follow"),
            ("UPDATE account SET credits_posted = 99 WHERE floor = 0", "UPDATE account SET credits_posted = 100 WHERE floor = 0", "totals_are_the_sums_of_entries"),
            ("UPDATE account SET credits_posted = 99 WHERE floor = 0", "UPDATE account SET credits_posted = 100 WHERE floor = 0", "debits_equal_credits"),
            ("UPDATE book SET sequence = 3", "UPDATE book SET sequence = 2", "sequences_have_no_gaps"),
            ("UPDATE transfer_row SET sequence = 3 WHERE sequence = 2", "UPDATE transfer_row SET sequence = 2 WHERE sequence = 3", "sequences_have_no_gaps"),
            ("UPDATE transfer_row SET recorded_at = recorded_at - interval '1s' WHERE sequence = 2", "UPDATE transfer_row SET recorded_at = recorded_at + interval '1s' WHERE sequence = 2", "sequences_have_no_gaps"),
            ("UPDATE hold SET remaining = 29", "UPDATE hold SET remaining = 30", "holds_are_what_was_drawn"),
            ("UPDATE hold SET expires_at = '2030-01-01'", "UPDATE hold SET expires_at = NULL", "holds_are_what_was_drawn"),
            ("UPDATE hold SET debit_account = credit_account, credit_account = debit_account", "UPDATE hold SET debit_account = credit_account, credit_account = debit_account", "holds_are_what_was_drawn"),
            ("UPDATE hold SET book = 99", "UPDATE hold SET book = 1", "holds_are_what_was_drawn"),
            ("INSERT INTO reversal SELECT book, id, amount, 1 FROM transfer WHERE kind = 'post'", "DELETE FROM reversal", "reversals_stay_within"),
            ("UPDATE account SET sequence = 1 WHERE floor = 0", "UPDATE account SET sequence = 2 WHERE floor = 0", "totals_are_the_sums_of_entries"),
            ("UPDATE transfer_row SET dr_version = 7 WHERE sequence = 1", "UPDATE transfer_row SET dr_version = 1 WHERE sequence = 1", "running_balances_follow"),
        ):  # fmt: skip
            await connection.execute(change)
            assert any(fault.startswith(found) for fault in await filled.ledger.faults()), change
            await connection.execute(undo)
            await filled.sound()
    finally:
        await connection.close()


@pytest.mark.damages
async def test_books_of_a_tenant_do_not_make_up_for_each_other(books: Books, service: ServiceDatabase) -> None:
    bank = await books.open(side="debit")
    await books.ledger.books.open(("acme", "cli_test", None), "fees", None, "strict")
    fees = await books.open(book="fees")
    connection = await service.connection(superuser=True)
    try:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("UPDATE account SET debits_posted = 5 WHERE id = $1", bank)
        await connection.execute("UPDATE account SET credits_posted = 5 WHERE id = $1", fees)
        found = [fault for fault in await books.ledger.faults() if fault.startswith("debits_equal_credits")]
    finally:
        await connection.close()
    assert len(found) == 2
