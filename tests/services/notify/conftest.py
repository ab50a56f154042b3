"""Notify and a receiver for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from valkey.asyncio import Valkey

from tests.conftest import DatabaseFor
from tests.services.notify.support import Env, Receiver, running
from tests.support.http import World, world


@pytest_asyncio.fixture
async def around(directory: Path, valkey: Valkey) -> AsyncIterator[World]:
    async with world(directory, valkey) as it:
        yield it


@pytest_asyncio.fixture
async def env(around: World, database_for: DatabaseFor, directory: Path) -> AsyncIterator[Env]:
    async with running(around, await database_for("tallystick.services.notify"), directory) as it:
        yield it


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    it = Receiver()
    await it.start()
    yield it
    await it.stop()
