"""Risk, wired."""

from __future__ import annotations

from tallystick.chassis.app import Runtime, Wiring
from tallystick.chassis.outbox import Outbox
from tallystick.services.risk.api import ENDPOINTS
from tallystick.services.risk.service import Risk
from tallystick.services.risk.settings import Settings
from tallystick.services.risk.store import Counters, Store
from tallystick.services.risk.worker import SCHEDULES, SUBSCRIPTIONS

SETTINGS = Settings


async def wire(runtime: Runtime) -> Wiring:
    service = Risk(
        database=runtime.database,
        store=Store(),
        counters=Counters(runtime.valkey),
        outbox=Outbox(),
        clock=runtime.clock,
    )
    await service.refresh_lists()
    return Wiring(service=service, endpoints=ENDPOINTS, subscriptions=SUBSCRIPTIONS, schedules=SCHEDULES)
