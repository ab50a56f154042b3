"""Transaction tokens: exchanged for access tokens, and given for background work."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tallystick.chassis.auth.problems import CredentialsRefused
from tests.services.identity.conftest import World
from tests.services.identity.support import ISSUER, TRUST_DOMAIN, decoded, forged, inner


async def exchange(world: World, token: str, caller: str = "payments") -> dict[str, object]:
    answer = await inner(world.app, caller, "POST", "/internal/token-exchange", {"access_token": token})
    assert answer.status == 200, answer.content
    found: dict[str, object] = answer.json
    return found


async def test_an_exchange(world: World) -> None:
    client = await world.client("payments:write accounts:read")
    token = await client.access_token()
    answer = await exchange(world, token)
    header, claims = decoded(str(answer["transaction_token"]))
    access_header, access = decoded(token)
    assert header["typ"] == "txntoken+jwt"
    assert header["kid"] != access_header["kid"], "a key has one purpose"
    assert claims["iss"] == ISSUER
    assert claims["aud"] == TRUST_DOMAIN
    assert claims["sub"] == claims["azp"] == client.client_id
    assert claims["tenant"] == "default"
    assert claims["scope"] == "accounts:read payments:write"
    assert claims["act"] == {"sub": "payments"}
    assert claims["txn"] == access["jti"]
    assert claims["exp"] - claims["iat"] == answer["expires_in"] == 120


async def test_it_ends_with_the_access_token(world: World) -> None:
    client = await world.client("payments:write")
    token = await client.access_token()
    world.clock.advance(timedelta(seconds=100))
    answer = await exchange(world, token)
    assert decoded(str(answer["transaction_token"]))[1]["exp"] <= decoded(token)[1]["exp"]
    assert 0 < int(str(answer["expires_in"])) <= 20


async def test_no_exchange_for_what_is_not_good(world: World) -> None:
    client, gone = await world.client(), await world.client()
    token = await client.access_token(scope="accounts:read")
    revoked = await client.access_token()
    await client.revoke(revoked)
    of_gone = await gone.access_token()
    await world.identity.administration.revoke_client(gone.client_id, "operator")
    transaction = str((await exchange(world, token))["transaction_token"])
    header, claims = decoded(token)
    bad = {
        "revoked": revoked,
        "of a revoked client": of_gone,
        "a transaction token": transaction,
        "an assertion": client.assertion(),
        "a proof": client.proof(),
        "unsigned": forged(header | {"alg": "none"}, claims),
        "signed by a client": forged(header, claims, b"x" * 64),
        "nothing": "x",
    }
    for name, text in bad.items():
        answer = await inner(world.app, "payments", "POST", "/internal/token-exchange", {"access_token": text})
        assert (answer.status, answer.json["type"].rsplit("/", 1)[-1]) == (401, "token-refused"), name
    world.clock.advance(timedelta(seconds=300))
    answer = await inner(world.app, "payments", "POST", "/internal/token-exchange", {"access_token": token})
    assert answer.status == 401


@pytest.mark.parametrize("caller", ["operator", "identity", "stranger"])
async def test_strangers_get_nothing(world: World, caller: str) -> None:
    token = await (await world.client()).access_token()
    answer = await inner(world.app, caller, "POST", "/internal/token-exchange", {"access_token": token})
    assert answer.status == 403
    for path in ("/internal/jwks", "/internal/revocations"):
        assert (await inner(world.app, caller, "GET", path)).status == 403


async def test_a_service_token(world: World) -> None:
    client = await world.client()
    asked = {"tenant": "default", "subject": client.client_id, "purpose": "resume-payment"}
    answer = await inner(world.app, "payments", "POST", "/internal/service-tokens", asked)
    assert answer.status == 200, answer.content
    _, claims = decoded(answer.json["transaction_token"])
    assert claims["sub"] == client.client_id
    assert claims["act"] == {"sub": "payments"}
    assert (claims["scope"], claims["purp"], claims["tenant"]) == ("", "resume-payment", "default")
    assert claims["exp"] - claims["iat"] == 120
    (fact,) = await world.facts("identity.service_token.issued")
    assert fact["actor"] == "payments"
    assert fact["resource"] == client.client_id
    assert fact["data"]["purpose"] == "resume-payment"  # type: ignore[index]
    seen = await _ready_transaction(world, answer.json["transaction_token"])
    assert seen == (client.client_id, "payments", frozenset())


async def test_work_goes_on_when_its_client_is_revoked(world: World) -> None:
    """What was accepted has to be carried to its end; the client itself gets nothing done any more."""
    client = await world.client("payments:write")
    exchanged = str((await exchange(world, await client.access_token()))["transaction_token"])
    asked = {"tenant": "default", "subject": client.client_id, "purpose": "payments.resume"}
    before = (await inner(world.app, "payments", "POST", "/internal/service-tokens", asked)).json["transaction_token"]
    await world.identity.administration.revoke_client(client.client_id, "operator")
    after = (await inner(world.app, "payments", "POST", "/internal/service-tokens", asked)).json["transaction_token"]
    for token in (before, after):
        assert (await _ready_transaction(world, token))[0] == client.client_id
    with pytest.raises(CredentialsRefused):
        await _ready_transaction(world, exchanged)


async def _ready_transaction(world: World, token: str) -> tuple[str, str, frozenset[str]]:
    """What the ledger makes of a token that payments shows."""
    ledger = world.authenticator("ledger")
    await ledger.feed.fetch()
    subject = await ledger.transaction(token, "payments")
    return subject.client_id, subject.actor, subject.scopes


async def test_the_ledger_goes_on_with_money_between_shards(world: World) -> None:
    client = await world.client()
    asked = {"tenant": "default", "subject": client.client_id, "purpose": "interbook-transfer"}
    assert (await inner(world.app, "ledger", "POST", "/internal/service-tokens", asked)).status == 200


@pytest.mark.parametrize("caller", ["vault", "risk", "notify", "audit", "operator"])
async def test_nobody_else_gets_service_tokens(world: World, caller: str) -> None:
    client = await world.client()
    asked = {"tenant": "default", "subject": client.client_id, "purpose": "resume-payment"}
    assert (await inner(world.app, caller, "POST", "/internal/service-tokens", asked)).status == 403
    assert await world.facts("identity.service_token.issued") == []


async def test_a_service_token_stays_in_its_tenant(world: World) -> None:
    await world.tenant("acme")
    foreign = await world.client(tenant="acme")
    for subject in (foreign.client_id, "cli_" + "0" * 26, "svc_payments"):
        asked = {"tenant": "default", "subject": subject, "purpose": "resume-payment"}
        answer = await inner(world.app, "payments", "POST", "/internal/service-tokens", asked)
        assert answer.status == 404, answer.content
