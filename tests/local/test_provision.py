"""Databases made on the real server, for the deployments of a platform."""

from __future__ import annotations

from pathlib import Path

import pytest

from tallystick.chassis import charter
from tallystick.chassis.migrate import MigrationError
from tallystick.fabric.shards import with_shards
from tallystick.local.layout import Layout
from tallystick.local.provision import Databases
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
