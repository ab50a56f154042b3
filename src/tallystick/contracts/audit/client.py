"""The audit log's client: with it a service waits until what it did is provably recorded."""

from __future__ import annotations

from tallystick.chassis.call import Client
from tallystick.contracts.audit.messages import InnerReceipt
from tallystick.contracts.audit.problems import ReceiptNotFound
from tallystick.kernel import ids
from tallystick.kernel.ids import FactId


class AuditClient:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def receipt(self, fact: FactId, *, wait_ms: int = 2_000) -> InnerReceipt:
        """The receipt of a fact, waited for up to `wait_ms`. Raises ReceiptNotFound, Overloaded, Upstream or DeadlineExceeded."""
        return await self._client.request(
            "GET",
            f"/internal/receipts/{ids.facts.text(fact)}?wait_ms={wait_ms}",
            None,
            answer=InnerReceipt,
            idempotent=True,
            problems=(ReceiptNotFound,),
        )
