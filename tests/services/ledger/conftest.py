"""A ledger on a database of its own for each test."""

from __future__ import annotations

import pytest_asyncio

from tallystick.kernel.clock import ManualClock
from tests.conftest import DatabaseFor
from tests.services.ledger.support import START, Books, ledger_on
from tests.support.parts import ServiceDatabase


@pytest_asyncio.fixture
async def service(database_for: DatabaseFor) -> ServiceDatabase:
    return await database_for("tallystick.services.ledger")


@pytest_asyncio.fixture
async def books(service: ServiceDatabase) -> Books:
    database = await service.open()
    clock = ManualClock(START)
    return Books(ledger_on(database, clock), clock, database)
