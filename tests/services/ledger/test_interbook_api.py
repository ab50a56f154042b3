"""Transfers between books as clients and other shards ask for them."""

from __future__ import annotations

from typing import Any

import pytest

from tallystick.contracts.ledger.problems import BookElsewhere
from tallystick.contracts.ledger.router import Router
from tallystick.kernel import ids
from tallystick.kernel.problem import Unavailable
from tallystick.services.ledger.model import disagreements
from tests.services.ledger.env import Env, eur, post, problem


async def furnished(env: Env) -> tuple[str, str]:
    """A funded wallet in `main`, and one in `fees`."""
    assert (await env.call("POST", "/v1/books", {"name": "fees"})).status == 201
    bank = await env.account("debit")
    wallet = await env.account(floor="0", path="wallet")
    await env.account(book="fees", path="wallet")
    await env.transfers(post(bank, wallet, 100))
    return bank, wallet


def body(amount: Any = 30, **more: Any) -> dict[str, Any]:
    return {"from": {"account": "wallet"}, "to": {"book": "fees", "account": "wallet"}, "amount": eur(amount), **more}


async def test_a_transfer_between_books_at_the_edge(env: Env) -> None:
    _, wallet = await furnished(env)
    own = ids.transfers.text(ids.transfers.new())
    answer = await env.call("POST", "/v1/interbook_transfers", body(id=own, reference="rent", metadata={"a": "b"}))
    assert answer.status == 201, answer.content
    told = answer.json
    assert told.pop("recorded_at")
    assert told == {
        "id": own,
        "status": "posted",
        "from": {"account": "wallet", "book": "main"},
        "to": {"account": "wallet", "book": "fees"},
        "amount": eur(30),
        "reference": "rent",
        "metadata": {"a": "b"},
    }
    again = await env.call("GET", f"/v1/interbook_transfers/{own}")
    assert again.json == answer.json
    assert await env.balance(wallet) == ("70", "0", "70")
    assert (await env.call("GET", "/v1/accounts/wallet?book=fees")).json["balance"]["posted"] == eur(30)


async def test_a_key_is_one_transfer_without_an_id_too(env: Env) -> None:
    _, wallet = await furnished(env)
    answers = [await env.call("POST", "/v1/interbook_transfers", body(), key="one") for _ in range(3)]
    assert {answer.json["id"] for answer in answers} == {answers[0].json["id"]}
    assert [answer.json["status"] for answer in answers] == ["posted"] * 3
    assert await env.balance(wallet) == ("70", "0", "70")
    other = await env.call("POST", "/v1/interbook_transfers", body(31), key="one")
    assert problem(other) == (422, "idempotency-key-reused")
    no = await env.call("POST", "/v1/interbook_transfers", body(71), key="two")
    assert (no.json["status"], no.json["reason"], no.json["account"]) == ("rejected", "insufficient_funds", wallet)
    assert (await env.call("POST", "/v1/interbook_transfers", body(71), key="two")).json == no.json
    assert (await env.call("GET", f"/v1/interbook_transfers/{no.json['id']}")).json == no.json


async def test_an_id_that_is_another_transfers(env: Env) -> None:
    await furnished(env)
    own = ids.transfers.text(ids.transfers.new())
    await env.call("POST", "/v1/interbook_transfers", body(id=own))
    for _ in range(2):
        no = await env.call("POST", "/v1/interbook_transfers", body(31, id=own), key="again")
        assert problem(no) == (409, "transfer-exists")


async def test_an_id_that_is_a_refused_transfers(env: Env) -> None:
    """It says so, and not why that one was refused."""
    bank, _ = await furnished(env)
    own = ids.transfers.text(ids.transfers.new())
    assert (await env.transfers(post("wallet", bank, 500, id=own))).json["data"][0]["reason"] == "insufficient_funds"
    no = await env.call("POST", "/v1/interbook_transfers", body(id=own))
    assert (problem(no), no.json["reason"]) == ((409, "transfer-exists"), "id_already_failed")
    assert problem(await env.call("GET", f"/v1/interbook_transfers/{own}")) == (404, "transfer-not-found")


async def test_what_is_not_a_transfer_between_books(env: Env) -> None:
    bank, _ = await furnished(env)
    plain = (await env.transfers({**post(bank, "wallet", 1), "code": "interbook", "metadata": {"to_book": "x"}})).json
    held = {**post(bank, "wallet", 1), "kind": "hold", "code": "interbook", "metadata": {
        "to_book": "fees", "to_account": "wallet", "from_book": "main", "from_account": "wallet", "client": "cli_x"
    }}  # fmt: skip
    hold = (await env.transfers(held)).json
    for found in (plain["data"][0]["id"], hold["data"][0]["id"], ids.transfers.text(ids.transfers.new())):
        assert problem(await env.call("GET", f"/v1/interbook_transfers/{found}")) == (404, "transfer-not-found")
    same = await env.call("POST", "/v1/interbook_transfers", {**body(), "to": {"account": bank}})
    assert problem(same) == (400, "invalid-request")
    nowhere = await env.call("POST", "/v1/interbook_transfers", {**body(), "to": {"account": "wallet", "book": "no"}})
    assert problem(nowhere) == (404, "book-not-found")
    assert problem(await env.call("POST", "/v1/interbook_transfers", body(), tenant="other"))[1] == "book-not-found"
    opened = await env.call("POST", "/v1/accounts", {"name": "x", "currency": "EUR", "normal_side": "credit", "path": "transit:in:x:EUR"})  # fmt: skip
    assert problem(opened) == (400, "invalid-request")


async def test_transit_accounts_are_no_clients_to_name_or_to_change(env: Env) -> None:
    _, wallet = await furnished(env)
    back = {"from": {"account": "wallet", "book": "fees"}, "to": {"account": "wallet"}, "amount": eur(10)}
    await env.call("POST", "/v1/interbook_transfers", body())
    assert (await env.call("POST", "/v1/interbook_transfers", back)).json["status"] == "posted"
    rules = {
        "rules": [
            {"currency": "EUR", "above": "20", "approvals": 1, "approvers": [ids.clients.text(ids.clients.new())]}
        ]
    }
    assert (await env.call("PUT", "/v1/books/main/approvals", rules, scope="approvals:write")).status == 200
    into = (await env.call("GET", "/v1/accounts/transit:in:fees:EUR")).json["id"]
    away = (await env.call("GET", "/v1/accounts/transit:out:main:EUR?book=fees")).json["id"]
    for amount in (7, 7000):
        for source in ("transit:in:fees:EUR", into):
            no = await env.call("POST", "/v1/interbook_transfers", body(amount, **{"from": {"account": source}}))
            assert (no.status, no.json["status"], no.json["reason"]) == (201, "rejected", "transit_account"), source
            assert no.json["account"] == into
    for there in ("transit:out:main:EUR", away):
        to = {"account": there, "book": "fees"}
        no = await env.call("POST", "/v1/interbook_transfers", body(7, to=to))
        assert (no.status, no.json["status"], no.json["reason"]) == (201, "rejected", "transit_account"), there
        assert no.json["account"] == there, "and not the ledger's own, which it came from"
    for account in ("transit:out:fees:EUR", into):
        for method, path, content in (
            ("PATCH", "", {"ceiling": "50"}), ("PATCH", "", {"name": "mine"}), ("POST", "/freeze", None), ("POST", "/unfreeze", None),
            ("POST", "/close", None),
        ):  # fmt: skip
            no = await env.call(method, f"/v1/accounts/{account}{path}", content, key="")
            assert problem(no) == (409, "account-reserved"), (account, path)
    assert (await env.call("POST", "/v1/interbook_transfers", body(1))).json["status"] == "posted"
    assert await env.balance(wallet) == ("79", "0", "79")
    found = await env.ledger.interbook.in_transit()
    assert disagreements(found, found, found) == []


async def test_a_book_of_another_shard_is_named(env: Env) -> None:
    await furnished(env)
    nowhere = await env.call("POST", "/v1/books", {"name": "eu", "shard": "paris"})
    assert problem(nowhere) == (400, "invalid-request")
    opened = await env.call("POST", "/v1/books", {"name": "eu", "shard": "frankfurt"})
    assert (opened.status, opened.json["shard"]) == (201, "frankfurt")
    bank = await env.account("debit")
    asked = [
        await env.transfers(post(bank, "wallet", 1), book="eu"),
        await env.call("GET", "/v1/accounts/wallet?book=eu"),
        await env.call("GET", "/v1/accounts?book=eu"),
        await env.call("GET", f"/v1/transfers/{ids.transfers.text(ids.transfers.new())}?book=eu"),
        await env.call("POST", "/v1/accounts", {"name": "x", "currency": "EUR", "normal_side": "debit", "book": "eu"}),
        await env.call("POST", "/v1/interbook_transfers", {**body(), "from": {"book": "eu", "account": "wallet"}}),
    ]
    for answer in asked:
        assert problem(answer) == (421, "book-elsewhere"), answer.content
        assert answer.json["shard"] == "frankfurt"


async def test_nobody_but_a_ledger_brings_money_from_another_shard(env: Env) -> None:
    from tests.support.http import ask

    await furnished(env)
    arriving = {
        "token": env.world.issuer.transaction(),
        "id": ids.transfers.text(ids.transfers.new()),
        "source": {"book": "eu", "account": "wallet"},
        "destination": {"book": "fees", "account": "wallet"},
        "amount": eur(5),
    }
    import json

    async def arrive(caller: str) -> Any:
        return await ask(env.app, "POST", "/internal/arrivals", json.dumps(arriving).encode(), env.world.mesh(caller))

    assert (await arrive("payments")).status == 403
    answer = await arrive("ledger")
    assert (answer.status, answer.json) == (200, {})
    assert (await arrive("ledger-eu")).json == {}, "whichever of its shards it is"
    arriving |= {"id": ids.transfers.text(ids.transfers.new()), "destination": {"book": "fees", "account": "nobody"}}
    assert (await arrive("ledger")).json == {"reason": "account_not_found", "account": "nobody"}
    for caller in ("ledger_eu", "ledgereu", "payments-eu", "eu-ledger"):
        assert (await arrive(caller)).status == 403, caller
    assert (await env.call("GET", "/v1/accounts/wallet?book=fees")).json["balance"]["posted"] == eur(5)


async def test_a_shard_that_is_not_this_one_is_refused(env: Env) -> None:
    from tests.support.http import ask

    async def open_book(*shards: bytes) -> Any:
        headers = env.world.edge("POST", "/v1/books", scope="books:write", tenant="acme")
        named = [(b"tallystick-shard", shard) for shard in shards]
        return await ask(env.app, "POST", "/v1/books", b'{"name":"asia"}', [*headers, *named])

    for shards in ((b"frankfurt",), (b"nowhere",), (b"",), (b"default", b"default")):
        assert problem(await open_book(*shards)) == (400, "invalid-request"), shards
    assert problem(await env.call("GET", "/v1/books/asia")) == (404, "book-not-found")
    assert (await open_book(b"default")).status == 201


# ---- the router ------------------------------------------------------------------------------------------------------


async def test_a_router_learns_where_a_book_is() -> None:
    asked: list[str] = []
    where = {"eu": "frankfurt"}

    async def call(client: str) -> str:
        asked.append(client)
        home = where.get("eu", "default")
        if client != home:
            raise BookElsewhere(shard=home)
        return f"done by {client}"

    router = Router({"default": "default", "frankfurt": "frankfurt", "paris": "paris"})
    assert await router.at("acme", "eu", call) == "done by frankfurt"
    assert await router.at("acme", "eu", call) == "done by frankfurt"
    assert asked == ["default", "frankfurt", "frankfurt"]
    where["eu"] = "paris"
    assert await router.at("acme", "eu", call) == "done by paris"
    assert asked[3:] == ["frankfurt", "paris"]


async def test_a_router_does_not_go_round_in_circles() -> None:
    asked: list[str] = []

    async def call(client: str) -> str:
        asked.append(client)
        raise BookElsewhere(shard="b" if client == "a" else "a")

    with pytest.raises(BookElsewhere):
        await Router({"a": "a", "b": "b"}, home="a").at("acme", "eu", call)
    assert asked == ["a", "b", "a"]
    with pytest.raises(Unavailable):
        await Router({"a": "a"}, home="a").at("acme", "eu", call)
