"""Statements, reports and explanations as clients get them."""

from __future__ import annotations

import csv
import io
from datetime import datetime, timedelta
from typing import Any

import pytest
from lxml import etree

from tallystick.kernel.clock import rfc3339
from tests.services.ledger.env import Env, eur, post, problem
from tests.services.ledger.test_reports_model import XSD
from tests.support.http import Answer

DAY = timedelta(days=1)


async def at(env: Env, path: str, side: str, **more: Any) -> str:
    return await env.account(side, path=path, name=more.pop("name", path), **more)


async def a_shop(env: Env) -> dict[str, str]:
    """Three days of a small shop: capital, a sale with a fee, a purchase, and a sale that is taken back in part."""
    accounts = {
        "bank": await at(env, "bank:main", "debit", kind="asset"),
        "anna": await at(env, "customers:1:wallet", "credit", kind="liability", floor="0"),
        "bob": await at(env, "customers:2:wallet", "credit", kind="liability"),
        "capital": await at(env, "capital", "credit", kind="equity"),
        "fees": await at(env, "fees:card", "credit", kind="income"),
        "rails": await at(env, "rails:acquirer", "debit", kind="expense"),
        "yen": await at(env, "bank:yen", "debit", kind="asset", currency="JPY"),
        "yen_capital": await at(env, "capital-yen", "credit", kind="equity", currency="JPY"),
    }
    of = accounts
    await env.transfers(post(of["bank"], of["capital"], 10_000))
    await env.transfers(post(of["bank"], of["anna"], 2500, code="payin", metadata={"order": "7"}))
    env.clock.advance(DAY)
    await env.transfers(
        post(of["anna"], of["bob"], 1000, code="sale", metadata={"order": "8"}),
        post(of["bob"], of["fees"], 30, code="fee"),
        post(of["rails"], of["bank"], 12),
        post(of["yen"], of["yen_capital"], {"amount": "500", "currency": "JPY"}),
        atomic=True,
    )
    env.clock.advance(DAY)
    sale = (await env.transfers(post(of["anna"], of["bob"], 400, code="sale"))).json["data"][0]["id"]
    await env.call("POST", f"/v1/transfers/{sale}/reverse", {"amount": eur(150)})
    env.clock.advance(timedelta(hours=1))
    return accounts


def table(answer: Answer) -> list[dict[str, str]]:
    assert answer.status == 200, answer.content
    assert answer.header("content-type") == "text/csv; charset=utf-8; header=present"
    text = answer.content.decode()
    assert text.count("\r\n") == text.count("\n")
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


# ---- statements ---------------------------------------------------------------------------------------------------


async def test_a_statement_of_a_day(env: Env) -> None:
    of = await a_shop(env)
    answer = await env.call("GET", f"/v1/accounts/{of['anna']}/statement?from=2026-01-02&to=2026-01-02")
    assert answer.status == 200, answer.content
    found = answer.json
    [line] = found.pop("data")
    assert found == {
        "account": of["anna"], "book": "main", "name": "customers:1:wallet", "path": "customers:1:wallet", "currency": "EUR",
        "normal_side": "credit", "by": "recorded", "from": "2026-01-02T00:00:00.000000Z", "to": "2026-01-03T00:00:00.000000Z", "as_of": 6,
        "opening": eur(2500), "closing": eur(1500), "debits": eur(1000), "credits": eur(0), "entries": 1, "carried": eur(2500),
        "has_more": False, "next": None,
    }  # fmt: skip
    assert line["balance"] == eur(1500)
    assert (line["side"], line["amount"], line["code"], line["other_account"]) == (
        "debit",
        eur(1000),
        "sale",
        of["bob"],
    )
    # by its path, and over all of its time
    whole = (await env.call("GET", "/v1/accounts/customers:1:wallet/statement")).json
    assert (whole["opening"], whole["closing"], whole["entries"]) == (eur(0), eur(1250), 4)
    assert [one["balance"]["amount"] for one in whole["data"]] == ["2500", "1500", "1100", "1250"]
    # the next day begins where this one ends
    for by in ("recorded", "effective"):
        for query in ("from=2026-02-01", "from=2026-02-01&to=2026-02-02", "from=2026-01-02&to=2026-02-01"):
            ahead = await env.call("GET", f"/v1/accounts/{of['anna']}/statement?by={by}&{query}")
            assert problem(ahead) == (422, "history-not-kept"), query
    later = (await env.call("GET", f"/v1/accounts/{of['anna']}/statement?from=2026-01-03T00:00:00Z")).json
    assert later["opening"] == found["closing"]


async def test_a_statement_in_pages_stays_as_it_was_when_more_comes(env: Env) -> None:
    of = await a_shop(env)
    path = f"/v1/accounts/{of['bank']}/statement?limit=1"
    first = (await env.call("GET", path)).json
    await env.transfers(post(of["bank"], of["anna"], 1))
    seen, found = [], first
    while True:
        assert (found["opening"], found["closing"], found["as_of"], found["entries"]) == (eur(0), eur(12488), 8, 3)
        seen += found["data"]
        if not found["has_more"]:
            break
        found = (await env.call("GET", f"{path}&after={found['next']}")).json
        assert found["carried"] == seen[-1]["balance"]
    assert [one["balance"]["amount"] for one in seen] == ["10000", "12500", "12488"]


@pytest.mark.parametrize("by", ["recorded", "effective"])
async def test_a_page_of_a_statement_is_of_its_own_account(env: Env, by: str) -> None:
    """On another, the entries before the place would be left out, and counted as if they were the other's."""
    of = await a_shop(env)
    after = (await env.call("GET", f"/v1/accounts/{of['bank']}/statement?by={by}&limit=1")).json["next"]
    for account, status in ((of["bank"], 200), ("bank:main", 200), (of["anna"], 400)):
        assert (await env.call("GET", f"/v1/accounts/{account}/statement?by={by}&after={after}")).status == status


async def test_a_statement_as_csv_and_as_camt_053(env: Env) -> None:
    of = await a_shop(env)
    path = f"/v1/accounts/{of['anna']}/statement"
    rows = table(await env.call("GET", f"{path}?format=csv"))
    assert [row["record"] for row in rows] == ["opening", *["entry"] * 4, "closing"]
    assert [row["balance"] for row in rows] == ["0.00", "25.00", "15.00", "11.00", "12.50", "12.50"]
    assert (rows[2]["debit"], rows[2]["credit"], rows[2]["currency"]) == ("10.00", "", "EUR")
    answer = await env.call("GET", f"{path}?format=camt.053&limit=3")
    assert answer.header("content-type") == "application/xml"
    assert answer.header("tallystick-as-of") == "8"
    XSD.assertValid(etree.fromstring(answer.content))
    link = answer.header("link") or ""
    assert link.endswith('>; rel="next"')
    second = await env.call("GET", path + link[1:].partition(">")[0])
    document = etree.fromstring(second.content)
    XSD.assertValid(document)
    assert document.findtext(".//{*}StmtPgntn/{*}PgNb") == "2"
    assert len(document.findall(".//{*}Ntry")) == 1
    assert second.header("link") is None
    first = etree.fromstring(answer.content)
    interim = [
        [(one.findtext("{*}Amt"), one.findtext("{*}Dt/{*}DtTm")) for one in each.iterfind(".//{*}Bal")][place]
        for each, place in ((first, 1), (document, 0))
    ]
    assert interim[0] == interim[1], "what a page ends with the next one begins with"
    assert interim[0][1] == first.findall(".//{*}Ntry")[-1].findtext("{*}BookgDt/{*}DtTm")


async def test_the_header_accept_chooses_the_format(env: Env) -> None:
    of = await a_shop(env)
    for accept, media in (
        ("text/csv", "text/csv; charset=utf-8; header=present"),
        ("application/xml;q=0.4, text/csv;q=0.5", "text/csv; charset=utf-8; header=present"),
        ("application/xml", "application/xml"),
        ("text/csv;q=0", "application/json"),
        ("text/csv;q=x, image/png", "application/json"),
        ("*/*", "application/json"),
    ):
        answer = await env.call("GET", f"/v1/accounts/{of['bob']}/statement", accept=accept)
        assert (answer.status, answer.header("content-type")) == (200, media)


async def test_what_people_typed_is_no_formula_in_a_spreadsheet(env: Env) -> None:
    evil = await at(env, "evil", "debit", name='=HYPERLINK("http://x")')
    other = await at(env, "other", "credit", name="a,b\r\n@c")
    await env.transfers(
        *(post(evil, other, 1, code=code) for code in ("=1+1", "+1", "-1", "@x", 'say "hi", twice', "\tx"))
    )
    rows = table(await env.call("GET", f"/v1/accounts/{evil}/statement?format=csv"))
    assert [row["code"] for row in rows[1:-1]] == ["'=1+1", "'+1", "'-1", "'@x", 'say "hi", twice', "'\tx"]
    names = [row["name"] for row in table(await env.call("GET", "/v1/books/main/trial-balance?format=csv"))]
    assert names[:2] == ['\'=HYPERLINK("http://x")', "a,b\r\n@c"]
    # a number below zero stays a number
    assert [row["balance"] for row in table(await env.call("GET", "/v1/books/main/trial-balance?format=csv"))][
        1
    ] == "-0.06"


@pytest.mark.parametrize("by", ["recorded", "effective"])
async def test_a_statement_without_an_end_ends_where_nothing_can_come_before(env: Env, by: str) -> None:
    """Not now: a transfer may be on its way that is recorded before that, and would be neither in this statement nor in the next."""
    of = await a_shop(env)
    path = f"/v1/accounts/{of['anna']}/statement?by={by}"
    first = (await env.call("GET", path)).json
    last = (await env.call("GET", "/v1/transfers?limit=1")).json["data"][0]["recorded_at"]
    after = datetime.fromisoformat(last) + timedelta(microseconds=1)
    assert datetime.fromisoformat(first["to"]) == after
    await env.transfers(post(of["bank"], of["anna"], 70))
    second = (await env.call("GET", f"{path}&from={first['to']}")).json
    assert (second["opening"], second["entries"]) == (first["closing"], 1)
    third = (await env.call("GET", f"{path}&from={second['to']}")).json
    assert (third["opening"], third["entries"]) == (second["closing"], 0)
    empty = await at(env, "empty", "debit")
    assert (await env.call("GET", f"/v1/accounts/{empty}/statement?by={by}")).json["entries"] == 0


async def test_a_statement_that_can_not_be_given(env: Env) -> None:
    of = await a_shop(env)
    path = f"/v1/accounts/{of['anna']}/statement"
    assert problem(await env.call("GET", f"{path}?from=2025-12-31")) == (422, "history-not-kept")
    assert problem(await env.call("GET", f"{path}?to=2025-12-30")) == (422, "history-not-kept")
    assert problem(await env.call("GET", f"{path}?to=2026-01-03")) == (422, "history-not-kept")  # the day has not ended
    assert problem(await env.call("GET", f"{path}?to=2999-01-01T00:00:00Z")) == (422, "history-not-kept")
    assert problem(await env.call("GET", f"{path}?from=2026-01-03&to=2026-01-01")) == (400, "invalid-request")
    assert problem(await env.call("GET", "/v1/accounts/nobody/statement")) == (404, "account-not-found")
    assert problem(await env.call("GET", path, tenant="beta")) == (404, "account-not-found")
    for wrong in (
        "from=2026-02-30",
        "from=0001-01-01",
        "to=9999-12-31",
        "from=x",
        "format=pdf",
        "limit=5001",
        "limit=0",
        "to=9999-12-31",
        "from=2026-01-01&from=2026-01-01",
        "after=WzEsMl0",
    ):
        assert (await env.call("GET", f"{path}?{wrong}")).status in (400, 422), wrong
    [error] = (await env.call("GET", f"{path}?from=x")).json["errors"]
    assert error["pointer"] == "/from"
    assert "a day" in error["detail"]
    for day in ("2026-02-30", "0001-01-01", "9999-12-31"):
        [error] = (await env.call("GET", f"{path}?to={day}")).json["errors"]
        assert (error["pointer"], error["detail"]) == ("/to", f"{day} is not a day of the years 1 to 9999"), (
            "not that it is no day at all"
        )
    forged = "WzUsNCwzLDJd"  # [5,4,3,2]
    assert problem(await env.call("GET", f"{path}?after={forged}")) == (400, "invalid-request")


async def test_a_statement_of_too_many_entries_names_the_limit(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    of = await a_shop(env)
    monkeypatch.setattr("tallystick.services.ledger.service.statements.MAX_ENTRIES", 3)
    answer = await env.call("GET", f"/v1/accounts/{of['anna']}/statement")
    assert problem(answer) == (422, "statement-too-long")
    assert (answer.json["entries"], answer.json["limit"]) == (4, 3)


async def test_a_hold_is_no_entry_of_a_statement_before_it_is_captured(env: Env) -> None:
    of = await a_shop(env)
    held = (await env.transfers({**post(of["anna"], of["bob"], 500), "kind": "hold"})).json["data"][0]["id"]
    path = f"/v1/accounts/{of['anna']}/statement"
    assert (await env.call("GET", path)).json["closing"] == eur(1250)
    await env.call("POST", f"/v1/transfers/{held}/capture", {"amount": eur(200), "final": True})
    found = (await env.call("GET", path)).json
    assert (found["closing"], found["entries"], found["data"][-1]["kind"]) == (eur(1050), 5, "capture")


# ---- reports ------------------------------------------------------------------------------------------------------


async def test_a_trial_balance(env: Env) -> None:
    of = await a_shop(env)
    found = (await env.call("GET", "/v1/books/main/trial-balance")).json
    assert found["as_of"] == 8
    assert [(one["currency"], one["debits"], one["credits"], one["accounts"]) for one in found["totals"]] == [
        ("EUR", eur(14092), eur(14092), 6),
        ("JPY", {"amount": "500", "currency": "JPY"}, {"amount": "500", "currency": "JPY"}, 2),
    ]
    by_account = {one["account"]: one for one in found["data"]}
    assert by_account.keys() == set(of.values())
    assert by_account[of["bank"]] == {
        "kind": "asset", "debits": eur(12500), "credits": eur(12), "balance": eur(12488), "path": "bank:main", "account": of["bank"],
        "name": "bank:main", "normal_side": "debit",
    }  # fmt: skip
    # as of then, by sequence and by time: what came later is in neither
    for then in ("sequence=2", "at=2026-01-01T23:59:59Z"):
        early = (await env.call("GET", f"/v1/books/main/trial-balance?{then}")).json
        assert {one["account"]: one["balance"]["amount"] for one in early["data"]} == {
            of["bank"]: "12500", of["capital"]: "-10000", of["anna"]: "-2500",
        }  # fmt: skip
    grouped = (await env.call("GET", "/v1/books/main/trial-balance?level=1")).json
    assert [(one["kind"], one["path"], one["accounts"]) for one in grouped["data"]] == [
        ("asset", "bank", 1), ("equity", "capital", 1), ("expense", "rails", 1), ("income", "fees", 1), ("liability", "customers", 2),
        ("asset", "bank", 1), ("equity", "capital-yen", 1),
    ]  # fmt: skip
    pages = []
    query = "limit=3"
    while True:
        page = (await env.call("GET", f"/v1/books/main/trial-balance?{query}")).json
        await env.transfers(post(of["bank"], of["capital"], 1))
        pages += page["data"]
        assert page["totals"] == found["totals"]
        if page["next"] is None:
            break
        query = f"limit=3&after={page['next']}"
    assert pages == found["data"]
    following = (await env.call("GET", "/v1/books/main/trial-balance?limit=3&sequence=8")).json["next"]
    for other in ("sequence=2", "effective=2026-01-01T23:59:59Z"):  # what the cursor is not of
        answer = await env.call("GET", f"/v1/books/main/trial-balance?limit=3&{other}&after={following}")
        assert problem(answer) == (400, "invalid-request"), answer.json


async def test_a_page_of_a_trial_balance_is_of_the_one_that_was_asked_for(env: Env) -> None:
    """Of another book, or as of another time, it would have the lines of one and the totals of the other."""
    await a_shop(env)
    await env.call("POST", "/v1/books", {"name": "other"})
    anna, bank = await env.account("credit", book="other"), await env.account("debit", book="other")
    for _ in range(9):
        await env.transfers(post(bank, anna, 1), book="other")
    path = "/v1/books/main/trial-balance?limit=3"
    after = (await env.call("GET", path)).json["next"]
    for other in ("/v1/books/other/trial-balance?limit=3", f"{path}&sequence=2"):
        assert problem(await env.call("GET", f"{other}&after={after}")) == (400, "invalid-request"), other
    for same in (path, f"{path}&format=csv", "/v1/books/main/trial-balance?limit=1"):
        assert (await env.call("GET", f"{same}&after={after}")).status == 200, same


async def test_a_balance_sheet_and_an_income_statement(env: Env) -> None:
    await a_shop(env)
    found = (await env.call("GET", "/v1/books/main/balance-sheet")).json
    euro, yen = found["currencies"]
    assert euro == {
        "currency": "EUR",
        "assets": {"lines": [{"path": "bank", "accounts": 1, "balance": eur(12488)}], "total": eur(12488)},
        "liabilities": {"lines": [{"path": "customers", "accounts": 2, "balance": eur(2470)}], "total": eur(2470)},
        "equity": {"lines": [{"path": "capital", "accounts": 1, "balance": eur(10000)}], "total": eur(10000)},
        "net_income": eur(18),
        "liabilities_equity_and_net_income": eur(12488),
    }
    assert yen["assets"]["total"] == {"amount": "500", "currency": "JPY"}
    first_day = (await env.call("GET", "/v1/books/main/income-statement?to=2026-01-01")).json
    assert first_day["currencies"] == []
    second = (await env.call("GET", "/v1/books/main/income-statement?from=2026-01-02&to=2026-01-02&level=2")).json
    assert (second["after"], second["as_of"]) == (2, 6)
    assert second["currencies"] == [
        {
            "currency": "EUR",
            "income": {"lines": [{"path": "fees:card", "accounts": 1, "balance": eur(30)}], "total": eur(30)},
            "expenses": {"lines": [{"path": "rails:acquirer", "accounts": 1, "balance": eur(12)}], "total": eur(12)},
            "net_income": eur(18),
        }
    ]
    rows = table(await env.call("GET", "/v1/books/main/balance-sheet?format=csv"))
    euros = [row for row in rows if row["currency"] == "EUR"]
    assert [(row["section"], row["balance"]) for row in euros] == [
        ("assets", "124.88"), ("total assets", "124.88"), ("liabilities", "24.70"), ("total liabilities", "24.70"), ("equity", "100.00"),
        ("total equity", "100.00"), ("net income", "0.18"),
    ]  # fmt: skip
    assert next(row["balance"] for row in rows if row["currency"] == "JPY") == "500"
    rows = table(await env.call("GET", "/v1/books/main/income-statement?format=csv"))
    assert [(row["section"], row["balance"]) for row in rows][-1] == ("net income", "0.18")


async def test_reports_that_can_not_be_given(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    await a_shop(env)
    for report in ("trial-balance", "balance-sheet"):
        path = f"/v1/books/main/{report}"
        assert problem(await env.call("GET", f"{path}?sequence=9")) == (422, "history-not-kept")
        assert problem(await env.call("GET", f"{path}?at=2999-01-01T00:00:00Z")) == (422, "history-not-kept")
        assert problem(await env.call("GET", f"{path}?at=2025-01-01T00:00:00Z")) == (422, "history-not-kept")
        assert problem(await env.call("GET", f"{path}?at=2026-01-01T00:00:00Z&sequence=1")) == (400, "invalid-request")
    for report in ("trial-balance", "balance-sheet", "income-statement"):
        assert problem(await env.call("GET", f"/v1/books/nothing/{report}")) == (404, "book-not-found")
        assert (await env.call("GET", f"/v1/books/main/{report}?level=17")).status == 400
    assert problem(await env.call("GET", "/v1/books/main/income-statement?from=2025-01-01")) == (
        422,
        "history-not-kept",
    )
    assert problem(await env.call("GET", "/v1/books/main/income-statement?to=2999-01-01")) == (422, "history-not-kept")
    # a book that nothing was posted to has nothing to report, and says so at sequence 0
    empty = (await env.call("GET", "/v1/books/main/balance-sheet", tenant="beta")).json
    assert (empty["as_of"], empty["currencies"]) == (0, [])
    monkeypatch.setattr("tallystick.services.ledger.service.reports.MAX_GROUPS", 3)
    assert problem(await env.call("GET", "/v1/books/main/balance-sheet")) == (422, "report-too-large")
    monkeypatch.setattr("tallystick.services.ledger.service.reports.MAX_ACCOUNTS", 7)
    answer = await env.call("GET", "/v1/books/main/trial-balance")
    assert (problem(answer), answer.json["accounts"]) == ((422, "report-too-large"), 7)


async def test_reports_by_effective_time_count_what_was_dated_back(env: Env) -> None:
    """As effective, a fee belongs to the day it is dated to; as recorded, to the day on which it was entered."""
    await a_shop(env)
    body = {"transfers": [post("customers:1:wallet", "fees:card", 50)], "effective_at": "2026-01-01T12:00:00Z"}
    answer = await env.call("POST", "/v1/transactions", body)
    assert answer.status == 201, answer.content
    early = {"transfers": [post("bank:late", "capital", 7)], "effective_at": "2026-01-02T12:00:00Z"}
    await at(env, "bank:late", "debit", kind="asset")
    assert (await env.call("POST", "/v1/transactions", early)).status == 201

    async def income(query: str) -> list[str]:
        found = (await env.call("GET", f"/v1/books/main/income-statement?{query}")).json
        return [one["net_income"]["amount"] for one in found["currencies"]]

    assert await income("to=2026-01-01") == []
    assert await income("to=2026-01-01&by=effective") == ["50"]
    assert await income("from=2026-01-02&by=effective") == ["18"]
    too_early = await env.call("GET", "/v1/books/main/income-statement?from=0001-01-01&by=effective")
    assert problem(too_early) == (400, "invalid-request")
    assert await income("from=2026-01-03") == ["50"]
    assert await income("by=effective") == await income("by=recorded") == ["68"]

    async def sheet(query: str) -> dict[str, str]:
        answer = await env.call("GET", f"/v1/books/main/balance-sheet?level=2{query and '&'}{query}")
        euro = answer.json["currencies"][0]
        lines = {
            line["path"]: line["balance"]["amount"]
            for part in ("assets", "liabilities", "equity")
            for line in euro[part]["lines"]
        }
        return lines | {"net": euro["net_income"]["amount"]}

    assert await sheet("effective=2026-01-01T11:59:59Z") == {
        "bank:main": "12500", "customers:1": "2500", "capital": "10000", "net": "0",
    }  # fmt: skip
    assert await sheet("effective=2026-01-01T12:00:00Z") == {
        "bank:main": "12500", "customers:1": "2450", "capital": "10000", "net": "50",
    }  # fmt: skip
    # an account that had nothing recorded by then, but something effective
    day = await sheet("effective=2026-01-02T23:00:00Z")
    assert (day["bank:late"], day["capital"], day["net"]) == ("7", "10007", "68")
    assert await sheet("") == await sheet(f"effective={rfc3339(env.clock.now())}")
    path = "/v1/books/main/trial-balance"
    grouped = (await env.call("GET", f"{path}?level=1&effective=2026-01-01T12:00:00Z")).json
    assert {one["path"]: one["balance"]["amount"] for one in grouped["data"]} == {
        "bank": "12500", "capital": "-10000", "fees": "-50", "customers": "-2450",
    }  # fmt: skip
    assert problem(await env.call("GET", f"{path}?effective=2026-01-01T12:00:00Z")) == (400, "invalid-request")
    assert problem(await env.call("GET", f"{path}?level=1&effective=2999-01-01T12:00:00Z")) == (422, "history-not-kept")
    assert problem(await env.call("GET", f"{path}?level=1&effective=2026-01-01T12:00:00Z&sequence=1")) == (
        400,
        "invalid-request",
    )
    # and the statement of the account says both times
    entry = (await env.call("GET", "/v1/accounts/customers:1:wallet/statement")).json["data"][-1]
    assert (entry["effective_at"], entry["recorded_at"][:10]) == ("2026-01-01T12:00:00.000000Z", "2026-01-03")
    # What was dated back to before the book was opened is in it without a start, and the start that is told is before it.
    old = {"transfers": [post("bank:main", "fees:card", 3)], "effective_at": "2024-02-29T12:00:00Z"}
    assert (await env.call("POST", "/v1/transactions", old)).status == 201
    assert (
        await income("to=2024-02-29&by=effective")
        == await income("from=2024-02-29&to=2024-02-29&by=effective")
        == ["3"]
    )
    assert await income("to=2024-02-28&by=effective") == []
    whole = (await env.call("GET", "/v1/books/main/income-statement?by=effective")).json
    assert (whole["from"], whole["currencies"][0]["net_income"]["amount"]) == ("1970-01-01T00:00:00.000000Z", "71")
    assert (await env.call("GET", "/v1/books/main/income-statement")).json["from"] > "2025"


# ---- explanations -------------------------------------------------------------------------------------------------


def checked(found: dict[str, Any]) -> dict[str, int]:
    """The explanation's results, after each sum was made again."""
    for step in found["steps"]:
        assert sum(int(term["amount"]["amount"]) for term in step["terms"]) == int(step["result"]["amount"]), step
    results = {step["name"]: int(step["result"]["amount"]) for step in found["steps"]}
    sums = {name: int(value) for name, value in found["checkpoint"]["totals"].items()}
    for entry in found["entries"]:
        for name, change in entry["change"].items():
            sums[name] += int(change)
        assert {name: str(value) for name, value in sums.items()} == entry["totals"]
    if back := found["dated_back"]:
        for change in (back["earlier"], *(entry["change"] for entry in back["entries"])):
            for name, value in change.items():
                sums[name] += int(value)
    for name in ("debits_posted", "credits_posted"):
        assert found["totals"][name] == str(sums[name]) == str(results[name])
    for part in ("posted", "pending", "available"):
        assert found["balance"][part]["amount"] == str(results[part])
    for taking, name in ((True, "pending"), (False, "incoming")):
        assert results[name] == sum(
            int(h["remaining"]["amount"]) for h in found["holds"] if h["takes"] is taking and h["counts"]
        )
    return results


async def test_a_balance_is_explained(env: Env) -> None:
    of = await a_shop(env)
    chart = {"rules": [{"pattern": "customers:{id:int}:wallet", "kind": "liability"}]}
    assert (await env.call("PUT", "/v1/books/main/chart", chart)).status == 200
    out = (await env.transfers({**post(of["anna"], of["bob"], 300), "kind": "hold", "expires_in": 60})).json["data"][0][
        "id"
    ]
    back = (await env.transfers({**post(of["bank"], of["anna"], 70), "kind": "hold"})).json["data"][0]["id"]
    await env.call("POST", f"/v1/transfers/{out}/capture", {"amount": eur(100)})
    path = f"/v1/accounts/{of['anna']}/explain"
    found = (await env.call("GET", path)).json
    assert checked(found) | {} == {
        "debits_pending": 200, "debits_posted": 1500, "credits_pending": 70, "credits_posted": 2650,
        "posted": 1150, "pending": 200, "incoming": 70, "available": 950, "room_above_floor": 950,
    }  # fmt: skip
    assert found["account"]["id"] == of["anna"]
    assert found["checkpoint"] == {
        "version": 0, "sequence": 1,
        "totals": {"debits_pending": "0", "debits_posted": "0", "credits_pending": "0", "credits_posted": "0"},
    }  # fmt: skip
    assert len(found["entries"]) == 7
    assert [(h["transfer"], h["takes"], h["captured"]["amount"], h["remaining"]["amount"], h["state"]) for h in found["holds"]] == [
        (out, True, "100", "200", "held"), (back, False, "0", "70", "held"),
    ]  # fmt: skip
    assert [rule["rule"] for rule in found["rules"]] == ["normal_side", "floor", "chart"]
    assert found["rules"][-1]["chart"]["pattern"] == "customers:{id:int}:wallet"
    # a long history: the same numbers, from a checkpoint on
    short = (await env.call("GET", f"{path}?limit=2")).json
    assert (short["checkpoint"]["version"], len(short["entries"])) == (5, 2)
    assert checked(short) == checked(found)
    # an expired hold counts no longer, swept or not, and the arithmetic says so
    env.clock.advance(timedelta(seconds=61))
    expired = (await env.call("GET", path)).json
    assert checked(expired)["available"] == 1150
    assert [(h["state"], h["counts"]) for h in expired["holds"]] == [("held", True), ("expired", False)]
    terms = next(step["terms"] for step in expired["steps"] if step["name"] == "debits_pending")
    assert [(term["what"], term["amount"]["amount"]) for term in terms] == [
        ("checkpoint", "0"),
        ("entries", "200"),
        ("expired_holds", "-200"),
    ]
    await env.ledger.sweep()
    swept = (await env.call("GET", path)).json
    assert checked(swept)["available"] == 1150
    assert swept["entries"][-1]["kind"] == "expire"
    # as of then the hold was open, and it is found though it is closed now
    for sequence, pending in ((9, 300), (10, 300), (11, 200), (12, 0)):
        then = (await env.call("GET", f"{path}?sequence={sequence}")).json
        assert checked(then)["pending"] == pending
        assert then["as_of"] == sequence


async def test_a_balance_is_explained_by_effective_time(env: Env) -> None:
    of = await a_shop(env)
    for amount, day in ((50, "2026-01-01T12:00:00Z"), (7, "2026-01-01T13:00:00Z")):
        body = {"transfers": [post("customers:1:wallet", "fees:card", amount)], "effective_at": day}
        assert (await env.call("POST", "/v1/transactions", body)).status == 201
    env.clock.advance(timedelta(seconds=1))
    path = f"/v1/accounts/{of['anna']}/explain"
    at_noon = (await env.call("GET", f"{path}?effective=2026-01-01T12:00:00Z")).json
    recorded = (await env.call("GET", f"{path}?at=2026-01-01T12:00:00Z")).json
    assert recorded["dated_back"] is None
    assert checked(at_noon)["posted"] == checked(recorded)["posted"] - 50
    assert at_noon["entries"] == recorded["entries"]
    now = (await env.call("GET", f"/v1/accounts/{of['anna']}")).json
    assert (at_noon["as_of"], recorded["as_of"]) == (now["as_of"], at_noon["dated_back"]["after"])
    [late] = at_noon["dated_back"]["entries"]
    assert (late["effective_at"], late["recorded_at"][:10]) == ("2026-01-01T12:00:00.000000Z", "2026-01-03")
    assert late["change"]["debits_posted"] == "50"
    short = (await env.call("GET", f"{path}?effective=2026-01-01T13:00:00Z&limit=1")).json
    assert checked(short)["posted"] == checked(recorded)["posted"] - 57
    back = short["dated_back"]
    assert (back["earlier_entries"], back["earlier"]["debits_posted"], len(back["entries"])) == (1, "50", 1)
    terms = next(step["terms"] for step in short["steps"] if step["name"] == "debits_posted")
    assert [(term["what"], term["amount"]["amount"]) for term in terms][2:] == [
        ("dated_back_earlier", "50"),
        ("dated_back", "7"),
    ]
    # what was recorded by now counts by now: nothing is added, and the numbers are those of now
    present = (await env.call("GET", f"{path}?effective={rfc3339(env.clock.now())}")).json
    assert present["dated_back"]["entries"] == []
    assert checked(present) == checked((await env.call("GET", path)).json)
    assert [one.get("effective_at") for one in present["entries"]][-2:] == ["2026-01-01T12:00:00.000000Z", "2026-01-01T13:00:00.000000Z"]  # fmt: skip
    before = (await env.call("GET", f"{path}?effective=2025-01-01T00:00:00Z")).json
    assert (checked(before)["posted"], before["entries"], before["dated_back"]["entries"]) == (0, [], [])
    assert problem(await env.call("GET", f"{path}?effective=2999-01-01T00:00:00Z")) == (422, "history-not-kept")
    assert problem(await env.call("GET", f"{path}?effective=2026-01-01T12:00:00Z&sequence=1")) == (
        400,
        "invalid-request",
    )
    assert problem(await env.call("GET", f"{path}?effective=noon")) == (400, "invalid-request")


async def test_frozen_and_closed_accounts_say_so_in_their_explanation(env: Env) -> None:
    frozen = await at(env, "frozen", "debit", ceiling="500")
    await env.call("POST", f"/v1/accounts/{frozen}/freeze")
    found = (await env.call("GET", f"/v1/accounts/{frozen}/explain")).json
    assert [rule["rule"] for rule in found["rules"]] == ["normal_side", "ceiling", "frozen"]
    assert checked(found)["room_below_ceiling"] == 500
    assert found["entries"] == found["holds"] == []
    await env.call("POST", f"/v1/accounts/{frozen}/unfreeze")
    await env.call("POST", f"/v1/accounts/{frozen}/close")
    found = (await env.call("GET", f"/v1/accounts/{frozen}/explain")).json
    assert [rule["rule"] for rule in found["rules"]] == ["normal_side", "ceiling", "closed"]


async def test_an_explanation_that_can_not_be_given(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    of = await a_shop(env)
    path = f"/v1/accounts/{of['anna']}/explain"
    assert problem(await env.call("GET", f"{path}?sequence=9")) == (422, "history-not-kept")
    assert problem(await env.call("GET", f"{path}?at=2025-01-01T00:00:00Z")) == (422, "history-not-kept")
    assert problem(await env.call("GET", path, tenant="beta")) == (404, "account-not-found")
    held = (await env.transfers({**post(of["anna"], of["bob"], 10), "kind": "hold"})).json["data"][0]["id"]
    for _ in range(4):
        await env.transfers(post(of["anna"], of["bob"], 1))
    middle = (await env.call("GET", f"/v1/accounts/{of['anna']}")).json["as_of"] - 2
    await env.call("POST", f"/v1/transfers/{held}/void", {})
    assert checked((await env.call("GET", f"{path}?sequence={middle}")).json)["pending"] == 10
    monkeypatch.setattr("tallystick.services.ledger.service.statements.AROUND", 2)
    assert problem(await env.call("GET", f"{path}?sequence={middle}")) == (422, "explanation-out-of-reach")
    # made too long before, but ended soon after: found by its end
    end = (await env.call("GET", f"/v1/accounts/{of['anna']}")).json["as_of"] - 1
    assert checked((await env.call("GET", f"{path}?sequence={end}")).json)["pending"] == 10
    # made shortly before, and ended too long after: found by its beginning
    assert checked((await env.call("GET", f"{path}?sequence={end - 3}")).json)["pending"] == 10
