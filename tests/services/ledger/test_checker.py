"""The continuous check: one minor unit that is wrong anywhere is found within a round, and nothing else is."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tallystick.chassis.db import Database, DatabaseUnavailable
from tallystick.kernel import ids
from tallystick.services.ledger.model import Command, Header
from tallystick.services.ledger.service import Ask, checker
from tallystick.services.ledger.service.checker import Checker, Fault
from tallystick.services.ledger.store import Checks
from tests.services.ledger.support import START, Books, move
from tests.support.parts import ServiceDatabase


async def filled(books: Books) -> None:
    """Posts, holds in each state, one that expires, a reversal, a transaction that is dated back; five accounts in two books."""
    bank, customer, shop = await books.open(side="debit"), await books.open(floor=0), await books.open()
    paid = move("post", bank, customer, 100)
    await books.post(paid, move("post", customer, shop, 5), move("post", shop, bank, 2))
    holds = [move("hold", customer, shop, 10) for _ in range(4)]
    await books.post(*holds)
    grown = ids.transfers.new()
    await books.post(Command(kind="increase", id=grown, target=holds[3].id, amount=3, currency="EUR"))
    await books.post(
        Command(kind="capture", id=ids.transfers.new(), target=holds[0].id, amount=4, currency="EUR"),
        Command(kind="capture", id=ids.transfers.new(), target=holds[1].id, amount=4, currency="EUR", final=True),
        Command(kind="void", id=ids.transfers.new(), target=holds[2].id),
        Command(kind="reverse", id=ids.transfers.new(), target=paid.id, amount=1, currency="EUR"),
    )
    await books.post(move("hold", customer, shop, 2, expires_in=3600))
    books.clock.advance(timedelta(days=2))
    own, at = ids.transactions.new(), START + timedelta(hours=30)
    legs = [move("post", bank, customer, amount, transaction=own, effective_at=at) for amount in (3, 4)]
    await books.ledger.poster.post(
        Ask("acme", "cli_test", None, legs, atomic=True, header=Header(id=own, effective_at=at))
    )
    one = await books.open(side="debit", tenant="globex")
    two = await books.open(tenant="globex")
    await books.post(move("post", one, two, 7), tenant="globex")


async def one_round(books: Books) -> list[Fault]:
    check = Checker(books.database, Checks())
    faults: list[Fault] = []
    while check.rounds == 0:
        faults += await check.turn()
    return faults


INJECTED = (
    "UPDATE transfer_row SET amount = amount + 1 WHERE sequence = 2 AND book = 1",
    "UPDATE transfer_row SET amount = amount + 1 WHERE kind = 'hold' AND id = (SELECT id FROM hold WHERE state = 'held' LIMIT 1)",
    "UPDATE transfer_row SET amount = amount - 1 WHERE kind = 'reverse' AND amount > 1 OR kind = 'capture' AND released = 4",
    "UPDATE transfer_row SET released = released + 1 WHERE kind = 'capture'",
    "UPDATE transfer_row SET dr_debits_posted = dr_debits_posted + 1 WHERE sequence = 1 AND book = 1",
    "UPDATE transfer_row SET cr_credits_posted = cr_credits_posted - 1 WHERE sequence = 1 AND book = 1",
    "UPDATE transfer_row SET cr_credits_pending = cr_credits_pending + 1 WHERE sequence = 4 AND book = 1",
    "UPDATE transfer_row SET dr_version = dr_version + 1 WHERE sequence = 3 AND book = 1",
    "UPDATE account SET credits_posted = credits_posted + 1 WHERE floor = 0",
    "UPDATE account SET debits_posted = debits_posted - 1 WHERE book = 2 AND normal_side = 'debit'",
    "UPDATE account SET debits_pending = debits_pending + 1 WHERE floor = 0",
    "UPDATE account SET version = version + 1 WHERE floor = 0",
    "UPDATE hold SET remaining = remaining - 1 WHERE state = 'held'",
    "UPDATE hold SET captured = captured + 1 WHERE state = 'captured' AND captured < amount",
    "UPDATE reversal SET reversed = reversed + 1",
    "DELETE FROM transfer_row WHERE sequence = 5 AND book = 1",
    "UPDATE transfer_row SET recorded_at = recorded_at + interval '1 day' WHERE sequence = 1 AND book = 1",
    "UPDATE transfer_row SET currency = 'USD' WHERE sequence = 2 AND book = 1",
    "UPDATE transfer_row SET expires_at = expires_at + interval '1 hour' WHERE expires_at IS NOT NULL",
    "UPDATE transfer_row SET effective_at = effective_at + interval '1 hour' WHERE effective_at IS NOT NULL",
    "UPDATE transfer_row SET transaction = NULL WHERE sequence = (SELECT last FROM transaction) AND book = 1",
    "UPDATE hold SET expires_at = expires_at + interval '1 hour' WHERE expires_at IS NOT NULL",
    "DELETE FROM hold WHERE state = 'held' AND expires_at IS NULL",
    "DELETE FROM hold WHERE state = 'captured'",
    "DELETE FROM reversal",
    "DELETE FROM transaction",
    "UPDATE transaction SET first = first + 1",
    "UPDATE transaction SET last = last + 1",
    "UPDATE transaction SET effective_at = effective_at + interval '1 hour'",
    "UPDATE adjustment SET debits = debits + 1 WHERE debits > 3",
    "UPDATE adjustment SET credits = credits - 1 WHERE credits < -3",
    "UPDATE adjustment SET at = at + interval '1 microsecond' WHERE debits > 3",
    "DELETE FROM adjustment WHERE debits > 3",
    "INSERT INTO adjustment SELECT account, at, sequence - 1, book, 1, 0 FROM adjustment LIMIT 1",
    "UPDATE adjustment_total SET debits = debits + 1 WHERE span = 'hour' AND debits > 0",
    "UPDATE adjustment_total SET debits = debits - 1 WHERE span = 'day' AND debits > 0",
    "UPDATE adjustment_total SET credits = credits + 1 WHERE span = 'year'",
    "UPDATE adjustment_total SET starts_at = starts_at + interval '1 second' WHERE span = 'year'",
    "DELETE FROM adjustment_total WHERE span = 'hour'",
    "DELETE FROM adjustment_total WHERE span = 'day'",
    "DELETE FROM adjustment_total WHERE span = 'year'",
    "UPDATE book SET sequence = sequence - 1 WHERE id = 1",
    "UPDATE book SET sequence = sequence + 1 WHERE id = 1",
    "UPDATE transfer_row SET debit_number = credit_number, credit_number = debit_number WHERE sequence = 2 AND book = 1",
)


async def test_sound_books_have_no_faults(books: Books) -> None:
    await filled(books)
    assert await one_round(books) == []


@pytest.mark.damages
@pytest.mark.parametrize("change", INJECTED)
async def test_a_change_behind_everybodys_back_is_found(books: Books, service: ServiceDatabase, change: str) -> None:
    await filled(books)
    connection = await service.connection(superuser=True)
    try:
        await connection.execute("SET session_replication_role = replica")  # no trigger fires
        assert not (await connection.execute(change)).endswith(" 0")
    finally:
        await connection.close()
    faults = await one_round(books)
    assert {fault.book for fault in faults} == {2 if "book = 2" in change else 1}


async def test_slices_meet_each_other(books: Books, monkeypatch: pytest.MonkeyPatch, service: ServiceDatabase) -> None:
    """Whatever the size of the slices and the windows, each row is looked at."""
    await filled(books)
    monkeypatch.setattr(checker, "SLICE", 2)
    monkeypatch.setattr(checker, "TRANSFERS", 2)
    monkeypatch.setattr(checker, "NEWEST", 3)
    connection = await service.connection(superuser=True)
    await connection.execute("SET session_replication_role = replica")
    last = await connection.fetchval("SELECT sequence FROM book WHERE id = 1")
    try:
        for sequence in range(1, last + 1):
            which = f"WHERE sequence = {sequence} AND book = 1"
            await connection.execute(f"UPDATE transfer_row SET dr_debits_posted = dr_debits_posted + 1 {which}")
            check = Checker(books.database, Checks())
            found = [fault for _ in range(3) for fault in await check.turn()]
            assert found, sequence
            await connection.execute(f"UPDATE transfer_row SET dr_debits_posted = dr_debits_posted - 1 {which}")
    finally:
        await connection.close()
    assert await one_round(books) == []


async def test_a_statement_that_is_worth_many_turns_is_paid_for_with_them(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many transfers are looked at together because that is cheap, and no more of them than without it."""
    await filled(books)
    monkeypatch.setattr(checker, "LEAST", 1)
    monkeypatch.setattr(checker, "MOST", 1)
    found = await Checks().book(books.database, 1)
    assert found is not None
    check = Checker(books.database, Checks())
    turns = 0
    while check.rounds == 0:
        assert await check.turn() == []
        turns += 1
    assert turns > found.sequence


async def test_a_book_in_use_is_no_fault(books: Books) -> None:
    bank, customer = await books.open(side="debit"), await books.open()
    stopping = asyncio.Event()

    async def use() -> None:
        while not stopping.is_set():
            hold = move("hold", customer, bank, 1)
            await books.post(move("post", bank, customer, 3), hold)
            await books.post(Command(kind="capture", id=move("post", bank, customer, 1).id, target=hold.id))

    async with asyncio.TaskGroup() as group:
        group.create_task(use())
        check = Checker(books.database, Checks())
        faults = [fault for _ in range(60) for fault in await check.turn()]
        stopping.set()
    assert faults == []
    assert check.rounds > 10


@pytest.mark.damages
async def test_a_statement_that_fails_is_tried_again_and_what_was_found_before_it_is_told(
    books: Books, monkeypatch: pytest.MonkeyPatch, service: ServiceDatabase
) -> None:
    """Else the older transfers of a database that restarts every hour are never looked at to their end."""
    await filled(books)
    monkeypatch.setattr(checker, "NEWEST", 1)
    monkeypatch.setattr(checker, "TRANSFERS", 1)
    monkeypatch.setattr(checker, "OLDER", 1)
    connection = await service.connection(superuser=True)
    try:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("UPDATE account SET version = version + 1 WHERE floor = 0")
    finally:
        await connection.close()
    checks = Checks()
    failed: list[tuple[int, int]] = []
    seen: set[tuple[int, int]] = set()
    plain = checks.transfers

    async def transfers(database: Database, book: int, after: int, upto: int) -> list[str]:
        if (book, upto) not in failed:
            failed.append((book, upto))
            raise DatabaseUnavailable
        seen.add((book, upto))
        return await plain(database, book, after, upto)

    monkeypatch.setattr(checks, "transfers", transfers)
    check = Checker(books.database, checks)
    assert {fault.book for fault in await check.turn()} == {1}, (
        "found before the newest transfers could not be looked at"
    )
    assert check.rounds == 0, "a round that broke off has not ended"
    book = await Checks().book(books.database, 1)
    assert book is not None
    for _ in range(3 * book.sequence):
        await check.turn()
    assert check.rounds > 0
    assert seen == {(1, sequence) for sequence in range(1, book.sequence + 1)} | {(2, 1)}
