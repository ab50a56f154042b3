"""The ledger as clients and payments see it: its real application, tokens, policy and database, in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import uvicorn

from tallystick.chassis import charter
from tallystick.chassis.call import Client
from tallystick.contracts.ledger.client import LedgerClient
from tallystick.contracts.ledger.problems import AccountExists
from tallystick.kernel import ids
from tallystick.kernel.ids import TransferId
from tallystick.kernel.money import Money
from tallystick.services.ledger.api import ENDPOINTS
from tests.services.ledger.env import SCOPE, Env, eur, post, problem
from tests.support.http import ask


async def test_an_account_in_full(env: Env) -> None:
    answer = await env.call(
        "POST",
        "/v1/accounts",
        {"name": "Anna", "currency": "JPY", "normal_side": "credit", "floor": "-250", "code": "2010", "metadata": {"b": "2", "a": "1"}},
    )  # fmt: skip
    assert answer.status == 201
    account = answer.json
    zero = {"amount": "0", "currency": "JPY"}
    assert account == {
        "id": account["id"],
        "book": "main",
        "name": "Anna",
        "path": None,
        "kind": "liability",
        "currency": "JPY",
        "normal_side": "credit",
        "floor": "-250",
        "ceiling": None,
        "code": "2010",
        "metadata": {"a": "1", "b": "2"},
        "closed": False,
        "frozen": False,
        "created_at": "2026-01-01T00:00:00.000000Z",
        "version": 0,
        "as_of": 0,
        "balance": {"posted": zero, "pending": zero, "available": zero},
    }
    assert (await env.call("GET", f"/v1/accounts/{account['id']}")).json == account


async def test_the_way_of_a_transfer(env: Env) -> None:
    bank, anna = await env.account("debit"), await env.account(floor="0")
    answer = await env.transfers(post(bank, anna, 5000, code="payin", metadata={"order": "7"}))
    assert answer.status == 201
    (made,) = answer.json["data"]
    assert answer.json["receipt"].startswith("fct_")
    assert made == {
        "id": made["id"],
        "status": "posted",
        "kind": "post",
        "debit_account": bank,
        "credit_account": anna,
        "amount": eur(5000),
        "code": "payin",
        "metadata": {"order": "7"},
        "sequence": 1,
        "recorded_at": "2026-01-01T00:00:00.000000Z",
        "book": "main",
    }
    assert (await env.call("GET", f"/v1/transfers/{made['id']}")).json == made
    assert await env.balance(anna) == ("5000", "0", "5000")
    assert await env.balance(bank) == ("5000", "0", "5000")
    entries = (await env.call("GET", f"/v1/accounts/{anna}/entries")).json
    assert entries == {
        "data": [
            {
                "transfer": made["id"],
                "kind": "post",
                "side": "credit",
                "other_account": bank,
                "amount": eur(5000),
                "pending": eur(0),
                "balance": {"posted": eur(5000), "pending": eur(0), "available": eur(5000)},
                "version": 1,
                "sequence": 1,
                "recorded_at": "2026-01-01T00:00:00.000000Z",
                "effective_at": "2026-01-01T00:00:00.000000Z",
                "code": "payin",
                "transaction": None,
            }
        ],
        "has_more": False,
        "next": None,
    }


async def test_holds_are_captured_voided_and_reversed(env: Env) -> None:
    bank, anna, shop = await env.account("debit"), await env.account(floor="0"), await env.account()
    await env.transfers(post(bank, anna, 1000))
    answer = await env.transfers({**post(anna, shop, 600), "kind": "hold", "expires_in": 3600})
    (held,) = answer.json["data"]
    assert (held["status"], held["expires_at"]) == ("held", "2026-01-01T01:00:00.000001Z")
    assert await env.balance(anna) == ("1000", "600", "400")
    assert await env.balance(shop) == ("0", "0", "0")
    path = f"/v1/transfers/{held['id']}"

    too_much = await env.call("POST", f"{path}/capture", {"amount": eur(601)})
    assert problem(too_much) == (422, "exceeds-hold")
    assert (too_much.json["available"], too_much.json["required"]) == (eur(600), eur(601))
    part = await env.call("POST", f"{path}/capture", {"amount": eur(100)})
    assert part.status == 201
    assert (part.json["kind"], part.json["target"], part.json["released"]) == ("capture", held["id"], eur(100))
    assert await env.balance(anna) == ("900", "500", "400")
    final = await env.call("POST", f"{path}/capture", {"amount": eur(200), "final": True})
    assert (final.json["amount"], final.json["released"]) == (eur(200), eur(500))
    assert await env.balance(anna) == ("700", "0", "700")
    assert problem(await env.call("POST", f"{path}/capture")) == (409, "hold-not-open")
    assert problem(await env.call("POST", f"{path}/void")) == (409, "hold-not-open")
    state = (await env.call("GET", path)).json
    assert state["status"] == "held", "what was recorded never changes"
    assert state["hold"] == {
        "state": "captured",
        "captured": eur(300),
        "remaining": eur(0),
        "expires_at": "2026-01-01T01:00:00.000001Z",
    }

    (other,) = (await env.transfers({**post(anna, shop, 70), "kind": "hold"})).json["data"]
    void = await env.call("POST", f"/v1/transfers/{other['id']}/void", {})
    assert (void.status, void.json["kind"], void.json["released"]) == (201, "void", eur(70))

    capture = final.json["id"]
    reverse = f"/v1/transfers/{capture}/reverse"
    assert (await env.call("POST", reverse, {"amount": eur(150)})).status == 201
    over = await env.call("POST", reverse, {"amount": eur(51)})
    assert problem(over) == (422, "exceeds-reversible")
    assert over.json["available"] == eur(50)
    rest = await env.call("POST", reverse)
    assert rest.json["amount"] == eur(50)
    assert problem(await env.call("POST", reverse)) == (422, "exceeds-reversible")
    assert (await env.call("GET", f"/v1/transfers/{capture}")).json["reversed"] == eur(200)
    assert problem(await env.call("POST", f"{path}/reverse")) == (422, "not-reversible")
    usd = {"amount": {"amount": "1", "currency": "USD"}}
    assert problem(await env.call("POST", reverse, usd)) == (422, "currency-mismatch")
    other = await env.call("POST", "/v1/transactions", {"transfers": [{"kind": "post", **post(anna, shop, 1), **usd}]})
    assert problem(other) == (422, "currency-mismatch")
    assert "than an account of it" in other.json["detail"], "nothing was posted yet that it could be about"
    assert await env.balance(anna) == ("900", "0", "900")
    nobody = ids.transfers.text(ids.transfers.new())
    for what in ("capture", "void", "reverse"):
        assert problem(await env.call("POST", f"/v1/transfers/{nobody}/{what}")) == (404, "transfer-not-found")
        assert problem(await env.call("POST", f"{path}/{what}", tenant="beta")) == (404, "transfer-not-found")


async def test_an_expired_hold_is_expired_before_it_is_swept(env: Env) -> None:
    bank, anna = await env.account("debit"), await env.account(floor="0")
    await env.transfers(post(bank, anna, 100))
    (held,) = (await env.transfers({**post(anna, bank, 100), "kind": "hold", "expires_in": 5})).json["data"]
    env.clock.advance(timedelta(seconds=5, microseconds=1))
    state = (await env.call("GET", f"/v1/transfers/{held['id']}")).json["hold"]
    assert (state["state"], state["remaining"]) == ("expired", eur(0))
    answer = await env.call("POST", f"/v1/transfers/{held['id']}/capture")
    assert problem(answer) == (409, "hold-not-open")
    assert answer.json["reason"] == "hold_expired"
    assert (await env.transfers(post(anna, bank, 100))).json["data"][0]["status"] == "posted"


async def test_results_are_in_order_and_say_why(env: Env) -> None:
    bank, anna = await env.account("debit"), await env.account(floor="0")
    dollars = await env.account(currency="USD")
    closed = await env.account()
    assert (await env.call("POST", f"/v1/accounts/{closed}/close", key="")).json["closed"] is True
    foreign = await env.account(tenant="beta")
    unknown = ids.accounts.text(ids.accounts.new())
    answer = await env.transfers(
        post(bank, anna, 100),
        post(anna, bank, 101),
        post(anna, unknown, 1),
        post(anna, foreign, 1),
        post(anna, dollars, 1),
        post(anna, closed, 1),
        post(anna, anna, 1),
        post(anna, bank, 100),
    )
    assert answer.status == 201
    assert [one.get("reason", one["status"]) for one in answer.json["data"]] == [
        "posted",
        "insufficient_funds",
        "account_not_found",
        "account_not_found",
        "currency_mismatch",
        "account_closed",
        "same_account",
        "posted",
    ]
    refused = answer.json["data"][1]
    assert (refused["available"], refused["required"]) == (eur(100), eur(101))
    again = await env.call("GET", f"/v1/transfers/{refused['id']}")
    assert (again.status, again.json["status"], again.json["reason"]) == (200, "rejected", "insufficient_funds")

    whole = await env.transfers(post(bank, anna, 5), post(anna, bank, 6), atomic=True)
    assert whole.status == 200, "nothing is new"
    assert [one["reason"] for one in whole.json["data"]] == ["linked_transfer_failed", "insufficient_funds"]
    assert whole.json["receipt"] is None
    assert await env.balance(anna) == ("0", "0", "0")


async def test_a_refusal_names_the_account_at_fault_whoever_asks_and_however_often(env: Env) -> None:
    opened = {path: await env.account(path=path, floor="0") for path in ("anna", "ben", "other", "frozen", "closed")}
    opened["bank"] = await env.account("debit", path="bank")
    opened["full"] = await env.account(path="full", ceiling="5")
    opened["dollars"] = await env.account(path="dollars", currency="USD")
    await env.transfers(post("bank", "anna", 100), post("bank", "frozen", 10))
    held = (await env.transfers({**post("frozen", "ben", 5), "kind": "hold"})).json["data"][0]["id"]
    await env.call("POST", "/v1/accounts/frozen/freeze", key="")
    await env.call("POST", "/v1/accounts/closed/close", key="")
    unknown = ids.accounts.text(ids.accounts.new())
    cases = [
        (post("nobody", "anna", 1), "account_not_found", "nobody"),
        (post("anna", unknown, 1), "account_not_found", unknown),
        (post("anna", "anna", 1), "same_account", opened["anna"]),
        (post("anna", "dollars", 1), "currency_mismatch", opened["dollars"]),
        (post("anna", "closed", 1), "account_closed", opened["closed"]),
        (post("frozen", "anna", 1), "account_frozen", opened["frozen"]),
        (post("anna", "ben", 101), "insufficient_funds", opened["anna"]),
        (post("anna", "full", 6), "ceiling_exceeded", opened["full"]),
        (post("ben", "full", 6, balancing=True), "nothing_to_move", opened["ben"]),
        (post("bank", "anna", 2**63 - 1), "amount_overflow", opened["bank"]),
    ]
    for transfer, reason, account in cases:
        own = {**transfer, "id": ids.transfers.text(ids.transfers.new())}
        first, again = [(await env.transfers(own)).json["data"][0] for _ in range(2)]
        assert (first["reason"], first["account"]) == (reason, account)
        assert again == first, "a repeat by the id is told the same"
        single = (await env.call("GET", f"/v1/transfers/{own['id']}")).json
        assert (single["reason"], single["account"]) == (reason, account)
        two = [post("bank", "other", 1), transfer]
        body = {"transfers": two, "id": ids.transactions.text(ids.transactions.new())}
        first, again = [(await env.call("POST", "/v1/transactions", body)).json for _ in range(2)]
        assert (first["reason"], first["account"], first["transfer"]["place"]) == (reason, account, 1)
        assert {**again, "request_id": ""} == {**first, "request_id": ""}
    frozen = await env.call("POST", f"/v1/transfers/{held}/capture", {})
    assert (problem(frozen), frozen.json["account"]) == ((409, "account-frozen"), opened["frozen"])
    # An account that is there by now does not change what was said.
    own = {**post("later", "anna", 1), "id": ids.transfers.text(ids.transfers.new())}
    first = (await env.transfers(own)).json
    await env.account("debit", path="later")
    assert (await env.transfers(own)).json == first


async def test_ids_made_by_the_client_are_idempotent_by_themselves(env: Env) -> None:
    bank, anna = await env.account("debit"), await env.account()
    one = post(bank, anna, 5, id=ids.transfers.text(ids.transfers.new()))
    first = await env.transfers(one)
    second = await env.transfers(one, post(bank, anna, 1))
    third = await env.transfers(one)
    assert (first.status, second.status, third.status) == (201, 201, 200)
    assert third.json["data"] == first.json["data"]
    different = await env.transfers({**one, "amount": eur(6)})
    assert different.json["data"][0]["reason"] == "exists_with_different_amount"
    assert await env.balance(anna) == ("6", "0", "6")


async def test_one_key_one_effect(env: Env) -> None:
    bank, anna = await env.account("debit"), await env.account()
    answers = await asyncio.gather(*(env.transfers(post(bank, anna, 5), key="only-once") for _ in range(50)))
    assert {one.status for one in answers} <= {201, 409}
    done = [one for one in answers if one.status == 201]
    assert done
    assert {one.content for one in done} == {done[0].content}
    assert sum(one.header("idempotent-replayed") is None for one in done) == 1
    assert all(problem(one) == (409, "request-in-progress") for one in answers if one.status == 409)
    assert await env.balance(anna) == ("5", "0", "5")
    replay = await env.transfers(post(bank, anna, 5), key="only-once")
    assert (replay.status, replay.content) == (201, done[0].content)
    assert replay.header("idempotent-replayed") == "true"
    other = await env.transfers(post(bank, anna, 6), key="only-once")
    assert problem(other) == (422, "idempotency-key-reused")
    assert other.json["fields"] == ["/transfers"]


async def test_a_refusal_is_pinned_to_its_key(env: Env) -> None:
    bank, anna = await env.account("debit"), await env.account(floor="0")
    await env.transfers(post(bank, anna, 5))
    (spent,) = (await env.transfers(post(bank, anna, 10))).json["data"]
    await env.transfers(post(anna, bank, 15))
    path = f"/v1/transfers/{spent['id']}/reverse"
    first = await env.call("POST", path, key="undo")
    assert problem(first) == (422, "insufficient-funds")
    await env.transfers(post(bank, anna, 100))
    again = await env.call("POST", path, key="undo")
    assert (problem(again), again.content) == (problem(first), first.content)
    assert again.header("idempotent-replayed") == "true"
    other = await env.call("POST", path, {"amount": eur(9)}, key="undo")
    assert (problem(other), other.json["fields"]) == (
        (422, "idempotency-key-reused"),
        ["/amount/amount", "/amount/currency"],
    )
    assert (await env.call("POST", path, key="undo again")).status == 201


async def test_a_key_belongs_to_the_transfer_in_the_path(env: Env) -> None:
    bank, anna = await env.account("debit"), await env.account()
    made = (
        await env.transfers(*({**post(bank, anna, 5), "kind": kind} for kind in ("hold", "hold", "post", "post")))
    ).json["data"]
    transactions = [
        (await env.call("POST", "/v1/transactions", {"transfers": [{"kind": "post", **post(bank, anna, 5)}]})).json
        for _ in range(2)
    ]
    for action, pair in (("capture", made[:2]), ("reverse", made[2:]), ("reverse", transactions)):
        kind = "transactions" if pair is transactions else "transfers"
        answers = [await env.call("POST", f"/v1/{kind}/{one['id']}/{action}", key="mine") for one in pair]
        assert [answer.status for answer in answers] == [201, 201], [answer.content for answer in answers]
        again = await env.call("POST", f"/v1/{kind}/{pair[0]['id']}/{action}", key="mine")
        assert (again.content, again.header("idempotent-replayed")) == (answers[0].content, "true")
    assert await env.balance(anna) == ("10", "0", "10")


BAD_AMOUNTS = ("-1", "1.5", "1e3", "+1", "01", "", " 1", "1\n", "0x1", "٣", str(2**63), "1" * 20, "0", 5, None, 1.5)


async def test_bad_amounts_move_nothing(env: Env) -> None:
    bank, anna = await env.account("debit"), await env.account()
    for amount in BAD_AMOUNTS:
        answer = await env.transfers(post(bank, anna, 1), post(bank, anna, {"amount": amount, "currency": "EUR"}))
        assert problem(answer)[0] == 400, amount
        if amount != "1\n":  # that one is refused for the whole body
            assert answer.json["errors"][0]["pointer"].startswith("/transfers/1"), answer.json
    for currency in ("XXX", "eur", "EU", "EURO", ""):
        answer = await env.transfers(post(bank, anna, {"amount": "1", "currency": currency}))
        assert problem(answer)[0] == 400, currency
    assert (await env.transfers(post(bank, anna, 2**63 - 1))).status == 201
    full = await env.transfers(post(bank, anna, 1))
    assert full.json["data"][0]["reason"] == "amount_overflow"
    assert await env.balance(anna) == (str(2**63 - 1), "0", str(2**63 - 1))


async def test_bad_requests_are_named(env: Env) -> None:
    bank, anna = await env.account("debit"), await env.account()
    good = post(bank, anna, 1)
    for changes in (
        {"kind": "capture"},
        {"debit_account": "acc_x"},
        {"credit_account": bank.replace("acc_", "trf_")},
        {"id": "trf_1"},
        {"expires_in": 5},
        {"expires_in": 0, "kind": "hold"},
        {"surprise": 1},
        {"metadata": {"a": "\0"}},
        {"metadata": {"a": 1}},
        {"metadata": {"x" * 41: "1"}},
        {"code": "x" * 65},
    ):
        assert problem(await env.transfers({**good, **changes}))[0] == 400, changes
    assert problem(await env.transfers())[0] == 400
    assert problem(await env.transfers(*[good] * 1001))[0] == 400
    assert problem(await env.call("POST", "/v1/transfers", {"transfers": [good]}, key=""))[0] == 400
    twice = b'{"transfers":[],"transfers":[' + json.dumps(good).encode() + b"]}"
    assert problem(await env.call("POST", "/v1/transfers", raw=twice))[0] == 400
    assert problem(await env.call("POST", "/v1/transfers", raw=b"[" * 100_000))[0] == 400
    assert problem(await env.call("POST", "/v1/transfers", raw=b" " * (1 << 20)))[0] == 413
    for body in (
        {"normal_side": "left"},
        {"floor": "1"},
        {"floor": "-0"},
        {"floor": str(-(2**63))},
        {"floor": 0},
        {"currency": "XXX"},
        {"name": ""},
        {"name": "x" * 201},
    ):
        given = {"name": "a", "currency": "EUR", "normal_side": "debit", **body}
        assert problem(await env.call("POST", "/v1/accounts", given))[0] == 400, body
    assert await env.balance(anna) == ("0", "0", "0")


async def test_ids_and_codes_of_the_platform_are_not_a_clients(env: Env) -> None:
    bank, wallet = await env.account("debit"), await env.account()
    hold = (await env.transfers({**post(bank, wallet, 5), "kind": "hold"})).json["data"][0]["id"]
    random = ids.transfers.new().int ^ 0xF << 76
    derived, fine = (ids.transfers.text(TransferId(UUID(int=one))) for one in (random, random ^ 1 << 63))
    exchange = {
        "kind": "exchange",
        "code": "tallystick:x",
        "exchange": {
            "from": wallet,
            "to": wallet,
            "sell": eur(5),
            "buy_currency": "USD",
            "rate": {"numerator": 1, "denominator": 1},
            "rounding": "half_even",
            "liquidity": {"sell": bank, "buy": bank},
        },
    }
    crossing = {"from": {"account": bank}, "to": {"book": "other", "account": bank}, "amount": eur(1)}
    for path, body, said in (
        ("transfers", {"transfers": [post(bank, wallet, 1, id=derived)]}, "invalid-id"),
        ("transfers", {"transfers": [post(bank, wallet, 1, code="tallystick:payment")]}, "invalid-request"),
        ("transactions", {"transfers": [post(bank, wallet, 1, id=derived)]}, "invalid-id"),
        ("transactions", {"transfers": [post(bank, wallet, 1, code="tallystick:")]}, "invalid-request"),
        ("transactions", {"transfers": [exchange]}, "invalid-request"),
        ("interbook_transfers", {**crossing, "id": derived}, "invalid-id"),
        *((f"transfers/{hold}/{how}", {"id": derived}, "invalid-id") for how in ("capture", "void", "reverse")),
        (f"transfers/{hold}/increase", {"id": derived, "amount": eur(1)}, "invalid-id"),
    ):
        assert problem(await env.call("POST", f"/v1/{path}", body)) == (400, said), (path, body)
    answer = await env.transfers(post(bank, wallet, 1, id=fine, code="tallystick"))
    assert answer.status == 201, "of another variant than RFC 9562's it is as any other"


async def test_a_thousand_in_one_request(env: Env) -> None:
    bank, anna = await env.account("debit"), await env.account()
    answer = await env.transfers(*[post(bank, anna, 1) for _ in range(1000)], atomic=True)
    assert answer.status == 201
    assert [one["sequence"] for one in answer.json["data"]] == list(range(1, 1001))
    assert await env.balance(anna) == ("1000", "0", "1000")
    assert await env.balance(anna, "?sequence=400") == ("400", "0", "400")


async def test_reads_as_of_then_or_an_error(env: Env) -> None:
    bank, anna = await env.account("debit"), await env.account()
    env.clock.advance(timedelta(seconds=10))
    await env.transfers(post(bank, anna, 7))
    env.clock.advance(timedelta(seconds=10))
    late = await env.account()
    path = f"/v1/accounts/{anna}"
    assert await env.balance(anna, "?sequence=0") == ("0", "0", "0")
    assert await env.balance(anna, "?at=2026-01-01T00:00:09Z") == ("0", "0", "0")
    assert await env.balance(anna, "?at=2026-01-01T00:00:10Z") == ("7", "0", "7")
    assert (await env.call("GET", f"{path}?at=2026-01-01T00:00:10Z")).json["as_of"] == 1
    for query, answered in (
        ("?sequence=2", (422, "history-not-kept")),
        ("?at=2026-01-01T00:00:21Z", (422, "history-not-kept")),
        ("?at=2025-12-31T23:59:59Z", (422, "history-not-kept")),
        ("?at=yesterday", (400, "invalid-request")),
        ("?at=2026-01-01T00:00:10", (400, "invalid-request")),
        ("?sequence=-1", (400, "invalid-request")),
        ("?sequence=1&at=2026-01-01T00:00:10Z", (400, "invalid-request")),
        ("?when=now", (400, "invalid-request")),
    ):
        assert problem(await env.call("GET", path + query)) == answered, query
    early = await env.call("GET", f"/v1/accounts/{late}?sequence=0")
    assert problem(early) == (422, "history-not-kept")


async def test_lists_page_without_losing_or_doubling(env: Env) -> None:
    made = [await env.account(code="x" if n % 2 else "y") for n in range(5)]
    bank = await env.account("debit", currency="EUR", code="bank")
    await env.account(currency="USD")
    seen: list[str] = []
    after = ""
    while True:
        page = (await env.call("GET", f"/v1/accounts?limit=2&currency=EUR{after}")).json
        seen += [one["id"] for one in page["data"]]
        if not page["has_more"]:
            assert page["next"] is None
            break
        after = f"&after={page['next']}"
    assert seen == [bank, *reversed(made)]
    assert problem(await env.call("GET", "/v1/accounts?currency=XXX")) == (400, "unknown-currency")
    coded = (await env.call("GET", "/v1/accounts?code=x")).json["data"]
    assert [one["id"] for one in coded] == [made[3], made[1]]
    assert (await env.call("GET", "/v1/accounts", tenant="beta")).json["data"] == []

    for amount in range(1, 6):
        await env.transfers(post(bank, made[0], amount))
    path = f"/v1/accounts/{made[0]}/entries?limit=2"
    first = (await env.call("GET", path)).json
    await env.transfers(post(bank, made[0], 99))
    second = (await env.call("GET", f"{path}&after={first['next']}")).json
    assert [one["sequence"] for one in first["data"] + second["data"]] == [5, 4, 3, 2]
    for bad in ("limit=0", "limit=201", "after=x", "after=IjEi"):
        assert problem(await env.call("GET", f"/v1/accounts/{made[0]}/entries?{bad}"))[0] == 400
    another = await env.call("GET", f"/v1/accounts/{bank}/entries?limit=2&after={first['next']}")
    assert problem(another) == (400, "invalid-request"), "a sequence is one of a book, which may be another"
    assert problem(await env.call("GET", f"/v1/accounts/{made[0]}/entries", tenant="beta"))[0] == 404


async def test_scopes_and_tenants(env: Env) -> None:
    bank, anna = await env.account("debit"), await env.account()
    (made,) = (await env.transfers(post(bank, anna, 1))).json["data"]
    for method, path, needed in (
        ("POST", "/v1/accounts", "accounts:write"),
        ("GET", "/v1/accounts", "accounts:read"),
        ("GET", f"/v1/accounts/{anna}", "accounts:read"),
        ("GET", f"/v1/accounts/{anna}/entries", "accounts:read"),
        ("POST", f"/v1/accounts/{anna}/close", "accounts:write"),
        ("POST", "/v1/transfers", "transfers:write"),
        ("POST", f"/v1/transfers/{made['id']}/capture", "transfers:write"),
        ("POST", f"/v1/transfers/{made['id']}/void", "transfers:write"),
        ("POST", f"/v1/transfers/{made['id']}/reverse", "transfers:write"),
        ("GET", f"/v1/transfers/{made['id']}", "transfers:read"),
    ):
        others = " ".join(scope for scope in SCOPE.split() if scope != needed)
        assert problem(await env.call(method, path, scope=others)) == (403, "insufficient-scope"), path
    for path in (f"/v1/accounts/{anna}", f"/v1/transfers/{made['id']}"):
        assert problem(await env.call("GET", path, tenant="beta"))[0] == 404
    assert problem(await env.call("POST", f"/v1/accounts/{anna}/close", key="", tenant="beta"))[0] == 404


# ---- as payments sees it --------------------------------------------------------------------------------------------


@asynccontextmanager
async def connected(env: Env, directory: Path) -> AsyncIterator[LedgerClient]:
    """The client over a real socket; its calls arrive as those of payments do."""
    peer = env.world.mesh("payments")

    async def as_payments(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], *peer]}
        await env.app(scope, receive, send)

    socket = directory / "ledger.sock"
    config = uvicorn.Config(as_payments, uds=str(socket), lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    client = Client(socket, "ledger", timeout=10.0)
    try:
        yield LedgerClient(client)
    finally:
        await client.close()
        server.should_exit = True
        await serving


async def test_payments_posts_holds_captures_and_asks_again(env: Env, directory: Path) -> None:
    token, foreign = env.world.issuer.transaction(), env.world.issuer.transaction(tenant="beta")
    async with connected(env, directory) as client:
        bank, anna = ids.accounts.new(), ids.accounts.new()
        for _ in range(2):
            await client.open_account(bank, name="bank", currency="EUR", normal_side="debit", token=token)
        with pytest.raises(AccountExists):
            await client.open_account(bank, name="bank", currency="USD", normal_side="debit", token=token)
        await client.open_account(anna, name="anna", currency="EUR", normal_side="credit", floor=0, token=token)
        assert await client.currency(anna, token) == "EUR"
        assert await client.currency(anna, foreign) is None
        assert await client.currency(ids.accounts.new(), token) is None

        def new() -> Any:
            return ids.transfers.new()

        five = Money(500, "EUR")
        posted = new()
        for _ in range(2):
            assert await client.post(posted, bank, anna, five, token) is None
        assert await client.post(posted, bank, anna, Money(1, "EUR"), token) == "exists_with_different_amount"
        assert await client.post(new(), anna, bank, Money(501, "EUR"), token) == "insufficient_funds"
        assert await client.post(new(), anna, bank, five, foreign) == "account_not_found"
        hold, capture = new(), new()
        assert await client.hold(hold, anna, bank, five, token, expires_in=60) is None
        for _ in range(2):
            assert await client.capture(capture, hold, Money(200, "EUR"), token) is None
        assert await client.void(new(), hold, token) == "hold_already_captured"
        assert await client.reverse(new(), capture, Money(201, "EUR"), token) == "exceeds_reversible"
        assert await client.reverse(new(), capture, Money(200, "EUR"), token) is None

        many = await asyncio.gather(
            *(client.post(new(), bank, anna, Money(1, "EUR"), token) for _ in range(100)),
            *(client.post(new(), bank, anna, Money(1, "EUR"), foreign) for _ in range(10)),
        )
        assert many == [None] * 100 + ["account_not_found"] * 10
    assert await env.balance(ids.accounts.text(anna)) == ("600", "0", "600")


async def test_one_bad_unit_is_not_the_others_fault(env: Env) -> None:
    bank, anna = await env.account("debit"), await env.account(floor="0")
    good = env.world.issuer.transaction()
    stale = env.world.issuer.transaction(exp=1)

    def transfer(**more: Any) -> dict[str, Any]:
        return {"id": ids.transfers.text(ids.transfers.new()), **more}

    target = ids.transfers.text(ids.transfers.new())
    units = [
        {"token": 0, "transfers": [transfer(**post(bank, anna, 5))]},
        {"token": 1, "transfers": [transfer(**post(bank, anna, 5))]},
        {"token": 7, "transfers": [transfer(**post(bank, anna, 5))]},
        {"token": 0, "transfers": [transfer(**post(bank, anna, 0))]},
        {"token": 0, "transfers": [transfer(kind="void", target=target, amount=eur(1))]},
        {"token": 0, "transfers": [transfer(kind="capture")]},
        {"token": 0, "transfers": [transfer(kind="post", target=target)]},
        {"token": 0, "transfers": [transfer(kind="reverse", target=target, final=True)]},
        {"token": 0, "transfers": [transfer(**post(bank, anna, 5)), transfer(**post(anna, bank, 11))]},
        {"token": 0, "transfers": [transfer(**post(bank, anna, 5)), transfer(**post(anna, bank, 10))]},
    ]
    body = json.dumps({"tokens": [good, stale], "units": units}).encode()
    answer = await ask(env.app, "POST", "/internal/transfers", body, env.world.mesh("payments"))
    assert answer.status == 200, answer.content
    found = answer.json["units"]
    assert [one.get("problem", {}).get("status") for one in found] == [
        None, 401, 400, 400, 400, 400, 400, 400, None, None,
    ]  # fmt: skip
    assert [[t["status"] for t in one["transfers"]] for one in (found[0], found[8], found[9])] == [
        ["posted"],
        ["rejected", "rejected"],
        ["posted", "posted"],
    ]
    assert found[8]["transfers"][1]["reason"] == "insufficient_funds"
    assert await env.balance(anna) == ("0", "0", "0")
    for peer in ("risk", "vault"):
        refused = await ask(env.app, "POST", "/internal/transfers", body, env.world.mesh(peer))
        assert refused.status == 403
    assert (await ask(env.app, "POST", "/internal/transfers", body)).status in {401, 403, 404}


def test_the_table_says_who_may_call_as_the_charter_does() -> None:
    rows = {row.where for row in ENDPOINTS if row.mesh}
    assert rows == {row for rows in charter.load("ledger").callers.values() for row in rows}
