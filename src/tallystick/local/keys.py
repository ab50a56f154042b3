"""What is wrapped by which version of the root key: the services' keys and the authority's, seen from outside.

Nothing is unwrapped for it: a wrapped key begins with the root's version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from tallystick.chassis.charter import Charter
from tallystick.chassis.db import Bounds, Database
from tallystick.chassis.keys import store
from tallystick.chassis.keys.root import wrapped_by
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
    """When the service will rotate it, by its charter; None for one that was rotated already."""
    root_version: int


async def service_keys(layout: Layout, charters: Mapping[str, Charter]) -> list[ServiceKey]:
    """All services' keys, oldest version first. Raises DatabaseUnavailable, DatabaseError: PostgreSQL has to run."""
    databases = provision.Databases(layout, SecretFiles(layout.secrets))
    found: list[ServiceKey] = []
    for name, charter in charters.items():
        if charter.keys is None:
            continue
        life = timedelta(days=charter.keys.rotation_days)
        database = await Database.open(
            databases.service(name), bounds=Bounds(connections=1), application="tallystick keys"
        )
        try:
            rows = await database.fetch(store.Q.service_key_versions)
        finally:
            await database.close()
        found += [
            ServiceKey(
                service=name,
                version=row["version"],
                state=row["state"],
                created_at=row["created_at"],
                rotates_at=row["created_at"] + life if row["state"] == "active" else None,
                root_version=wrapped_by(row["wrapped"]),
            )
            for row in rows
        ]
    return found


def authority_versions(layout: Layout) -> list[int]:
    """The versions of the root that the authority's root certificates' keys are wrapped by. Raises PkiError."""
    return sorted({wrapped_by(wrapped) for wrapped in pki.wrapped_keys(layout.authority)})
