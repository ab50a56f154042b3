"""Every named query fits the migrated schema, and the service's own role may run it."""

from __future__ import annotations

import re

import asyncpg
import pytest

from tallystick.chassis.db import Queries
from tests.architecture.tree import BUILT, SRC
from tests.conftest import DatabaseFor
from tests.support.parts import connect

_PLANNED = re.compile(r"^\s*(SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES)\b", re.IGNORECASE)


def files(package: str) -> list[tuple[str, str]]:
    """(package, file) of every file of named queries at and below a package."""
    folder = SRC.parent / package.replace(".", "/")
    found = []
    for path in sorted(folder.rglob("sql/*.sql")):
        owner = ".".join(path.parent.parent.relative_to(SRC.parent).parts)
        found.append((owner, path.stem))
    return found


def used(service: str) -> list[tuple[str, str]]:
    return [*files("tallystick.chassis"), *files(f"tallystick.services.{service}")]


@pytest.mark.parametrize("service", BUILT)
async def test_every_query_prepares_and_is_allowed(service: str, database_for: DatabaseFor) -> None:
    database = await database_for(f"tallystick.services.{service}", service)
    connection = await connect(database.dsn)
    checked = 0
    try:
        for package, name in used(service):
            for query in Queries.load(package, name):
                try:
                    await connection.prepare(query.sql)
                    if _PLANNED.match(query.sql):
                        # to prepare needs no rights: planning for execution does
                        await connection.execute(f"EXPLAIN (GENERIC_PLAN) {query.sql}")
                except asyncpg.PostgresError as error:
                    pytest.fail(f"{query.place} {query.name}, as the role {service}: {error.sqlstate} {error}")
                checked += 1
    finally:
        await connection.close()
    assert checked > 3
