"""A book that does not add up takes nothing more until it is released; it is read as before, and other books go on."""

from __future__ import annotations

import pytest

from tallystick.chassis.idempotency import Entry
from tallystick.contracts.ledger.problems import BookNotFound, BookQuarantined, BookStillFaulty
from tallystick.services.ledger.service import Ask, Mark
from tests.services.ledger.support import Books, ledger_on, move
from tests.support.parts import ServiceDatabase


async def inject(service: ServiceDatabase, *changes: str) -> None:
    connection = await service.connection(superuser=True)
    try:
        await connection.execute("SET session_replication_role = replica")  # no trigger fires
        for change in changes:
            assert not (await connection.execute(change)).endswith(" 0"), change
    finally:
        await connection.close()


WRONG = "UPDATE account SET credits_posted = credits_posted + 1 WHERE floor = 0 AND book = 1"
RIGHT = "UPDATE account SET credits_posted = credits_posted - 1 WHERE floor = 0 AND book = 1"


async def watched(books: Books) -> None:
    """A round of the continuous check; it never takes more than a turn here."""
    before = books.ledger.quarantine.checker.rounds
    while books.ledger.quarantine.checker.rounds == before:
        await books.ledger.quarantine.watch()


async def test_one_minor_unit_shuts_the_book_and_nothing_else(books: Books, service: ServiceDatabase) -> None:
    bank, customer = await books.open(side="debit"), await books.open(floor=0)
    theirs, others = await books.open(side="debit", tenant="globex"), await books.open(tenant="globex")
    await books.post(move("post", bank, customer, 100))
    entry = Entry("acme", "cli_test", "POST /v1/transfers", "before", books.ledger.digester.digest({"a": 1}))
    before = Ask("acme", "cli_test", None, [move("post", bank, customer, 1)], atomic=False, entry=entry, render=lambda *_: (201, b"{}"))  # fmt: skip
    await books.ledger.poster.post(before)
    await watched(books)
    await inject(service, WRONG)
    await watched(books)
    with pytest.raises(BookQuarantined):
        await books.post(move("post", bank, customer, 1))
    # Reads go on, used keys still tell, and other books take what comes.
    assert await books.balance(customer) == (102, 102)
    assert (await books.ledger.poster.post(before)).replayed
    (result,) = await books.post(move("post", theirs, others, 1), tenant="globex")
    assert result.status == "posted"
    row = await books.ledger.books.get("acme", "main")
    assert row.quarantined_at is not None
    assert row.quarantine_reason is not None
    # A key that was refused is free: the refusal was about the book, not about the request.
    free = Entry("acme", "cli_test", "POST /v1/transfers", "during", books.ledger.digester.digest({"a": 2}))
    during = Ask("acme", "cli_test", None, [move("post", bank, customer, 1)], atomic=False, entry=free, render=lambda *_: (201, b"{}"))  # fmt: skip
    with pytest.raises(BookQuarantined):
        await books.ledger.poster.post(during)
    await inject(service, RIGHT)
    await books.ledger.quarantine.release(1, None, checked=False)
    assert not (await books.ledger.poster.post(during)).replayed
    assert await books.balance(customer) == (102, 102)
    await books.sound()


@pytest.mark.damages
async def test_a_faulty_book_is_not_released(books: Books, service: ServiceDatabase) -> None:
    bank, customer = await books.open(side="debit"), await books.open(floor=0)
    await books.post(move("post", bank, customer, 100))
    await inject(service, WRONG)
    await watched(books)
    with pytest.raises(BookStillFaulty) as refused:
        await books.ledger.quarantine.release(1, None, checked=False)
    assert refused.value.extensions["faults"]
    with pytest.raises(BookQuarantined):
        await books.post(move("post", bank, customer, 1))
    # Who says to have looked is believed, and the continuous check is not fooled.
    await books.ledger.quarantine.release(1, None, checked=True)
    await watched(books)
    with pytest.raises(BookQuarantined):
        await books.post(move("post", bank, customer, 1))


@pytest.mark.damages
async def test_every_replica_sees_it(books: Books, service: ServiceDatabase) -> None:
    """One that decides ahead of the lock has the book in memory; the revision tells it."""
    bank, customer = await books.open(side="debit"), await books.open(floor=0)
    await books.post(move("post", bank, customer, 100))
    other = ledger_on(await service.open(), books.clock)
    await inject(service, WRONG)
    while not await other.quarantine.checker.turn():
        pass
    await inject(
        service, "UPDATE book SET quarantined_at = now(), quarantine_reason = 'x', revision = revision + 1 WHERE id = 1"
    )
    with pytest.raises(BookQuarantined):
        await books.post(move("post", bank, customer, 1))


@pytest.mark.damages
async def test_a_check_by_hand_goes_step_by_step(books: Books, service: ServiceDatabase) -> None:
    bank, customer = await books.open(side="debit"), await books.open(floor=0)
    await books.post(move("post", bank, customer, 100))
    parts = []
    place: Mark | None = Mark("balance")
    while place is not None:
        parts.append(place.part)
        looked, place = await books.ledger.quarantine.check(1, place)
        assert looked.faults == []
    assert parts == ["balance", "accounts", "holds", "reversals", "transfers", "adjustments"]
    await inject(service, "UPDATE transfer_row SET amount = amount + 1 WHERE book = 1")
    looked, _ = await books.ledger.quarantine.check(1, Mark("transfers"))
    assert looked.faults
    with pytest.raises(BookQuarantined):
        await books.post(move("post", bank, customer, 1))
    with pytest.raises(BookNotFound):
        await books.ledger.quarantine.check(99, Mark("balance"))


async def test_quarantine_and_release_are_told(books: Books, service: ServiceDatabase) -> None:
    bank, customer = await books.open(side="debit"), await books.open(floor=0)
    await books.post(move("post", bank, customer, 100))
    await inject(service, WRONG)
    await watched(books)
    await watched(books)
    await inject(service, RIGHT)
    await books.ledger.quarantine.release(1, None, checked=False)
    await books.ledger.quarantine.release(1, None, checked=False)
    connection = await service.connection(superuser=True)
    try:
        told = await connection.fetch("SELECT type FROM outbox WHERE type LIKE 'ledger.book.%' ORDER BY xid, position")
    finally:
        await connection.close()
    assert [row[0] for row in told] == ["ledger.book.quarantined", "ledger.book.released"]
