"""Transactions, exchanges, chains, balancing transfers, growing holds, seals and categories as clients see them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from tallystick.kernel import ids
from tests.services.ledger.env import Env, eur, post, problem


def money(amount: Any, currency: str) -> dict[str, str]:
    return {"amount": str(amount), "currency": currency}


async def transaction(env: Env, *transfers: dict[str, Any], **more: Any) -> Any:
    options = {name: more.pop(name) for name in ("key", "tenant") if name in more}
    return await env.call("POST", "/v1/transactions", {"transfers": list(transfers), **more}, **options)


async def shop(env: Env) -> None:
    """A bank, Anna with 1000 EUR, a shop, a fee account, and pools for dollars."""
    await env.account("debit", path="bank")
    for path, more in (
        ("anna", {"floor": "0"}), ("shop", {}), ("fees", {"kind": "income"}), ("anna:usd", {"currency": "USD"}), ("pool:eur", {}),
        ("pool:usd", {"currency": "USD"}), ("income:fx", {"currency": "USD", "kind": "income"}),
    ):  # fmt: skip
        await env.account(path=path, **more)
    await env.transfers(post("bank", "anna", 1000))


async def test_a_transaction_in_full(env: Env) -> None:
    await shop(env)
    own = ids.transactions.text(ids.transactions.new())
    made = await transaction(
        env,
        post("anna", "shop", 300, code="sale"),
        post("shop", "fees", 9, metadata={"rate": "3"}),
        {**post("anna", "shop", 50), "kind": "hold", "expires_in": 60},
        id=own,
        reference="order 7",
        description="shoes",
        metadata={"b": "1", "a": "2"},
    )
    assert made.status == 201, made.content
    body = made.json
    assert (body["id"], body["first"], body["last"], body["reference"]) == (own, 2, 4, "order 7")
    assert [one["status"] for one in body["transfers"]] == ["posted", "posted", "held"]
    assert {one["transaction"] for one in body["transfers"]} == {own}
    instants = [one["recorded_at"] for one in body["transfers"]]
    assert sorted(set(instants)) == instants, "each transfer has an instant of its own"
    assert (body["recorded_at"], body["effective_at"], body["metadata"]) == (
        instants[-1],
        instants[-1],
        {"a": "2", "b": "1"},
    )
    assert (await env.call("GET", f"/v1/transactions/{own}")).json == body
    one = (await env.call("GET", f"/v1/transfers/{body['transfers'][1]['id']}")).json
    assert (one["transaction"], one["metadata"]) == (own, {"rate": "3"})
    entries = (await env.call("GET", "/v1/accounts/fees/entries")).json["data"]
    assert [(each["transaction"], each["effective_at"]) for each in entries] == [(own, instants[1])]
    assert await env.balance("anna") == ("700", "50", "650")
    assert await env.balance("shop") == ("291", "0", "291")
    assert problem(await env.call("GET", f"/v1/transactions/{own}", tenant="beta")) == (404, "transaction-not-found")
    await transaction(env, post("anna", "shop", 1))
    listed = (await env.call("GET", "/v1/transactions?limit=1")).json
    rest = (await env.call("GET", f"/v1/transactions?limit=1&after={listed['next']}")).json
    assert [each["first"] for each in listed["data"] + rest["data"]] == [5, 2]
    assert rest["has_more"] is False


async def test_one_transaction_id_is_one_transaction(env: Env) -> None:
    await shop(env)
    own = ids.transactions.text(ids.transactions.new())
    items = (post("anna", "shop", 300), post("shop", "fees", 9))
    first = await transaction(env, *items, id=own, reference="x")
    again = await transaction(env, *items, id=own, reference="x")
    assert (first.status, again.status) == (201, 200)
    assert again.json == first.json
    for changed in (
        ((post("anna", "shop", 301), items[1]), {"reference": "x"}),
        (items[:1], {"reference": "x"}),
        ((*items, post("anna", "shop", 1)), {"reference": "x"}),
        (items, {"reference": "y"}),
        (items, {}),
        (items, {"reference": "x", "effective_at": "2025-12-01T00:00:00Z"}),
    ):
        answer = await transaction(env, *changed[0], id=own, **changed[1])
        assert problem(answer) == (409, "transfer-exists"), changed
    derived = await env.transfers(post("anna", "shop", 300, id=first.json["transfers"][0]["id"]))
    assert problem(derived) == (400, "invalid-id"), "ids that the ledger derives are nobody's to choose"
    leg = ids.transfers.text(ids.transfers.new())
    await transaction(env, post("anna", "shop", 1, id=leg))
    mixed = await env.transfers(post("anna", "shop", 1, id=leg))
    assert mixed.json["data"][0]["reason"] == "exists_with_different_transaction"
    plain = ids.transfers.text(ids.transfers.new())
    await env.transfers(post("anna", "shop", 1, id=plain))
    taken = await transaction(env, post("anna", "shop", 1, id=plain))
    assert taken.json["reason"] == "exists_with_different_transaction"
    many = await asyncio.gather(*(transaction(env, *items, key="once") for _ in range(10)))
    assert len({one.content for one in many if one.status == 201}) == 1
    assert {one.status for one in many} <= {201, 409}
    assert await env.balance("fees") == ("18", "0", "18")


async def test_a_refused_transaction_moves_nothing_and_stays_refused(env: Env) -> None:
    await shop(env)
    own = ids.transactions.text(ids.transactions.new())
    items = (post("anna", "shop", 900), post("anna", "fees", 101))
    no = await transaction(env, *items, id=own)
    assert problem(no) == (422, "insufficient-funds")
    assert (no.json["available"], no.json["required"], no.json["transfer"]["place"]) == (eur(100), eur(101), 1)
    assert problem(await env.call("GET", f"/v1/transactions/{own}")) == (404, "transaction-not-found")
    await env.transfers(post("bank", "anna", 1000))
    assert problem(await transaction(env, *items, id=own)) == (422, "insufficient-funds"), "it is pinned"
    assert (await transaction(env, *items)).status == 201
    assert await env.balance("shop") == ("900", "0", "900")


async def test_a_transaction_is_reversed_as_a_whole_and_once(env: Env) -> None:
    await shop(env)
    made = (await transaction(env, post("anna", "shop", 300), post("shop", "fees", 300))).json
    path = f"/v1/transactions/{made['id']}/reverse"
    undone = await env.call("POST", path, {"reference": "back"}, key="undo")
    assert undone.status == 201, undone.content
    assert (undone.json["reverses"], undone.json["reference"]) == (made["id"], "back")
    assert [one["target"] for one in undone.json["transfers"]] == [one["id"] for one in reversed(made["transfers"])]
    assert await env.balance("anna") == ("1000", "0", "1000")
    assert await env.balance("shop") == ("0", "0", "0")
    replay = await env.call("POST", path, {"reference": "back"}, key="undo")
    assert (replay.status, replay.content) == (201, undone.content)
    assert problem(await env.call("POST", path, {})) == (422, "exceeds-reversible")
    back = await env.call("POST", f"/v1/transactions/{undone.json['id']}/reverse", {})
    assert problem(back) == (422, "not-reversible")
    held = (await transaction(env, {**post("anna", "shop", 5), "kind": "hold"})).json
    assert problem(await env.call("POST", f"/v1/transactions/{held['id']}/reverse", {})) == (422, "not-reversible")
    for bad, answered in (
        (ids.transactions.text(ids.transactions.new()), 404),
        ("txn_x", 400),
        (made["transfers"][0]["id"], 400),
    ):
        assert problem(await env.call("POST", f"/v1/transactions/{bad}/reverse", {}))[0] == answered
    assert problem(await env.call("POST", path, {}, tenant="beta"))[0] == 404


def exchange(**more: Any) -> dict[str, Any]:
    body = {
        "sell": eur(500),
        "from": "anna",
        "to": "anna:usd",
        "buy_currency": "USD",
        "rate": {"numerator": 10873, "denominator": 10000},
        "rounding": "half_even",
        "liquidity": {"sell": "pool:eur", "buy": "pool:usd"},
        "spread": {"numerator": 1, "denominator": 100, "account": "income:fx"},
        **more,
    }
    return {"kind": "exchange", "exchange": body}


async def test_an_exchange_is_legs_that_add_up(env: Env) -> None:
    await shop(env)
    own = ids.transactions.text(ids.transactions.new())
    made = await transaction(env, post("anna", "fees", 2), exchange(), id=own)
    assert made.status == 201, made.content
    (told,) = made.json["exchanges"]
    assert told == {
        "sold": eur(500),
        "bought": money(539, "USD"),
        "spread": money(5, "USD"),
        "rate": {"numerator": 10873, "denominator": 10000},
        "rounding": "half_even",
        "transfers": [one["id"] for one in made.json["transfers"][1:]],
    }
    assert [one["amount"] for one in made.json["transfers"]] == [eur(2), eur(500), money(539, "USD"), money(5, "USD")]
    assert (await env.call("GET", f"/v1/transactions/{own}")).json == made.json
    assert (await transaction(env, post("anna", "fees", 2), exchange(), id=own)).status == 200
    other = await transaction(env, post("anna", "fees", 2), exchange(rounding="up"), id=own)
    assert problem(other) == (409, "transfer-exists")
    assert await env.balance("anna") == ("498", "0", "498")
    assert await env.balance("pool:usd") == ("-544", "0", "-544")
    undone = await env.call("POST", f"/v1/transactions/{own}/reverse", {})
    assert undone.status == 201
    assert await env.balance("pool:usd") == ("0", "0", "0")
    for more, answered in (
        ({"rate": {"numerator": 0, "denominator": 1}}, "invalid-request"),
        ({"rate": {"numerator": -1, "denominator": 1}}, "invalid-request"),
        ({"rate": {"numerator": 1.5, "denominator": 1}}, "invalid-request"),
        ({"rate": {"numerator": 1, "denominator": 0}}, "invalid-request"),
        ({"rate": {"numerator": 10**15 + 1, "denominator": 1}}, "invalid-request"),
        ({"rate": {"numerator": 1, "denominator": 1000}, "rounding": "down"}, "exchange-worthless"),
        ({"sell": eur(2**63 - 1), "rate": {"numerator": 2, "denominator": 1}}, "exchange-worthless"),
        ({"sell": eur(0)}, "invalid-amount"),
        ({"buy_currency": "EUR"}, "invalid-unit"),
        ({"buy_currency": "XXX"}, "unknown-currency"),
        ({"spread": {"numerator": 1, "denominator": 1, "account": "income:fx"}}, "invalid-unit"),
        ({"rounding": "nearest"}, "invalid-request"),
        ({"from": "a b"}, "invalid-id"),
    ):
        assert problem(await transaction(env, exchange(**more))) == (400, answered), more
    assert problem(await transaction(env, exchange(to="anna"))) == (422, "currency-mismatch")


async def test_bad_transactions_are_named(env: Env) -> None:
    await shop(env)
    good = post("anna", "shop", 1)
    same = ids.transfers.text(ids.transfers.new())
    for items, more in (
        ((), {}),
        ((good,) * 1001, {}),
        (({**good, "id": same}, {**good, "id": same}), {}),
        (({**good, "amount": eur(0) | {"amount": "-1"}},), {}),
        (({"kind": "post"},), {}),
        (({**good, "kind": "exchange"},), {}),
        (({**good, "exchange": exchange()["exchange"]},), {}),
        (({**good, "expires_in": 5},), {}),
        (({**good, "linked": True},), {}),
        ((good,), {"id": "txn_1"}),
        ((good,), {"id": same}),
        ((good,), {"reference": ""}),
        ((good,), {"reference": "x" * 201}),
        ((good,), {"metadata": {"x" * 41: "1"}}),
        ((good,), {"metadata": {str(n): "" for n in range(33)}}),
        ((good,), {"effective_at": "yesterday"}),
        ((good,), {"effective_at": "2025-12-01T00:00:00"}),
        (({**good, "kind": "hold"},), {"effective_at": "2025-12-01T00:00:00Z"}),
        ((good,), {"atomic": False}),
    ):
        assert problem(await transaction(env, *items, **more))[0] == 400, (items[:1], more)
    assert problem(await transaction(env, good, book="nowhere")) == (404, "book-not-found")
    assert problem(await env.call("POST", "/v1/transactions", {"transfers": [good]}, key=""))[0] == 400
    assert problem(await transaction(env, post("anna", "nobody", 1))) == (422, "transfer-refused")
    assert await env.balance("shop") == ("0", "0", "0")


async def test_chains_in_a_batch_are_all_or_none(env: Env) -> None:
    await shop(env)
    answer = await env.transfers(
        post("anna", "shop", 100),
        {**post("anna", "shop", 200), "linked": True},
        {**post("shop", "fees", 250), "linked": True},
        post("anna", "shop", 701),
        {**post("anna", "shop", 10), "linked": True},
        post("anna", "shop", 20),
    )
    assert [one.get("reason", one["status"]) for one in answer.json["data"]] == [
        "posted", "linked_transfer_failed", "linked_transfer_failed", "insufficient_funds", "posted", "posted",
    ]  # fmt: skip
    assert await env.balance("anna") == ("870", "0", "870")
    open_end = await env.transfers(post("anna", "shop", 1), {**post("anna", "shop", 1), "linked": True})
    assert problem(open_end) == (400, "invalid-unit")


async def test_balancing_moves_what_there_is(env: Env) -> None:
    await shop(env)
    await env.account(path="jar", ceiling="30")
    one = {**post("anna", "jar", 500), "balancing": True, "id": ids.transfers.text(ids.transfers.new())}
    made = (await env.transfers(one)).json["data"][0]
    assert (made["status"], made["amount"], made["asked"]) == ("posted", eur(30), eur(500))
    await env.transfers(post("jar", "shop", 30))
    again = await env.transfers(one)
    assert (again.status, again.json["data"][0]["amount"]) == (200, eur(30))
    assert (await env.call("GET", f"/v1/transfers/{one['id']}")).json["asked"] == eur(500)
    for changes, reason in (
        ({"amount": eur(501)}, "exists_with_different_amount"),
        ({"amount": eur(30), "balancing": False}, "exists_with_different_balancing"),
    ):
        assert (await env.transfers({**one, **changes})).json["data"][0]["reason"] == reason
    sweep = await env.transfers({**post("anna", "shop", 2**63 - 1), "balancing": True, "kind": "hold"})
    assert (sweep.json["data"][0]["amount"], sweep.json["data"][0]["status"]) == (eur(970), "held")
    empty = (await env.transfers({**post("anna", "shop", 5), "balancing": True})).json["data"][0]
    assert (empty["reason"], empty["available"], empty["required"]) == ("nothing_to_move", eur(0), eur(5))


async def test_a_hold_grows_within_its_bounds(env: Env) -> None:
    await shop(env)
    (held,) = (await env.transfers({**post("anna", "shop", 600), "kind": "hold", "expires_in": 60})).json["data"]
    path = f"/v1/transfers/{held['id']}"
    grown = await env.call("POST", f"{path}/increase", {"amount": eur(300), "expires_in": 3600})
    assert (grown.status, grown.json["kind"], grown.json["amount"]) == (201, "increase", eur(300))
    assert "released" not in grown.json
    assert problem(await env.call("POST", f"{path}/increase", {"amount": eur(101)})) == (422, "insufficient-funds")
    own = ids.transfers.text(ids.transfers.new())
    same = [await env.call("POST", f"{path}/increase", {"amount": eur(50), "id": own}) for _ in range(2)]
    assert [one.status for one in same] == [201, 200]
    other = await env.call("POST", f"{path}/increase", {"amount": eur(51), "id": own})
    assert problem(other) == (409, "transfer-exists")
    state = (await env.call("GET", path)).json["hold"]
    assert (state["remaining"], state["captured"], state["expires_at"]) == (eur(950), eur(0), grown.json["expires_at"])
    assert await env.balance("anna") == ("1000", "950", "50")
    env.clock.advance(timedelta(seconds=61))
    assert await env.ledger.sweep() == 0, "it expires later now"
    assert (await env.call("POST", f"{path}/capture", {"amount": eur(800)})).status == 201
    assert (await env.call("POST", f"{path}/increase", {"amount": eur(10)})).status == 201
    assert (await env.call("POST", f"{path}/capture", {"final": True})).json["amount"] == eur(160)
    assert problem(await env.call("POST", f"{path}/increase", {"amount": eur(1)})) == (409, "hold-not-open")
    for body in (
        {},
        {"amount": eur(0) | {"amount": "0"}},
        {"amount": money(1, "USD")},
        {"amount": eur(1), "expires_in": 0},
    ):
        assert problem(await env.call("POST", f"{path}/increase", body))[0] in {400, 409, 422}, body
    assert await env.balance("anna") == ("40", "0", "40")


async def test_effective_times_and_seals(env: Env) -> None:
    await shop(env)
    env.clock.advance(timedelta(days=40))
    back = await transaction(env, post("anna", "shop", 100), effective_at="2026-01-15T12:00:00+01:00")
    assert (back.status, back.json["effective_at"]) == (201, "2026-01-15T11:00:00.000000Z")
    assert back.json["transfers"][0]["effective_at"] == "2026-01-15T11:00:00.000000Z"
    for query, posted in (
        ("effective=2026-01-15T10:59:59Z", "1000"),
        ("effective=2026-01-15T11:00:00Z", "900"),
        ("at=2026-01-15T11:00:00Z", "1000"),
        ("effective=2026-02-10T00:00:00Z", "900"),
        ("effective=2025-01-01T00:00:00Z", "0"),
    ):
        assert (await env.balance("anna", f"?{query}"))[0] == posted, query
    for query in ("effective=2026-02-11T00:00:00Z", "effective=x", "effective=2026-01-01T00:00:00Z&sequence=1"):
        assert problem(await env.call("GET", f"/v1/accounts/anna?{query}"))[0] in {400, 422}
    no = await transaction(env, post("shop", "fees", 5), post("anna", "shop", 901), effective_at="2026-01-10T00:00:00Z")
    assert problem(no) == (422, "insufficient-funds"), "now counts first"
    await env.transfers(post("bank", "anna", 500))
    own = {"id": ids.transactions.text(ids.transactions.new()), "effective_at": "2026-02-08T00:00:00Z"}
    anna = (await env.call("GET", "/v1/accounts/anna")).json["id"]
    for _ in range(2):
        no = await transaction(env, post("anna", "shop", 901), **own)
        assert problem(no) == (422, "past-limit-broken")
        assert (no.json["breached_on"], no.json["account"]) == (["2026-02-08", "2026-02-09"], anna)
    leg = (await env.call("GET", f"/v1/transfers/{no.json['transfer']['id']}")).json
    assert (leg["breached_on"], leg["account"]) == (["2026-02-08", "2026-02-09"], anna)
    await env.call("PATCH", "/v1/books/main", {"backdating": "report"})
    told = await transaction(env, post("anna", "shop", 901), effective_at="2026-02-08T00:00:00Z")
    assert (told.status, told.json["breached_on"]) == (201, ["2026-02-08", "2026-02-09"])

    sealed = await env.call("POST", "/v1/books/main/seal", {"until": "2026-01-31T23:59:59.999999Z"}, key="")
    assert (sealed.status, sealed.json["sealed_until"]) == (200, "2026-01-31T23:59:59.999999Z")
    assert (
        await env.call("POST", "/v1/books/main/seal", {"until": "2026-01-31T23:59:59.999999Z"}, key="")
    ).status == 200
    for until, answered in (
        ("2026-01-31T00:00:00Z", 409),
        ("1969-12-31T23:59:59Z", 400),
        ("0001-01-01T00:00:00Z", 400),
        ("2026-03-01T00:00:00Z", 400),
        ("x" * 20, 400),
    ):
        assert problem(await env.call("POST", "/v1/books/main/seal", {"until": until}, key=""))[0] == answered, until
    late = await transaction(env, post("shop", "fees", 1), effective_at="2026-01-31T00:00:00Z")
    assert problem(late) == (409, "period-sealed")
    undo = await env.call(
        "POST", f"/v1/transactions/{back.json['id']}/reverse", {"effective_at": "2026-01-16T00:00:00Z"}
    )
    assert problem(undo) == (409, "period-sealed")
    assert (await transaction(env, post("shop", "fees", 1), effective_at="2026-02-01T00:00:00Z")).status == 201
    early = await transaction(env, post("shop", "fees", 1), effective_at="1969-12-31T23:59:59Z")
    assert (problem(early), early.json["reason"]) == ((422, "transfer-refused"), "effective_too_early")
    ahead = await transaction(env, post("shop", "fees", 1), effective_at="2026-03-01T00:00:00Z")
    assert (problem(ahead), ahead.json["reason"]) == ((422, "transfer-refused"), "effective_in_future")


async def test_categories_add_up_each_account_once(env: Env) -> None:
    await shop(env)
    await transaction(env, exchange(), post("anna", "fees", 7))
    base = "/v1/books/main/categories"
    for name, body in (
        ("income", {"paths": ["fees", "income:*"]}),
        ("people", {"paths": ["anna", "anna:**"]}),
        ("all", {"paths": ["**"], "categories": ["income", "people"]}),
    ):
        assert (await env.call("PUT", f"{base}/{name}", body)).status == 200
    found = (await env.call("GET", f"{base}/income/balances")).json
    assert found["as_of"] == 5
    assert [(one["currency"], one["accounts"], one["balance"]["amount"]) for one in found["data"]] == [
        ("EUR", 1, "-7"),
        ("USD", 1, "-5"),
    ]
    everything = (await env.call("GET", f"{base}/all/balances")).json["data"]
    assert [(one["currency"], one["accounts"], one["balance"]["amount"]) for one in everything] == [
        ("EUR", 5, "0"),
        ("USD", 3, "0"),
    ]
    cycle = await env.call("PUT", f"{base}/income", {"categories": ["all"]})
    assert problem(cycle) == (409, "category-cycle")
    assert problem(await env.call("PUT", f"{base}/self", {"categories": ["self"]})) == (409, "category-cycle")
    assert problem(await env.call("PUT", f"{base}/x", {"categories": ["nothing"]})) == (404, "category-not-found")
    used = await env.call("DELETE", f"{base}/income")
    assert (problem(used), used.json["by"]) == ((409, "category-in-use"), ["all"])
    assert (await env.call("DELETE", f"{base}/all")).status == 204
    assert (await env.call("DELETE", f"{base}/income")).status == 204
    assert [one["name"] for one in (await env.call("GET", base)).json["data"]] == ["people"]
    for path in (f"{base}/income", f"{base}/income/balances", f"{base}/Income"):
        assert problem(await env.call("GET", path)) == (404, "category-not-found")
    assert problem(await env.call("GET", f"{base}/people", tenant="beta")) == (404, "category-not-found")
    bad: tuple[dict[str, Any], ...] = (
        {"paths": ["a:**:b"]},
        {"paths": ["a"] * 201},
        {"categories": ["A"]},
        {"members": []},
    )
    for body in bad:
        assert problem(await env.call("PUT", f"{base}/bad", body))[0] == 400, body


async def test_scopes_of_all_of_it(env: Env) -> None:
    everything = "books:write books:read accounts:write accounts:read transfers:write transfers:read"
    own = ids.transactions.text(ids.transactions.new())
    for method, path, needed in (
        ("POST", "/v1/books", "books:write"), ("GET", "/v1/books", "books:read"), ("GET", "/v1/books/main", "books:read"),
        ("PATCH", "/v1/books/main", "books:write"), ("POST", "/v1/books/main/seal", "books:write"), ("GET", "/v1/books/main/chart", "books:read"),
        ("PUT", "/v1/books/main/chart", "books:write"), ("GET", "/v1/books/main/categories", "books:read"),
        ("PUT", "/v1/books/main/categories/a", "books:write"), ("DELETE", "/v1/books/main/categories/a", "books:write"),
        ("GET", "/v1/books/main/categories/a/balances", "books:read"), ("POST", "/v1/transactions", "transfers:write"),
        ("GET", "/v1/transactions", "transfers:read"), ("GET", f"/v1/transactions/{own}", "transfers:read"),
        ("POST", f"/v1/transactions/{own}/reverse", "transfers:write"), ("PATCH", "/v1/accounts/a", "accounts:write"),
        ("POST", "/v1/accounts/a/freeze", "accounts:write"), ("POST", "/v1/accounts/a/unfreeze", "accounts:write"),
    ):  # fmt: skip
        others = " ".join(scope for scope in everything.split() if scope != needed)
        assert problem(await env.call(method, path, scope=others)) == (403, "insufficient-scope"), path
