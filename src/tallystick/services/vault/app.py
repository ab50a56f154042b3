"""The vault, wired."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from tallystick.chassis.app import Runtime, Wiring
from tallystick.chassis.audit import NoteError, ReceiptError, VerifierKey, verify_receipt
from tallystick.chassis.deadline import Deadline
from tallystick.chassis.idempotency import Digester
from tallystick.chassis.telemetry import log
from tallystick.contracts.audit.client import AuditClient
from tallystick.contracts.audit.messages import MAX_WAIT_MS
from tallystick.kernel import ids
from tallystick.kernel.ids import FactId
from tallystick.kernel.problem import Unavailable, Upstream
from tallystick.services.vault.api import ENDPOINTS
from tallystick.services.vault.service import Forwarding, Tokens, Vault
from tallystick.services.vault.service.egress import Egress
from tallystick.services.vault.service.tokens import Receipt
from tallystick.services.vault.settings import Settings, destinations
from tallystick.services.vault.store import SEALED, Store
from tallystick.services.vault.worker import SCHEDULES, SUBSCRIPTIONS

SETTINGS = Settings


#: Seconds between two looks for the key's file, which may appear a moment after the log's first signature.
_LOOK_AGAIN_SECONDS: Final = 0.05


async def wire(runtime: Runtime) -> Wiring:
    store = Store()
    ring = runtime.keyring
    settings = runtime.settings_as(Settings)
    service = Vault(
        tokens=Tokens(
            database=runtime.database,
            store=store,
            ring=ring,
            clock=runtime.clock,
            receipt=receipts_of(AuditClient(runtime.client("audit")), settings.log_key_file),
        ),
        forwarding=Forwarding(
            database=runtime.database,
            store=store,
            ring=ring,
            clock=runtime.clock,
            egress=Egress(destinations(settings.destinations_file)),
        ),
        digester=Digester(ring.derive("idempotency")),
        clock=runtime.clock,
    )
    return Wiring(
        service=service,
        endpoints=ENDPOINTS,
        subscriptions=SUBSCRIPTIONS,
        schedules=SCHEDULES,
        sealed=SEALED,
        close=service.close,
    )


def receipts_of(client: AuditClient, key_file: Path | None) -> Receipt:
    """Waits until audit proves that a fact is in the log. The signature is checked with the log's key from a file, not with one from audit."""

    async def receipt(fact: FactId, deadline: Deadline) -> None:
        if key_file is None:
            raise Unavailable("there is no key to check receipts with", context={"reason": "TALLYSTICK_LOG_KEY_FILE"})
        with deadline.scope():
            # A little less than the time left, so that audit's own "not yet" still arrives.
            answer = await client.receipt(fact, wait_ms=min(max(int(deadline.remaining() * 900), 0), MAX_WAIT_MS))
        while not key_file.exists():
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        try:
            proved = verify_receipt(
                answer.receipt, VerifierKey.parse(key_file.read_text(encoding="ascii")), fact=ids.facts.text(fact)
            )
        except (ReceiptError, NoteError, OSError, UnicodeDecodeError) as error:
            log.error("audit.receipt_refused", fact=ids.facts.text(fact), error=error)
            raise Upstream("audit's receipt proves nothing") from error
        if proved.service != "vault":
            log.error("audit.receipt_refused", fact=ids.facts.text(fact), source=proved.service)
            raise Upstream("audit's receipt is for a fact of another service")

    return receipt
