"""A process may end between any two steps, two may work on one payment at once, and each neighbour may be gone: the outcome is
the same, and nothing is doubled.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from tallystick.chassis.db import CommitUnknown, DatabaseUnavailable
from tallystick.chassis.telemetry import logs
from tallystick.contracts.ledger.messages import PAYMENT_CODE, Reason
from tallystick.contracts.risk.messages import ListEntry
from tallystick.kernel import ids
from tallystick.services.ledger.model import Command
from tallystick.services.ledger.service import Ask
from tallystick.services.payments import model
from tallystick.services.payments.model import RefundStep, Role, Step, request_id, transfer_id
from tallystick.services.payments.service import background
from tallystick.services.payments.store import Lease
from tests.services.payments.support import (
    CLIENT,
    NUMBERS,
    UNSCORED_LIMIT,
    Crashed,
    Fault,
    Mode,
    Replica,
    Town,
    by_account,
    by_card,
    money,
    no_fault,
    slug,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: name -> (card behaviour or None, amount, capture, what the client does next, how it ends, the steps)
KINDS: dict[str, tuple[str | None, int, str, str | None, str, str]] = {
    "book": (None, 1000, "automatic", None, "settled", "score post"),
    "book, declined": ("broke", 1000, "automatic", None, "declined", "score post"),
    "card": ("approve", 1000, "automatic", None, "settled", "score hold authorize capture settle"),
    "card, lost answer": ("lose", 1000, "automatic", None, "settled", "score hold authorize capture settle"),
    "card, declined by risk": ("approve", 1_200_000, "automatic", None, "declined", "score"),
    "card, declined by issuer": ("decline", 1000, "automatic", None, "declined", "score hold authorize release"),
    "manual, captured in part": ("approve", 1000, "manual", "capture", "settled", "capture settle"),
    "manual, canceled": ("approve", 1000, "manual", "cancel", "canceled", "void release"),
    "manual, expired": ("approve", 1000, "manual", "expire", "expired", "void release"),
}
CRASHES = [
    pytest.param(kind, step, when, id=f"{kind}: {when} {step}")
    for kind, (*_, steps) in KINDS.items()
    for step in steps.split()
    for when in ("crash-before", "crash-after", "fail-after")
    if when != "crash-before" or step in ("score", "void", "capture")
]


async def begin(town: Town, kind: str) -> tuple[dict[str, Any], Callable[[], Awaitable[Any]]]:
    """The payment as far as it goes without the fault, and how to go on."""
    behaviour, minor, capture, then, _, _ = KINDS[kind]
    shop = await town.account()
    if behaviour in (None, "broke"):
        body = by_account(await town.account(floor="0" if behaviour else None), shop, minor)
    else:
        body = by_card(await town.card(str(behaviour)), shop, minor, capture=capture)
    if then is None:
        return {"shop": shop}, lambda: town.pay(body, key="k")
    made = await town.paid(body, status="authorized")
    if then == "capture":
        return made | {"shop": shop}, lambda: town.capture(made["id"], 600, key="k")
    if then == "cancel":
        return made | {"shop": shop}, lambda: town.cancel(made["id"], key="k")

    async def expire() -> None:
        town.later(7 * 86400)
        await town.one.resume()

    return made | {"shop": shop}, expire


@pytest.mark.parametrize(("kind", "step", "when"), CRASHES)
async def test_a_crash_at_each_step(town: Town, kind: str, step: str, when: Fault) -> None:
    before, go_on = await begin(town, kind)
    (*_, then, ends, steps) = KINDS[kind]
    hit = 0

    def fault(at: Step | RefundStep) -> Fault:
        nonlocal hit
        hit += at.value == step
        return when if at.value == step and hit == 1 else "none"

    town.one.effects.fault = fault
    await go_on()
    assert hit == 1
    await town.as_told()
    other = await town.replica()
    await town.finish(other)
    made = (await town.call("GET", "/v1/payments")).json["data"][0]
    assert made["status"] == ends
    captured = {"settled": 600 if then == "capture" else 1000}.get(ends, 0)
    assert made["captured"] == money(captured)
    assert await town.balance(before["shop"]) == (captured, captured)
    if then != "expire":
        answer = await go_on()
        assert answer.status == (201 if then is None else 200)
        assert answer.header("idempotent-replayed") == "true"
        assert answer.json["status"] == ends
    told = await town.told(made["id"])
    assert told == ["received", *(["authorized"] if then else []), ends]
    assert {each.value for each in (*town.one.effects.done, *other.effects.done)} >= set(steps.split()) - {"void"}
    await town.sound()


@pytest.mark.parametrize("when", ["crash-before", "crash-after", "fail-after"])
@pytest.mark.parametrize("step", ["reverse", "refund", "restore"])
async def test_a_crash_at_each_step_of_a_refund(town: Town, step: str, when: Fault) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, 1000))
    if step == "restore":
        # The acquirer will say no: more was given back already than we know of.
        await _refund_behind_our_back(town, made["id"], 800)
    hit = 0

    def fault(at: Step | RefundStep) -> Fault:
        nonlocal hit
        hit += at.value == step
        return when if at.value == step and hit == 1 else "none"

    town.one.effects.fault = fault
    await town.refund(made["id"], 400, key="k")
    assert hit == 1
    await town.as_told()
    await town.finish(await town.replica())
    answer = await town.refund(made["id"], 400, key="k")
    assert (answer.status, answer.header("idempotent-replayed")) == (201, "true")
    failed = step == "restore"
    assert answer.json["status"] == ("failed" if failed else "succeeded")
    assert await town.balance(shop) == ((1000, 1000) if failed else (600, 600))
    assert (await town.get(made["id"]))["refunded"] == money(0 if failed else 400)
    assert await town.told(answer.json["id"]) == ["created", "failed" if failed else "succeeded"]
    if failed:
        assert slug(await town.refund(made["id"], 1001)) == "refund-too-large"
        await _forget_behind_our_back(town, made["id"])
    await town.sound()


@pytest.mark.parametrize("meanwhile", ["frozen", "frozen, thawed", "approvals", "closed", "full", "refused before"])
async def test_what_a_refused_refund_took_is_given_back_whatever_was_said_meanwhile(town: Town, meanwhile: str) -> None:
    """The ledger has reversed, the acquirer says no, and in between somebody has done something to the merchant's account."""
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, 1000))
    await _refund_behind_our_back(town, made["id"], 800)
    town.one.effects.fault = lambda at: "fail-before" if at is RefundStep.REFUND else "none"
    pending = (await town.refund(made["id"], 400, key="k")).json
    assert (pending["status"], await town.balance(shop)) == ("pending", (600, 600))
    if meanwhile.startswith("frozen"):
        await town.freeze(shop)
    elif meanwhile == "approvals":
        await _everything_needs_an_approval(town)
    elif meanwhile == "closed":
        await town.close_account(shop)
    elif meanwhile == "full":
        answer = await town.in_ledger("PATCH", f"/v1/accounts/{shop}", {"ceiling": "700"})
        assert answer.status == 200, answer.content
    elif meanwhile == "refused before":
        await _refused_while_frozen(town, pending["id"], shop)
    suspended = meanwhile in {"closed", "full", "refused before"}
    hit = 0

    def once(at: Step | RefundStep) -> Fault:
        nonlocal hit
        hit += at is RefundStep.RESTORE
        return "crash-after" if at is RefundStep.RESTORE and hit == 1 else "none"

    town.one.effects.fault = once
    await town.finish(town.one, await town.replica())
    assert hit >= 1
    if meanwhile == "frozen, thawed":
        await town.freeze(shop, frozen=False)
    answer = await town.refund(made["id"], 400, key="k")
    assert (answer.status, answer.json["status"], answer.json["failure"]["code"]) == (201, "failed", "card_declined")
    assert await town.balance(shop) == ((600, 600) if suspended else (1000, 1000))
    assert len(answer.json["ledger"]["transfers"]) == 2
    if suspended:
        account = (await town.in_ledger("GET", f"/v1/accounts/{answer.json['suspense']}")).json
        assert account["path"] == "tallystick:suspense:EUR"
        assert await town.balance(account["id"]) == (400, 400)
        assert slug(await town.pay(by_account(account["id"], await town.account(), 400))) == "payment-account-reserved"
        # A person decides where it goes: no more than there is.
        payee = await town.account()
        for minor, status in ((401, "rejected"), (400, "posted")):
            out = {"kind": "post", "debit_account": account["path"], "credit_account": payee, "amount": money(minor)}
            sent = await town.in_ledger("POST", "/v1/transfers", {"transfers": [out]})
            assert sent.json["data"][0]["status"] == status
    else:
        assert answer.json["suspense"] is None
    await _forget_behind_our_back(town, made["id"])
    await town.sound()


@pytest.mark.parametrize("when", ["none", "crash-before", "crash-after", "fail-after"])
async def test_what_was_given_back_can_be_refunded_again(town: Town, when: Fault) -> None:
    """The ledger counts what a refused refund took as reversed for ever: the next refund must not be held to that."""
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, 1000))
    await _refund_behind_our_back(town, made["id"], 800)
    assert (await town.refund(made["id"], 600)).json["failure"]["code"] == "card_declined"
    await _forget_behind_our_back(town, made["id"])
    hit = 0

    def once(at: Step | RefundStep) -> Fault:
        nonlocal hit
        hit += at is RefundStep.REVERSE
        return when if at is RefundStep.REVERSE and hit == 1 else "none"

    town.one.effects.fault = once
    await town.refund(made["id"], 700, key="k")
    await town.finish(await town.replica())
    again = (await town.refund(made["id"], 700, key="k")).json
    assert (again["status"], len(again["ledger"]["transfers"])) == ("succeeded", 1)
    assert (await town.get(made["id"]))["refunded"] == money(700)
    assert await town.balance(shop) == (300, 300)
    assert slug(await town.refund(made["id"], 301)) == "refund-too-large"
    # It may be refused as well, and is given back as the first one was.
    await _refund_behind_our_back(town, made["id"], 100)
    assert (await town.refund(made["id"], 300)).json["failure"]["code"] == "card_declined"
    assert await town.balance(shop) == (300, 300)
    await _forget_behind_our_back(town, made["id"], 700)
    assert (await town.refund(made["id"])).json["status"] == "succeeded"
    assert await town.balance(shop) == (0, 0)
    await town.sound()


async def _everything_needs_an_approval(town: Town) -> None:
    rule = {"currency": "EUR", "above": "0", "approvals": 1, "approvers": ["cli_01jd5w3qkz8e5rv4y7t9a2b3c4"]}
    answer = await town.call("PUT", "/v1/books/main/approvals", {"rules": [rule]}, app=town.ledger)
    assert answer.status == 200, answer.content


async def _refused_while_frozen(town: Town, refund: str, shop: str) -> None:
    """As it was before what is due passed a freeze: the refusal of then is for ever."""
    await town.freeze(shop)
    row = (await town.databases["payments"].query("SELECT clearing FROM payment WHERE tenant = $1", town.tenant))[0]
    command = Command(
        kind="post",
        id=transfer_id(ids.refunds.parse(refund), Role.RESTORE),
        debit=row["clearing"],
        credit=ids.accounts.parse(shop),
        amount=400,
        currency="EUR",
        code=PAYMENT_CODE,
    )
    ask = Ask(town.tenant, CLIENT, None, [command], atomic=True, payments=True)
    (result,) = (await town.books.poster.post(ask)).results
    assert result.reason is Reason.ACCOUNT_FROZEN
    await town.freeze(shop, frozen=False)


async def _refund_behind_our_back(town: Town, payment: str, minor: int) -> None:
    _at_rail(town, "UPDATE authorization SET refunded = refunded + ? WHERE request_id = ?", minor, payment)


async def _forget_behind_our_back(town: Town, payment: str, minor: int = 0) -> None:
    _at_rail(town, "UPDATE authorization SET refunded = ? WHERE request_id = ?", minor, payment)


def _at_rail(town: Town, statement: str, minor: int, payment: str) -> None:
    name = ids.rail_requests.text(request_id(ids.payments.parse(payment), Role.AUTHORIZE))
    with sqlite3.connect(town.directory / "rail.db", isolation_level=None) as connection:
        connection.execute(statement, (minor, name))
    connection.close()


# ---- what another try could find otherwise --------------------------------------------------------------------------


async def test_risk_that_comes_back_does_not_undo_what_went_on_without_it(town: Town) -> None:
    """Unscored, captured at the acquirer, crashed: the worker must not ask risk again, which would say no now."""
    token, shop = await town.card(), await town.account()
    town.lines["risk"].mode = "down"
    town.one.effects.fault = lambda step: "crash-after" if step is Step.CAPTURE else "none"
    assert (await town.pay(by_card(token, shop), key="k")).status == 500
    town.lines["risk"].mode = "up"
    await _deny(town)
    town.one.effects.fault = no_fault
    await town.finish()
    answer = await town.pay(by_card(token, shop), key="k")
    assert (answer.json["status"], answer.json["risk"]["decision"]) == ("settled", "unscored")
    await town.sound()


async def test_risk_that_goes_away_does_not_undo_what_it_allowed(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    body = by_card(token, shop, UNSCORED_LIMIT + 1)
    town.one.effects.fault = lambda step: "crash-after" if step is Step.CAPTURE else "none"
    assert (await town.pay(body, key="k")).status == 500
    town.lines["risk"].mode = "down"
    town.one.effects.fault = no_fault
    town.later()
    assert await town.one.resume() == 1
    assert (await town.pay(body, key="k")).status == 409, "it waits for risk, which knows what it said"
    town.lines["risk"].mode = "up"
    await town.finish()
    assert (await town.pay(body, key="k")).json["status"] == "settled"
    await town.sound()


async def _deny(town: Town) -> None:
    await town.risk.put_list_entry(ListEntry(tenant=town.tenant, outcome="deny", kind="client", value=CLIENT))
    await town.risk.refresh_lists()


async def test_a_card_that_is_destroyed_meanwhile_does_not_undo_what_it_paid(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    town.one.effects.fault = lambda step: "crash-after" if step is Step.CAPTURE else "none"
    assert (await town.pay(by_card(token, shop), key="k")).status == 500
    await town.destroy(token)
    town.one.effects.fault = no_fault
    await town.finish()
    assert (await town.pay(by_card(token, shop), key="k")).json["status"] == "settled"
    assert any(each.startswith("GET /authorizations/") for each in town.arrived)
    await town.sound()


async def test_a_card_that_is_destroyed_before_it_was_asked(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    town.one.effects.fault = lambda step: "crash-after" if step is Step.HOLD else "none"
    assert (await town.pay(by_card(token, shop), key="k")).status == 500
    await town.destroy(token)
    town.one.effects.fault = no_fault
    await town.finish()
    answer = await town.pay(by_card(token, shop), key="k")
    assert (answer.json["status"], answer.json["decline"]["code"]) == ("declined", "token_destroyed")
    await town.sound()


async def test_a_destroyed_card_is_not_the_issuers_refusal(town: Town) -> None:
    """Nobody tried out numbers: risk counts what an issuer refuses."""
    token, shop = await town.card(), await town.account()
    await town.paid(by_card(token, shop, 1))
    await town.destroy(token)
    made = await town.paid(by_card(token, shop), status="declined")
    (*_, told) = await town.facts(made["id"])
    assert (told["data"]["decline"], told["data"]["declined_by"]) == ("token_destroyed", "platform")
    await town.sound()


# ---- what the acquirer does otherwise than it was asked ----------------------------------------------------------------


def _rewrite(town: Town, name: str, old: str, new: str) -> None:
    """The acquirer gives another answer to a request than it gave."""
    change = "UPDATE request SET answer = CAST(replace(CAST(answer AS TEXT), ?, ?) AS BLOB) WHERE request_id = ?"
    with sqlite3.connect(town.directory / "rail.db", isolation_level=None) as connection:
        connection.execute(change, (old, new, name))
    connection.close()


@pytest.mark.parametrize("capture", ["automatic", "manual"])
@pytest.mark.parametrize("amount", ['"amount":"500"', '"amount":"1001"', '"amount":"1000","currency":"USD"'])
async def test_an_approval_of_another_amount_is_given_back(town: Town, capture: str, amount: str) -> None:
    token, shop = await town.card(), await town.account()
    body = by_card(token, shop, 1000, capture=capture)
    town.one.effects.fault = lambda step: "crash-after" if step is Step.AUTHORIZE else "none"
    assert (await town.pay(body, key="k")).status == 500
    (payment,) = [p["id"] for p in (await town.call("GET", "/v1/payments")).json["data"]]
    old = '"amount":"1000","currency":"EUR"' if "USD" in amount else '"amount":"1000"'
    _rewrite(town, ids.rail_requests.text(request_id(ids.payments.parse(payment), Role.AUTHORIZE)), old, amount)
    # Where it ends is decided before it is acted upon, so that a crash in between changes nothing.
    town.one.effects.fault = lambda step: "crash-before" if step is Step.VOID else "none"
    town.later()
    assert await town.one.resume() == 1
    assert (await town.authorizations())[payment]["voided"] == 0
    town.one.effects.fault = no_fault
    await town.finish()
    answer = await town.pay(body, key="k")
    assert (answer.json["status"], answer.json["decline"]["code"]) == ("failed", "amount_not_approved")
    (*_, told) = await town.facts(payment)
    assert told["data"]["declined_by"] == "platform"
    assert await town.balance(shop) == (0, 0)
    assert slug(await town.capture(payment)) == "capture-not-possible"
    await town.sound()


@pytest.mark.parametrize("step", [Step.CAPTURE, RefundStep.REFUND])
async def test_what_moved_in_another_amount_waits_for_a_person(town: Town, step: Step | RefundStep) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, 1000, capture="manual"), status="authorized")
    if step is RefundStep.REFUND:
        await town.capture(made["id"])
    town.one.effects.fault = lambda at: "crash-after" if at is step else "none"
    if step is Step.CAPTURE:
        assert (await town.capture(made["id"])).status == 500
        name = ids.rail_requests.text(request_id(ids.payments.parse(made["id"]), Role.CAPTURE))
        resource, waits = made["id"], "authorized"
    else:
        assert (await town.refund(made["id"])).status == 500
        (told,) = [fact for fact in await town.facts() if fact["type"] == "payments.refund.created"]
        resource, waits = told["resource"], "pending"
        name = ids.rail_requests.text(request_id(ids.refunds.parse(resource), Role.REFUND))
    town.one.effects.fault = no_fault
    _rewrite(town, name, '"amount":"1000"', '"amount":"999"')
    with logs.captured() as lines:
        town.later()
        assert await town.one.resume() == 1
    assert [line["reason"] for line in lines if line["event"] == "payment.acquirer.disagrees"]
    assert (await town.get(resource))["status"] == waits
    _rewrite(town, name, '"amount":"999"', '"amount":"1000"')
    await town.finish()
    assert (await town.get(resource))["status"] in ("settled", "succeeded")
    await town.sound()


async def test_a_refused_void_of_what_was_captured_does_not_pass_for_a_canceled_payment(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, 1000, capture="manual"), status="authorized")
    _at_rail(town, "UPDATE authorization SET captured = ? WHERE request_id = ?", 1000, made["id"])
    with logs.captured() as lines:
        answer = await town.cancel(made["id"], key="k")
        town.later(3)
        assert await town.one.resume() == 1
    assert (answer.status, answer.json["status"]) == (202, "authorized")
    assert [line["level"] for line in lines if line["event"] == "payment.acquirer.disagrees"] == ["error"] * 2
    assert (await town.get(made["id"]))["ledger"]["transfers"] == made["ledger"]["transfers"], "the hold stays"
    assert slug(await town.cancel(made["id"], key="k")) == "request-in-progress"
    # A person has found out that the acquirer's charge was taken back.
    _at_rail(town, "UPDATE authorization SET captured = ? WHERE request_id = ?", 0, made["id"])
    _at_rail(town, "UPDATE authorization SET voided = ? WHERE request_id = ?", 1000, made["id"])
    _rewrite(town, _void(made["id"]), '"code":"12"', '"code":"25"')
    await town.finish()
    assert (await town.cancel(made["id"], key="k")).json["status"] == "canceled"
    await town.sound()


async def test_a_refused_void_is_looked_at_even_when_there_is_no_record(town: Town) -> None:
    """The acquirer knows of our capture: whatever it says of the authorization, the card was charged."""
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, 1000, capture="manual"), status="authorized")
    _at_rail(town, "UPDATE authorization SET voided = ? WHERE request_id = ?", 1000, made["id"])
    capture = ids.rail_requests.text(request_id(ids.payments.parse(made["id"]), Role.CAPTURE))
    connection = sqlite3.connect(town.directory / "rail.db", isolation_level=None)
    decision = msgspec.json.encode({"status": "approved", "request_id": capture})
    connection.execute(
        "INSERT INTO request VALUES (?, 'captures', x'00', ?, '2026-01-01T00:00:00Z')", (capture, decision)
    )
    answer = await town.cancel(made["id"], key="k")
    assert (answer.status, answer.json["status"]) == (202, "authorized")
    connection.execute("DELETE FROM request WHERE request_id = ?", (capture,))
    connection.close()
    await town.finish()
    assert (await town.cancel(made["id"], key="k")).json["status"] == "canceled"
    assert f"GET /captures/{capture}" in town.arrived
    await town.sound()


def _void(payment: str) -> str:
    return ids.rail_requests.text(request_id(ids.payments.parse(payment), Role.VOID))


async def test_a_capture_that_the_acquirer_refuses_gives_everything_back(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, 1000, capture="manual"), status="authorized")
    _at_rail(town, "UPDATE authorization SET authorized = ? WHERE request_id = ?", 500, made["id"])
    answer = await town.capture(made["id"])
    assert (answer.status, answer.json["status"], answer.json["decline"]["code"]) == (200, "failed", "card_declined")
    assert await town.balance(shop) == (0, 0)
    assert (await town.authorizations())[made["id"]]["voided"] == 500
    await town.sound()


# ---- the neighbours -------------------------------------------------------------------------------------------------


async def test_the_answer_that_the_acquirer_loses_is_asked_for_again_at_once(town: Town) -> None:
    token, shop = await town.card("lose"), await town.account()
    made = await town.paid(by_card(token, shop))
    assert town.arrived.count("POST /authorizations") == 2
    assert await town.told(made["id"]) == ["received", "settled"]
    await town.sound()


async def test_a_slow_acquirer_is_waited_for_in_the_background(town: Town) -> None:
    """The rail takes two seconds here, and payments is told to wait for one: twice at most, then the worker."""
    token, shop = await town.card("slow"), await town.account()
    answer = await town.pay(by_card(token, shop), key="k")
    for _ in range(5):
        if answer.status == 201:
            break
        assert (answer.status, answer.json.get("status", "received")) in ((202, "received"), (409, "received"))
        await town.finish()
        answer = await town.pay(by_card(token, shop), key="k")
    assert answer.json["status"] == "settled"
    await town.sound()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"approved"', '"pending"'),
        ('"approved"', "1"),
        ('"status"', '"state"'),
        ('"request_id":"', '"request_id":"not-'),
        ("}", ""),
    ],
)
async def test_what_is_no_decision_on_this_request_is_not_taken_for_one(town: Town, old: str, new: str) -> None:
    """Neither a yes nor a no: the payment waits until the acquirer makes sense again."""
    token, shop = await town.card(), await town.account()
    town.one.effects.fault = lambda step: "crash-after" if step is Step.AUTHORIZE else "none"
    await town.pay(by_card(token, shop), key="k")
    town.one.effects.fault = no_fault
    (payment,) = [p["id"] for p in (await town.call("GET", "/v1/payments")).json["data"]]
    change = "UPDATE request SET answer = CAST(replace(CAST(answer AS TEXT), ?, ?) AS BLOB) WHERE request_id = ?"
    name = ids.rail_requests.text(request_id(ids.payments.parse(payment), Role.AUTHORIZE))
    connection = sqlite3.connect(town.directory / "rail.db", isolation_level=None)
    (answer,) = connection.execute("SELECT answer FROM request WHERE request_id = ?", (name,)).fetchone()
    connection.execute(change, (old, new, name))
    town.later()
    await town.one.resume()
    assert (await town.get(payment))["status"] == "received"
    connection.execute("UPDATE request SET answer = ? WHERE request_id = ?", (answer, name))
    connection.close()
    await town.finish()
    assert (await town.pay(by_card(token, shop), key="k")).json["status"] == "settled"
    await town.sound()


@pytest.mark.parametrize("mode", ["down", "lost"])
@pytest.mark.parametrize("service", ["ledger", "vault"])
async def test_a_neighbour_that_is_gone_is_waited_for(town: Town, service: str, mode: Mode) -> None:
    token, shop = await town.card(), await town.account()
    await town.paid(by_card(token, shop, 1))
    town.lines[service].mode = mode
    answer = await town.pay(by_card(token, shop, 1000), key="k")
    assert (answer.status, answer.json["status"]) == (202, "received")
    town.later(2)
    assert await town.one.resume() == 1
    town.lines[service].mode = "up"
    await town.finish()
    assert (await town.pay(by_card(token, shop, 1000), key="k")).json["status"] == "settled"
    assert await town.balance(shop) == (1001, 1001)
    await town.sound()


async def test_the_acquirer_is_down(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    await town.rail_down()
    try:
        answer = await town.pay(by_card(token, shop), key="k")
        assert (answer.status, answer.json["status"]) == (202, "received")
    finally:
        await town.rail_up()
    await town.finish()
    assert (await town.pay(by_card(token, shop), key="k")).json["status"] == "settled"
    await town.sound()


async def test_its_own_database_that_comes_back_in_time_costs_nobody_anything(town: Town) -> None:
    """What was done to others is written as soon as that can be done again."""
    token, shop = await town.card(), await town.account()
    closes = 0
    journal = town.one.api.payments._journal
    real = journal._close._flush

    async def flaky(closings: Any) -> Any:
        nonlocal closes
        closes += 1
        if closes <= 2:
            if closes == 2:
                await real(closings)  # stored, and nobody hears of it
                raise CommitUnknown
            raise DatabaseUnavailable
        return await real(closings)

    journal._close._flush = flaky
    try:
        made = await town.paid(by_card(token, shop), key="k")
    finally:
        journal._close._flush = real
    assert closes == 3
    assert (await town.pay(by_card(token, shop), key="k")).json == made
    assert await town.told(made["id"]) == ["received", "settled"]
    await town.sound()


async def test_a_commit_without_an_answer_is_looked_up(town: Town) -> None:
    payer, payee = await town.account(), await town.account()
    journal = town.one.api.payments._journal
    real = journal._open._flush

    async def stored(openings: Any) -> Any:
        await real(openings)
        raise CommitUnknown

    async def lost(openings: Any) -> Any:
        raise CommitUnknown

    try:
        journal._open._flush = stored
        await town.paid(by_account(payer, payee), key="stored")
        journal._open._flush = lost
        answer = await town.pay(by_account(payer, payee), key="lost")
        assert (answer.status, slug(answer), answer.json["retryable"]) == (503, "outcome-unknown", True)
    finally:
        journal._open._flush = real
    await town.paid(by_account(payer, payee), key="lost")
    assert await town.balance(payee) == (2000, 2000)
    await town.sound()


# ---- all at once ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_in_whatever_order(town: Town, seed: int) -> None:
    """Two processes, clients that ask again, steps that fail or end the process, leases that end under somebody's hands,
    neighbours that come and go: in the end everything has come to rest and agrees.
    """
    chance = random.Random(seed)
    faults: list[Fault] = ["crash-before", "crash-after", "fail-before", "fail-after"]

    def fault(_step: Step | RefundStep) -> Fault:
        return chance.choice(faults) if chance.random() < 0.15 else "none"

    replicas = [town.one, await town.replica()]
    for replica in replicas:
        replica.effects.fault = fault
    shop, payer = await town.account(), await town.account()
    cards = [await town.card(each) for each in ("approve", "lose", "decline", "dispute")]
    bodies = {
        f"k{n}": by_card(chance.choice(cards), shop, chance.randint(1, 20_000), capture=chance.choice(["automatic", "manual"]))
        if chance.random() < 0.7
        else by_account(payer, shop, chance.randint(1, 20_000))
        for n in range(16)
    }  # fmt: skip

    async def client(at: Replica) -> None:
        for _ in range(8):
            key = chance.choice(list(bodies))
            made = await town.pay(bodies[key], key=key, at=at)
            if made.status not in (201, 202):
                assert made.status in (409, 500, 503), made.content
                continue
            payment, what = made.json["id"], chance.random()
            if what < 0.3:
                await town.capture(payment, chance.choice([None, 1]), key=f"c{chance.randint(0, 1)}", at=at)
            elif what < 0.4:
                await town.cancel(payment, key=f"v{chance.randint(0, 1)}", at=at)
            elif what < 0.8:
                await town.refund(payment, chance.choice([None, 1, 500]), key=f"{key}{chance.randint(0, 2)}", at=at)

    async def worker(at: Replica) -> None:
        for _ in range(12):
            town.later(chance.choice([1, 10, 31, 400]))
            line = town.lines[chance.choice(list(town.lines))]
            line.mode = chance.choice(["up", "up", "down", "lost"])
            await at.api.background.resume()
            await asyncio.sleep(chance.random() / 20)
            line.mode = "up"

    async with asyncio.TaskGroup() as group:
        for replica in replicas:
            for _ in range(4):
                group.create_task(client(replica))
            group.create_task(worker(replica))
    for replica in replicas:
        replica.effects.fault = no_fault
        await replica.work.drain()
    await town.finish(*replicas)
    for key, body in bodies.items():
        answer = await town.pay(body, key=key)
        assert answer.status == 201, answer.content
    town.later(8 * 86400)
    await town.finish(*replicas)
    rows = await town.databases["payments"].query("SELECT status FROM payment WHERE tenant = $1", town.tenant)
    assert {row["status"] for row in rows} <= {"settled", "declined", "canceled", "expired", "failed"}
    owed = "SELECT route, key FROM idempotency WHERE tenant = $1 AND status IS NULL"
    assert await town.databases["payments"].query(owed, town.tenant) == []
    await town.sound()


# ---- a process that has ended, and one that was thought to ------------------------------------------------------------


async def test_payments_that_wait_for_the_acquirer_leave_refunds_their_places(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An acquirer that hangs fills the places of payments. A refund from account to account has nothing to do with it."""
    monkeypatch.setattr(background, "RESUMED_AT_ONCE", 1)
    shop = await town.account()
    paid = await town.paid(by_account(await town.account(), shop))
    town.one.effects.fault = lambda step: "fail-before" if step in (Step.AUTHORIZE, RefundStep.REVERSE) else "none"
    hanging = (await town.pay(by_card(await town.card(), shop))).json["id"]
    refund = (await town.refund(paid["id"])).json["id"]
    town.one.effects.fault, woken = no_fault, asyncio.Event()
    real = town.one.effects._faulty

    async def hangs(at: Step | RefundStep, do: Callable[[], Awaitable[Any]]) -> Any:
        if at is Step.AUTHORIZE:
            await woken.wait()
        return await real(at, do)

    monkeypatch.setattr(town.one.effects, "_faulty", hangs)
    town.later()
    try:
        assert await town.one.api.background.resume() == 2
        assert await town.one.api.background.resume() == 0
        async with asyncio.timeout(10):
            while (await town.get(refund))["status"] == "pending":
                await asyncio.sleep(0.02)
        assert (await town.get(hanging))["status"] == "received"
    finally:
        woken.set()
    await town.one.work.drain()
    assert (await town.get(hanging))["status"] == "settled"
    await town.sound()


async def test_what_a_dead_process_began_is_gone_on_with_before_its_lease_ends(town: Town) -> None:
    card, shop = await town.card(), await town.account()
    body, dead = by_card(card, shop), await town.replica()
    paid = await town.paid(body)
    dead.effects.fault = lambda step: "crash-after" if step in (Step.AUTHORIZE, RefundStep.REVERSE) else "none"
    assert (await town.pay(body, key="k", at=dead)).status == 500
    assert (await town.refund(paid["id"], 400, key="r", at=dead)).status == 500
    assert await town.one.resume() == 0, "its process lives: it has its lease"
    assert (await town.pay(body, key="k")).status == 409
    await dead.life.end()
    assert await town.one.resume() == 2
    assert await town.one.resume() == 0
    answer = await town.pay(body, key="k")
    assert (answer.status, answer.header("idempotent-replayed"), answer.json["status"]) == (201, "true", "settled")
    answer = await town.refund(paid["id"], 400, key="r")
    assert (answer.status, answer.header("idempotent-replayed"), answer.json["status"]) == (201, "true", "succeeded")
    await town.sound()


@pytest.mark.parametrize("step", [Step.HOLD, Step.AUTHORIZE, Step.CAPTURE, Step.SETTLE])
@pytest.mark.parametrize("behaviour", ["approve", "decline"])
async def test_who_was_thought_dead_and_comes_back_does_no_harm(town: Town, behaviour: str, step: Step) -> None:
    """Its session is gone while it stands before a step, another does all the work, then it goes on."""
    card, shop = await town.card(behaviour), await town.account()
    body, paused = by_card(card, shop), await town.replica()
    stands, goes_on = asyncio.Event(), asyncio.Event()
    real = paused.effects.perform

    async def pausing(at: Step, p: Any, token: str) -> Any:
        if at is step:
            stands.set()
            await goes_on.wait()
        return await real(at, p, token)

    paused.effects.perform = pausing  # type: ignore[method-assign, assignment]
    first = asyncio.create_task(town.pay(body, key="k", at=paused))
    reached = asyncio.create_task(stands.wait())
    await asyncio.wait((first, reached), return_when=asyncio.FIRST_COMPLETED)
    reached.cancel()
    await paused.life.end()
    assert await town.one.resume() == int(stands.is_set())
    final = await town.pay(body, key="k")
    assert final.status == 201
    goes_on.set()
    assert (await first).json["id"] == final.json["id"]
    assert (await town.pay(body, key="k")).content == final.content
    assert await town.told(final.json["id"]) == ["received", final.json["status"]]
    await town.sound()


@pytest.mark.parametrize("step", [Step.POST, Step.HOLD, RefundStep.REVERSE])
async def test_an_approval_that_was_missing_is_missing_for_who_comes_back_too(
    town: Town, step: Step | RefundStep
) -> None:
    """The rule that refused what one of them asked is gone when the other asks: what ended as refused must move nothing."""
    shop = await town.account()
    body = by_account(await town.account(), shop) if step is Step.POST else by_card(await town.card(), shop)
    paid = (await town.paid(body))["id"] if isinstance(step, RefundStep) else ""
    slow, reached, woken = await town.replica(), asyncio.Event(), asyncio.Event()
    real = slow.effects._faulty

    async def sleepy(at: Step | RefundStep, do: Callable[[], Awaitable[Any]]) -> Any:
        if at is step:
            reached.set()
            await woken.wait()
        return await real(at, do)

    slow.effects._faulty = sleepy  # type: ignore[method-assign, assignment]
    asked = town.refund(paid, key="k", at=slow) if isinstance(step, RefundStep) else town.pay(body, key="k", at=slow)
    asking = asyncio.create_task(asked)
    await reached.wait()
    await _everything_needs_an_approval(town)
    town.later()
    assert await town.one.resume() == 1
    answer = await town.call("PUT", "/v1/books/main/approvals", {"rules": []}, app=town.ledger)
    assert answer.status == 200, answer.content
    woken.set()
    assert (await asking).json["status"] == ("failed" if isinstance(step, RefundStep) else "declined")
    assert await town.balance(shop) == ((1000, 1000) if isinstance(step, RefundStep) else (0, 0))
    await town.sound()


async def test_a_card_that_is_destroyed_while_a_dead_process_request_is_on_its_way(town: Town) -> None:
    """The acquirer does not know of the request yet when it is asked; a moment later it says yes."""
    card, shop = await town.card(), await town.account()
    body, dead = by_card(card, shop), await town.replica()
    underway: list[asyncio.Task[Any]] = []
    effects = dead.effects

    async def late(p: Any, token: str) -> None:
        await asyncio.sleep(0.5)
        await effects._acquirer._ask("/authorizations", *underway_request(p), token)

    def underway_request(p: Any) -> tuple[dict[str, Any], str]:
        name = ids.rail_requests.text(request_id(p.id, Role.AUTHORIZE))
        card_data = {"number": NUMBERS["approve"], "exp_month": 12, "exp_year": 2039}
        merchant = ids.accounts.text(p.destination)
        return {
            "request_id": name,
            "amount": money(p.amount),
            "card": card_data,
            "merchant": merchant,
        }, name

    real = effects.perform

    async def perform(at: Step, p: Any, token: str) -> Any:
        if at is Step.AUTHORIZE:
            underway.append(asyncio.create_task(late(p, token)))
            raise Crashed
        return await real(at, p, token)

    effects.perform = perform  # type: ignore[method-assign, assignment]
    assert (await town.pay(body, key="k", at=dead)).status == 500
    await town.destroy(card)
    await dead.life.end()
    assert await town.one.resume() == 1
    await underway[0]
    assert (await town.pay(body, key="k")).json["status"] == "settled"
    await town.sound()


async def test_of_two_who_work_on_one_payment_only_one_writes(town: Town) -> None:
    """Both close it in the same batch: the one whose lease was over is not taken for the other."""
    card, shop = await town.card(), await town.account()
    town.one.effects.fault = lambda step: "crash-after" if step is Step.SETTLE else "none"
    await town.pay(by_card(card, shop), key="k")
    town.one.effects.fault = no_fault
    database, store = town.one.api.payments._database, town.one.api.payments._store
    async with database.transaction() as tx:
        town.later()
        now = town.clock.now()
        (late,) = await store.take_up(tx, Lease(now, now, town.one.life.number), [], 1)
    async with database.transaction() as tx:
        (mine,) = await store.take_up(tx, Lease(now, now + model.LEASE, town.one.life.number), [], 1)
    assert mine.version == late.version + 1
    done = mine
    token = await town.world.authenticator.service_token(mine.tenant, mine.client_id, "payments.resume")
    while (step := model.next_step(done)) is not None:
        done = await town.one.effects.perform(step, done, token)
    rested = msgspec.structs.replace(model.resting(done, now), waiting=done.waiting)
    of_late = msgspec.structs.replace(rested, version=late.version)
    journal = town.one.api.payments._journal
    closed = await asyncio.gather(journal.close(of_late, resting=True), journal.close(rested, resting=True))
    assert closed[0] is None
    assert closed[1] is not None
    assert (await town.pay(by_card(card, shop), key="k")).content == closed[1][1]
    assert await town.told(ids.payments.text(late.id)) == ["received", "settled"]
    await town.sound()
