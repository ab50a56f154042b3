"""Nothing crosses tenants: every endpoint that names a resource, asked with another tenant's.

One tenant makes one of everything; a client of another, with every scope there is, then tries all endpoints on it. The
list is held against the services' tables, so a new endpoint that takes an id fails here until its line is added.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tallystick.cli.apiclient import Answer, ApiClient
from tallystick.cli.credentials import Credentials
from tests.architecture.test_authorization import SCOPES
from tests.architecture.tree import BUILT, endpoints
from tests.support.parts import short_directory
from tests.system.conftest import PlatformUnderTest

MONEY = {"amount": "500", "currency": "EUR"}


class Try(NamedTuple):
    """`path` and `body` with the names of what the first tenant made, in braces."""

    path: str
    body: Any = None
    own: bool = True
    """Whether the owner's own GET must find it (else the 404 of the other would prove nothing)."""


#: Row of an endpoint table that takes an id -> how to try it.
IMPORTED: Mapping[str, str] = {
    "type": "account",
    "id": "a",
    "name": "taken over",
    "currency": "EUR",
    "normal_side": "credit",
}

WITH_AN_ID: Mapping[str, Try] = {
    "GET /v1/tokens/{id}": Try("/v1/tokens/{token}"),
    "POST /v1/tokens/{id}/reveal": Try("/v1/tokens/{token}/reveal", {"purpose": "dispute"}),
    "DELETE /v1/tokens/{id}": Try("/v1/tokens/{token}"),
    "GET /v1/accounts/{id}": Try("/v1/accounts/{account}"),
    "GET /v1/accounts/{id}/entries": Try("/v1/accounts/{account}/entries"),
    "GET /v1/accounts/{id}/statement": Try("/v1/accounts/{account}/statement"),
    "GET /v1/accounts/{id}/explain": Try("/v1/accounts/{account}/explain"),
    "PATCH /v1/accounts/{id}": Try("/v1/accounts/{account}", {"name": "taken over"}),
    "POST /v1/accounts/{id}/freeze": Try("/v1/accounts/{account}/freeze"),
    "POST /v1/accounts/{id}/unfreeze": Try("/v1/accounts/{account}/unfreeze"),
    "POST /v1/accounts/{id}/close": Try("/v1/accounts/{account}/close"),
    "GET /v1/books/{name}": Try("/v1/books/{book}"),
    "PATCH /v1/books/{name}": Try("/v1/books/{book}", {"description": "taken over"}),
    "POST /v1/books/{name}/seal": Try("/v1/books/{book}/seal", {"until": "2026-01-01T00:00:00Z"}),
    "GET /v1/books/{name}/chart": Try("/v1/books/{book}/chart"),
    "PUT /v1/books/{name}/chart": Try("/v1/books/{book}/chart", {"rules": []}),
    "GET /v1/books/{name}/categories": Try("/v1/books/{book}/categories"),
    "GET /v1/books/{name}/categories/{category}": Try("/v1/books/{book}/categories/{category}"),
    "PUT /v1/books/{name}/categories/{category}": Try("/v1/books/{book}/categories/{category}", {"paths": []}),
    "DELETE /v1/books/{name}/categories/{category}": Try("/v1/books/{book}/categories/{category}"),
    "GET /v1/books/{name}/categories/{category}/balances": Try("/v1/books/{book}/categories/{category}/balances"),
    "GET /v1/books/{name}/trial-balance": Try("/v1/books/{book}/trial-balance"),
    "GET /v1/books/{name}/balance-sheet": Try("/v1/books/{book}/balance-sheet"),
    "GET /v1/books/{name}/income-statement": Try("/v1/books/{book}/income-statement"),
    "GET /v1/books/{name}/approvals": Try("/v1/books/{book}/approvals"),
    "PUT /v1/books/{name}/approvals": Try("/v1/books/{book}/approvals", {"rules": []}),
    "GET /v1/books/{name}/export": Try("/v1/books/{book}/export"),
    "GET /v1/imports/{id}": Try("/v1/imports/{import}"),
    "GET /v1/imports/{id}/refusals": Try("/v1/imports/{import}/refusals"),
    "POST /v1/imports/{id}/lines": Try("/v1/imports/{import}/lines", {"lines": [{"line": 1, "record": IMPORTED}]}),
    "POST /v1/imports/{id}/start": Try("/v1/imports/{import}/start"),
    "GET /v1/proposals/{id}": Try("/v1/proposals/{proposal}"),
    "POST /v1/proposals/{id}/approve": Try("/v1/proposals/{proposal}/approve", {"signature": "x"}),
    "POST /v1/proposals/{id}/reject": Try("/v1/proposals/{proposal}/reject", {"signature": "x"}),
    "GET /v1/transactions/{id}": Try("/v1/transactions/{transaction}?book={book}"),
    "POST /v1/transactions/{id}/reverse": Try("/v1/transactions/{transaction}/reverse", {"book": "owners-book"}),
    "GET /v1/interbook_transfers/{id}": Try("/v1/interbook_transfers/{interbook}"),
    "POST /v1/transfers/{id}/increase": Try("/v1/transfers/{hold}/increase", {"amount": MONEY}),
    "GET /v1/transfers/{id}": Try("/v1/transfers/{hold}"),
    "POST /v1/transfers/{id}/capture": Try("/v1/transfers/{hold}/capture", {}),
    "POST /v1/transfers/{id}/void": Try("/v1/transfers/{hold}/void", {}),
    "POST /v1/transfers/{id}/reverse": Try("/v1/transfers/{posted}/reverse", {}),
    "GET /v1/payments/{id}": Try("/v1/payments/{payment}"),
    "POST /v1/payments/{id}/capture": Try("/v1/payments/{payment}/capture", {}),
    "POST /v1/payments/{id}/cancel": Try("/v1/payments/{payment}/cancel", {}),
    "GET /v1/refunds/{id}": Try("/v1/refunds/{refund}"),
    "GET /v1/audit/receipts/{id}": Try("/v1/audit/receipts/{receipt}?wait_ms=5000"),
    "GET /v1/webhook_endpoints/{id}": Try("/v1/webhook_endpoints/{webhook}"),
    "DELETE /v1/webhook_endpoints/{id}": Try("/v1/webhook_endpoints/{webhook}"),
    "POST /v1/webhook_endpoints/{id}/enable": Try("/v1/webhook_endpoints/{webhook}/enable"),
    "GET /v1/webhook_endpoints/{id}/deliveries": Try("/v1/webhook_endpoints/{webhook}/deliveries"),
    "POST /v1/webhook_endpoints/{id}/deliveries/{delivery}/replay": Try(
        "/v1/webhook_endpoints/{webhook}/deliveries/whd_00000000000000000000000000/replay", own=False
    ),
}

#: The log's tree is the same for everyone, by design.
SHARED = {"GET /v1/audit/tile/{tile:path}"}

#: Requests whose body names a resource.
WITH_A_BODY = (
    Try(
        "/v1/transfers",
        {
            "atomic": True,
            "transfers": [{"kind": "post", "debit_account": "{account}", "credit_account": "{mine}", "amount": MONEY}],
        },
    ),
    Try(
        "/v1/payments",
        {"amount": MONEY, "source": {"type": "card", "token": "{token}"}, "destination": {"account": "{mine}"}},
    ),
    Try(
        "/v1/payments",
        {"amount": MONEY, "source": {"type": "account", "account": "{account}"}, "destination": {"account": "{mine}"}},
    ),
    Try(
        "/v1/payments",
        {"amount": MONEY, "source": {"type": "account", "account": "{mine}"}, "destination": {"account": "{account}"}},
    ),
    Try("/v1/refunds", {"payment": "{paid}", "amount": MONEY}),
)


def client_of(platform: PlatformUnderTest, tenant: str, folder: Path) -> ApiClient:
    """A client of a tenant (made if need be) with every scope."""
    if tenant not in platform.cli("tenant", "list", "--json").out:
        assert platform.cli("tenant", "create", tenant).status == 0
    file = folder / f"{tenant}.json"
    scopes = " ".join(sorted(SCOPES))
    done = platform.cli("client", "create", f"{tenant}-all", "--tenant", tenant, "--scope", scopes, "--out", str(file))
    assert done.status == 0, done.err
    return ApiClient(Credentials.load(file))


def filled(value: Any, names: Mapping[str, str]) -> Any:
    """The value with `{name}` replaced in all its texts."""
    text = json.dumps(value)
    for name, made in names.items():
        text = text.replace("{" + name + "}", made)
    return json.loads(text)


class Tenant:
    """A tenant's client, counting its keys."""

    def __init__(self, api: ApiClient, name: str) -> None:
        self.api, self.name, self.requests = api, name, 0

    async def send(self, method: str, path: str, body: Any = None) -> Answer:
        self.requests += 1
        key = f"{self.name}-{self.requests}" if method == "POST" else None
        return await self.api.request(method, path, body, idempotency_key=key)

    async def make(self, path: str, body: Any) -> dict[str, Any]:
        answer = await self.send("POST", path, body)
        assert answer.status in {200, 201, 202}, f"{path}: {answer.status} {answer.body!r}"
        made: dict[str, Any] = answer.json()
        return made


async def one_of_everything(owner: Tenant) -> dict[str, str]:
    accounts = [
        await owner.make("/v1/accounts", {"name": f"own {n}", "currency": "EUR", "normal_side": side, "floor": None})
        for n, side in enumerate(("credit", "debit"))
    ]
    account, other = accounts[0]["id"], accounts[1]["id"]
    moves = {"debit_account": other, "credit_account": account, "amount": MONEY}
    made = await owner.make(
        "/v1/transfers", {"atomic": False, "transfers": [{"kind": "post", **moves}, {"kind": "hold", **moves}]}
    )
    posted, hold = (transfer["id"] for transfer in made["data"])
    card = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2034}
    token = await owner.make("/v1/tokens", {"type": "card", "card": card})
    ask = {"amount": MONEY, "source": {"type": "card", "token": token["id"]}, "destination": {"account": account}}
    payment = await owner.make("/v1/payments", {**ask, "capture": "manual"})
    paid = await owner.make("/v1/payments", ask)
    refund = await owner.make("/v1/refunds", {"payment": paid["id"], "amount": {"amount": "1", "currency": "EUR"}})
    webhook = await owner.make(
        "/v1/webhook_endpoints", {"url": "https://example.com/hook", "events": ["payment.settled"]}
    )
    book = {"book": "owners-book"}
    await owner.make("/v1/books", {"name": book["book"]})
    there = [
        (
            await owner.make(
                "/v1/accounts", {"name": side, "currency": "EUR", "normal_side": side, "path": side, **book}
            )
        )["id"]
        for side in ("debit", "credit")
    ]
    move = {"kind": "post", "debit_account": there[0], "credit_account": there[1], "amount": MONEY}
    transaction = await owner.make("/v1/transactions", {"transfers": [move], **book})
    ends = {"from": {"book": "main", "account": other}, "to": {**book, "account": there[1]}}
    interbook = await owner.make("/v1/interbook_transfers", {**ends, "amount": MONEY})
    assert (await owner.send("PUT", "/v1/books/owners-book/categories/all", {"paths": ["**"]})).ok
    rule = {"currency": "EUR", "above": "0", "approvals": 1, "approvers": ["cli_0000000000000000000000000a"]}
    assert (await owner.send("PUT", "/v1/books/owners-book/approvals", {"rules": [rule]})).ok
    proposal = await owner.make("/v1/transactions", {"transfers": [move], **book})
    brought = await owner.make("/v1/imports", {"rows": 1, "sha256": "0" * 64, **book})
    return {
        **book,
        "category": "all",
        "transaction": transaction["id"],
        "interbook": interbook["id"],
        "import": brought["id"],
        "proposal": proposal["id"],
        "account": account,
        "posted": posted,
        "hold": hold,
        "token": token["id"],
        "payment": payment["id"],
        "paid": paid["id"],
        "refund": refund["id"],
        "receipt": payment["receipt"],
        "webhook": webhook["id"],
    }


def test_every_endpoint_that_takes_an_id_is_tried() -> None:
    rows = {row.where for service in BUILT for row in endpoints(service) if row.scope is not None and row.parameters}
    missing = rows - WITH_AN_ID.keys() - SHARED
    assert not missing, f"no line in WITH_AN_ID says how to try these with another tenant's id: {sorted(missing)}"
    gone = WITH_AN_ID.keys() - rows
    assert not gone, f"lines for endpoints that are not there: {sorted(gone)}"


async def test_nothing_crosses_tenants(platform: PlatformUnderTest) -> None:
    folder = short_directory()
    apis = [await asyncio.to_thread(client_of, platform, name, folder) for name in ("owner-co", "stranger-co")]
    async with apis[0] as first, apis[1] as second:
        owner, stranger = Tenant(first, "owner"), Tenant(second, "stranger")
        names = await one_of_everything(owner)
        mine = await stranger.make(
            "/v1/accounts", {"name": "mine", "currency": "EUR", "normal_side": "credit", "floor": None}
        )
        wrong = []
        for where, attempt in WITH_AN_ID.items():
            method = where.split(" ")[0]
            answer = await stranger.send(method, filled(attempt.path, names), attempt.body)
            # "you may not know of it": not 403, which would say that it exists
            if answer.status != 404:
                wrong.append(f"{where}: {answer.status} {answer.body[:200]!r}")
        for attempt in WITH_A_BODY:
            body = filled(attempt.body, {**names, "mine": mine["id"]})
            answer = await stranger.send("POST", attempt.path, body)
            moved = answer.ok and b'"rejected"' not in answer.body and b'"declined"' not in answer.body
            if moved or answer.status in {401, 403} or answer.status >= 500:
                wrong.append(f"POST {attempt.path} {json.dumps(body)}: {answer.status} {answer.body[:200]!r}")
        for listing in ("/v1/accounts", "/v1/payments", "/v1/webhook_endpoints"):
            answer = await stranger.send("GET", listing)
            assert answer.status == 200, f"{listing}: {answer.status}"
            wrong += [f"GET {listing} shows {name}" for name, made in names.items() if made.encode() in answer.body]
        assert not wrong, "\n".join(wrong)
        # and the owner's own are all there, as they were
        for where, attempt in WITH_AN_ID.items():
            if where.startswith("GET ") and attempt.own:
                answer = await owner.send("GET", filled(attempt.path, names))
                assert answer.status == 200, f"{where} by its owner: {answer.status} {answer.body[:200]!r}"
        assert (await owner.send("GET", f"/v1/payments/{names['payment']}")).json()["status"] == "authorized"


@pytest.mark.parametrize("service", BUILT)
def test_the_edge_lets_nobody_in_without_a_token(platform: PlatformUnderTest, service: str) -> None:
    """The same that `tests/architecture` asks of the application, through the real edge."""
    import urllib.error
    import urllib.request

    for row in endpoints(service):
        if row.scope is None:
            continue
        url = platform.url + row.path.replace("{tile:path}", "0/000").replace("{", "").replace("}", "")
        request = urllib.request.Request(url, method=row.method)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, context=platform.tls(), timeout=20)
        document = json.loads(caught.value.read())
        assert (caught.value.code, document["status"]) == (401, 401), row.where
        caught.value.close()
