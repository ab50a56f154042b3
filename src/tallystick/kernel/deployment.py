"""Names of deployments: `ledger` is the service's shard at home, `ledger-eu` its shard `eu`.

Everything around a deployment uses its name: its database and role, its login at bus and store, its identity in the mesh, its socket,
its logs. A service's name has no hyphen, so service and shard can be told apart in the name.
"""

from __future__ import annotations

from typing import Final

#: The shard that every service has; a service without shards has no other.
HOME: Final = "default"
#: The header by which a client says for which shard of a service its request is; without it, for the one at home.
SHARD_HEADER: Final = "Tallystick-Shard"
_BETWEEN: Final = "-"


def deployment(service: str, shard: str = HOME) -> str:
    """`ledger` for the shard at home, `ledger-eu` for another."""
    return service if shard == HOME else f"{service}{_BETWEEN}{shard}"


def parts(name: str) -> tuple[str, str]:
    """The service and the shard of a deployment's name: the inverse of `deployment`."""
    service, _, shard = name.partition(_BETWEEN)
    return service, shard or HOME


def service_of(name: str) -> str:
    """The service that a deployment belongs to."""
    return parts(name)[0]
