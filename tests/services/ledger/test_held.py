"""A tenant whose book somebody keeps the lock of, as an import does for seconds, holds up no other tenant's transfers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tallystick.chassis.db import Contended
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import Result
from tallystick.services.ledger.service import held as module
from tallystick.services.ledger.service.poster import SMALL
from tests.services.ledger.support import Books, ledger_on, move
from tests.support.parts import ServiceDatabase

LOCK_S = 0.5


@asynccontextmanager
async def kept(service: ServiceDatabase, tenant: str) -> AsyncIterator[None]:
    """The lock of the tenant's books."""
    connection = await service.connection()
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM book WHERE tenant = $1 FOR UPDATE", tenant)
            yield
    finally:
        await connection.close()


async def ready(books: Books, service: ServiceDatabase) -> tuple[Books, dict[str, tuple[AccountId, AccountId]]]:
    """A replica that waits half a second for a lock, and two accounts of each of two tenants."""
    database = await service.open(lock_s=LOCK_S)
    impatient = Books(ledger_on(database, books.clock), books.clock, database)
    pairs = {}
    for tenant in ("acme", "globex"):
        pairs[tenant] = await books.open(side="debit", tenant=tenant), await books.open(tenant=tenant)
        await impatient.post(move("post", *pairs[tenant], 1), tenant=tenant)
    return impatient, pairs


async def both(books: Books, pairs: dict[str, tuple[AccountId, AccountId]], many: int = 1) -> list[Any]:
    """What becomes of transfers of each tenant that are sent at once, and of how many seconds that took."""

    async def post(tenant: str) -> tuple[Sequence[Result] | BaseException, float]:
        started = time.monotonic()
        try:
            done: Any = await books.post(*(move("post", *pairs[tenant], 1) for _ in range(many)), tenant=tenant)
        except Contended as contended:
            done = contended
        return done, time.monotonic() - started

    return await asyncio.gather(*(post(tenant) for tenant in pairs))


@pytest.mark.parametrize("many", [1, SMALL + 1])
async def test_a_book_that_somebody_keeps_holds_up_no_other(books: Books, service: ServiceDatabase, many: int) -> None:
    impatient, pairs = await ready(books, service)
    async with kept(service, "acme"), asyncio.timeout(60):
        (acme, _), (globex, _) = await both(impatient, pairs, many)
        assert isinstance(acme, Contended)
        assert [result.status for result in globex] == ["posted"] * many
        # From now on it is known: nobody else waits at all, while what is for it goes on trying.
        (acme, waited), (globex, took) = await both(impatient, pairs, many)
        assert isinstance(acme, Contended)
        assert waited >= LOCK_S
        assert [result.status for result in globex] == ["posted"] * many
        assert took < waited / 2
    (acme, _), (globex, _) = await both(impatient, pairs, many)
    assert [result.status for result in (*acme, *globex)] == ["posted"] * 2 * many
    assert await impatient.ledger.faults() == []


async def test_a_book_is_no_more_taken_for_held_when_it_was_not_for_long(
    books: Books, service: ServiceDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LASTS", 0.1)
    impatient, pairs = await ready(books, service)
    async with kept(service, "acme"):
        assert isinstance((await both(impatient, pairs))[0][0], Contended)
    await asyncio.sleep(0.2)
    stored: list[int] = []
    monkeypatch.setattr(impatient.ledger.poster._held, "post", stored.append)
    for done, _ in await both(impatient, pairs):
        assert [result.status for result in done] == ["posted"]
    assert stored == []
