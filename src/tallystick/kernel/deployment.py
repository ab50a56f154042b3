"""What one of several shards of a service is called: `ledger` is the one at home, `ledger-eu` the shard `eu`.

A deployment's name is what it is to everything around it: its database and role, its login at bus and store, its identity in the mesh,
its socket, its logs. A service's name has no hyphen, so which is which can be told from the name.
"""

from __future__ import annotations

from typing import Final

#: The shard that each service has, and that a service without shards consists of.
HOME: Final = "default"
#: The header by which a client says which shard of a service its request is for; without it, it is for the one at home.
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
    """The service that a deployment is one of."""
    return parts(name)[0]
