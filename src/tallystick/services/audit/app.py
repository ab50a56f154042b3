"""Audit, wired."""

from __future__ import annotations

from tallystick.chassis.app import Runtime, Wiring
from tallystick.services.audit.api import ENDPOINTS
from tallystick.services.audit.service import Log
from tallystick.services.audit.settings import Settings
from tallystick.services.audit.store import SEALED, Store
from tallystick.services.audit.worker import SCHEDULES, SUBSCRIPTIONS

SETTINGS = Settings


async def wire(runtime: Runtime) -> Wiring:
    log = Log(
        database=runtime.database,
        store=Store(),
        keyring=runtime.keyring,
        valkey=runtime.valkey,
        clock=runtime.clock,
        name=f"{runtime.settings.trust_domain}/log",
    )
    return Wiring(service=log, endpoints=ENDPOINTS, subscriptions=SUBSCRIPTIONS, schedules=SCHEDULES, sealed=SEALED)
