"""Tokens at the edge: what goes in, what comes out, and what must never come out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from valkey.asyncio import Valkey

from tallystick.chassis import charter
from tallystick.chassis.limits import Bucket
from tallystick.services.vault.store import SEALED
from tests.services.vault.support import CARD, IBAN, NUMBER, Env, Receipts, later
from tests.support.sealed import a_year_passes, faults


async def test_a_card_becomes_a_token(env: Env) -> None:
    answer = await env.edge("POST", "/v1/tokens", {"type": "card", "card": CARD})
    assert answer.status == 201
    token = answer.json
    assert token["id"].startswith("tok_")
    assert token["type"] == "card"
    card = token["card"]
    fingerprint = card.pop("fingerprint")
    assert fingerprint.startswith("fp_")
    assert card == {"brand": "visa", "bin": "455673", "last4": "9855", "exp_month": 12, "exp_year": 2035}
    assert NUMBER.encode() not in answer.content
    rest = answer.content
    for drawn in (token["id"], fingerprint, token["created_at"]):  # three digits are in them now and then
        rest = rest.replace(drawn.encode(), b"")
    assert b"837" not in rest
    looked_at = await env.edge("GET", f"/v1/tokens/{token['id']}")
    assert looked_at.status == 200
    assert looked_at.json["card"]["last4"] == "9855"
    assert NUMBER.encode() not in looked_at.content


async def test_a_bank_account_becomes_a_token(env: Env) -> None:
    body = {"type": "bank_account", "bank_account": {"iban": "gb29 NWBK 6016 1331 9268 19"}}
    answer = await env.edge("POST", "/v1/tokens", body)
    assert answer.status == 201
    assert answer.json["bank_account"]["country"] == "GB"
    assert answer.json["bank_account"]["last4"] == "6819"
    assert IBAN.encode() not in answer.content
    same = {"type": "bank_account", "bank_account": {"iban": IBAN}}
    again = await env.edge("POST", "/v1/tokens", same)
    assert again.json["bank_account"]["fingerprint"] == answer.json["bank_account"]["fingerprint"]
    assert again.json["id"] != answer.json["id"]


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        ({"type": "card", "card": {**CARD, "number": "4556737586899856"}}, 400, "invalid-card-number"),
        ({"type": "card", "card": {**CARD, "number": "0" * 16}}, 400, "invalid-card-number"),
        ({"type": "card", "card": {**CARD, "number": "4556 7375 8689 9855"}}, 400, "invalid-request"),
        ({"type": "card", "card": {**CARD, "number": "٤" * 16}}, 400, "invalid-request"),
        ({"type": "card", "card": {**CARD, "number": NUMBER + "\n"}}, 400, "invalid-request"),
        ({"type": "card", "card": {**CARD, "number": int(NUMBER)}}, 400, "invalid-request"),
        ({"type": "card", "card": {**CARD, "number": NUMBER[:11]}}, 400, "invalid-request"),
        ({"type": "card", "card": {**CARD, NUMBER: 1}}, 400, "invalid-request"),
        ({"type": "card", "card": {**CARD, "exp_year": 2020}}, 422, "card-expired"),
        ({"type": "card", "card": {**CARD, "exp_year": 2099}}, 422, "card-expired"),
        ({"type": "card", "card": {**CARD, "exp_month": 0}}, 400, "invalid-request"),
        ({"type": "card", "card": {**CARD, "exp_month": 13}}, 400, "invalid-request"),
        ({"type": "card", "card": {**CARD, "cvc": "12"}}, 400, "invalid-request"),
        ({"type": "card"}, 400, "invalid-request"),
        ({"type": "passport", "card": CARD}, 400, "invalid-request"),
        ({"type": f"{NUMBER} 12/2035", "card": CARD}, 400, "invalid-request"),
        ({f"{NUMBER} 837": 1, "type": "card", "card": CARD}, 400, "invalid-request"),
        ({"type": "bank_account", "card": CARD}, 400, "invalid-request"),
        ({"type": "bank_account", "bank_account": {"iban": "GB29NWBK60161331926818"}}, 400, "invalid-iban"),
        ({"type": "bank_account", "bank_account": {"iban": "XX29NWBK60161331926819"}}, 400, "invalid-iban"),
        ({"type": "bank_account", "bank_account": {"iban": "GB29NWBK6016133192681"}}, 400, "invalid-iban"),
        ({}, 400, "invalid-request"),
    ],
)
async def test_bad_input_is_refused_and_not_repeated(
    env: Env, body: dict[str, Any], status: int, slug: str, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = await env.edge("POST", "/v1/tokens", body)
    assert (answer.status, answer.json["type"].rpartition("/")[2]) == (status, slug)
    said = answer.content.decode() + "".join(capfd.readouterr())
    assert NUMBER[:12] not in said
    assert "NWBK" not in said
    assert await env.service.query("SELECT FROM token") == []


async def test_the_same_key_gives_the_same_token(env: Env) -> None:
    first = await env.edge("POST", "/v1/tokens", {"type": "card", "card": CARD}, key="k1")
    again = await env.edge("POST", "/v1/tokens", {"type": "card", "card": CARD}, key="k1")
    assert (again.status, again.content) == (201, first.content)
    assert again.header("idempotent-replayed") == "true"
    assert first.header("idempotent-replayed") is None
    # The verification code is no part of what is remembered.
    without = {**CARD, "cvc": "111"}
    assert (await env.edge("POST", "/v1/tokens", {"type": "card", "card": without}, key="k1")).content == first.content
    other = await env.edge("POST", "/v1/tokens", {"type": "card", "card": {**CARD, "exp_month": 11}}, key="k1")
    assert (other.status, other.json["fields"]) == (422, ["/card/exp_month"])
    foreign = await env.edge("POST", "/v1/tokens", {"type": "card", "card": CARD}, key="k1", tenant="other")
    assert foreign.json["id"] != first.json["id"]


async def test_a_key_keeps_its_answer_when_the_card_has_expired_since(env: Env, valkey: Valkey) -> None:
    body = {"type": "card", "card": CARD}
    first = await env.edge("POST", "/v1/tokens", body, key="k1")
    gone = await env.edge("POST", "/v1/tokens", body, key="k2")
    await env.edge("DELETE", f"/v1/tokens/{gone.json['id']}")
    years_on = later(env, valkey)
    again = await years_on.edge("POST", "/v1/tokens", body, key="k1")
    assert (again.status, again.content, again.header("idempotent-replayed")) == (201, first.content, "true")
    other = {"type": "card", "card": {**CARD, "exp_month": 11}}
    for key, card, problem in (
        ("k1", other, "idempotency-key-reused"),
        ("k2", body, "token-destroyed"),
        ("k3", body, "card-expired"),
    ):
        refused = await years_on.edge("POST", "/v1/tokens", card, key=key)
        assert refused.json["type"].rpartition("/")[2] == problem
    assert (await years_on.edge("POST", "/v1/tokens", body)).json["type"].rpartition("/")[2] == "card-expired"


async def test_fifty_at_once_with_one_key_make_one_token(env: Env) -> None:
    answers = await asyncio.gather(
        *(env.edge("POST", "/v1/tokens", {"type": "card", "card": CARD}, key="k1") for _ in range(50))
    )
    assert {answer.status for answer in answers} <= {201, 409}
    assert len({answer.json["id"] for answer in answers if answer.status == 201}) == 1
    assert len(await env.service.query("SELECT FROM token")) == 1


async def test_many_at_once_are_each_their_own(env: Env) -> None:
    tokens = await asyncio.gather(*(env.create() for _ in range(200)))
    assert len({token["id"] for token in tokens}) == 200
    assert len({token["card"]["fingerprint"] for token in tokens}) == 1
    assert len(await env.service.query("SELECT FROM data_key WHERE kind = 'subject'")) == 200


async def test_fingerprints_stay_within_a_tenant(env: Env) -> None:
    here, there = await env.create(), await env.create(tenant="other")
    assert here["card"]["fingerprint"] != there["card"]["fingerprint"]
    another = await env.create({**CARD, "number": "4242424242424242"})
    assert another["card"]["fingerprint"] != here["card"]["fingerprint"]


async def test_another_tenants_token_is_not_there(env: Env) -> None:
    path = f"/v1/tokens/{(await env.create())['id']}"
    for method, where, body in (
        ("GET", path, None),
        ("DELETE", path, None),
        ("POST", path + "/reveal", {"purpose": "test.check"}),
    ):
        answer = await env.edge(method, where, body, tenant="other")
        assert (answer.status, answer.json["type"].rpartition("/")[2]) == (404, "token-not-found")
    assert (await env.edge("GET", path)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "scope"),
    [
        ("POST", "/v1/tokens", {"type": "card", "card": CARD}, "tokens:read tokens:reveal"),
        ("GET", "/v1/tokens/{id}", None, "tokens:write tokens:reveal"),
        ("DELETE", "/v1/tokens/{id}", None, "tokens:read tokens:reveal"),
        ("POST", "/v1/tokens/{id}/reveal", {"purpose": "test.check"}, "tokens:write tokens:read"),
    ],
)
async def test_each_row_needs_its_scope(env: Env, method: str, path: str, body: Any, scope: str) -> None:
    path = path.replace("{id}", (await env.create())["id"])
    answer = await env.edge(method, path, body, scope=scope)
    assert (answer.status, answer.json["type"].rpartition("/")[2]) == (403, "insufficient-scope")


async def test_ids_that_are_none(env: Env) -> None:
    for text in ("tok_x", "pay_01jd5w3qkz8e5rv4y7t9a2b3c4"):
        assert (await env.edge("GET", f"/v1/tokens/{text}")).status == 400
    assert (await env.edge("GET", "/v1/tokens/tok_01jd5w3qkz8e5rv4y7t9a2b3c4")).status == 404


async def test_destroying(env: Env) -> None:
    token, other = await env.create(), await env.create()
    path = f"/v1/tokens/{token['id']}"
    assert (await env.edge("DELETE", path)).status == 204
    assert (await env.edge("DELETE", path)).status == 204
    for method, where, body in (("GET", path, None), ("POST", path + "/reveal", {"purpose": "test.check"})):
        answer = await env.edge(method, where, body)
        assert (answer.status, answer.json["type"].rpartition("/")[2]) == (410, "token-destroyed")
    (row,) = await env.service.query("SELECT * FROM token WHERE destroyed_at IS NOT NULL")
    assert [name for name, value in row.items() if value is not None] == [
        "id", "tenant", "type", "created_by", "created_at", "destroyed_at",
    ]  # fmt: skip
    rows = await env.service.query("SELECT subject, state, wrapped FROM data_key WHERE kind = 'subject'")
    states = {each["subject"]: (each["state"], each["wrapped"] is None) for each in rows}
    assert states == {token["id"]: ("destroyed", True), other["id"]: ("active", False)}
    assert [fact["type"] for fact in await env.facts()].count("vault.token.destroyed") == 1


async def test_a_year_passes_over_the_keys_of_numbers(env: Env) -> None:
    """Each number is sealed anew under its key's successor; what was destroyed before or is after stays destroyed, all versions of it."""
    before, kept, after = [await env.create() for _ in range(3)]
    assert (await env.edge("DELETE", f"/v1/tokens/{before['id']}")).status == 204
    sealed = await env.service.query("SELECT id, sealed FROM token WHERE sealed IS NOT NULL ORDER BY id")
    await a_year_passes(env.service, env.ring, SEALED)
    again = await env.service.query("SELECT id, sealed FROM token WHERE sealed IS NOT NULL ORDER BY id")
    assert [row["id"] for row in again] == [row["id"] for row in sealed]
    assert not {row["sealed"] for row in again} & {row["sealed"] for row in sealed}
    assert await faults(env.service, "vault") == []
    for token, status in ((before, 410), (kept, 200), (after, 200)):
        answer = await env.edge("POST", f"/v1/tokens/{token['id']}/reveal", {"purpose": "test.check"})
        assert answer.status == status
        assert status != 200 or answer.json["card"]["number"] == NUMBER
    assert (await env.edge("DELETE", f"/v1/tokens/{after['id']}")).status == 204
    rows = await env.service.query(
        "SELECT subject, version FROM data_key WHERE kind = 'subject' AND wrapped IS NOT NULL"
    )
    assert [tuple(row) for row in rows] == [(kept["id"], 2)]
    await env.service.query(
        "UPDATE data_key SET state = 'destroyed', wrapped = NULL, destroyed_at = now(), values_left = NULL WHERE kind = 'subject'"
    )
    assert [found.partition(":")[0] for found in await faults(env.service, "vault")] == ["values_have_their_keys"]


@pytest.mark.parametrize("damaged", ["\\x00", "\\x540101", "\\x540102"])
async def test_a_number_that_is_not_sealed_as_numbers_are_is_found(env: Env, damaged: str) -> None:
    """Values that did not begin as sealed ones do were left out, and one that ended too soon failed the statement."""
    await env.create()
    assert await faults(env.service, "vault") == []
    connection = await env.service.connection(superuser=True)
    try:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute(
            f"UPDATE token SET sealed = '{damaged}' || substring(sealed FROM 4) WHERE '{damaged}' <> '\\x540101';"
            f"UPDATE token SET sealed = substring(sealed FROM 1 FOR 12) WHERE '{damaged}' = '\\x540101'"
        )
    finally:
        await connection.close()
    assert [found.partition(":")[0] for found in await faults(env.service, "vault")] == ["values_have_their_keys"]


async def test_the_stored_answer_goes_with_the_token(env: Env) -> None:
    made = await env.create(key="k1")
    assert (await env.edge("DELETE", f"/v1/tokens/{made['id']}")).status == 204
    for card in (CARD, {**CARD, "exp_month": 11}):
        again = await env.edge("POST", "/v1/tokens", {"type": "card", "card": card}, key="k1")
        assert (again.status, again.json["type"].rpartition("/")[2]) == (410, "token-destroyed")
        assert again.header("content-type") == "application/problem+json"
        assert again.json["request_id"] == again.header("request-id")
    rows = await env.service.query("SELECT i::text AS row FROM idempotency AS i")
    assert made["card"]["fingerprint"] not in rows[0]["row"]
    assert await env.service.query("SELECT FROM idempotency WHERE digest <> '' OR fields <> ''") == []


async def test_reveal_waits_for_its_receipt(env: Env, receipts: Receipts) -> None:
    token = await env.create()
    answer = await env.edge("POST", f"/v1/tokens/{token['id']}/reveal", {"purpose": "chargeback.evidence"})
    assert answer.status == 200
    assert answer.json["card"] == {"number": NUMBER, "exp_month": 12, "exp_year": 2035}
    fact = (await env.facts())[-1]
    assert fact["type"] == "vault.token.revealed"
    assert fact["resource"] == token["id"]
    assert fact["data"]["purpose"] == "chargeback.evidence"
    assert fact["id"] == answer.json["receipt"]
    assert len(receipts.asked) == 1


async def test_reveal_of_a_bank_account(env: Env) -> None:
    token = (await env.edge("POST", "/v1/tokens", {"type": "bank_account", "bank_account": {"iban": IBAN}})).json
    answer = await env.edge("POST", f"/v1/tokens/{token['id']}/reveal", {"purpose": "test.check"})
    assert answer.json["bank_account"] == {"iban": IBAN}


@pytest.mark.parametrize("mode", ["refused", "silent"])
async def test_no_receipt_no_number(env: Env, receipts: Receipts, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallystick.services.vault.service.tokens.RECEIPT_SECONDS", 0.3)
    token = await env.create()
    receipts.mode = mode
    answer = await env.edge("POST", f"/v1/tokens/{token['id']}/reveal", {"purpose": "test.check"})
    assert (answer.status, answer.json["type"].rpartition("/")[2]) == (503, "reveal-not-recorded")
    assert NUMBER.encode() not in answer.content
    # The attempt is told all the same.
    assert (await env.facts())[-1]["type"] == "vault.token.revealed"


async def test_destroyed_while_the_receipt_was_awaited(env: Env, receipts: Receipts) -> None:
    token = await env.create()

    async def destroy() -> None:
        await env.edge("DELETE", f"/v1/tokens/{token['id']}")

    receipts.meanwhile = destroy
    answer = await env.edge("POST", f"/v1/tokens/{token['id']}/reveal", {"purpose": "test.check"})
    assert answer.status == 410


async def test_reveals_are_limited(env: Env) -> None:
    path = f"/v1/tokens/{(await env.create())['id']}/reveal"
    env.limits._buckets["reveal"] = Bucket(3600e6, 20)  # else it would gain as many as a slow machine can ask for
    answers = [await env.edge("POST", path, {"purpose": "test.check"}) for _ in range(30)]
    assert [answer.status for answer in answers].count(200) == charter.load("vault").limits.rates["reveal"].burst
    assert {answer.status for answer in answers} == {200, 429}
    assert next(answer for answer in answers if answer.status == 429).header("retry-after") is not None


@pytest.mark.parametrize(
    "purpose",
    ["", "x", "Because I can", "a" * 65, "x\n", f"chargeback.{NUMBER}", f"case-{NUMBER}", "c4556-7375-8689-9855"],
)
async def test_a_purpose_is_a_name(env: Env, purpose: str) -> None:
    path = f"/v1/tokens/{(await env.create())['id']}/reveal"
    assert (await env.edge("POST", path, {"purpose": purpose})).status == 400


async def test_a_row_put_in_place_of_another_does_not_open(env: Env) -> None:
    """Who can write to the database can't get a number out under another token."""
    mine, theirs = await env.create(), await env.create({**CARD, "number": "4242424242424242"})
    connection = await env.service.connection()
    await connection.execute("UPDATE token SET sealed = (SELECT sealed FROM token WHERE last4 = '4242')")
    await connection.close()
    answer = await env.edge("POST", f"/v1/tokens/{mine['id']}/reveal", {"purpose": "test.check"})
    assert answer.status == 500
    assert b"4242424242424242" not in answer.content
    assert (await env.edge("POST", f"/v1/tokens/{theirs['id']}/reveal", {"purpose": "test.check"})).status == 200


async def test_describe_is_for_payments(env: Env) -> None:
    token, gone = await env.create(), await env.create()
    foreign = await env.create(tenant="other")
    await env.edge("DELETE", f"/v1/tokens/{gone['id']}")
    asked = [token["id"], gone["id"], foreign["id"], "nonsense"]
    items = [{"token": 0, "id": each} for each in asked] + [{"token": 7, "id": token["id"]}]
    answer = await env.mesh("/internal/describe", items)
    assert answer.status == 200
    assert answer.json["items"][0]["token"] == token
    slugs = [each["problem"]["type"].rpartition("/")[2] for each in answer.json["items"][1:]]
    assert slugs == ["token-destroyed", "token-not-found", "token-not-found", "invalid-request"]
    assert (await env.mesh("/internal/describe", items, peer="risk")).status == 403
    assert NUMBER.encode() not in answer.content


async def test_an_answer_that_outlived_its_token_is_named(env: Env) -> None:
    made = await env.edge("POST", "/v1/tokens", {"type": "card", "card": CARD}, key="k1")
    (before,) = await env.service.query("SELECT status, body FROM idempotency")
    await env.edge("DELETE", f"/v1/tokens/{made.json['id']}")
    assert await faults(env.service, "vault") == []
    await env.service.query("UPDATE idempotency SET status = $1, body = $2", before["status"], before["body"])
    assert [found.partition(":")[0] for found in await faults(env.service, "vault")] == ["destroyed_answers_are_gone"]
