"""Webhook endpoints through the real application: made, shown, switched on again, forgotten; each tenant's own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from tallystick.chassis import charter
from tallystick.kernel import ids
from tallystick.services.notify import model
from tallystick.services.notify.store import SEALED, queries
from tests.services.notify.support import PATH, Env, Receiver, fact, running, slug
from tests.support.http import World
from tests.support.sealed import a_year_passes, faults

URL = "http://127.0.0.1:9/hook"


async def test_an_endpoint_is_made_shown_and_forgotten(env: Env) -> None:
    made = await env.endpoint(URL, "payment.*", "payment.*", "refund.succeeded")
    assert made["events"] == ["payment.*", "refund.succeeded"]
    assert made["status"] == "enabled"
    assert made["secret"].startswith("whsec_")
    shown = {name: value for name, value in made.items() if name != "secret"}
    assert (await env.edge("GET", f"{PATH}/{made['id']}")).json == shown
    assert (await env.edge("GET", PATH)).json == {"data": [shown], "has_more": False, "next": None}
    assert (await env.edge("DELETE", f"{PATH}/{made['id']}")).status == 204
    for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/deliveries"), ("POST", "/enable")]:
        answer = await env.edge(method, f"{PATH}/{made['id']}{path}")
        assert (answer.status, slug(answer)) == (404, "webhook-endpoint-not-found")
    assert (await env.edge("GET", PATH)).json["data"] == []
    assert await env.facts() == [("notify.endpoint.created", "cli_one"), ("notify.endpoint.deleted", "cli_one")]


@pytest.mark.parametrize(
    "body",
    [
        {"url": URL}, {"events": ["*"]}, {"url": URL, "events": []}, {"url": URL, "events": ["*"] * 51},
        {"url": URL, "events": ["Payment"]}, {"url": URL, "events": ["payment.*.x"]}, {"url": URL, "events": ["a" * 101]},
        {"url": URL, "events": ["*"], "secret": "mine"}, {"url": "http://" + "a" * 2000, "events": ["*"]},
        {"url": "ftp://x.example/", "events": ["*"]}, {"url": "http://u:p@x.example/", "events": ["*"]},
        {"url": URL, "events": ["*"], "description": "d" * 201}, {"url": URL, "events": ["*\n"]}, {"url": 7, "events": ["*"]},
    ],
)  # fmt: skip
async def test_bad_input_makes_nothing(env: Env, body: dict[str, Any]) -> None:
    assert (await env.edge("POST", PATH, body)).status == 400
    assert await env.service.query("SELECT * FROM endpoint") == []


@pytest.mark.parametrize(
    "name",
    ["payment.setled", "payment.captured", "payments.payment.settled", "payments.*", "token.created", "endpoint.*"],
)
async def test_an_event_that_is_never_sent_makes_nothing(env: Env, name: str) -> None:
    answer = await env.edge("POST", PATH, {"url": URL, "events": ["payment.*", name]}, key="k1")
    assert (answer.status, slug(answer)) == (400, "unknown-webhook-event")
    assert f'"{name}"' in answer.json["detail"]
    assert "https://tallystick.dev/reference/facts/" in answer.json["detail"]
    assert [each["pointer"] for each in answer.json["errors"]] == ["/events/1"]
    assert await env.service.query("SELECT * FROM endpoint") == []
    # Nothing was done, so the same key does for what was meant.
    assert (await env.edge("POST", PATH, {"url": URL, "events": ["payment.*"]}, key="k1")).status == 201


async def test_every_event_can_be_asked_for_by_its_name(env: Env) -> None:
    events = sorted(map(model.event_type, charter.heard("notify")))
    assert {"payment.settled", "refund.succeeded", "transfers.posted"} <= set(events)
    assert (await env.endpoint(URL, *events))["events"] == events


async def test_an_endpoint_from_before_keeps_its_names_and_is_told_what_it_was(env: Env, receiver: Receiver) -> None:
    made = await env.endpoint(receiver.url, "payment.*")
    await env.service.query("UPDATE endpoint SET events = '{payment.setled,payment.settled}'")
    shown = (await env.edge("GET", f"{PATH}/{made['id']}")).json
    assert shown["events"] == ["payment.setled", "payment.settled"]
    assert (await env.edge("POST", f"{PATH}/{made['id']}/enable")).json == shown
    await env.told(fact(), fact("payments.payment.declined"))
    await env.send()
    assert [each["type"] for each in await env.deliveries(made)] == ["payment.settled"]


async def test_only_the_operator_lets_webhooks_inside(env: Env, around: World, directory: Path) -> None:
    async with running(around, env.service, directory, private=False) as strict:
        for url in (
            URL, "https://10.0.0.1/", "https://localhost./", "http://shop.example/", "https://[::1]/", "https://[::ffff:127.0.0.1%25]/",
            "https://[v1.fe80::1]/", "https://xn--/",
        ):  # fmt: skip
            answer = await strict.edge("POST", PATH, {"url": url, "events": ["*"]})
            assert (answer.status, slug(answer)) == (400, "invalid-webhook-url"), url
        assert (await strict.edge("POST", PATH, {"url": "https://shop.example/", "events": ["*"]})).status == 201


async def test_nothing_of_another_tenant_is_there(env: Env, receiver: Receiver) -> None:
    mine = await env.endpoint(receiver.url)
    await env.told(fact(), fact(tenant="other"))
    await env.send()
    assert len(receiver.got) == 1
    (delivery,) = await env.deliveries(mine)
    for method, path in [
        ("GET", ""), ("DELETE", ""), ("POST", "/enable"), ("GET", "/deliveries"),
        ("POST", f"/deliveries/{delivery['id']}/replay"),
    ]:  # fmt: skip
        answer = await env.edge(method, f"{PATH}/{mine['id']}{path}", tenant="other")
        assert (answer.status, slug(answer)) == (404, "webhook-endpoint-not-found"), path
    assert (await env.edge("GET", PATH, tenant="other")).json["data"] == []
    # A delivery of one's own, under an endpoint that it did not go to.
    second = await env.endpoint(receiver.url)
    answer = await env.edge("POST", f"{PATH}/{second['id']}/deliveries/{delivery['id']}/replay")
    assert (answer.status, slug(answer)) == (404, "delivery-not-found")


async def test_the_scope_is_needed(env: Env) -> None:
    for method, path in [("GET", PATH), ("POST", PATH), ("DELETE", f"{PATH}/x")]:
        body = {"url": URL, "events": ["*"]} if method == "POST" else None
        assert (await env.edge(method, path, body, scope="payments:write")).status == 403


async def test_lists_go_on_page_by_page_while_endpoints_are_added(env: Env) -> None:
    made = [(await env.endpoint(URL))["id"] for _ in range(5)]
    first = (await env.edge("GET", f"{PATH}?limit=2")).json
    assert ([each["id"] for each in first["data"]], first["has_more"]) == (made[:2:-1], True)
    await env.endpoint(URL)
    second = (await env.edge("GET", f"{PATH}?limit=2&after={first['next']}")).json
    third = (await env.edge("GET", f"{PATH}?limit=2&after={second['next']}")).json
    assert [each["id"] for each in second["data"] + third["data"]] == made[2::-1]
    assert (third["has_more"], third["next"]) == (False, None)
    for query in ("limit=0", "limit=201", "after=x", f"after={ids.payments.text(ids.payments.new())}", "other=1"):
        assert (await env.edge("GET", f"{PATH}?{query}")).status == 400


async def test_a_tenant_has_so_many_endpoints_and_no_more_however_they_come(
    env: Env, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "MAX_ENDPOINTS", 3)
    body = {"url": URL, "events": ["*"]}
    answers = await asyncio.gather(*(env.edge("POST", PATH, body) for _ in range(8)))
    assert sorted(each.status for each in answers) == [201] * 3 + [409] * 5
    assert (await env.edge("POST", PATH, body, tenant="other")).status == 201
    gone = next(each.json["id"] for each in answers if each.status == 201)
    await env.edge("DELETE", f"{PATH}/{gone}")
    assert (await env.edge("POST", PATH, body)).status == 201


# ---- idempotency


async def test_the_same_request_again_gets_the_same_answer_with_its_secret(env: Env) -> None:
    body = {"url": URL, "events": ["*"]}
    first = await env.edge("POST", PATH, body, key="k1")
    again = await env.edge("POST", PATH, body, key="k1")
    assert (first.status, first.content) == (again.status, again.content)
    assert (first.header("idempotent-replayed"), again.header("idempotent-replayed")) == (None, "true")
    assert len(await env.service.query("SELECT * FROM endpoint")) == 1
    other = await env.edge("POST", PATH, {**body, "url": URL + "/2"}, key="k1")
    assert (other.status, slug(other), other.json["fields"]) == (422, "idempotency-key-reused", ["/url"])
    foreign = await env.edge("POST", PATH, body, key="k1", tenant="other")
    assert (foreign.status, foreign.header("idempotent-replayed")) == (201, None)


async def test_a_deleted_endpoint_takes_the_stored_answer_with_its_secret_along(env: Env) -> None:
    body = {"url": URL, "events": ["*"]}
    first = await env.edge("POST", PATH, body, key="k1")
    kept = await env.edge("POST", PATH, body, key="k2")
    await env.edge("DELETE", f"{PATH}/{first.json['id']}")
    for again in (body, {**body, "url": URL + "/2"}):
        answer = await env.edge("POST", PATH, again, key="k1")
        assert (answer.status, slug(answer)) == (404, "webhook-endpoint-not-found")
        assert answer.header("idempotent-replayed") == "true"
        assert answer.header("content-type") == "application/problem+json"
        assert first.json["id"] in answer.json["detail"]
        assert answer.json["request_id"] == answer.header("request-id")
    rows = await env.service.query("SELECT body, digest, fields FROM idempotency WHERE key = 'k1'")
    assert [(row["digest"], row["fields"]) for row in rows] == [(b"", b"")]
    assert json.loads(rows[0]["body"])["status"] == 404, "in place of the sealed answer"
    # Another one's answer stays, and a new key makes a new one.
    assert (await env.edge("POST", PATH, body, key="k2")).content == kept.content
    assert (await env.edge("POST", PATH, body, key="k3")).status == 201


async def test_fifty_at_once_with_one_key_make_one_endpoint(env: Env) -> None:
    body = {"url": URL, "events": ["*"]}
    answers = await asyncio.gather(*(env.edge("POST", PATH, body, key="k1") for _ in range(50)))
    assert {each.status for each in answers} <= {201, 409, 503}
    assert len({each.content for each in answers if each.status == 201}) == 1
    assert len(await env.service.query("SELECT * FROM endpoint")) == 1
    assert (await env.edge("POST", PATH, body, key="k1")).status == 201


async def test_a_year_passes_over_the_keys_of_secrets(env: Env, receiver: Receiver) -> None:
    """Secrets, and the answers that show them, are under new keys: deliveries are signed and requests answered as before."""
    body = {"url": receiver.url, "events": ["*"]}
    first = await env.edge("POST", PATH, body, key="k1")
    gone = await env.edge("POST", PATH, body, key="k2")
    await env.endpoint(URL, tenant="other")
    assert (await env.edge("DELETE", f"{PATH}/{gone.json['id']}")).status == 204
    rows = "SELECT body FROM idempotency UNION ALL SELECT sealed_secret FROM endpoint WHERE deleted_at IS NULL"
    sealed = {row["body"] for row in await env.service.query(rows)}
    await a_year_passes(env.service, env.ring, SEALED)
    again = {row["body"] for row in await env.service.query(rows)}
    assert len(sealed - again) == 3  # what the deleted endpoint left holds no secret
    assert await faults(env.service, "notify") == []
    assert (await env.edge("POST", PATH, body, key="k1")).content == first.content
    assert (await env.edge("POST", PATH, body, key="k2")).status == 404
    await env.told(fact())
    await env.send()
    ((headers, sent),) = receiver.got
    Webhook(first.json["secret"]).verify(sent, headers)


async def test_a_refusal_stays_one(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "MAX_ENDPOINTS", 0)
    body = {"url": URL, "events": ["*"]}
    first = await env.edge("POST", PATH, body, key="k1")
    assert (first.status, slug(first)) == (409, "too-many-webhook-endpoints")
    monkeypatch.setattr(model, "MAX_ENDPOINTS", 9)
    again = await env.edge("POST", PATH, body, key="k1")
    assert (again.status, slug(again), again.header("idempotent-replayed")) == (
        409,
        "too-many-webhook-endpoints",
        "true",
    )
    assert again.header("content-type") == "application/problem+json"


async def test_no_secret_stands_in_the_database_in_clear(env: Env) -> None:
    answer = await env.edge("POST", PATH, {"url": URL, "events": ["*"]}, key="k1")
    secret = answer.json["secret"].removeprefix("whsec_").encode()
    raw = Webhook(answer.json["secret"])._whsecret
    tables = [
        row["tablename"]
        for row in await env.service.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    ]
    assert {"endpoint", "idempotency", "outbox"} <= set(tables)
    for table in tables:
        for row in await env.service.query(f'SELECT * FROM "{table}"'):
            for value in row.values():
                held = value if isinstance(value, bytes) else str(value).encode()
                assert secret not in held, table
                assert raw not in held, table
    await env.edge("DELETE", f"{PATH}/{answer.json['id']}")
    assert [row["sealed_secret"] for row in await env.service.query("SELECT sealed_secret FROM endpoint")] == [b""]


async def test_a_secret_that_outlived_its_endpoint_is_named(env: Env) -> None:
    made = await env.edge("POST", PATH, {"url": URL, "events": ["*"]}, key="k1")
    (secret,) = await env.service.query("SELECT sealed_secret FROM endpoint")
    (answer,) = await env.service.query("SELECT status, body FROM idempotency")
    await env.edge("DELETE", f"{PATH}/{made.json['id']}")
    assert await faults(env.service, "notify") == []
    for restored, values in (
        ("UPDATE endpoint SET sealed_secret = $1", (secret["sealed_secret"],)),
        ("UPDATE idempotency SET status = $1, body = $2", (answer["status"], answer["body"])),
    ):
        await env.service.query(restored, *values)
        named = [found.partition(":")[0] for found in await faults(env.service, "notify")]
        assert named == ["deleted_endpoints_have_no_secret"]
        await env.service.query("UPDATE endpoint SET sealed_secret = ''")


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_what_failed_is_found_among_what_was_delivered(env: Env, mode: str) -> None:
    endpoint = ids.webhook_endpoints.parse((await env.endpoint(URL))["id"])
    connection = await env.service.connection()
    try:
        await connection.execute(
            "INSERT INTO delivery (id, tenant, endpoint, fact, type, body, status, created_at)"
            f" SELECT gen_random_uuid(), 'acme', '{endpoint}', gen_random_uuid(), 'payment.settled', '',"
            " CASE WHEN n % 1000 = 0 THEN 'failed' ELSE 'delivered' END, now() FROM generate_series(1, 3000) AS n"
        )
        await connection.execute("ANALYZE delivery")
        await connection.execute(f"SET plan_cache_mode = {mode}")
        await connection.execute(f"PREPARE found AS {queries.failed_deliveries.sql}")
        (answer,) = await connection.fetch(
            f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE found ('{endpoint}', 'acme', NULL, 51)"
        )
        scan: dict[str, Any] = json.loads(answer[0])[0]["Plan"]
        while "Plans" in scan:
            (scan,) = scan["Plans"]
        assert scan["Index Name"] == "delivery_failed"
        assert (scan["Actual Rows"], scan.get("Rows Removed by Filter", 0)) == (3, 0)
    finally:
        await connection.close()
