"""A year passes over a service's data keys: what it sealed is under newer ones then, and the older ones are gone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from tallystick.chassis.db import Queries
from tallystick.chassis.keys import DataKeys, Keyring, SealedColumn
from tallystick.kernel.clock import SystemClock
from tests.support.parts import ServiceDatabase


async def a_year_passes(service: ServiceDatabase, ring: Keyring, columns: Sequence[SealedColumn]) -> None:
    """Each key that was in use gets a successor and is destroyed. The ring's clock is the system's."""
    keys = DataKeys(await service.open(), ring, columns, SystemClock(), timedelta(days=365))
    kinds = "kind IN ('tenant', 'subject')"
    (before,) = await service.query(f"SELECT count(*) FROM data_key WHERE {kinds} AND state = 'active'")
    await service.query(f"UPDATE data_key SET created_at = created_at - interval '366 days' WHERE {kinds}")
    await keys.look()
    await service.query(f"UPDATE data_key SET emptied_at = emptied_at - interval '2 hours' WHERE {kinds}")
    await keys.look()
    rows = await service.query(f"SELECT state, count(*) FROM data_key WHERE {kinds} AND version > 1 GROUP BY state")
    assert [tuple(row) for row in rows] == [("active", before["count"])]
    assert await service.query(f"SELECT FROM data_key WHERE {kinds} AND version = 1 AND state <> 'destroyed'") == []


async def faults(service: ServiceDatabase, name: str) -> list[str]:
    """What `tallystick verify` finds in the database of a service."""
    return [
        f"{query.name}: {row['fault']}"
        for package in ("tallystick.chassis", f"tallystick.services.{name}")
        for query in Queries.load(package, "verify")
        if query.name != "facts_are_relayed"
        for row in await service.query(query.sql)
    ]
