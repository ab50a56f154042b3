"""The state of the services' keys: their age, which version of the root key wraps them, and the progress of data keys' rotations.

Nothing is unwrapped for it: a wrapped key begins with the root's version. A rotation is asked for by a row in the service's database, in its
own least-privilege role; the service itself makes the keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from tallystick.chassis.charter import Charter, Keys
from tallystick.chassis.db import Bounds, Database
from tallystick.chassis.keys import store
from tallystick.chassis.keys.root import wrapped_by
from tallystick.kernel.clock import SystemClock
from tallystick.local import pki, provision
from tallystick.local.layout import Layout
from tallystick.local.secrets import SecretFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceKey:
    """One version of a service's key that still wraps something, and the version of the root that wraps it."""

    service: str
    version: int
    state: str
    created_at: datetime
    rotates_at: datetime | None
    """When the service will rotate it, by its charter; None if it was rotated already."""
    root_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantKey:
    """One version of the key that seals a tenant's values at a service."""

    service: str
    tenant: str
    version: int
    state: str
    created_at: datetime
    rotates_at: datetime | None
    """When it gets a successor, by the charter; None if it has one."""
    retired_at: datetime | None
    values_left: int | None
    """How many values are still sealed under a retired key; None if they were not counted yet."""
    emptied_at: datetime | None
    """Since when it seals nothing; an hour later it is destroyed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SingleKeys:
    """The keys at a service that seal one value each, of one tenant."""

    service: str
    tenant: str
    active: int
    oldest_at: datetime | None
    rotates_at: datetime | None
    """When the oldest gets a successor, by the charter."""
    due: int
    """How many are due to get a successor."""
    retired: int
    """How many have a successor; they are destroyed an hour later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A rotation that an operator requested and that is not done yet. `tenant` is None for all keys and the service's own."""

    service: str
    tenant: str | None
    asked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The keys of all services that have any."""

    services: list[ServiceKey]
    tenants: list[TenantKey]
    singles: list[SingleKeys]
    asked: list[Asked]


async def held(layout: Layout, charters: Mapping[str, Charter]) -> Held:
    """All services' keys, oldest version first. Raises DatabaseUnavailable, DatabaseError: PostgreSQL must be running."""
    all_of_them = Held(services=[], tenants=[], singles=[], asked=[])
    for name, charter in charters.items():
        if charter.keys is not None:
            async with _database(layout, name) as database:
                await _look(all_of_them, name, charter.keys, database)
    return all_of_them


async def ask_for_rotation(layout: Layout, service: str, tenant: str | None) -> bool:
    """Ask a service for new keys: all, or a tenant's. False if it has none of that tenant. Raises as `held`."""
    async with _database(layout, service) as database:
        if tenant is not None and not await database.fetchval(store.Q.tenant_has_keys, tenant):
            return False
        await database.execute(store.Q.ask_for_rotation, tenant or "", SystemClock().now())
    return True


async def _look(found: Held, service: str, keys: Keys, database: Database) -> None:
    life, data_life = timedelta(days=keys.rotation_days), timedelta(days=keys.data_rotation_days)
    due = SystemClock().now() - data_life
    found.services.extend(
        ServiceKey(
            service=service,
            version=row["version"],
            state=row["state"],
            created_at=row["created_at"],
            rotates_at=row["created_at"] + life if row["state"] == "active" else None,
            root_version=wrapped_by(row["wrapped"]),
        )
        for row in await database.fetch(store.Q.service_key_versions)
    )
    found.tenants.extend(
        TenantKey(
            service=service, rotates_at=row["created_at"] + data_life if row["state"] == "active" else None, **dict(row)
        )
        for row in await database.fetch(store.Q.tenant_keys)
    )
    found.singles.extend(
        SingleKeys(service=service, rotates_at=row["oldest_at"] and row["oldest_at"] + data_life, **dict(row))
        for row in await database.fetch(store.Q.subject_keys, due)
    )
    found.asked.extend(
        Asked(service=service, tenant=row["tenant"] or None, asked_at=row["asked_at"])
        for row in await database.fetch(store.Q.rotations_asked_for)
    )


@asynccontextmanager
async def _database(layout: Layout, service: str) -> AsyncIterator[Database]:
    dsn = provision.Databases(layout, SecretFiles(layout.secrets)).service(service)
    # To count the keys of millions of values takes longer than a service may wait.
    bounds = Bounds(connections=1, statement_s=60.0)
    database = await Database.open(dsn, bounds=bounds, application="tallystick keys")
    try:
        yield database
    finally:
        await database.close()


def authority_versions(layout: Layout) -> list[int]:
    """The versions of the root that the authority's root certificates' keys are wrapped by. Raises PkiError."""
    return sorted({wrapped_by(wrapped) for wrapped in pki.wrapped_keys(layout.authority)})
