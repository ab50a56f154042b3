"""Databases made on the real server, for the deployments of a platform."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from tallystick.chassis import charter
from tallystick.chassis.db import Dsn
from tallystick.chassis.migrate import MigrationError
from tallystick.fabric.shards import with_shards
from tallystick.local import provision
from tallystick.local.layout import Layout
from tallystick.local.provision import Databases, pinned_log_key
from tallystick.local.secrets import SecretFiles
from tests.support.parts import Server

NAME = "ledger-newer"


async def test_a_database_of_a_newer_release_is_refused_before_any_is_migrated(
    directory: Path, postgres_server: Server
) -> None:
    """Else services would be at work beside it, on facts that a newer one wrote."""
    charters = {NAME: with_shards(charter.load_all(), ["newer"])[NAME]}
    databases = Databases(Layout(directory), SecretFiles(directory))
    databases._superuser = postgres_server.superuser
    try:
        await databases.create(charters)
        await databases.migrate(NAME, lambda _: None)
        await databases.create(charters)
        await postgres_server.run(
            "INSERT INTO schema_migration VALUES ('tallystick.services.ledger', 9000, '9000_later.sql', '')",
            database=NAME,
        )
        with pytest.raises(MigrationError, match=rf"^database {NAME}: .*9000_later\.sql .* older than the database$"):
            await databases.create(charters)
    finally:
        await postgres_server.run(
            f'DROP DATABASE IF EXISTS "{NAME}" WITH (FORCE)', f'DROP ROLE IF EXISTS "{NAME}", "{NAME}_owner"'
        )


async def test_the_logs_key_is_pinned_also_when_the_database_was_away(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every receipt was refused until the next start."""
    layout = Layout(directory)
    databases = Databases(layout, SecretFiles(directory))
    public = bytes(range(32))
    rows: list[dict[str, object] | None] = [None, {"name": "log.example", "public": public}]

    class Connection:
        async def fetchrow(self, _: str) -> dict[str, object] | None:
            return rows.pop(0)

        def terminate(self) -> None:
            pass

    away: list[Exception] = [ConnectionRefusedError(), asyncpg.CannotConnectNowError()]

    async def connect(_: Dsn) -> Connection:
        if away:
            raise away.pop()
        return Connection()

    monkeypatch.setattr(provision, "LOG_KEY_POLL", 0.0)
    monkeypatch.setattr(provision, "_connect", connect)
    async with asyncio.timeout(10):
        await databases.pin_log_key()
    found = pinned_log_key(layout)
    assert found is not None
    assert (found.name, found.key.public_bytes_raw()) == ("log.example", public)
    assert (rows, away) == ([], [])
