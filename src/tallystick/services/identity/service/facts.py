"""Identity's facts: who did what to which resource. They never contain a token, an assertion or a key."""

from __future__ import annotations

from datetime import datetime

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.outbox import Fact
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
