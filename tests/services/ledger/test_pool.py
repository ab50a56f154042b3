"""A request that waits for a second connection while it has one: as many of them as there are connections wait for each other."""

from __future__ import annotations

import asyncio

import pytest

from tallystick.chassis.idempotency import Entry
from tallystick.contracts.ledger.messages import AccountRecord, ImportLine, NewImport
from tallystick.contracts.ledger.problems import AccountNotFound, BookQuarantined
from tallystick.kernel import ids
from tallystick.kernel.clock import ManualClock
from tallystick.services.ledger.service import Ask, At
from tests.services.ledger.support import START, Books, ledger_on, move
from tests.support.parts import ServiceDatabase

WITHIN = 10.0


@pytest.fixture
async def alone(service: ServiceDatabase) -> Books:
    """A ledger with one connection."""
    database, clock = await service.open(connections=1), ManualClock(START)
    return Books(ledger_on(database, clock), clock, database)


async def test_an_account_that_is_not_there(alone: Books) -> None:
    await alone.open()
    with pytest.raises(AccountNotFound):
        await asyncio.wait_for(alone.ledger.accounts.get("acme", ids.accounts.new(), At(sequence=0)), WITHIN)


async def test_lines_of_an_import(alone: Books) -> None:
    who = ("acme", "cli_test", None)
    new = NewImport(book="main", mode="whole", rows=1, sha256="0" * 64)
    row, _ = await alone.ledger.imports.announce(who, new)
    record = AccountRecord(name="Bank", currency="EUR", normal_side="debit", id="bank")
    lines = [ImportLine(line=1, record=record)]
    staged = await asyncio.wait_for(alone.ledger.imports.stage("acme", row.id, lines, ["{}"]), WITHIN)
    assert staged.id == row.id


async def test_a_book_in_quarantine(alone: Books, service: ServiceDatabase) -> None:
    bank, customer = await alone.open(side="debit"), await alone.open()
    connection = await service.connection(superuser=True)
    try:
        await connection.execute(
            "UPDATE book SET quarantined_at = now(), quarantine_reason = 'x', revision = revision + 1"
        )
    finally:
        await connection.close()
    entry = Entry("acme", "cli_test", "POST /v1/transfers", "k", alone.ledger.digester.digest({"a": 1}))
    ask = Ask("acme", "cli_test", None, [move("post", bank, customer, 1)], atomic=False, entry=entry, render=lambda *_: (201, b"{}"))  # fmt: skip
    with pytest.raises(BookQuarantined):
        await asyncio.wait_for(alone.ledger.poster.post(ask), WITHIN)
