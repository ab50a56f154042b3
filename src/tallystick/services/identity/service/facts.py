"""Identity's facts: who did what to which resource. They never contain a token, an assertion or a key."""

from __future__ import annotations

from datetime import datetime

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.charter import OPERATOR
from tallystick.chassis.fact import PLATFORM
from tallystick.chassis.outbox import Fact
from tallystick.contracts.identity.messages import PlatformRestored
from tallystick.kernel import ids

#: The actor of what the schedules do.
SELF = "identity"


def fact(
    type_: str, *, tenant: str, resource: str, at: datetime, data: msgspec.Struct | None = None, actor: str = SELF
) -> Fact:
    return Fact(
        id=ids.facts.new(),
        type=type_,
        tenant=tenant,
        actor=actor,
        resource=resource,
        at=at,
        trace=telemetry.trace_id(),
        data={} if data is None else msgspec.to_builtins(data),
    )


def platform_restored(at: datetime, *, taken_at: str, program: str, log_size: int) -> Fact:
    """Told by `tallystick restore` before the platform starts, so the log itself says why older checkpoints of it don't continue."""
    said = PlatformRestored(taken_at=taken_at, program=program, log_size=log_size)
    return fact("identity.platform.restored", tenant=PLATFORM, actor=OPERATOR, resource=PLATFORM, at=at, data=said)
