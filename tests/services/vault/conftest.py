"""A vault and its acquirer for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from valkey.asyncio import Valkey

from tests.conftest import DatabaseFor
from tests.services.vault.support import Env, Receipts, rail, running
from tests.support.http import World, world


@pytest_asyncio.fixture
async def around(directory: Path, valkey: Valkey) -> AsyncIterator[World]:
    async with world(directory, valkey) as it:
        yield it


@pytest.fixture
def receipts() -> Receipts:
    return Receipts()


@pytest_asyncio.fixture
async def env(
    around: World, database_for: DatabaseFor, valkey: Valkey, directory: Path, receipts: Receipts
) -> AsyncIterator[Env]:
    service = await database_for("tallystick.services.vault")
    async with rail(directory), running(around, service, valkey, directory, receipts=receipts) as it:
        yield it
