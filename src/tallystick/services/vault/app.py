"""The vault, wired."""

from __future__ import annotations

from tallystick.chassis.app import Runtime, Wiring
from tallystick.chassis.deadline import Deadline
from tallystick.chassis.idempotency import Digester
from tallystick.contracts.audit.client import AuditClient
from tallystick.contracts.audit.messages import MAX_WAIT_MS
from tallystick.kernel.ids import FactId
from tallystick.services.vault.api import ENDPOINTS
from tallystick.services.vault.service import Forwarding, Tokens, Vault
from tallystick.services.vault.service.egress import Egress
from tallystick.services.vault.service.tokens import Receipt
from tallystick.services.vault.settings import Settings, destinations
from tallystick.services.vault.store import Store
from tallystick.services.vault.worker import SCHEDULES, SUBSCRIPTIONS

SETTINGS = Settings


async def wire(runtime: Runtime) -> Wiring:
    store = Store()
    ring = runtime.keyring
    service = Vault(
        tokens=Tokens(
            database=runtime.database, store=store, ring=ring, clock=runtime.clock, receipt=receipts_of(runtime)
        ),
        forwarding=Forwarding(
            database=runtime.database,
            store=store,
            ring=ring,
            clock=runtime.clock,
            egress=Egress(destinations(runtime.settings_as(Settings).destinations_file)),
        ),
        digester=Digester(ring.derive("idempotency")),
        clock=runtime.clock,
    )
    return Wiring(
        service=service,
        endpoints=ENDPOINTS,
        subscriptions=SUBSCRIPTIONS,
        schedules=SCHEDULES,
        close=service.close,
    )


def receipts_of(runtime: Runtime) -> Receipt:
    """Waits for audit to say that a fact is in the log."""
    client = AuditClient(runtime.client("audit"))

    async def receipt(fact: FactId, deadline: Deadline) -> None:
        with deadline.scope():
            # A little less than what is left, so that audit's own "not yet" arrives here.
            await client.receipt(fact, wait_ms=min(max(int(deadline.remaining() * 900), 0), MAX_WAIT_MS))

    return receipt
