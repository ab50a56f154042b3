"""What a service tells of the keys that its data is kept under, so that the log has each rotation and each end of an old key.

The chassis tells it in the service's name, in the transaction that makes it so; no charter says it again in its [tells]. Who has keys and tells
anything tells this: audit, which hears no facts of its own, keeps it in its rows alone.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.charter import Charter, Told
from tallystick.chassis.fact import PLATFORM, Fact
from tallystick.kernel import ids
from tallystick.kernel.deployment import service_of

Kind = Literal["service", "tenant", "value"]
What = Literal["rotated", "rewrapped", "destroyed"]


class KeysFact(msgspec.Struct, frozen=True):
    """How many `keys` of a kind: `service`, the one that wraps all others; `tenant`, the one that seals a tenant's values; `value`, each of which
    seals one value. `version` is the successor's, or that of the key that is gone, where it is one key.
    """

    kind: Kind
    keys: int
    version: int | None = None


_MEANS: Final[dict[What, str]] = {
    "rotated": "Keys that data is kept under have successors, under which all that is new is sealed",
    "rewrapped": "A service's own key is wrapped by the newest version of the root key",
    "destroyed": "Keys that had successors are gone: nothing is sealed or wrapped by them any more",
}


def key_facts(charter: Charter) -> dict[str, Told]:
    """The facts that a service tells of its keys, by their whole types."""
    if charter.keys is None or not charter.tells:
        return {}
    service = service_of(charter.name)
    return {f"{service}.keys.{what}": Told(means=means, message=KeysFact.__name__) for what, means in _MEANS.items()}


def keys_fact(service: str, what: What, said: KeysFact, at: datetime, tenant: str = PLATFORM) -> Fact:
    """`service`: the deployment whose keys they are."""
    return Fact(
        id=ids.facts.new(),
        type=f"{service_of(service)}.keys.{what}",
        tenant=tenant,
        actor=service_of(service),
        resource=f"{said.kind}-keys",
        at=at,
        trace=telemetry.trace_id(),
        data=msgspec.to_builtins(said),
    )
