"""A ledger on a database of its own for each test.

When the test has ended, whatever it did, the continuous check finds nothing wrong in its books: it must not put a book in quarantine that is well;
and every account and book is as it was told. A test that damages one says so, by the mark `damages`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from valkey.asyncio import Valkey

from tallystick.kernel.clock import ManualClock
from tallystick.local.verify.things import LEDGER
from tallystick.local.verify.told import as_told
from tallystick.services.ledger.service.checker import Checker
from tallystick.services.ledger.store import Checks
from tests.conftest import DatabaseFor
from tests.services.ledger.env import Env, env_on
from tests.services.ledger.support import START, Books, ledger_on
from tests.support.parts import ServiceDatabase
from tests.support.snapshots import snapshots


@pytest_asyncio.fixture
async def service(database_for: DatabaseFor) -> ServiceDatabase:
    return await database_for("tallystick.services.ledger")


async def _well(service: ServiceDatabase, request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("damages") is None:
        checker = Checker(await service.open(), Checks())
        for (book,) in await service.query("SELECT id FROM book"):
            assert await checker.whole(book) == []
        async with snapshots({"ledger": service}) as source:
            assert (await as_told(source, "ledger", LEDGER))[0] == []


@pytest_asyncio.fixture
async def books(service: ServiceDatabase, request: pytest.FixtureRequest) -> AsyncIterator[Books]:
    database = await service.open()
    clock = ManualClock(START)
    yield Books(ledger_on(database, clock), clock, database)
    await _well(service, request)


@pytest_asyncio.fixture
async def env(
    service: ServiceDatabase, valkey: Valkey, directory: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Env]:
    async with env_on(service, valkey, directory) as made:
        yield made
    await _well(service, request)
