"""The vault's use cases: store numbers (`Tokens`), and send them to the operator's allowed destinations (`Forwarding`)."""

from dataclasses import dataclass

from tallystick.chassis.idempotency import Digester
from tallystick.kernel.clock import Clock
from tallystick.services.vault.service.forwarding import Forwarding, Send
from tallystick.services.vault.service.tokens import Created, Order, Tokens

__all__ = ["Created", "Forwarding", "Order", "Send", "Tokens", "Vault"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vault:
    tokens: Tokens
    forwarding: Forwarding
    digester: Digester
    clock: Clock

    async def close(self) -> None:
        await self.tokens.close()
        await self.forwarding.close()
