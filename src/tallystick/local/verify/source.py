"""The databases of all services, read as the machine's operator: read-only, each at one moment.

The moments differ, and others write meanwhile. So who asks what one database says of another has the first one's moment before the
other's: an effect is there before anybody says so. `begin` sets the moments.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self

import asyncpg

from tallystick.chassis.db import Dsn, Query, Row
from tallystick.local.layout import Layout
from tallystick.local.parts import Postgres
from tallystick.local.parts.postgres import SUPERUSER
from tallystick.local.secrets import SecretFiles

PAGE = 5_000


class Unreadable(Exception):
    """A database can't be opened, or went away."""


class Source:
    """`async with Source.of(layout, services) as source`: one connection per database, in a read-only snapshot."""

    def __init__(self, databases: Mapping[str, Dsn]) -> None:
        """`databases`: by service, as somebody who may read everything."""
        self.services = list(databases)
        self._databases = databases
        self._connections: dict[str, Any] = {}
        self._live: dict[str, Any] = {}
        self._stack = AsyncExitStack()

    @classmethod
    def of(cls, layout: Layout, services: Iterable[str]) -> Self:
        """A platform's, as its superuser."""
        password = SecretFiles(layout.secrets).get(Postgres.name)
        host = str(layout.postgres_sockets)
        return cls({name: Dsn(host=host, database=name, user=SUPERUSER, password=password) for name in services})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    async def begin(self, services: Iterable[str]) -> None:
        """The snapshots of these begin now, one after the other."""
        for service in services:
            await self.connection(service)

    async def connection(self, service: str) -> Any:
        """The snapshot of a service's database. It begins when it is first asked for, at the latest."""
        if service not in self._connections:
            connection = await self.fresh(service)
            await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL jit = off")
            # Whole tables are read here: the settings that keep the services from doing so would only slow it down. The first
            # query is what the snapshot is taken for, not BEGIN.
            await connection.execute(
                "SET LOCAL enable_seqscan = on; SET LOCAL work_mem = '64MB'; SELECT pg_current_snapshot()"
            )
            self._connections[service] = connection
        return self._connections[service]

    async def live(self, service: str) -> Any:
        """The connection that sees what is committed from moment to moment. Raises Unreadable."""
        if service not in self._live:
            self._live[service] = await self.fresh(service)
        return self._live[service]

    async def fresh(self, service: str) -> Any:
        """A new connection, closed with the source. Raises Unreadable."""
        try:
            connection = await asyncpg.connect(
                **self._databases[service].arguments(),
                timeout=10,
                server_settings={
                    "application_name": "tallystick verify",
                    "default_transaction_read_only": "on",
                    "statement_timeout": "0",
                    "transaction_timeout": "0",
                    "idle_in_transaction_session_timeout": "0",
                },
            )
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            # the first line of it: PostgreSQL adds details and hints below
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise Unreadable(f"the database of {service} can't be opened ({reason})") from error
        self._stack.push_async_callback(connection.close)
        return connection

    @property
    def lost(self) -> list[str]:
        """Services of whose database a connection has ended: what a check found then says nothing of the data."""
        ended = {
            service
            for connections in (self._connections, self._live)
            for service, connection in connections.items()
            if connection.is_closed()
        }
        return sorted(ended)

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """What is asked within. If a statement of it fails, the snapshots are there for the next."""
        opened = list(self._connections.values())
        for connection in opened:
            await connection.execute("SAVEPOINT together")
        try:
            yield
        finally:
            for connection in opened:
                await connection.execute("ROLLBACK TO SAVEPOINT together; RELEASE SAVEPOINT together")

    async def faults(self, service: str, query: Query) -> list[str]:
        """What one of the `verify.sql` queries finds."""
        connection = await self.connection(service)
        return [str(row["fault"]) for row in await connection.fetch(query.sql)]

    async def rows(self, service: str, statement: str, *arguments: object) -> list[Row]:
        found: list[Row] = await (await self.connection(service)).fetch(statement, *arguments)
        return found

    async def pages(self, service: str, statement: str, *arguments: object) -> AsyncIterator[list[Row]]:
        """A large result, some thousand rows at a time."""
        connection = await self.connection(service)
        cursor = await connection.cursor(statement, *arguments)
        while rows := await cursor.fetch(PAGE):
            yield rows
