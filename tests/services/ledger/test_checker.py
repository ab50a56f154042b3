"""The continuous check: one minor unit that is wrong anywhere is found within a round, and nothing else is."""

from __future__ import annotations

import asyncio

import pytest

from tallystick.kernel import ids
from tallystick.services.ledger.model import Command
from tallystick.services.ledger.service import checker
from tallystick.services.ledger.service.checker import Checker, Fault
from tallystick.services.ledger.store import Checks
from tests.services.ledger.support import Books, move
from tests.support.parts import ServiceDatabase


async def filled(books: Books) -> None:
    """Posts, holds in each state, a reversal; five accounts in two books."""
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
    "UPDATE transfer_row SET debit_number = credit_number, credit_number = debit_number WHERE sequence = 2 AND book = 1",
)


async def test_sound_books_have_no_faults(books: Books) -> None:
    await filled(books)
    assert await one_round(books) == []


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
