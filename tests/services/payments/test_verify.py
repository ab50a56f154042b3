"""What `tallystick verify` says of payments beside the ledger. What is broken here stays so: these neighbours are nobody else's."""

from __future__ import annotations

import pytest

from tallystick.kernel import ids
from tallystick.services.ledger.model import Command, CommandKind
from tallystick.services.ledger.service import Ask
from tallystick.services.payments.model import RefundStep
from tests.services.payments.support import CLIENT, Town, by_card, no_fault

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def moved(town: Town, kind: CommandKind, transfer: str) -> str:
    """As anybody could before the ledger knew what is a payment's."""
    own = ids.transfers.new()
    command = Command(kind=kind, id=own, target=ids.transfers.parse(transfer))
    ask = Ask(town.tenant, CLIENT, None, [command], atomic=False, payments=True)
    (result,) = (await town.books.poster.post(ask)).results
    assert result.reason is None
    return ids.transfers.text(own)


async def test_a_refused_refund_that_is_not_given_back_is_named(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop))
    town.one.effects.fault = lambda step: "fail-after" if step is RefundStep.REVERSE else "none"
    refund = (await town.refund(made["id"])).json["id"]
    # The acquirer has said no, and the ledger takes nothing.
    refused = "UPDATE refund SET reversed = true, failure_code = 'card_declined' WHERE id = $1 RETURNING id"
    await town.databases["payments"].query(refused, ids.refunds.parse(refund))
    town.one.effects.fault = lambda step: "fail-before" if step is RefundStep.RESTORE else "none"
    for tries in range(2, 9):
        assert await town.named() == []
        town.later(3700)
        assert (tries, await town.one.resume()) == (tries, 1)
    assert await town.named() == [
        f"refund {ids.refunds.parse(refund)} was refused, and its amount was not posted back in 8 tries"
    ]
    town.one.effects.fault = no_fault
    await town.finish()
    assert await town.named() == []


async def test_what_nobody_will_go_on_with_is_named(town: Town) -> None:
    """An authorization that never expires holds a customer's money; a refund that rests as pending is never paid."""
    token, shop = await town.card(), await town.account()
    held = await town.paid(by_card(token, shop, capture="manual"), status="authorized")
    made = await town.paid(by_card(token, shop))
    town.one.effects.fault = lambda step: "fail-before" if step is RefundStep.REVERSE else "none"
    refund = (await town.refund(made["id"])).json["id"]
    assert await town.named() == []
    rows = town.databases["payments"].query
    at = (await rows("SELECT resume_at FROM payment WHERE id = $1", ids.payments.parse(held["id"])))[0]["resume_at"]
    await rows("UPDATE payment SET resume_at = NULL WHERE id = $1", ids.payments.parse(held["id"]))
    await rows("UPDATE refund SET resume_at = NULL WHERE id = $1", ids.refunds.parse(refund))
    named = await town.named()
    assert f"payment {ids.payments.parse(held['id'])} is authorized and nobody will go on with it" in named
    assert f"refund {ids.refunds.parse(refund)} is pending and nobody will go on with it" in named
    await rows("UPDATE payment SET resume_at = $2 WHERE id = $1", ids.payments.parse(held["id"]), at)
    await rows("UPDATE refund SET resume_at = $2 WHERE id = $1", ids.refunds.parse(refund), town.clock.now())
    town.one.effects.fault = no_fault
    await town.finish()
    assert await town.named() == []


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
            f"{held['id']} is authorized, but its money is no longer held: the hold is voided",
            f"the void {void} of a payment's transfer {hold} is not the payment's",
            f"the reverse {reverse} of a payment's transfer {settle} is not the payment's",
        ]
    )
