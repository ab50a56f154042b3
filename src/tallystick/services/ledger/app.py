"""The ledger, wired."""

from __future__ import annotations

from tallystick.chassis.app import Runtime, Wiring
from tallystick.chassis.idempotency import Digester
from tallystick.chassis.outbox import Outbox
from tallystick.services.ledger.api import ENDPOINTS
from tallystick.services.ledger.service import Ledger
from tallystick.services.ledger.settings import Settings
from tallystick.services.ledger.store import Store
from tallystick.services.ledger.worker import SCHEDULES, SUBSCRIPTIONS

SETTINGS = Settings


async def wire(runtime: Runtime) -> Wiring:
    ledger = Ledger(
        database=runtime.database,
        store=Store(),
        outbox=Outbox(),
        clock=runtime.clock,
        digester=Digester(runtime.keyring.derive("idempotency")),
    )
    return Wiring(
        service=ledger,
        endpoints=ENDPOINTS,
        subscriptions=SUBSCRIPTIONS,
        schedules=SCHEDULES,
        close=ledger.close,
    )
