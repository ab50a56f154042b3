"""The wiring of the ledger."""

from __future__ import annotations

from tallystick.chassis.app import Runtime, Wiring
from tallystick.chassis.idempotency import Digester
from tallystick.chassis.outbox import Outbox
from tallystick.contracts.ledger.client import LedgerClient
from tallystick.services.ledger.api import ENDPOINTS
from tallystick.services.ledger.service import Elsewhere, Ledger, Shard
from tallystick.services.ledger.settings import Settings
from tallystick.services.ledger.store import Store
from tallystick.services.ledger.worker import SCHEDULES, SUBSCRIPTIONS

SETTINGS = Settings


async def wire(runtime: Runtime) -> Wiring:
    settings = runtime.settings_as(Settings)
    others: dict[str, Shard] = {
        name: Elsewhere(LedgerClient(runtime.client("ledger", name)), runtime.authenticator) for name in settings.others
    }
    ledger = Ledger(
        database=runtime.database,
        store=Store(),
        outbox=Outbox(),
        clock=runtime.clock,
        digester=Digester(runtime.keyring.derive("idempotency")),
        shard=settings.shard,
        others=others,
    )
    return Wiring(
        service=ledger,
        endpoints=ENDPOINTS,
        subscriptions=SUBSCRIPTIONS,
        schedules=SCHEDULES,
        close=ledger.close,
    )
