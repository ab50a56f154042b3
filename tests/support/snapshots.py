"""A test's databases, as `verify` reads those of a platform."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import asyncpg

from tallystick.local.verify.source import Source
from tests.support.parts import ServiceDatabase


class Snapshots(Source):
    def __init__(self, databases: Mapping[str, ServiceDatabase]) -> None:
        self._databases = databases
        self.services = list(databases)
        self._connections: dict[str, Any] = {}
        self._live: dict[str, Any] = {}
        self._stack = AsyncExitStack()

    async def fresh(self, service: str) -> asyncpg.Connection[asyncpg.Record]:
        connection = await self._databases[service].connection()
        self._stack.push_async_callback(connection.close)
        return connection
