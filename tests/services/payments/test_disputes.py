"""What cardholders dispute, as the acquirer tells it."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from tallystick.kernel.clock import SystemClock, rfc3339
from tallystick.services.payments.model import LEASE, Payment, Step
from tests.services.payments.support import Town, by_card, no_fault

pytestmark = pytest.mark.asyncio(loop_scope="module")


def _at_rail(town: Town, statement: str, *arguments: object) -> None:
    connection = sqlite3.connect(town.directory / "rail.db", isolation_level=None)
    connection.execute(statement, arguments)
    connection.close()


def _now(town: Town) -> None:
    """The sandbox waits some seconds before it tells; not here."""
    _at_rail(town, "UPDATE dispute SET raised_at = ?", rfc3339(SystemClock().now()))


async def test_a_dispute_is_told_once(town: Town) -> None:
    token, shop = await town.card("dispute"), await town.account()
    good = await town.paid(by_card(await town.card(), shop))
    made = await town.paid(by_card(token, shop, 1500))
    background = town.one.api.background
    await background.read_disputes()
    assert (await town.get(made["id"]))["disputed"] is False
    _now(town)
    assert await background.read_disputes() == 1
    disputed = await town.get(made["id"])
    assert (disputed["disputed"], disputed["status"], disputed["captured"]) == (True, "settled", made["captured"])
    assert (await town.get(good["id"]))["disputed"] is False
    assert await town.told(made["id"]) == ["received", "settled", "disputed"]
    fact = (await town.facts(made["id"]))[-1]
    assert fact["type"] == "payments.payment.disputed"
    assert fact["data"]["disputed"] is True
    assert fact["data"]["dispute"]["reason"] == "fraudulent"
    assert await background.read_disputes() == 0
    await town.sound()


async def test_many_are_read_by_pages_and_by_several_at_once(town: Town) -> None:
    token, shop = await town.card("dispute"), await town.account()
    made = [(await town.paid(by_card(token, shop, n)))["id"] for n in range(1, 6)]
    _now(town)
    other = await town.replica()
    await asyncio.gather(town.one.api.background.read_disputes(), other.api.background.read_disputes())
    for payment in made:
        assert await town.told(payment) == ["received", "settled", "disputed"]
    await town.sound()


async def test_a_dispute_of_something_unknown_holds_up_no_other(town: Town) -> None:
    token, shop = await town.card("dispute"), await town.account()
    for strange in ("nonsense", "rrq_" + "0" * 26):
        _at_rail(
            town,
            "INSERT INTO dispute (request_id, capture, amount, currency, raised_at) VALUES (?, 'c', 1, 'EUR', '2026')",
            strange,
        )
    made = await town.paid(by_card(token, shop))
    _now(town)
    assert await town.one.api.background.read_disputes() == 3
    assert (await town.get(made["id"]))["disputed"] is True
    assert await town.one.api.background.read_disputes() == 0


async def test_a_dispute_takes_no_outcome_from_who_works_on_its_payment(town: Town) -> None:
    """What was done could not be written, and was done again when the lease was over; the request was answered with 202."""
    card, shop = await town.card("dispute"), await town.account()
    effects, background = town.one.effects, town.one.api.background
    perform = effects.perform
    read: list[int] = []

    async def disputed_meanwhile(step: Step, p: Payment, token: str) -> Payment:
        if step is Step.SETTLE:
            _now(town)
            read.append(await background.read_disputes())
        return await perform(step, p, token)

    effects.perform = disputed_meanwhile  # type: ignore[method-assign]
    try:
        made = await town.paid(by_card(card, shop))
    finally:
        del effects.perform
    assert read == [0]
    assert await background.read_disputes() == 1
    assert await town.told(made["id"]) == ["received", "settled", "disputed"]
    await town.sound()


async def test_a_dispute_of_a_payment_whose_process_is_gone_waits_for_its_lease_at_most(town: Town) -> None:
    token, shop = await town.card("dispute"), await town.account()
    town.one.effects.fault = lambda step: "crash-before" if step is Step.SETTLE else "none"
    await town.pay(by_card(token, shop), key="k")
    town.one.effects.fault = no_fault
    _now(town)
    background = town.one.api.background
    assert await background.read_disputes() == 0
    town.later(LEASE.total_seconds())
    assert await background.read_disputes() == 1
    await town.finish()
    assert (await town.pay(by_card(token, shop), key="k")).json["disputed"] is True
    await town.sound()


async def test_a_disputed_payment_can_still_be_refunded(town: Town) -> None:
    token, shop = await town.card("dispute"), await town.account()
    made = await town.paid(by_card(token, shop))
    _now(town)
    await town.one.api.background.read_disputes()
    assert (await town.refund(made["id"])).json["status"] == "succeeded"
    assert (await town.get(made["id"]))["disputed"] is True
    await town.sound()
