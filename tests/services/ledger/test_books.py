"""Books, paths, charts and limits as clients see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tallystick.kernel import ids
from tallystick.services.ledger.service.books import COMPARISONS
from tests.services.ledger.env import Env, eur, post, problem

CHART = {
    "mode": "strict",
    "rules": [
        {"pattern": "customers:{id:int}:wallet", "kind": "liability", "currencies": ["EUR", "USD"], "floor": "0", "ceiling": "1000"},
        {"pattern": "customers:{name}:points", "kind": "equity"},
        {"pattern": "banks:{bank}:{account:uuid}", "kind": "asset", "normal_side": "debit"},
        {"pattern": "world", "kind": "asset"},
    ],
}  # fmt: skip


async def opened(env: Env, path: str | None, side: str = "credit", **more: Any) -> tuple[int, str]:
    body = {"name": "x", "currency": "EUR", "normal_side": side, "path": path, **more}
    answer = await env.call("POST", "/v1/accounts", body)
    return answer.status, answer.json.get("id") or answer.json["type"].rpartition("/")[2]


async def test_a_book_is_opened_once_under_a_key(env: Env) -> None:
    """Also if it was changed meanwhile: who got no answer the first time gets that one."""
    body = {"name": "eu", "backdating": "report"}
    answers = await asyncio.gather(*(env.call("POST", "/v1/books", body, key="open-eu") for _ in range(10)))
    done = [one for one in answers if one.status == 201]
    assert sum(one.header("idempotent-replayed") is None for one in done) == 1
    assert all(problem(one) == (409, "request-in-progress") for one in answers if one.status != 201)
    await env.call("PATCH", "/v1/books/eu", {"backdating": "strict"})
    again = await env.call("POST", "/v1/books", body, key="open-eu")
    assert (again.status, again.content, again.header("idempotent-replayed")) == (201, done[0].content, "true")
    other = await env.call("POST", "/v1/books", {**body, "name": "us"}, key="open-eu")
    assert (problem(other), other.json["fields"]) == ((422, "idempotency-key-reused"), ["/name"])
    assert problem(await env.call("GET", "/v1/books/us")) == (404, "book-not-found")
    assert problem(await env.call("POST", "/v1/books", body, key="refused")) == (409, "book-exists")
    free = await env.call("POST", "/v1/books", {"name": "us"}, key="refused")
    assert (free.status, free.header("idempotent-replayed")) == (201, None), "what was refused took no key"


async def test_books_of_a_tenant(env: Env) -> None:
    assert (await env.call("GET", "/v1/books/main")).json["sequence"] == 0
    made = await env.call("POST", "/v1/books", {"name": "q4-test", "description": "trial", "backdating": "report"})
    assert made.status == 201
    assert made.json == {
        "name": "q4-test",
        "description": "trial",
        "backdating": "report",
        "sealed_until": None,
        "quarantined_at": None,
        "quarantine_reason": None,
        "shard": "default",
        "sequence": 0,
        "revision": 0,
        "created_at": "2026-01-01T00:00:00.000000Z",
    }
    again = await env.call("POST", "/v1/books", {"name": "q4-test", "description": "trial", "backdating": "report"})
    assert (again.status, again.json) == (201, made.json)
    assert problem(await env.call("POST", "/v1/books", {"name": "q4-test"})) == (409, "book-exists")
    changed = await env.call("PATCH", "/v1/books/q4-test", {"backdating": "strict"})
    assert (changed.json["backdating"], changed.json["description"], changed.json["revision"]) == ("strict", "trial", 1)
    assert (await env.call("PATCH", "/v1/books/q4-test", {"backdating": "strict"})).json["revision"] == 1
    first = (await env.call("GET", "/v1/books?limit=1")).json
    second = (await env.call("GET", f"/v1/books?limit=1&after={first['next']}")).json
    assert [one["name"] for one in first["data"] + second["data"]] == ["main", "q4-test"]
    assert second["has_more"] is False
    assert (await env.call("GET", "/v1/books", tenant="beta")).json["data"] == []
    for path in (
        "/v1/books/q4-test",
        "/v1/books/q4-test/chart",
        "/v1/books/Main",
        "/v1/books/" + "x" * 64,
    ):
        assert problem(await env.call("GET", path, tenant="beta")) == (404, "book-not-found"), path
    for name in ("", "Main", "-a", "a_b", "x" * 64, "a\n", "ä", None, 5):
        assert problem(await env.call("POST", "/v1/books", {"name": name}))[0] == 400, name
    assert problem(await env.call("PATCH", "/v1/books/main", {"shard": "other"}))[0] == 400
    assert problem(await env.call("PATCH", "/v1/books/main", {"backdating": None}))[0] == 400


async def test_nothing_crosses_books(env: Env) -> None:
    await env.call("POST", "/v1/books", {"name": "other"})
    bank, anna = await env.account("debit", path="bank"), await env.account(path="anna")
    there = await env.account(book="other", path="anna")
    other_bank = await env.account("debit", book="other", path="bank")
    one = ids.transfers.text(ids.transfers.new())
    mixed = await env.transfers(post(bank, there, 5), post(bank, anna, 5, id=one))
    assert [each.get("reason") for each in mixed.json["data"]] == ["account_not_found", None]
    same = await env.transfers(post("bank", "anna", 7, id=one), book="other")
    (made,) = same.json["data"]
    assert (made["status"], made["debit_account"], made["credit_account"]) == ("posted", other_bank, there)
    assert (made["book"], made["sequence"]) == ("other", 1), "ids and numbers are a book's own"
    assert (await env.call("GET", f"/v1/transfers/{one}?book=other")).json["amount"] == eur(7)
    assert (await env.call("GET", f"/v1/transfers/{one}")).json["amount"] == eur(5)
    assert problem(await env.call("GET", f"/v1/transfers/{one}?book=nowhere")) == (404, "transfer-not-found")
    assert problem(await env.transfers(post(bank, anna, 5), book="nowhere")) == (404, "book-not-found")
    (held,) = (await env.transfers({**post("bank", "anna", 9), "kind": "hold"}, book="other")).json["data"]
    path = f"/v1/transfers/{held['id']}/capture"
    assert problem(await env.call("POST", path, {})) == (404, "transfer-not-found")
    assert (await env.call("POST", path, {"book": "other"})).json["book"] == "other"
    found = await env.call("GET", "/v1/accounts/anna?book=other")
    assert (found.json["id"], found.json["book"], found.json["balance"]["posted"]) == (there, "other", eur(16))
    assert [one["path"] for one in (await env.call("GET", "/v1/accounts?book=other")).json["data"]] == ["bank", "anna"]
    entries = (await env.call("GET", "/v1/accounts/anna/entries?book=other")).json["data"]
    assert [one["sequence"] for one in entries] == [3, 2, 1]


async def test_paths_stand_for_accounts(env: Env) -> None:
    bank = await env.account("debit", path="world")
    anna = await env.account(path="customers:42:wallet", floor="0")
    answer = await env.transfers(
        post("world", "customers:42:wallet", 10),
        post(bank, "customers:43:wallet", 10),
        post("customers:42:wallet", "world", 11),
    )
    assert [one.get("reason", one["status"]) for one in answer.json["data"]] == [
        "posted",
        "account_not_found",
        "insufficient_funds",
    ]
    assert (answer.json["data"][0]["debit_account"], answer.json["data"][0]["credit_account"]) == (bank, anna)
    refused = answer.json["data"][1]
    assert refused["credit_account"] == "customers:43:wallet"
    late = await env.account(path="customers:43:wallet")
    again = await env.transfers(post(bank, "customers:43:wallet", 10, id=refused["id"]))
    assert again.json["data"][0]["reason"] == "account_not_found", "a refusal is pinned"
    one = post("world", "customers:43:wallet", 3, id=ids.transfers.text(ids.transfers.new()))
    first = await env.transfers(one)
    same = await env.transfers({**one, "debit_account": bank, "credit_account": late})
    assert (first.status, same.status) == (201, 200)
    differs = await env.transfers({**one, "credit_account": "customers:42:wallet"})
    assert differs.json["data"][0]["reason"] == "exists_with_different_credit_account"
    differs = await env.transfers({**one, "debit_account": "nobody"})
    assert differs.json["data"][0]["reason"] == "exists_with_different_debit_account"
    assert await opened(env, "customers:42:wallet") == (409, "account-path-taken")
    assert (await env.call("GET", "/v1/accounts/customers:42:wallet")).json["id"] == anna
    assert problem(await env.call("GET", "/v1/accounts/customers:44:wallet")) == (404, "account-not-found")
    assert problem(await env.call("GET", "/v1/accounts/customers:42:wallet", tenant="beta")) == (
        404,
        "account-not-found",
    )


HOSTILE_PATHS: tuple[Any, ...] = (
    "", ":", "a:", ":a", "a::b", "a:*", "*", "**", "a b", "a/b", "ä", "a\n", "\n", "a\x00b", "a" * 65, ":".join(["a"] * 17),
    ":".join(["a" * 64] * 9), "acc_x", ".", "..", ids.transfers.text(ids.transfers.new()), "a" * 100_000, "a:" * 5000, "a'; --", "{id}", "%", 5, [],
)  # fmt: skip


async def test_hostile_paths_open_nothing(env: Env) -> None:
    bank = await env.account("debit")
    for path in HOSTILE_PATHS:
        body = {"name": "x", "currency": "EUR", "normal_side": "credit", "path": path}
        assert problem(await env.call("POST", "/v1/accounts", body))[0] == 400, path
        answer = await env.transfers(post(bank, path, 1))
        assert problem(answer)[0] == 400, path
    for pattern in ("a:**:b", "**:a", "a:", "", "***", "a*", "{id}", "a" * 600, "(", "a:" * 20 + "b"):
        assert problem(await env.call("GET", f"/v1/accounts?path={pattern}"))[0] == 400, pattern
    longest = ":".join(["a" * 56] * 9)
    assert len(longest) == 512
    assert (await opened(env, longest))[0] == 201
    assert (await opened(env, ":".join(["-._Z9"] * 16)))[0] == 201


async def test_no_name_that_is_kept_holds_a_card_number_or_an_iban(env: Env) -> None:
    for held in ("4242424242424242", "DE89370400440532013000"):
        for path in (held, f"customers:{held}:wallet", held.lower()):
            status, _ = await opened(env, path)
            assert status == 400, path
        assert (await env.call("POST", "/v1/books", {"name": held.lower()})).status == 400
        answer = await env.call("PUT", f"/v1/books/main/categories/{held.lower()}", {"paths": ["a"]})
        assert (answer.status, held.lower() in answer.content.decode()) == (404, False)
    limited = {"name": "x", "currency": "EUR", "normal_side": "debit", "ceiling": "4242424242424242"}
    assert (await env.call("POST", "/v1/accounts", limited)).status == 201, "an amount may have as many digits"


async def test_lists_by_path_pattern_kind_and_page(env: Env) -> None:
    for path in ("a", "a:1", "a:1:x", "a:2:x", "a:10:x", "a.1:x", "a:1:x:y", "b:1:x", "a-:1:x"):
        await env.account(path=path, kind="equity" if path.startswith("b") else None)
    await env.account()

    async def found(query: str) -> list[str]:
        seen: list[str] = []
        after = ""
        while True:
            page = (await env.call("GET", f"/v1/accounts?limit=2&{query}{after}")).json
            seen += [one["path"] for one in page["data"]]
            if not page["has_more"]:
                return seen
            after = f"&after={page['next']}"

    assert await found("path=a:*:x") == ["a:10:x", "a:1:x", "a:2:x"]
    assert await found("path=a:**") == ["a:1", "a:10:x", "a:1:x", "a:1:x:y", "a:2:x"]
    assert await found("path=*:1:x") == ["a-:1:x", "a:1:x", "b:1:x"]
    assert await found("path=a") == ["a"]
    assert await found("path=a.1:*") == ["a.1:x"], "a dot is a dot"
    assert len(await found("path=**")) == 9
    assert await found("path=**&kind=equity") == ["b:1:x"]
    assert await found("kind=equity") == ["b:1:x"]
    assert await found("path=nothing:*") == []


async def test_a_list_goes_on_after_the_longest_path(env: Env) -> None:
    long = ":".join(["x" * 64] * 7) + ":" + "y" * 56
    assert len(long) == 511
    made = [await env.account(path=f"{long}{nth}") for nth in range(2)]
    first = (await env.call("GET", "/v1/accounts?limit=1&path=**")).json
    second = (await env.call("GET", f"/v1/accounts?limit=1&path=**&after={first['next']}")).json
    assert [one["id"] for one in first["data"] + second["data"]] == made
    assert second["has_more"] is False


async def test_a_cursor_of_the_other_order_is_none_of_this_list(env: Env) -> None:
    for path in ("a", "b", None):
        await env.account(path=path)
    newest = (await env.call("GET", "/v1/accounts?limit=1")).json["next"]
    by_path = (await env.call("GET", "/v1/accounts?limit=1&path=**")).json["next"]
    for query in (f"path=**&after={newest}", f"after={by_path}"):
        assert problem(await env.call("GET", f"/v1/accounts?{query}")) == (400, "invalid-request"), query


async def test_a_chart_says_what_may_be_opened(env: Env) -> None:
    none = (await env.call("GET", "/v1/books/main/chart")).json
    assert (none["version"], none["mode"], none["rules"]) == (0, "open", [])
    answer = await env.call("PUT", "/v1/books/main/chart", CHART)
    assert (answer.status, answer.json["version"]) == (200, 1)
    assert (await env.call("PUT", "/v1/books/main/chart", CHART)).json["version"] == 1, "the same is no new version"
    assert (await env.call("GET", "/v1/books/main/chart")).json == answer.json
    status, wallet = await opened(env, "customers:42:wallet")
    assert status == 201
    account = (await env.call("GET", f"/v1/accounts/{wallet}")).json
    assert (account["kind"], account["floor"], account["ceiling"]) == ("liability", "0", "1000")
    assert (await opened(env, "customers:x:points"))[0] == 201
    assert (await opened(env, f"banks:x:{'0' * 8}-0000-0000-0000-{'0' * 12}", "debit"))[0] == 201
    for path, more in (
        ("customers:x:wallet", {}),
        ("customers:007:wallet", {}),
        ("customers:-1:wallet", {}),
        ("customers:1234567890123456789:wallet", {}),
        ("customers:43:wallet:more", {}),
        ("customers", {}),
        (None, {}),
        ("customers:43:wallet", {"kind": "asset"}),
        ("customers:43:wallet", {"currency": "JPY"}),
        ("customers:43:wallet", {"floor": "-1"}),
        ("customers:43:wallet", {"ceiling": "1001"}),
        (f"banks:x:{'0' * 8}-0000-0000-0000-{'0' * 12}".replace("x", "y"), {}),
        ("banks:x:notanid", {"side": "debit"}),
    ):
        assert await opened(env, path, **more) == (422, "not-in-chart"), (path, more)
    assert (await opened(env, "customers:43:wallet", floor="5"))[0] == 400, "a floor is never above zero"
    assert (await opened(env, "customers:43:wallet", ceiling="10"))[0] == 201
    raised = await env.call("PATCH", f"/v1/accounts/{wallet}", {"ceiling": "1001"})
    assert problem(raised) == (422, "not-in-chart")
    assert problem(await env.call("PATCH", f"/v1/accounts/{wallet}", {"floor": None})) == (422, "not-in-chart")
    assert (await env.call("GET", f"/v1/accounts/{wallet}")).json["ceiling"] == "1000"


async def test_a_chart_that_orphans_accounts_is_refused(env: Env) -> None:
    _, first = await opened(env, "customers:1:wallet", floor="0", ceiling="1000")
    await opened(env, "customers:two:wallet")
    await opened(env, None)
    refused = await env.call("PUT", "/v1/books/main/chart", CHART)
    assert problem(refused) == (409, "chart-orphans-accounts")
    assert refused.json["count"] == 2
    assert refused.json["first"] != first
    assert refused.json["why"] == "no rule fits its path"
    assert (await env.call("GET", "/v1/books/main/chart")).json["version"] == 0
    assert (await env.call("PUT", "/v1/books/main/chart", {**CHART, "mode": "open"})).json["version"] == 1
    wider = {"mode": "open", "rules": [{"pattern": "customers:{id}:wallet", "kind": "asset"}]}
    refused = await env.call("PUT", "/v1/books/main/chart", wider)
    assert (refused.json["count"], refused.json["first"]) == (2, first)
    old = (await env.call("GET", "/v1/books/main/chart?version=1")).json
    assert len(old["rules"]) == 4
    assert problem(await env.call("GET", "/v1/books/main/chart?version=0"))[0] == 400
    assert problem(await env.call("GET", "/v1/books/main/chart?version=999")) == (400, "invalid-request")
    for rules in (
        [{"pattern": "a:{id:float}", "kind": "asset"}],
        [{"pattern": "a:{}", "kind": "asset"}],
        [{"pattern": "a:*", "kind": "asset"}],
        [{"pattern": "a:{id}{id}", "kind": "asset"}],
        [{"pattern": "a", "kind": "money"}],
        [{"pattern": "a", "kind": "asset", "currencies": ["XXX"]}],
        [{"pattern": "a", "kind": "asset", "currencies": []}],
        [{"pattern": "a", "kind": "asset", "floor": "1"}],
        [{"pattern": "a", "kind": "asset", "ceiling": str(2**63)}],
        [{"pattern": "a", "kind": "asset"}] * 201,
    ):
        assert problem(await env.call("PUT", "/v1/books/main/chart", {"rules": rules}))[0] == 400, rules


async def test_a_chart_and_an_account_at_the_same_time_agree(env: Env) -> None:
    """Whoever comes first: an account that the chart forbids is never there together with it."""
    for nth in range(8):
        name = f"race-{nth}"
        await env.call("POST", "/v1/books", {"name": name})
        strict = {"mode": "strict", "rules": []}
        body = {"name": "x", "currency": "EUR", "normal_side": "credit", "path": "a", "book": name}
        chart, account = await asyncio.gather(
            env.call("PUT", f"/v1/books/{name}/chart", strict), env.call("POST", "/v1/accounts", body)
        )
        assert (chart.status, account.status) in {(200, 422), (409, 201)}


@asynccontextmanager
async def compared(env: Env, monkeypatch: pytest.MonkeyPatch, *, times: int = 1) -> AsyncIterator[asyncio.Queue[Any]]:
    """The first `times` times that accounts are compared with a chart, this waits afterwards: take an event from the queue and set it."""
    queue: asyncio.Queue[Any] = asyncio.Queue()
    charted = env.ledger.books._store.charted

    async def compare(*about: Any) -> AsyncIterator[Any]:
        async for one in charted(*about):
            yield one
        nonlocal times
        times -= 1
        if times >= 0:
            queue.put_nowait(done := asyncio.Event())
            await done.wait()

    with monkeypatch.context() as patch:
        patch.setattr(env.ledger.books._store, "charted", compare)
        yield queue


BELOW_A = {"mode": "strict", "rules": [{"pattern": "a:{id}", "kind": "liability", "ceiling": "100"}]}


async def test_nothing_waits_while_accounts_are_compared_with_a_chart(
    env: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await env.account(path="a:1", ceiling="100"), await env.account(path="a:2", ceiling="50")
    async with compared(env, monkeypatch) as queue, asyncio.timeout(30):
        setting = asyncio.create_task(env.call("PUT", "/v1/books/main/chart", BELOW_A))
        done = await queue.get()
        # Two transfers, so that the second one shows that the first one's end was not the lock's.
        for _ in range(2):
            assert (await env.transfers(post(*pair, 1))).json["data"][0]["status"] == "posted"
        await env.account(path="a:3", ceiling="1")
        done.set()
        assert (await setting).json["version"] == 1
    assert await opened(env, "b") == (422, "not-in-chart")


@pytest.mark.parametrize("times", [1, COMPARISONS])
async def test_no_account_escapes_a_chart_that_is_opened_or_changed_while_others_are_compared(
    env: Env, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    first = await env.account(path="a:1", ceiling="100")
    async with compared(env, monkeypatch) as queue, asyncio.timeout(30):
        setting = asyncio.create_task(env.call("PUT", "/v1/books/main/chart", BELOW_A))
        done = await queue.get()
        escaped = await env.account(path="b:1")
        done.set()
        refused = await setting
    assert problem(refused) == (409, "chart-orphans-accounts")
    assert (refused.json["count"], refused.json["first"]) == (1, escaped)
    assert (await env.call("POST", f"/v1/accounts/{escaped}/close", key="")).status == 200
    async with compared(env, monkeypatch, times=times) as queue, asyncio.timeout(30):
        setting = asyncio.create_task(env.call("PUT", "/v1/books/main/chart", BELOW_A))
        for nth in range(times):
            done = await queue.get()
            assert (await env.call("PATCH", f"/v1/accounts/{first}", {"ceiling": str(101 + nth)})).status == 200
            if nth < times - 1:  # otherwise the next comparison finds it
                assert (await env.call("PATCH", f"/v1/accounts/{first}", {"ceiling": "100"})).status == 200
            done.set()
        assert (await setting).json["first"] == first
    assert (await env.call("GET", "/v1/books/main/chart")).json["version"] == 0


async def test_no_account_escapes_a_chart_that_was_being_opened_when_others_were_compared(
    env: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a lower number than one that was compared."""
    await env.account(path="a:1", ceiling="100")
    other = await env.service.connection()
    async with compared(env, monkeypatch) as queue, asyncio.timeout(30):
        opening = other.transaction()
        await opening.start()
        own = await other.fetchval(
            "INSERT INTO account (id, book, name, path, currency, normal_side, created_at, created_sequence)"
            " SELECT gen_random_uuid(), id, 'x', 'b:1', 'EUR', 'credit', now(), 0 FROM book RETURNING id"
        )
        await env.account(path="a:2", ceiling="100")
        setting = asyncio.create_task(env.call("PUT", "/v1/books/main/chart", BELOW_A))
        done = await queue.get()
        await opening.commit()
        done.set()
        assert (await setting).json["first"] == ids.accounts.text(own)
    await other.execute("DELETE FROM account WHERE id = $1", own)  # nobody was told of it
    await other.close()


async def test_frozen_accounts_and_ceilings(env: Env) -> None:
    bank, anna = await env.account("debit"), await env.account(path="anna", ceiling="100", floor="0")
    answer = await env.transfers(
        post(bank, anna, 60), {**post(bank, anna, 30), "kind": "hold"}, post(bank, anna, 11), post(bank, anna, 10)
    )
    assert [one.get("reason", one["status"]) for one in answer.json["data"]] == [
        "posted", "held", "ceiling_exceeded", "posted",
    ]  # fmt: skip
    full, hold = answer.json["data"][2], answer.json["data"][1]["id"]
    assert (full["available"], full["required"]) == (eur(10), eur(11))
    frozen = await env.call("POST", "/v1/accounts/anna/freeze", key="")
    assert (frozen.status, frozen.json["frozen"]) == (200, True)
    assert (await env.call("POST", "/v1/accounts/anna/freeze", key="")).json["frozen"] is True
    answer = await env.transfers(post(bank, anna, 1), post(anna, bank, 1), {**post(anna, bank, 1), "kind": "hold"})
    assert [one["reason"] for one in answer.json["data"]] == ["account_frozen"] * 3
    assert problem(await env.call("POST", f"/v1/transfers/{hold}/capture")) == (409, "account-frozen")
    own = ids.transfers.text(ids.transfers.new())
    again = {"id": own, "amount": eur(1)}
    assert problem(await env.call("POST", f"/v1/transfers/{hold}/capture", again)) == (409, "account-frozen")
    assert (await env.call("POST", "/v1/accounts/anna/unfreeze", key="")).status == 200
    assert (await env.call("POST", f"/v1/transfers/{hold}/capture", again)).status == 201, "it was of that moment"
    assert (await env.call("POST", "/v1/accounts/anna/freeze", key="")).status == 200
    assert (await env.call("POST", f"/v1/transfers/{hold}/void")).status == 201, "a void only releases"
    assert (await env.call("POST", "/v1/accounts/anna/unfreeze", key="")).json["frozen"] is False
    assert (await env.transfers(post(bank, anna, 29), post(anna, bank, 100))).json["data"][1]["status"] == "posted"
    for changes, answered in (
        ({"ceiling": "0"}, 200),
        ({"name": "Anna B.", "metadata": {"a": "b"}}, 200),
        ({"floor": None, "ceiling": None}, 200),
    ):
        assert (await env.call("PATCH", "/v1/accounts/anna", changes)).status == answered, changes
    row = (await env.call("GET", "/v1/accounts/anna")).json
    assert (row["name"], row["metadata"], row["floor"], row["ceiling"]) == ("Anna B.", {"a": "b"}, None, None)
    await env.transfers(post(anna, bank, 5), {**post(bank, anna, 7), "kind": "hold"})
    for changes in ({"floor": "0"}, {"floor": "-4"}, {"ceiling": "1"}):
        refused = await env.call("PATCH", "/v1/accounts/anna", changes)
        assert problem(refused) == (409, "account-limit-broken"), changes
        assert refused.json["available"] == refused.json["posted"] == {"amount": "-5", "currency": "EUR"}
    assert (await env.call("PATCH", "/v1/accounts/anna", {"floor": "-5", "ceiling": "2"})).status == 200
    for body in (
        {"currency": "USD"},
        {"name": None},
        {"name": ""},
        {"floor": "1"},
        {"ceiling": "-1"},
        {"ceiling": str(2**63)},
        {"path": "b"},
    ):
        assert problem(await env.call("PATCH", "/v1/accounts/anna", body))[0] == 400, body
    for what in ("freeze", "unfreeze"):
        assert problem(await env.call("POST", f"/v1/accounts/{anna}/{what}", key="", tenant="beta"))[0] == 404
    assert problem(await env.call("PATCH", f"/v1/accounts/{anna}", {"name": "x"}, tenant="beta"))[0] == 404
    closed = await env.account()
    await env.call("POST", f"/v1/accounts/{closed}/close", key="")
    assert problem(await env.call("POST", f"/v1/accounts/{closed}/freeze", key="")) == (409, "account-closed")
    assert problem(await env.call("PATCH", f"/v1/accounts/{closed}", {"name": "x"})) == (409, "account-closed")


async def test_a_quarantined_book_is_read_and_not_written(env: Env) -> None:
    bank, anna = await env.account("debit", path="bank"), await env.account(path="anna")
    one = ids.transfers.text(ids.transfers.new())
    await env.transfers(post(bank, anna, 5, id=one), {**post(bank, anna, 5), "kind": "hold", "expires_in": 1})
    connection = await env.service.connection()
    await connection.execute("UPDATE book SET quarantined_at = now(), quarantine_reason = 'a cent too much'")
    new = ids.transfers.text(ids.transfers.new())
    assert problem(await env.transfers(post(bank, anna, 6, id=new))) == (409, "book-quarantined")
    assert (await env.call("GET", f"/v1/transfers/{one}")).json["status"] == "posted"
    for method, path, body in (
        ("POST", "/v1/accounts", {"name": "x", "currency": "EUR", "normal_side": "credit"}),
        ("PATCH", "/v1/accounts/anna", {"name": "x"}),
        ("POST", "/v1/accounts/anna/freeze", None),
        ("POST", "/v1/accounts/anna/close", None),
        ("PATCH", "/v1/books/main", {"description": "x"}),
        ("PUT", "/v1/books/main/chart", {"rules": []}),
        ("POST", f"/v1/transfers/{one}/reverse", {}),
    ):
        answer = await env.call(method, path, body, key=None if path.endswith("reverse") else "")
        assert problem(answer) == (409, "book-quarantined"), path
        assert answer.json["reason"] == "a cent too much"
    assert await env.balance("anna") == ("5", "0", "5")
    assert (await env.call("GET", "/v1/books/main")).json["quarantine_reason"] == "a cent too much"
    assert await env.ledger.sweep() == 0
    await connection.execute("UPDATE book SET quarantined_at = NULL, quarantine_reason = NULL")
    await connection.close()
    assert (await env.transfers(post(bank, anna, 6, id=new))).json["data"][0]["status"] == "posted", "it was not pinned"


@pytest.mark.damages
async def test_what_a_path_may_be_is_kept_by_the_database_too(env: Env) -> None:
    await env.account(path="a")
    connection = await env.service.connection()
    copied = (
        "INSERT INTO account (id, book, name, currency, normal_side, created_at, created_sequence, path) "
        "SELECT gen_random_uuid(), book, name, currency, normal_side, created_at, created_sequence, $1 FROM account LIMIT 1"
    )
    for path in ("a b", "a:", "a" * 65, ":".join(["a"] * 17), "acc_1", "a\n"):
        with pytest.raises(Exception, match="not a path"):
            await connection.execute(copied, path)
    await connection.execute(copied, "b")
    assert (await connection.fetchval("SELECT kind FROM account WHERE path = 'b'")) == "liability"
    await connection.close()
