"""How identity tells a fact: who did what to which thing. Never a token, an assertion or a key."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tallystick.chassis import telemetry
from tallystick.chassis.outbox import Fact
from tallystick.kernel import ids

#: Who acts when nobody asked: the schedules.
SELF = "identity"


def fact(type_: str, *, tenant: str, resource: str, at: datetime, data: dict[str, Any], actor: str = SELF) -> Fact:
    return Fact(
        id=ids.facts.new(),
        type=type_,
        tenant=tenant,
        actor=actor,
        resource=resource,
        at=at,
        trace=telemetry.trace_id(),
        data=data,
    )
