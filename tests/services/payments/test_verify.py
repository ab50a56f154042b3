"""What `tallystick verify` says of payments beside the ledger. What is broken here stays so: these neighbours are nobody else's."""

from __future__ import annotations

import pytest

from tallystick.kernel import ids
from tallystick.services.ledger.model import Command, CommandKind
from tallystick.services.ledger.service import Ask
from tests.services.payments.support import CLIENT, Town, by_card

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def moved(town: Town, kind: CommandKind, transfer: str) -> str:
    """As anybody could before the ledger knew what is a payment's."""
    own = ids.transfers.new()
    command = Command(kind=kind, id=own, target=ids.transfers.parse(transfer))
    ask = Ask(town.tenant, CLIENT, None, [command], atomic=False, payments=True)
    (result,) = (await town.books.poster.post(ask)).results
    assert result.reason is None
    return ids.transfers.text(own)


async def test_what_somebody_else_did_to_a_payments_transfers_is_named(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    held = await town.paid(by_card(token, shop, capture="manual"), status="authorized")
    paid = await town.paid(by_card(token, shop))
    refunded = await town.paid(by_card(token, shop))
    await town.refund(refunded["id"], 300)
    assert await town.named() == []
    (hold,), (_, settle) = held["ledger"]["transfers"], paid["ledger"]["transfers"]
    void, reverse = await moved(town, "void", hold), await moved(town, "reverse", settle)
    assert sorted(await town.named()) == sorted(
        [
            f"{held['id']} is authorized, but its money is not held any more: the hold is voided",
            f"the void {void} of a payment's transfer {hold} is not the payment's",
            f"the reverse {reverse} of a payment's transfer {settle} is not the payment's",
        ]
    )
