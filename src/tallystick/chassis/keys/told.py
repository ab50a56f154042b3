"""The facts that a service tells about its data keys, so that the audit log has each rotation and each destruction of an old key.

The chassis tells them in the service's name, in the transaction that makes the change, and charters don't repeat them in [tells].
Every service with keys that tells any facts tells these. Audit, which does not consume facts of its own, tells none; its rows alone
show what became of its keys.
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
    """How many `keys` of a kind were changed. Kinds: `service`, the key that wraps all others; `tenant`, a key that seals a tenant's
    values; `value`, keys that seal one value each. `version` is that of the successor or of the destroyed key, where it is one key.
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
    """A fact about keys; `service` is the deployment whose keys they are."""
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
