"""What cardholders dispute, as the acquirer tells it."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import datetime
from typing import Any

import pytest

from tallystick.contracts.vault.messages import Outgoing
from tallystick.kernel import ids
from tallystick.kernel.clock import SystemClock, rfc3339
from tallystick.local.rail.book import Book
from tallystick.services.payments import worker
from tallystick.services.payments.model import LEASE, Payment, Role, Step, request_id
from tallystick.services.payments.service import background
from tallystick.services.payments.service.acquirer import AcquirerNotUnderstood
from tallystick.services.vault.service.egress import Channel
from tests.services.payments.support import CLIENT, Town, by_card, no_fault

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
    reader = town.one.api.background
    await reader.read_disputes()
    assert (await town.get(made["id"]))["disputed"] is False
    _now(town)
    assert await reader.read_disputes() == 1
    disputed = await town.get(made["id"])
    assert (disputed["disputed"], disputed["status"], disputed["captured"]) == (True, "settled", made["captured"])
    assert (await town.get(good["id"]))["disputed"] is False
    assert await town.told(made["id"]) == ["received", "settled", "disputed"]
    fact = (await town.facts(made["id"]))[-1]
    assert fact["type"] == "payments.payment.disputed"
    assert fact["data"]["disputed"] is True
    assert fact["data"]["dispute"]["reason"] == "fraudulent"
    assert await reader.read_disputes() == 0
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
    effects, reader = town.one.effects, town.one.api.background
    perform = effects.perform
    read: list[int] = []

    async def disputed_meanwhile(step: Step, p: Payment, token: str) -> Payment:
        if step is Step.SETTLE:
            _now(town)
            read.append(await reader.read_disputes())
        return await perform(step, p, token)

    effects.perform = disputed_meanwhile  # type: ignore[method-assign]
    try:
        made = await town.paid(by_card(card, shop))
    finally:
        del effects.perform
    assert read == [0]
    assert await reader.read_disputes() == 1
    assert await town.told(made["id"]) == ["received", "settled", "disputed"]
    await town.sound()


async def test_a_dispute_of_a_payment_whose_process_is_gone_waits_for_its_lease_at_most(town: Town) -> None:
    token, shop = await town.card("dispute"), await town.account()
    town.one.effects.fault = lambda step: "crash-before" if step is Step.SETTLE else "none"
    await town.pay(by_card(token, shop), key="k")
    town.one.effects.fault = no_fault
    _now(town)
    reader = town.one.api.background
    assert await reader.read_disputes() == 0
    town.later(LEASE.total_seconds())
    assert await reader.read_disputes() == 1
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


@pytest.mark.parametrize("answers", ["the same page again", "the oldest last", "positions that are none"])
async def test_an_acquirer_that_does_not_keep_to_positions_is_not_read_without_end(
    town: Town, monkeypatch: pytest.MonkeyPatch, answers: str
) -> None:
    """It ignored `after`: its first page was read for as long as the schedule may take, and nothing was said of it."""
    token, shop = await town.card("dispute"), await town.account()
    made = [(await town.paid(by_card(token, shop, n)))["id"] for n in range(1, 4)]
    _now(town)
    asked: list[int] = []
    pages = Book.disputes

    def disputes(self: Book, after: int, limit: int, now: datetime) -> list[dict[str, Any]]:
        asked.append(after)
        if answers == "the same page again":
            return pages(self, _before(town, made[0]), limit, now)
        found = pages(self, after, limit, now)
        if answers == "the oldest last":
            return found[::-1]
        return [each | {"position": 2**63} for each in found]

    monkeypatch.setattr(Book, "disputes", disputes)
    for module in (worker, background):
        monkeypatch.setattr(module, "DISPUTES", 3)
    async with asyncio.timeout(60):
        if answers == "the oldest last":
            await worker.read_disputes(town.one.api)
        else:
            with pytest.raises(AcquirerNotUnderstood):
                await worker.read_disputes(town.one.api)
    assert len(asked) == (1 if answers == "positions that are none" else 2)
    told = [] if answers == "positions that are none" else ["disputed"]
    for payment in made:
        assert await town.told(payment) == ["received", "settled", *told]
    monkeypatch.undo()
    await town.one.api.background.read_disputes()
    await town.sound()


async def test_of_a_page_in_no_order_none_is_left_out(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest came first and moved the cursor past an older one, whose payment was being worked on."""
    token, shop = await town.card("dispute"), await town.account()
    town.one.effects.fault = lambda step: "crash-before" if step is Step.SETTLE else "none"
    await town.pay(by_card(token, shop), key="older")
    town.one.effects.fault = no_fault
    await town.paid(by_card(token, shop), key="newer")
    _now(town)
    pages = Book.disputes
    monkeypatch.setattr(Book, "disputes", lambda *args: pages(*args)[::-1])
    reader = town.one.api.background
    assert await reader.read_disputes() == 0
    town.later(LEASE.total_seconds())
    assert await reader.read_disputes() == 2
    await town.finish()
    assert (await town.pay(by_card(token, shop), key="older")).json["disputed"] is True
    await town.sound()


async def test_what_the_acquirer_said_before_is_not_taken_for_what_it_says_now(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asked was gone when the answer came; the vault kept it until somebody asked the same, and gave it then."""
    made = await town.paid(by_card(await town.card("dispute"), await town.account()))
    acquirer, real = town.one.effects._acquirer, Channel.send
    token = await town.world.authenticator.service_token(town.tenant, CLIENT, "payments.disputes")
    looked, goes_on = asyncio.Event(), asyncio.Event()

    async def slowly(self: Channel, request: Outgoing, *rest: Any) -> Any:
        said = await real(self, request, *rest)
        if request.path.startswith("/disputes"):
            looked.set()
        await goes_on.wait()
        return said

    monkeypatch.setattr(Channel, "send", slowly)
    # In one batch: one alone would be waited for.
    other = acquirer._earlier_decision("/captures", "none", token)
    asking = [asyncio.create_task(each) for each in (other, acquirer.disputes(0, 1000, token))]
    await looked.wait()
    for task in asking:
        task.cancel()
    under_way, calls = town.vault.vault.forwarding._tasks, acquirer._vault._forwards
    async with asyncio.timeout(60):
        while calls.in_flight:  # until the vault has called them pending
            await asyncio.sleep(0.01)
        goes_on.set()
        while under_way:
            await asyncio.sleep(0.01)
    _now(town)
    found = await acquirer.disputes(0, 1000, token)
    mine = ids.rail_requests.text(request_id(ids.payments.parse(made["id"]), Role.AUTHORIZE))
    assert mine in {each.authorization for each in found}


def _before(town: Town, payment: str) -> int:
    """The position before the payment's dispute."""
    connection = sqlite3.connect(town.directory / "rail.db")
    name = ids.rail_requests.text(request_id(ids.payments.parse(payment), Role.AUTHORIZE))
    (position,) = connection.execute("SELECT position FROM dispute WHERE request_id = ?", (name,)).fetchone()
    connection.close()
    return int(position) - 1
