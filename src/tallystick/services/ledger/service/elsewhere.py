"""The ledger of another shard, over the mesh."""

from __future__ import annotations

from tallystick.chassis.auth import Authenticator
from tallystick.contracts.ledger.client import LedgerClient
from tallystick.contracts.ledger.messages import Arrive, BookAccount
from tallystick.kernel import ids
from tallystick.kernel.money import MoneyWire
from tallystick.services.ledger.model import Crossing, Outcome

PURPOSE = "ledger.interbook"


class Elsewhere:
    """Asks with a service token in the name of the transfer's client. That works even if the client is long gone (ADR 17)."""

    def __init__(self, client: LedgerClient, authenticator: Authenticator) -> None:
        self._client = client
        self._authenticator = authenticator

    async def has_book(self, tenant: str, book: str, client: str) -> None:
        token = await self._authenticator.service_token(tenant, client, PURPOSE)
        await self._client.look_for_book(book, token)

    async def arrive(self, tenant: str, crossing: Crossing) -> Outcome:
        token = await self._authenticator.service_token(tenant, crossing.client, PURPOSE)
        source, destination = crossing.source, crossing.destination
        arrived = await self._client.arrive(
            Arrive(
                token=token,
                id=ids.transfers.text(crossing.id),
                source=BookAccount(book=source.book, account=source.account),
                destination=BookAccount(book=destination.book, account=destination.account),
                amount=MoneyWire(str(crossing.amount), crossing.currency),
                reference=crossing.reference,
            )
        )
        return Outcome(None if arrived.reason is None else str(arrived.reason), arrived.account)
