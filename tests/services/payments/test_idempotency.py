"""The contract of `Idempotency-Key`, to the letter (ARCHITECTURE, section 8)."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from tallystick.chassis.db import DatabaseUnavailable
from tallystick.chassis.idempotency import Claim, Digest, Digester, Entry, Fresh, Running
from tallystick.kernel import ids
from tallystick.services.payments.model import Waiting
from tallystick.services.payments.service.journal import Opening
from tests.services.payments.support import CLIENT, Crashed, Town, by_account, by_card, money, no_fault, slug
from tests.support.http import ask

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_same_again_gets_the_same_answer(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    body = by_card(token, shop, 1000)
    first = await town.pay(body, key="k")
    assert first.status == 201
    assert first.header("idempotent-replayed") is None
    await town.refund(first.json["id"], 100)
    again = await town.pay(body, key="k")
    assert (again.status, again.content) == (first.status, first.content)
    assert again.header("idempotent-replayed") == "true"
    assert len(await town.authorizations()) == 1
    await town.sound()


async def test_spelling_makes_no_difference_and_content_does(town: Town) -> None:
    payer, payee = await town.account(), await town.account()
    body = by_account(payer, payee, 1000)
    first = await town.pay(body, key="k")
    spelled = dict(reversed(body.items())) | {"capture": "automatic", "description": None}
    assert (await town.pay(spelled, key="k")).content == first.content
    for change, fields in (
        ({"amount": money(1001)}, ["/amount/amount"]),
        ({"destination": {"account": payer}, "description": "x"}, ["/description", "/destination/account"]),
        # Also where the other request could not be taken at all.
        ({"destination": {"account": ids.accounts.text(ids.accounts.new())}}, ["/destination/account"]),
    ):
        answer = await town.pay(body | change, key="k")
        assert (answer.status, slug(answer)) == (422, "idempotency-key-reused"), answer.content
        assert answer.json["fields"] == fields
        assert answer.header("idempotent-replayed") is None
    await town.sound()


async def test_an_answer_outlives_what_it_was_about(town: Town) -> None:
    """Also at a replica that has to ask for the card again, and is told that it is gone; or that can ask nobody."""
    token, shop = await town.card(), await town.account()
    body = by_card(token, shop)
    first = await town.pay(body, key="k")
    await town.destroy(token)
    other = await town.replica()
    again = await town.pay(body, key="k", at=other)
    assert (again.status, again.content) == (201, first.content)
    assert slug(await town.pay(body, key="another", at=other)) == "payment-token-not-found"
    town.lines["ledger"].mode = "down"
    third = await town.replica()
    assert (await town.pay(body, key="k", at=third)).content == first.content


async def test_while_it_runs_a_repeat_has_to_wait(town: Town) -> None:
    token, shop = await town.card("slow"), await town.account()
    body = by_card(token, shop)
    running = asyncio.create_task(town.pay(body, key="k"))
    while "POST /authorizations" not in town.arrived:
        await asyncio.sleep(0.01)
    early = await town.pay(body, key="k")
    assert (early.status, slug(early), early.json["retryable"]) == (409, "request-in-progress", True)
    assert early.header("retry-after") == "1"
    other = await town.pay(body | {"description": "x"}, key="k")
    assert (other.status, slug(other)) == (422, "idempotency-key-reused")
    first = await running
    while first.status == 202:  # slower than a request may take: the worker finishes it
        await town.finish()
        first = await town.pay(body, key="k")
    assert first.json["status"] == "settled"
    assert (await town.pay(body, key="k")).content == first.content
    await town.sound()


async def test_fifty_at_once_are_one_payment(town: Town) -> None:
    payer, payee = await town.account(), await town.account()
    other = await town.replica()
    body = by_account(payer, payee, 1000)
    answers = await asyncio.gather(*(town.pay(body, key="k", at=(town.one, other)[n % 2]) for n in range(50)))
    good = {answer.content for answer in answers if answer.status == 201}
    assert len(good) == 1
    assert {answer.status for answer in answers} <= {201, 409}
    assert all(slug(answer) == "request-in-progress" for answer in answers if answer.status == 409)
    assert (await town.pay(body, key="k")).content in good
    assert await town.balance(payee) == (1000, 1000)
    assert len((await town.call("GET", "/v1/payments")).json["data"]) == 1
    await town.sound()


async def test_one_batch_holds_new_keys_and_known_ones(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is new is stored, even if it can't be said at the moment what became of the others."""
    payer, payee = await town.account(), await town.account()
    done = await town.paid(by_account(payer, payee, 1), key="done")
    journal = town.one.api.payments._journal
    row = (await town.databases["payments"].query("SELECT id, tenant FROM payment WHERE tenant = $1", town.tenant))[0]
    stored = await town.one.api.payments._store.payment(journal._database, row["tenant"], row["id"])
    assert stored is not None
    digest, other = (Digester(bytes(32)).digest({"n": n}) for n in (1, 2))

    def opening(key: str, digest: Digest) -> Opening:
        payment = msgspec.structs.replace(
            stored,
            id=ids.payments.new(),
            status="received",
            receipt=ids.facts.new(),
            waiting=Waiting("POST /v1/payments", key, CLIENT),
            created_at=stored.updated_at,
            resume_at=stored.updated_at,
        )
        return Opening(Entry(row["tenant"], CLIENT, "POST /v1/payments", key, digest), payment)

    openings = [opening("new", digest), opening("done", digest), opening("new", other), opening("more", digest)]
    outcomes = await journal._flush_open(openings)
    assert [type(outcome).__name__ for outcome in outcomes] == ["Fresh", "Mismatch", "Mismatch", "Fresh"]
    assert await journal._flush_open(openings[:1]) == [Running(openings[0].payment.id)]

    async def nothing(*_: object) -> None:
        raise DatabaseUnavailable

    monkeypatch.setattr(Claim, "outcomes", nothing)
    openings = [opening("last", digest), opening("done", digest)]
    first, second = await journal._flush_open(openings)
    assert first == Fresh()
    assert isinstance(second, DatabaseUnavailable)
    monkeypatch.undo()
    rows = await town.databases["payments"].query(
        "SELECT p.id FROM payment p JOIN idempotency i ON i.resource = p.id JOIN outbox o ON o.id = p.receipt "
        "WHERE p.tenant = $1 AND i.key = p.waiting_key AND p.status = 'received'",
        town.tenant,
    )
    assert len(rows) == 3
    await town.finish()
    assert (await town.pay(by_account(payer, payee, 1), key="done")).json == done
    await town.sound()


async def test_refusals_are_pinned(town: Town) -> None:
    """A key whose answer was no gets no, whatever has changed meanwhile."""
    payer, payee, token = await town.account(floor="0"), await town.account(), await town.card()
    broke = await town.pay(by_account(payer, payee), key="k")
    assert broke.json["status"] == "declined"
    await town.paid(by_account(payee, payer, 5000))
    again = await town.pay(by_account(payer, payee), key="k")
    assert (again.content, again.header("idempotent-replayed")) == (broke.content, "true")

    made = await town.paid(by_card(token, payee, 1000, capture="manual"), status="authorized")
    early = await town.refund(made["id"], 10, key="early")
    assert (early.status, slug(early)) == (409, "refund-not-possible")
    greedy = await town.capture(made["id"], 1001, key="greedy")
    assert (greedy.status, slug(greedy)) == (422, "capture-too-large")
    await town.capture(made["id"], key="good")
    for before, after in (
        (early, await town.refund(made["id"], 10, key="early")),
        (greedy, await town.capture(made["id"], 1001, key="greedy")),
    ):
        assert (after.status, after.content) == (before.status, before.content)
        assert after.header("idempotent-replayed") == "true"
        assert after.header("content-type") == "application/problem+json"
    await town.sound()


async def test_a_key_belongs_to_its_client_route_and_resource(town: Town) -> None:
    token, shop, payer = await town.card(), await town.account(), await town.account()
    body = by_card(token, shop, 1000, capture="manual")
    one = await town.paid(body, key="k", status="authorized")
    other_client = ids.clients.text(ids.clients.new())
    two = await town.paid(body, key="k", status="authorized", client=other_client)
    assert one["id"] != two["id"]
    for made in (one, two):
        answer = await town.capture(made["id"], key="k")
        assert (answer.status, answer.header("idempotent-replayed")) == (200, None)
        again = await town.capture(made["id"], key="k")
        assert (again.content, again.header("idempotent-replayed")) == (answer.content, "true")
        back = await town.refund(made["id"], 10, key=f"k-{made['id']}")
        assert (back.status, back.header("idempotent-replayed")) == (201, None)
    assert (await town.refund(one["id"], 20, key=f"k-{one['id']}")).json["fields"] == ["/amount/amount"]
    assert await town.balance(payer) == (0, 0)
    await town.sound()


async def test_the_answer_is_owed_to_whoever_asked(town: Town) -> None:
    """A colleague of the client that made the payment captures it, and the work ends in the worker."""
    token, shop = await town.card(), await town.account()
    colleague = ids.clients.text(ids.clients.new())
    made = await town.paid(by_card(token, shop, 1000, capture="manual"), status="authorized")
    town.lines["ledger"].mode = "down"
    answer = await town.capture(made["id"], key="k", client=colleague)
    assert (answer.status, answer.header("retry-after")) == (202, "2")
    assert (await town.capture(made["id"], key="k", client=colleague)).status == 409
    town.lines["ledger"].mode = "up"
    await town.finish()
    again = await town.capture(made["id"], key="k", client=colleague)
    assert (again.status, again.json["status"], again.header("idempotent-replayed")) == (200, "settled", "true")
    await town.sound()


async def test_a_refund_that_takes_longer(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, 1000))
    town.lines["vault"].mode = "down"
    answer = await town.refund(made["id"], 400, key="k")
    assert (answer.status, answer.json["status"]) == (202, "pending")
    assert slug(await town.refund(made["id"], 601)) == "refund-too-large", "the amount is set aside"
    assert (await town.refund(made["id"], 400, key="k")).status == 409
    town.lines["vault"].mode = "up"
    await town.finish()
    again = await town.refund(made["id"], 400, key="k")
    assert (again.status, again.json["status"]) == (201, "succeeded")
    assert again.json["id"] == answer.json["id"]
    assert (await town.get(made["id"]))["refunded"] == money(400)
    await town.sound()


@pytest.mark.parametrize("step", ["score", "hold", "authorize", "capture", "settle"])
async def test_after_a_crash_the_answer_is_there(town: Town, step: str) -> None:
    token, shop = await town.card(), await town.account()
    body = by_card(token, shop, 1000)
    town.one.effects.fault = lambda at: "crash-after" if at.value == step else "none"
    crashed = await town.pay(body, key="k")
    assert crashed.status == 500
    assert Crashed.__name__ not in crashed.content.decode()
    town.one.effects.fault = no_fault
    assert (await town.pay(body, key="k")).status == 409
    assert await town.one.resume() == 0, "the lease is not over"
    town.later()
    assert await town.one.resume() == 1
    answer = await town.pay(body, key="k")
    assert (answer.status, answer.json["status"], answer.header("idempotent-replayed")) == (201, "settled", "true")
    assert await town.balance(shop) == (1000, 1000)
    assert await town.told(answer.json["id"]) == ["received", "settled"]
    await town.sound()


@pytest.mark.parametrize("key", ["", "x" * 256, None])
async def test_a_key_is_demanded(town: Town, key: str | None) -> None:
    payer, payee = await town.account(), await town.account()
    headers = town.world.edge("POST", "/v1/payments", scope="payments:write", tenant=town.tenant)
    if key is not None:
        headers.append((b"idempotency-key", key.encode()))
    answer = await ask(town.one.app, "POST", "/v1/payments", json.dumps(by_account(payer, payee)).encode(), headers)
    assert answer.status == 400, answer.content
    assert await town.facts() == []
