"""Lists of entries and transfers: random questions against what every row says, and questions without an answer."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest

from tallystick.kernel.clock import rfc3339
from tests.services.ledger.env import Env, eur, post, problem
from tests.services.ledger.support import START

PATHS = (
    "bank",
    "customers:1:wallet",
    "customers:1:points",
    "customers:2:wallet",
    "customers:22:wallet",
    "fees.card",
    "fees_card",
)
OF_TRANSFERS = ("kind", "code", "currency", "min", "max")
PATTERNS = (
    "customers:*:wallet",
    "customers:**",
    "customers:1:*",
    "*",
    "**",
    "fees.card",
    "*:*:points",
    "bank",
    "customers:2:wallet",
)


def fits(pattern: str, path: str | None) -> bool:
    """What a pattern means, said in another way than the model does."""
    if path is None:
        return False
    wanted, given = pattern.split(":"), path.split(":")
    if wanted[-1] == "**":
        wanted, given = wanted[:-1], given[: len(wanted) - 1] if len(given) >= len(wanted) else []
        return (
            bool(given or not wanted)
            and len(wanted) == len(given)
            and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))
        )
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))


async def a_book(
    env: Env, rng: random.Random, count: int
) -> tuple[dict[str, str], list[dict[str, Any]], list[dict[str, Any]]]:
    """Accounts by id, and the transfers and the transactions, oldest first, as the ledger told them when it made them."""
    paths: dict[str, str] = {}
    for path in PATHS:
        paths[await env.account(rng.choice(["debit", "credit"]), path=path)] = path
    bare = await env.account("credit")
    accounts = [*paths, bare]
    made: list[dict[str, Any]] = []
    whole: list[dict[str, Any]] = []
    for _ in range(count):
        env.clock.advance(timedelta(hours=rng.randrange(0, 12)))
        debit, credit = rng.sample(accounts, 2)
        more: dict[str, Any] = {}
        if rng.random() < 0.5:
            more["code"] = rng.choice(["sale", "fee", "pay=in"])
        if rng.random() < 0.5:
            more["metadata"] = {rng.choice(["order", "k=v"]): rng.choice(["7", "8", "", "a=b", "ü"])}
        if rng.random() < 0.3:
            pairs = [rng.sample(accounts, 2) for _ in range(rng.randrange(1, 4))]
            items = [post(one, other, rng.randrange(1, 20), **more) for one, other in pairs]
            body: dict[str, Any] = {"transfers": items, "reference": rng.choice(["a", "b", f"c{len(whole)}"])}
            if rng.random() < 0.5:
                body["effective_at"] = rfc3339(START + (env.clock.now() - START) * rng.randrange(1, 10) // 10)
            answer = await env.call("POST", "/v1/transactions", {**body, "metadata": {"order": rng.choice(["7", "8"])}})
            if answer.status == 201:
                whole.append(answer.json)
                made += [{**one, "reference": body["reference"]} for one in answer.json["transfers"]]
                continue
        kind = rng.choice(["post", "post", "hold", "reverse", "void"])
        targets = [one["id"] for one in made if one["kind"] == {"reverse": "post", "void": "hold"}.get(kind)]
        if targets:
            answer = await env.call("POST", f"/v1/transfers/{rng.choice(targets)}/{kind}", {})
            if answer.status == 201:
                made.append(answer.json)
        else:
            kind = kind if kind in ("post", "hold") else "post"
            answer = await env.transfers({**post(debit, credit, rng.randrange(1, 20), **more), "kind": kind})
            made += [one for one in answer.json["data"] if one["status"] != "rejected"]
    env.clock.advance(timedelta(hours=1))
    assert any(one["effective_at"] < one["recorded_at"] for one in whole)
    return paths, made, whole


def question(rng: random.Random, accounts: list[str], made: list[dict[str, Any]]) -> dict[str, str]:
    asked: dict[str, str] = {}

    def maybe(name: str, *values: str, chance: float = 0.3) -> None:
        if rng.random() < chance:
            asked[name] = rng.choice(values)

    maybe("path", *PATTERNS)
    if "path" not in asked:
        maybe("account", *accounts, *PATHS)
    maybe("kind", "post", "hold", "reverse", "void", "capture")
    maybe("code", "sale", "fee", "pay=in", "nothing")
    maybe("currency", "EUR", "JPY", chance=0.1)
    maybe("metadata", "order=7", "order=", "k=v=a=b", "order=ü")
    low, high = sorted((rng.randrange(1, 20), rng.randrange(1, 20)))
    maybe("min", str(low))
    maybe("max", str(high))
    # Two instants: a period that ends where it starts is refused.
    start, end = sorted(rng.sample(sorted({one["recorded_at"] for one in made}), 2))
    maybe("recorded_from", start, start[:10])
    maybe("recorded_to", end)
    maybe("effective_from", start, start[:10], chance=0.15)
    maybe("effective_to", end, chance=0.15)
    maybe("reference", "a", "b", "nothing", *[one["reference"] for one in made if "reference" in one][:3], chance=0.2)
    return asked


def wanted(asked: dict[str, str], one: dict[str, Any]) -> bool:
    """Whether a transfer fits, but for its accounts."""
    amount = int(one["amount"]["amount"])
    key, _, value = asked.get("metadata", "").partition("=")
    if "k=v" in asked.get("metadata", ""):
        return False  # the key ends at the first `=`: a key that has one can't be asked for
    return (
        asked.get("kind", one["kind"]) == one["kind"]
        and asked.get("code", one.get("code")) == one.get("code")
        and asked.get("currency", "EUR") == "EUR"
        and int(asked.get("min", "0")) <= amount <= int(asked.get("max", "99"))
        and asked.get("recorded_from", "") <= one["recorded_at"]
        and one["recorded_at"] < asked.get("recorded_to", "z")
        and ("metadata" not in asked or one.get("metadata", {}).get(key) == value)
        and dated(asked, one)
        and asked.get("reference", one.get("reference")) == one.get("reference")
    )


def dated(asked: dict[str, str], one: dict[str, Any]) -> bool:
    effective: str = one.get("effective_at", one["recorded_at"])
    return asked.get("effective_from", "") <= effective < asked.get("effective_to", "z")


async def pages(env: Env, path: str, asked: dict[str, str], limit: int) -> list[dict[str, Any]]:
    """All of the list. While it is read, more is posted, which is not to be in it."""
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    as_of = None
    for _ in range(500):
        answer = await env.call("GET", f"{path}?{urlencode({**asked, **after, 'limit': str(limit)})}")
        assert answer.status == 200, (asked, answer.content)
        assert answer.json["as_of"] == (as_of or answer.json["as_of"])
        as_of = answer.json["as_of"]
        found += answer.json["data"]
        if not answer.json["has_more"]:
            assert answer.json["next"] is None
            return found
        after = {"after": answer.json["next"]}
    raise AssertionError("the list has no end")


@pytest.mark.parametrize(("looked_at", "seed"), [(50_000, 1), (7, 2)])
async def test_lists_hold_what_each_row_says(
    env: Env, monkeypatch: pytest.MonkeyPatch, looked_at: int, seed: int
) -> None:
    """Also when one page looks at few entries only, and when patterns fit more accounts than are looked at one by one."""
    rng = random.Random(seed)
    paths, made, whole = await a_book(env, rng, 60)
    monkeypatch.setattr("tallystick.services.ledger.service.search.LOOKED_AT", looked_at)
    monkeypatch.setattr("tallystick.services.ledger.service.search.TRANSACTIONS_LOOKED_AT", looked_at // 3)
    for turn in range(60):
        monkeypatch.setattr("tallystick.services.ledger.service.search.ONE_BY_ONE", rng.choice([0, 2, 3]) or 1)
        asked = question(rng, list(paths), made)

        def of(account: str, asked: dict[str, str] = asked) -> bool:
            path = paths.get(account)
            if "account" in asked:
                return asked["account"] in (account, path)
            return "path" not in asked or fits(asked["path"], path)

        transfers = [
            one
            for one in reversed(made)
            if wanted(asked, one) and (of(one["debit_account"]) or of(one["credit_account"]))
        ]
        found = await pages(env, "/v1/transfers", asked, rng.choice([1, 3, 50]))
        assert [one["id"] for one in found] == [one["id"] for one in transfers], (seed, turn, asked)
        entries = [
            (one["id"], side)
            for one in reversed(made)
            if wanted(asked, one)
            for side in ("debit", "credit")
            if of(one[f"{side}_account"])
        ]
        got = await pages(env, "/v1/entries", asked, rng.choice([1, 2, 3, 50]))
        assert [(one["transfer"], one["side"]) for one in got] == entries, (seed, turn, asked)
        ofs = {name: value for name, value in asked.items() if name in OF_TRANSFERS}
        transactions = [
            one
            for one in reversed(whole)
            if wanted(
                {name: value for name, value in asked.items() if name not in OF_TRANSFERS},
                {**one, "kind": "", "amount": eur(5)},
            )
            and any(
                wanted(ofs, each) and (of(each["debit_account"]) or of(each["credit_account"]))
                for each in one["transfers"]
            )
        ]
        listed = await pages(env, "/v1/transactions", asked, rng.choice([1, 2, 50]))
        assert [one["id"] for one in listed] == [one["id"] for one in transactions], (seed, turn, asked)


async def test_an_entry_in_full(env: Env) -> None:
    anna, bank = await env.account("credit", path="customers:1:wallet"), await env.account("debit", path="bank")
    await env.transfers(post(bank, anna, 500, code="payin", metadata={"order": "7"}))
    answer = (await env.call("GET", "/v1/entries?path=customers:**")).json
    [entry] = answer.pop("data")
    assert answer == {"book": "main", "as_of": 1, "down_to": 0, "has_more": False, "next": None}
    assert entry == {
        "transfer": entry["transfer"], "kind": "post", "side": "credit", "other_account": bank, "amount": eur(500), "pending": eur(0),
        "balance": {"posted": eur(500), "pending": eur(0), "available": eur(500)}, "version": 1, "sequence": 1,
        "recorded_at": "2026-01-01T00:00:00.000000Z", "code": "payin", "account": anna, "path": "customers:1:wallet",
        "metadata": {"order": "7"}, "effective_at": entry["recorded_at"], "transaction": None,
    }  # fmt: skip
    of_account = (await env.call("GET", f"/v1/accounts/{anna}/entries")).json["data"][0]
    assert {name: entry[name] for name in of_account} == of_account


async def test_a_list_does_not_move_when_more_comes(env: Env) -> None:
    anna, bank = await env.account("credit"), await env.account("debit")
    for _ in range(5):
        await env.transfers(post(bank, anna, 1))
    first = (await env.call("GET", "/v1/transfers?limit=2")).json
    await env.transfers(post(bank, anna, 1))
    second = (await env.call("GET", f"/v1/transfers?limit=200&after={first['next']}")).json
    assert [one["sequence"] for one in first["data"] + second["data"]] == [5, 4, 3, 2, 1]
    assert first["as_of"] == second["as_of"] == 5


async def test_a_transaction_is_of_when_its_last_transfer_was_recorded(env: Env) -> None:
    """Which is what it says; by either time it is found or not by the same instant."""
    anna, bank = await env.account("credit"), await env.account("debit")
    made = []
    for _ in range(3):
        answer = await env.call("POST", "/v1/transactions", {"transfers": [post(bank, anna, 1), post(bank, anna, 2)]})
        made.append(answer.json)
        await env.transfers(post(bank, anna, 5))
    env.clock.advance(timedelta(seconds=5))
    one, two, three = [each["id"] for each in made]
    first, last = (each["recorded_at"] for each in made[1]["transfers"])
    assert first < last == made[1]["recorded_at"]
    for name in ("recorded", "effective"):
        for query, found in (
            (f"{name}_from={first}", [three, two]), (f"{name}_from={last}", [three, two]), (f"{name}_to={first}", [one]), (f"{name}_to={last}", [one]),
            (f"{name}_from={first}&{name}_to={last}", []), (f"{name}_from={last}&{name}_to={made[2]['recorded_at']}", [two]),
        ):  # fmt: skip
            for limit in (1, 100):
                got = await pages(env, "/v1/transactions", dict(parse_qsl(query)), limit)
                assert [each["id"] for each in got] == found, query


async def test_a_page_of_what_is_rare_says_how_far_it_looked(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    anna, bank = await env.account("credit"), await env.account("debit")
    await env.transfers(post(bank, anna, 1, code="rare"))
    for _ in range(5):
        await env.transfers(post(bank, anna, 1))
    monkeypatch.setattr("tallystick.services.ledger.service.search.LOOKED_AT", 4)
    first = (await env.call("GET", "/v1/transfers?code=rare")).json
    assert (first["data"], first["has_more"], first["down_to"]) == ([], True, 2)
    second = (await env.call("GET", f"/v1/transfers?code=rare&after={first['next']}")).json
    assert ([one["code"] for one in second["data"]], second["has_more"], second["down_to"]) == (["rare"], False, 0)


async def test_a_cursor_is_of_the_list_that_gave_it(env: Env) -> None:
    """Another list counts other places, or is of another book: rows would be left out, or told twice."""
    anna, bank = await env.account("credit"), await env.account("debit")
    for _ in range(3):
        await env.call("POST", "/v1/transactions", {"transfers": [post(bank, anna, 1), post(bank, anna, 2)]})
    await env.call("POST", "/v1/books", {"name": "other"})
    lists = [
        "/v1/entries?", "/v1/transfers?", "/v1/transactions?", "/v1/transfers?book=other&", "/v1/transfers?code=x&",
        f"/v1/transfers?account={anna}&",
    ]  # fmt: skip
    given = {each: (await env.call("GET", f"{each}limit=1")).json["next"] for each in lists}
    assert all(given[each] for each in lists[:3])
    for own, cursor in given.items():
        for other in lists:
            if cursor is not None:
                answer = await env.call("GET", f"{other}limit=2&after={cursor}")
                assert (answer.status == 200) == (own == other), (own, other)
                if own != other:
                    assert problem(answer) == (400, "invalid-request")


async def test_questions_without_an_answer_are_no_empty_lists(env: Env) -> None:
    anna, bank = await env.account("credit", path="customers:1:wallet"), await env.account("debit")
    await env.transfers(post(bank, anna, 1))
    await env.call("POST", "/v1/books", {"name": "other"})
    for path in ("/v1/entries", "/v1/transfers", "/v1/transactions"):
        assert problem(await env.call("GET", f"{path}?path=suppliers:**")) == (422, "no-account-matches")
        assert problem(await env.call("GET", f"{path}?book=other&path=customers:**")) == (422, "no-account-matches")
        assert problem(await env.call("GET", f"{path}?account=suppliers:1")) == (404, "account-not-found")
        assert problem(await env.call("GET", f"{path}?book=other&account={anna}")) == (404, "account-not-found")
        assert problem(await env.call("GET", f"{path}?account={anna}", tenant="beta")) == (404, "account-not-found")
        assert problem(await env.call("GET", f"{path}?book=nothing")) == (404, "book-not-found")
        assert problem(await env.call("GET", f"{path}?recorded_to=2025-12-30")) == (422, "history-not-kept")
        assert problem(await env.call("GET", f"{path}?recorded_to=2026-01-05")) == (422, "history-not-kept")
        assert problem(await env.call("GET", f"{path}?recorded_from=2026-01-05")) == (422, "history-not-kept")
        for later in (
            "effective_from=2026-01-05",
            "effective_to=2026-01-05",
            "effective_from=2025-01-01&effective_to=2026-01-05",
        ):
            assert problem(await env.call("GET", f"{path}?{later}")) == (422, "history-not-kept")
        backwards = await env.call("GET", f"{path}?effective_from=2025-12-30&effective_to=2025-12-28")
        assert problem(backwards) == (400, "invalid-request")
        assert problem(await env.call("GET", f"{path}?currency=XXX")) == (400, "unknown-currency")
        assert (await env.call("GET", path, tenant="beta")).json["data"] == []
        for wrong in (
            {"min": "-1"}, {"min": "1.5"}, {"min": "2", "max": "1"}, {"max": str(2**63)}, {"max": "9" * 30}, {"metadata": "order"},
            {"metadata": "=7"}, {"metadata": "a\0=b"}, {"code": "a\0b"}, {"code": "x" * 65}, {"path": "a:**:b"}, {"path": "a;DROP"}, {"path": "x" * 600},
            {"account": anna, "path": "**"}, {"kind": "nothing"}, {"recorded_from": "yesterday"}, {"recorded_from": "0001-01-01"}, {"recorded_to": "0001-01-01T00:00:00Z"}, {"recorded_from": "0000-01-01"}, {"limit": "201"}, {"unknown": "1"},
            {"after": "WzEsMF0"}, {"after": "WzksMV0"}, {"after": "WzFd"}, {"after": "!"}, {"recorded_from": "2026-01-01", "recorded_to": "2025-12-31"},
        ):  # fmt: skip
            answer = await env.call("GET", f"{path}?{urlencode(wrong)}")
            assert answer.status in (400, 404, 422), (wrong, answer.content)


def test_the_meaning_of_patterns_is_said_twice() -> None:
    """What this file says of a pattern is what its text says."""

    def cases() -> Iterator[tuple[str, str]]:
        for pattern in PATTERNS:
            for path in (*PATHS, "a", "a:b", "customers", "customers:1", "customers:1:points:x"):
                yield pattern, path

    for pattern, path in cases():
        regex = re.escape(pattern).replace(r"\*\*", r"[^:]+(?::[^:]+)*").replace(r"\*", r"[^:]+")
        assert fits(pattern, path) == (re.fullmatch(regex, path) is not None), (pattern, path)
