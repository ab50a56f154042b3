"""Payments from request to rest, at real neighbours."""

from __future__ import annotations

import asyncio

import pytest

from tallystick.chassis import charter
from tallystick.kernel import ids
from tallystick.local.verify import agreement
from tallystick.services.ledger.model import Command
from tallystick.services.ledger.service import Ask
from tallystick.services.payments.model import Role, Step, transfer_id
from tests.services.payments.support import (
    CLIENT,
    UNSCORED_LIMIT,
    Mode,
    Town,
    by_account,
    by_card,
    money,
    no_fault,
    slug,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def nothing() -> str:
    return ids.accounts.text(ids.accounts.new())


async def test_a_book_transfer(town: Town) -> None:
    payer, payee = await town.account(), await town.account()
    made = await town.paid(by_account(payer, payee, 1250, reference="r-1", metadata={"order": "7"}))
    assert made["captured"] == money(1250)
    assert made["refunded"] == money(0)
    assert made["risk"] == {"decision": "allow", "score": 0, "reasons": []}
    assert len(made["ledger"]["transfers"]) == 1
    assert (await town.balance(payer), await town.balance(payee)) == ((-1250, -1250), (1250, 1250))
    assert await town.get(made["id"]) == made
    told = await town.facts(made["id"])
    assert [fact["type"] for fact in told] == ["payments.payment.received", "payments.payment.settled"]
    assert made["receipt"] == told[-1]["id"]
    await town.sound()


async def test_a_card_payment(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, 4990))
    assert made["captured"] == money(4990)
    assert (made["card"]["brand"], made["card"]["last4"]) == ("visa", "4242")
    assert len(made["ledger"]["transfers"]) == 2
    assert await town.balance(shop) == (4990, 4990)
    assert (await town.authorizations())[made["id"]] == {
        "authorized": 4990,
        "captured": 4990,
        "voided": 0,
        "refunded": 0,
    }
    await town.sound()


async def test_manual_capture_of_a_part(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, 4990, capture="manual"), status="authorized")
    assert await town.balance(shop) == (0, 0)
    answer = await town.capture(made["id"], 4000)
    assert (answer.status, answer.json["status"], answer.json["captured"]) == (200, "settled", money(4000))
    assert await town.balance(shop) == (4000, 4000)
    await town.sound()


async def test_what_is_captured_while_it_is_verified_is_no_fault(town: Town) -> None:
    """After payments were read and before the ledger is."""
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, capture="manual"), status="authorized")
    async with town.snapshots() as source:
        await source.begin(["payments"])
        assert (await town.capture(made["id"])).status == 200
        found, _ = await agreement.payments(source)
        assert found == []


SWAPPED = "debit_number = credit_number, credit_number = debit_number"


@pytest.mark.parametrize(
    ("change", "back", "said"),
    [
        ("recorded_at = recorded_at + interval '1 us'", "recorded_at = recorded_at - interval '1 us'", "its fact says"),
        (SWAPPED, SWAPPED, "differ from their fact"),
    ],
)
async def test_a_transfer_that_is_no_more_what_was_told_of_it_is_a_fault(
    town: Town, change: str, back: str, said: str
) -> None:
    """Its instant alone could be changed unseen, up to those beside it: into another day, or another year."""
    await town.paid(by_card(await town.card(), await town.account()))
    connection = await town.databases["ledger"].connection(superuser=True)
    try:
        await connection.execute("SET session_replication_role = replica")
        last = "WHERE (book, sequence) = (SELECT book, sequence FROM transfer_row ORDER BY recorded_at DESC LIMIT 1)"
        await connection.execute(f"UPDATE transfer_row SET {change} {last}")
        async with town.snapshots() as source:
            found, _ = await agreement.facts(source)
        assert [said in fault for fault in found] == [True], found
        await connection.execute(f"UPDATE transfer_row SET {back} {last}")
    finally:
        await connection.close()
    await town.sound()


async def test_canceling(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, capture="manual"), status="authorized")
    answer = await town.cancel(made["id"])
    assert (answer.status, answer.json["status"]) == (200, "canceled")
    for again in (await town.cancel(made["id"]), await town.capture(made["id"])):
        assert (again.status, again.json["payment_status"]) == (409, "canceled")
    assert await town.balance(shop) == (0, 0)
    await town.sound()


async def test_an_authorization_that_nobody_captures_expires(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, capture="manual"), status="authorized")
    town.later(6 * 86400)
    assert await town.one.resume() == 0
    town.later(86400)
    assert await town.one.resume() == 1
    assert (await town.get(made["id"]))["status"] == "expired"
    assert slug(await town.capture(made["id"])) == "capture-not-possible"
    assert [fact["actor"] for fact in await town.facts(made["id"])] == [CLIENT, CLIENT, "payments"]
    await town.sound()


async def test_an_authorization_that_expires_can_not_be_captured_meanwhile(town: Town) -> None:
    """Between the worker's decision to give it back and the acquirer's answer a capture would be of nothing."""
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, capture="manual"), status="authorized")
    town.later(7 * 86400)
    town.one.effects.fault = lambda step: "crash-before" if step is Step.VOID else "none"
    assert await town.one.resume() >= 1
    assert slug(await town.capture(made["id"])) == "capture-not-possible"
    assert slug(await town.cancel(made["id"])) == "cancel-not-possible"
    town.one.effects.fault = no_fault
    await town.finish()
    assert (await town.get(made["id"]))["status"] == "expired"
    await town.sound()


async def test_a_captured_payment_waits_while_its_payee_is_frozen(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, capture="manual"), status="authorized")
    await town.freeze(shop)
    asked = await town.capture(made["id"], key="the-key")
    assert (asked.status, asked.json["status"]) == (202, "captured")
    for _ in range(8):
        town.later(3700)
        assert await town.one.resume() == 1
    assert (await town.capture(made["id"], key="the-key")).status == 409
    assert await town.named() == [
        f"payment {ids.payments.parse(made['id'])} is captured, and was not settled in 9 tries"
    ]
    await town.freeze(shop, frozen=False)
    await town.finish()
    assert (await town.get(made["id"]))["status"] == "settled"
    assert (await town.capture(made["id"], key="the-key")).status == 200
    assert await town.balance(shop) == (1000, 1000)
    await town.sound()


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(("what", "end"), [("capture", "settled"), ("cancel", "canceled")])
async def test_a_fact_names_who_asked_for_it(town: Town, what: str, end: str, resumed: bool) -> None:
    other = ids.clients.text(ids.clients.new())
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, capture="manual"), status="authorized")
    asked: list[tuple[str, str]] = []
    issue = town.world.authenticator.service_token

    async def noted(tenant: str, client: str, purpose: str) -> str:
        asked.append((tenant, client))
        return await issue(tenant, client, purpose)

    if resumed:
        town.one.effects.fault = lambda step: "fail-before" if step in (Step.CAPTURE, Step.VOID) else "none"
    ask = town.capture if what == "capture" else town.cancel
    assert (await ask(made["id"], client=other)).status == (202 if resumed else 200)
    town.one.effects.fault = no_fault
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(town.world.authenticator, "service_token", noted)
        await town.finish()
    assert asked == ([(town.tenant, other)] if resumed else [])
    told = [(fact["type"].rpartition(".")[2], fact["actor"]) for fact in await town.facts(made["id"])]
    assert told == [("received", CLIENT), ("authorized", CLIENT), (end, other)]
    await town.sound()


async def _moved(town: Town, transfer: str, how: str, status: int = 409) -> None:
    answer = await town.in_ledger("POST", f"/v1/transfers/{transfer}/{how}")
    assert (answer.status, slug(answer)) == (status, "transfer-of-a-payment"), answer.content


async def test_what_a_payment_made_in_the_ledger_is_not_its_clients_to_move(town: Town) -> None:
    """Else a card is charged and the merchant unpaid, or paid and the card not charged."""
    token, shop, payer = await town.card(), await town.account(), await town.account()
    made = await town.paid(by_card(token, shop, capture="manual"), status="authorized")
    (hold,) = made["ledger"]["transfers"]
    for how in ("void", "capture"):
        await _moved(town, hold, how)
    more = await town.in_ledger("POST", f"/v1/transfers/{hold}/increase", {"amount": money(1)})
    assert slug(more) == "transfer-of-a-payment"
    assert (await town.capture(made["id"])).json["status"] == "settled"
    booked = await town.paid(by_account(payer, shop))
    for payment in (made["id"], booked["id"]):
        await _moved(town, (await town.get(payment))["ledger"]["transfers"][-1], "reverse")
        assert (await town.refund(payment)).json["status"] == "succeeded"
    assert await town.balance(shop) == (0, 0)
    await town.sound()


async def test_nobody_is_first_with_the_id_of_a_payments_transfer(town: Town) -> None:
    token, shop, payer = await town.card(), await town.account(), await town.account()
    made = await town.paid(by_card(token, shop, capture="manual"), status="authorized")
    settle = ids.transfers.text(transfer_id(ids.payments.parse(made["id"]), Role.SETTLE))
    squatted = {"kind": "post", "debit_account": payer, "credit_account": shop, "amount": money(1), "id": settle}
    for path, body in (
        ("/v1/transfers", {"transfers": [squatted]}),
        ("/v1/transactions", {"transfers": [squatted]}),
    ):
        answer = await town.in_ledger("POST", path, body)
        assert (answer.status, slug(answer)) == (400, "invalid-id"), path
        assert answer.json["errors"][0]["pointer"] == "/transfers/0"
    assert (await town.capture(made["id"])).json["status"] == "settled"
    await town.sound()


CLEARING = "tallystick:card-clearing:EUR"


async def test_the_acquirers_account_is_not_its_clients_to_change_or_pay_from(town: Town) -> None:
    token, shop, bank = await town.card(), await town.account(), await town.account()
    await town.paid(by_card(token, shop))
    clearing = (await town.in_ledger("GET", f"/v1/accounts/{CLEARING}")).json["id"]
    for named in (clearing, CLEARING):
        for method, how in (("POST", "/close"), ("POST", "/freeze"), ("POST", "/unfreeze"), ("PATCH", "")):
            body = {"ceiling": "1"} if method == "PATCH" else None
            answer = await town.in_ledger(method, f"/v1/accounts/{named}{how}", body)
            assert (answer.status, slug(answer)) == (409, "account-reserved"), how
    again = {"name": "mine", "currency": "EUR", "normal_side": "debit", "path": "tallystick:card-clearing:XXX"}
    assert slug(await town.in_ledger("POST", "/v1/accounts", again)) == "invalid-request"
    for body in (by_account(clearing, shop, 500_000), by_account(shop, clearing, 1)):
        answer = await town.pay(body, key="the-same")
        assert (answer.status, slug(answer)) == (422, "payment-account-reserved"), body
    assert await town.balance(shop) == (1000, 1000)
    # What the acquirer pays out is posted in the ledger, as anything else that happens at a bank.
    paid_out = {"kind": "post", "debit_account": bank, "credit_account": CLEARING, "amount": money(1000)}
    answer = await town.in_ledger("POST", "/v1/transfers", {"transfers": [paid_out]})
    assert answer.json["data"][0]["status"] == "posted"
    assert await town.balance(CLEARING) == (0, 0)
    await town.paid(by_card(token, shop), key="the-same")
    await town.sound()


async def test_an_acquirers_account_of_before_it_had_a_path_is_no_payments_either(town: Town) -> None:
    token, shop, before = await town.card(), await town.account(), await town.account()
    insert = (
        "INSERT INTO clearing (tenant, currency, account, client_id) VALUES ($1, 'EUR', $2, 'cli_x') RETURNING account"
    )
    await town.databases["payments"].query(insert, town.tenant, ids.accounts.parse(before))
    assert slug(await town.pay(by_account(before, shop))) == "payment-account-reserved"
    await town.paid(by_card(token, shop))
    assert await town.balance(before) == (0, 0)
    assert await town.balance(CLEARING) == (1000, 1000)


async def test_a_strict_chart_stands_in_nobodys_way_of_taking_cards(town: Town) -> None:
    token = await town.card()
    chart = {"mode": "strict", "rules": [{"pattern": "shops:{id}", "kind": "liability"}]}
    answer = await town.call("PUT", "/v1/books/main/chart", chart, app=town.ledger)
    assert answer.status == 200, answer.content
    shop = {"name": "a shop", "currency": "EUR", "normal_side": "credit", "path": "shops:1"}
    opened = await town.in_ledger("POST", "/v1/accounts", shop)
    await town.paid(by_card(token, opened.json["id"]))


async def test_refunds_in_parts(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, 1000))
    first = await town.refund(made["id"], 300)
    assert (first.status, first.json["status"], first.json["amount"]) == (201, "succeeded", money(300))
    assert first.json["version"] == 1, "stored as it was asked for, and as it ended"
    too_much = await town.refund(made["id"], 701)
    assert (too_much.status, slug(too_much)) == (422, "refund-too-large")
    assert too_much.json["refundable"] == money(700)
    rest = await town.refund(made["id"])
    assert rest.json["amount"] == money(700)
    assert slug(await town.refund(made["id"])) == "refund-too-large"
    assert (await town.get(made["id"]))["refunded"] == money(1000)
    assert await town.get(first.json["id"]) == first.json
    assert await town.balance(shop) == (0, 0)
    assert (await town.authorizations())[made["id"]]["refunded"] == 1000
    await town.sound()


async def test_a_refund_of_a_book_transfer(town: Town) -> None:
    payer, payee = await town.account(), await town.account(floor="0")
    made = await town.paid(by_account(payer, payee, 1000))
    back = await town.refund(made["id"], 400)
    assert back.json["status"] == "succeeded"
    assert await town.balance(payee) == (600, 600)
    await town.paid(by_account(payee, payer, 600))
    broke = await town.refund(made["id"])
    assert (broke.status, broke.json["status"], broke.json["failure"]["code"]) == (201, "failed", "insufficient_funds")
    assert (await town.get(made["id"]))["refunded"] == money(400)
    await town.sound()


async def test_what_another_book_calls_the_same_is_not_the_payments(town: Town) -> None:
    """Ids are unique in their book: a copy of it, from an export, has them too."""
    payer, shop = await town.account(), await town.account()
    made = await town.paid(by_account(payer, shop, 1000))
    refunded = await town.refund(made["id"], 400)
    refund = ids.refunds.parse(refunded.json["id"])
    taken = [
        transfer_id(ids.payments.parse(made["id"]), Role.SETTLE),
        transfer_id(refund, Role.REVERSE),
        transfer_id(refund, Role.RESTORE),
    ]
    one, other = [ids.accounts.parse(await town.account(tenant="stranger")) for _ in range(2)]
    commands = [Command(kind="post", id=own, debit=one, credit=other, amount=7, currency="EUR") for own in taken]
    answer = await town.books.poster.post(Ask("stranger", CLIENT, None, commands, atomic=True))
    assert [result.status for result in answer.results] == ["posted"] * 3
    await town.sound()


@pytest.mark.parametrize(("behaviour", "code"), [("decline", "card_declined"), ("insufficient", "insufficient_funds")])
async def test_the_issuer_says_no(town: Town, behaviour: str, code: str) -> None:
    token, shop = await town.card(behaviour), await town.account()
    made = await town.paid(by_card(token, shop), status="declined")
    assert made["decline"]["code"] == code
    assert made["captured"] == money(0)
    assert slug(await town.refund(made["id"])) == "refund-not-possible"
    assert await town.balance(shop) == (0, 0)
    await town.sound()


async def test_risk_says_no(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, 1_200_000), status="declined")
    assert made["decline"]["code"] == "risk_denied"
    assert made["risk"]["decision"] == "deny"
    assert made["risk"]["reasons"] == ["amount-over-10000", "amount-over-5000", "card-sum-1h"]
    assert made["ledger"]["transfers"] == []
    assert await town.authorizations() == {}
    await town.sound()


async def test_the_ledger_says_no(town: Town) -> None:
    payer, payee = await town.account(floor="0"), await town.account()
    made = await town.paid(by_account(payer, payee), status="declined")
    assert made["decline"]["code"] == "insufficient_funds"
    token = await town.card()
    await town.close_account(payee)
    for body in (by_account(await town.account(), payee), by_card(token, payee)):
        made = await town.paid(body, status="declined")
        assert made["decline"]["code"] == "account_closed"
    assert await town.authorizations() == {}
    await town.sound()


async def test_what_the_request_names_has_to_be_there(town: Town, nothing: str) -> None:
    mine, foreign = await town.account(), await town.account(tenant="other")
    dollars = await town.account(currency="USD")
    token, foreign_token = await town.card(), await town.card(tenant="other")
    unknown = ids.tokens.text(ids.tokens.random())
    assert (await town.in_ledger("POST", "/v1/books", {"name": "fees"})).status == 201
    fees = {"name": "fees", "currency": "EUR", "normal_side": "credit", "book": "fees"}
    elsewhere = (await town.in_ledger("POST", "/v1/accounts", fees)).json["id"]
    refused = {
        "payment-account-not-found": [
            by_account(mine, nothing),
            by_account(nothing, mine),
            by_account(mine, foreign),
            by_account(foreign, mine),
            by_card(token, foreign),
            by_card(token, elsewhere),
            by_account(elsewhere, mine),
            by_account(mine, elsewhere),
        ],
        "payment-token-not-found": [by_card(unknown, mine), by_card(foreign_token, mine)],
        "payment-currency-mismatch": [
            by_account(mine, dollars),
            by_account(dollars, mine),
            by_card(token, dollars),
            by_card(token, mine, currency="USD"),
        ],
        "same-account": [by_account(mine, mine)],
    }
    for problem, bodies in refused.items():
        for body in bodies:
            answer = await town.pay(body, key="the-same")
            assert (answer.status, slug(answer)) == (422, problem), body
    assert "in the book main" in (await town.pay(by_card(token, elsewhere))).json["detail"]
    # None of them has used up the key.
    assert (await town.pay(by_card(token, mine), key="the-same")).status == 201
    assert len((await town.call("GET", "/v1/payments")).json["data"]) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"amount": {"amount": "0", "currency": "EUR"}},
        {"amount": {"amount": "-1", "currency": "EUR"}},
        {"amount": {"amount": "1.5", "currency": "EUR"}},
        {"amount": {"amount": "1e3", "currency": "EUR"}},
        {"amount": {"amount": "+1", "currency": "EUR"}},
        {"amount": {"amount": str(2**63), "currency": "EUR"}},
        {"amount": {"amount": "10", "currency": "XXY"}},
        {"amount": 10},
        {"source": {"type": "card", "token": "tok_1"}},
        {"source": {"type": "card", "token": "tok_" + "0" * 36}},
        {"source": {"type": "account", "account": "acc_1"}},
        {"source": {"type": "cash"}},
        {"destination": {"account": "4242424242424242"}},
        {"capture": "later"},
        {"capture": "manual"},
        {"metadata": {"k": 1}},
        {"surprise": True},
    ],
)
async def test_what_makes_no_sense_is_refused_and_stores_nothing(town: Town, change: dict[str, object]) -> None:
    payer, payee = await town.account(), await town.account()
    answer = await town.pay(by_account(payer, payee) | change, key="k")
    assert 400 <= answer.status < 500, answer.content
    assert answer.status in (400, 422)
    stored = "SELECT FROM payment WHERE tenant = $1 UNION ALL SELECT FROM idempotency WHERE tenant = $1"
    assert await town.databases["payments"].query(stored, town.tenant) == []
    assert await town.facts() == []
    assert (await town.pay(by_account(payer, payee), key="k")).status == 201


async def test_nothing_crosses_tenants(town: Town) -> None:
    payer, payee = await town.account(), await town.account()
    made = await town.paid(by_account(payer, payee))
    back = (await town.refund(made["id"], 1)).json
    for answer in (
        await town.call("GET", f"/v1/payments/{made['id']}", tenant="other"),
        await town.call("GET", f"/v1/refunds/{back['id']}", tenant="other"),
        await town.capture(made["id"], tenant="other"),
        await town.cancel(made["id"], tenant="other"),
        await town.refund(made["id"], tenant="other"),
    ):
        assert answer.status == 404, answer.content
    listed = await town.call("GET", "/v1/payments", tenant="other")
    assert listed.json["data"] == []


async def test_lists_are_stable_pages(town: Town) -> None:
    payer, payee = await town.account(), await town.account()
    made = [(await town.paid(by_account(payer, payee, n, reference=f"r{n % 2}")))["id"] for n in range(1, 6)]
    first = (await town.call("GET", "/v1/payments?limit=2")).json
    assert ([p["id"] for p in first["data"]], first["has_more"]) == (made[:2:-1], True)
    await town.paid(by_account(payer, payee))
    second = (await town.call("GET", f"/v1/payments?limit=5&after={first['next']}")).json
    assert ([p["id"] for p in second["data"]], second["has_more"]) == (made[2::-1], False)
    odd = (await town.call("GET", "/v1/payments?reference=r1&status=settled")).json
    assert [p["id"] for p in odd["data"]] == made[::-2]


async def test_captures_and_refunds_keep_to_the_payments_currency(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, capture="manual"), status="authorized")
    body = {"amount": money(100, "USD")}
    answer = await town.call("POST", f"/v1/payments/{made['id']}/capture", body)
    assert slug(answer) == "payment-currency-mismatch"
    too_much = await town.capture(made["id"], 1001)
    assert slug(too_much) == "capture-too-large"
    assert (too_much.json["authorized"], too_much.json["requested"]) == (money(1000), money(1001))
    await town.capture(made["id"])
    assert slug(await town.call("POST", "/v1/refunds", {"payment": made["id"], **body})) == "payment-currency-mismatch"


async def test_captures_at_the_same_time_are_one(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, 1000, capture="manual"), status="authorized")
    answers = await asyncio.gather(*(town.capture(made["id"], 600) for _ in range(6)), town.cancel(made["id"]))
    good = [a for a in answers if a.status == 200]
    assert len(good) == 1
    assert all(a.status == 409 for a in answers if a not in good)
    await town.sound()


async def test_refunds_at_the_same_time_stay_within_what_was_captured(town: Town) -> None:
    token, shop = await town.card(), await town.account()
    made = await town.paid(by_card(token, shop, 1000))
    answers = await asyncio.gather(*(town.refund(made["id"], 300) for _ in range(8)))
    assert sorted(a.status for a in answers) == [201] * 3 + [422] * 5
    assert (await town.get(made["id"]))["refunded"] == money(900)
    assert await town.balance(shop) == (100, 100)
    await town.sound()


async def test_an_automatic_payment_on_its_way_is_nobodys_to_capture_or_cancel(town: Town) -> None:
    """The acquirer may have captured it by now: undoing it, or capturing another amount, would tear the two apart."""
    token, shop = await town.card(), await town.account()
    town.one.effects.fault = lambda step: "fail-after" if step.value == "capture" else "none"
    answer = await town.pay(by_card(token, shop))
    assert (answer.status, answer.json["status"]) == (202, "authorized")
    assert slug(await town.capture(answer.json["id"], 1)) == "capture-not-possible"
    assert slug(await town.cancel(answer.json["id"])) == "cancel-not-possible"
    town.one.effects.fault = no_fault
    # Nor does it ever expire: the money may have moved.
    town.later(8 * 86400)
    await town.finish()
    assert (await town.get(answer.json["id"]))["status"] == "settled"
    await town.sound()


async def test_small_payments_go_on_without_risk_and_large_ones_do_not(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    for client in town.clients:
        if client.target == "risk":
            monkeypatch.setattr(client, "_timeout", charter.load("payments").calls["risk"].timeout_ms / 1000)
    token, shop = await town.card(), await town.account()
    modes: tuple[Mode, ...] = ("down", "late", "lost")
    for mode in modes:
        town.lines["risk"].mode = mode
        small = await town.paid(by_card(token, shop, UNSCORED_LIMIT))
        assert small["risk"] == {"decision": "unscored", "score": None, "reasons": ["risk-unavailable"]}
        large = await town.paid(by_card(token, shop, UNSCORED_LIMIT + 1), status="declined")
        assert large["decline"]["code"] == "risk_unavailable"
    assert len(await town.authorizations()) == 3
    await town.sound()
