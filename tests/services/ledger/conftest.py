"""A ledger on a database of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from valkey.asyncio import Valkey

from tallystick.kernel.clock import ManualClock
from tests.conftest import DatabaseFor
from tests.services.ledger.env import Env, env_on
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


@pytest_asyncio.fixture
async def env(service: ServiceDatabase, valkey: Valkey, directory: Path) -> AsyncIterator[Env]:
    async with env_on(service, valkey, directory) as made:
        yield made
