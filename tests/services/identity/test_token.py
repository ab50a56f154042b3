"""The token endpoint: client credentials by private_key_jwt, bound to a DPoP key."""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
from datetime import timedelta
from typing import Any

import pytest
from joserfc.jwk import ECKey

from tallystick.kernel.clock import ManualClock
from tests.services.identity.conftest import World, ed_key, rsa_key
from tests.services.identity.support import ISSUER, Answer, decoded, forged, send


def refused(answer: Answer, error: str, status: int = 400) -> None:
    assert (answer.status, answer.json["error"]) == (status, error), answer.content
    assert set(answer.json) == {"error", "error_description"}
    # RFC 6749, 5.2
    assert re.fullmatch(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+", answer.json["error_description"])
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"


def unauthenticated(answer: Answer) -> None:
    refused(answer, "invalid_client", 401)


async def test_a_token(world: World) -> None:
    client = await world.client("payments:write accounts:read")
    answer = await client.token()
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json["token_type"] == "DPoP"
    assert answer.json["scope"] == "accounts:read payments:write"
    assert answer.json["expires_in"] == 120
    header, claims = decoded(answer.json["access_token"])
    assert (header["typ"], header["alg"]) == ("at+jwt", "ES256")
    assert claims["iss"] == claims["aud"] == ISSUER
    assert claims["sub"] == claims["client_id"] == client.client_id
    assert claims["tenant"] == "default"
    assert claims["exp"] - claims["iat"] == 120
    assert claims["cnf"] == {"jkt": client.dpop.thumbprint()}
    assert claims["jti"]
    assert set(claims) == {"iss", "aud", "sub", "client_id", "tenant", "scope", "iat", "exp", "jti", "cnf"}


async def test_reading_lives_longer_than_money(world: World) -> None:
    client = await world.client("payments:write accounts:read")
    answer = await client.token(scope="accounts:read")
    assert (answer.json["scope"], answer.json["expires_in"]) == ("accounts:read", 300)


@pytest.mark.parametrize("alg", ["PS256", "EdDSA", "Ed25519"])
async def test_other_algorithms(world: World, alg: str) -> None:
    client = await world.client(key=rsa_key() if alg == "PS256" else ed_key())
    client.alg = alg
    assert (await client.token()).status == 200


@pytest.mark.parametrize("typ", ["client-authentication+jwt", "JWT"])
async def test_a_type_is_taken_and_not_asked_for(world: World, typ: str) -> None:
    client = await world.client()
    assert (await client.token(client.assertion({"typ": typ}))).status == 200


async def test_client_id_may_be_repeated_but_not_differ(world: World) -> None:
    client, other = await world.client(), await world.client()
    assert (await client.token(client_id=client.client_id)).status == 200
    unauthenticated(await client.token(client_id=other.client_id))


async def test_clocks_that_are_ahead(world: World) -> None:
    client = await world.client()
    now = int(world.clock.now().timestamp())
    assert (await client.token(client.assertion(iat=now + 8, nbf=now + 8))).status == 200
    assert (await client.token(proofs=[client.proof(iat=now + 10)])).status == 200
    unauthenticated(await client.token(client.assertion(iat=now + 61)))
    unauthenticated(await client.token(client.assertion(nbf=now + 61)))


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": [ISSUER]},
        {"aud": ISSUER + "/oauth2/token"},
        {"aud": [ISSUER, "https://other.example"]},
        {"aud": "https://other.example"},
        {"aud": None},
        {"exp": 1},
        {"exp": None},
        {"exp": 4102444800},
        {"jti": None},
        {"jti": ["a"]},
        {"sub": None},
        {"iss": None},
        {"iss": "cli_00000000000000000000000000"},
        {"sub": "x" * 1000},
        {"sub": {"a": "b"}},
    ],
)
async def test_bad_assertions(world: World, claims: dict[str, Any]) -> None:
    client = await world.client()
    unauthenticated(await client.token(client.assertion(**claims)))


async def test_an_assertion_counts_once_however_many_race(world: World) -> None:
    client = await world.client()
    assertion = client.assertion()
    answers = await asyncio.gather(*(client.token(assertion) for _ in range(50)))
    assert sorted(answer.status for answer in answers) == [200] + [401] * 49


async def test_a_used_assertion_stays_used_at_another_replica_and_endpoint(world: World) -> None:
    client = await world.client()
    assertion = client.assertion()
    assert (await client.token(assertion)).status == 200
    _, client.app = world.replica()
    unauthenticated(await client.token(assertion))
    unauthenticated(await client.introspect("x", assertion))


async def test_a_used_assertion_stays_used_where_the_clock_is_behind(world: World) -> None:
    """A replica whose clock is ahead forgets, another one still finds the assertion good."""
    client = await world.client()
    assertion = client.assertion()  # for 60 s
    assert (await client.token(assertion)).status == 200
    ahead, _ = world.replica()
    ahead.authentication._clock = ManualClock(world.clock.now() + timedelta(seconds=65))
    await ahead.authentication.forget()
    world.clock.advance(timedelta(seconds=55))
    unauthenticated(await client.token(assertion))
    world.clock.advance(timedelta(seconds=66))
    await world.identity.authentication.forget()
    assert await world.tables.query("SELECT FROM assertion_use") == []


async def test_the_same_jti_of_another_client_is_another(world: World) -> None:
    one, two = await world.client(), await world.client()
    assert (await one.token(one.assertion(jti="1"))).status == 200
    assert (await two.token(two.assertion(jti="1"))).status == 200


@pytest.mark.parametrize("alg", ["none", "HS256", "RS256", "ES384", "ES256K"])
async def test_other_algorithms_are_refused(world: World, alg: str) -> None:
    key = rsa_key()
    client = await world.client(key=key)
    header, claims = decoded(client.assertion({"alg": "PS256"}))
    if alg == "HS256":
        # the public key as an HMAC secret: the oldest trick
        unsigned = forged(header | {"alg": alg}, claims).rpartition(".")[0]
        mac = hmac.digest(key.as_pem(private=False), unsigned.encode(), "sha256")
        assertion = forged(header | {"alg": alg}, claims, mac)
    elif alg == "RS256":
        assertion = client.assertion({"alg": alg})
    else:
        assertion = forged(header | {"alg": alg}, claims, b"" if alg == "none" else b"x" * 64)
    unauthenticated(await client.token(assertion))


async def test_only_the_registered_key_counts(world: World) -> None:
    client, other = await world.client(), await world.client()
    unauthenticated(await client.token(client.assertion({"kid": "unknown"})))
    unauthenticated(await client.token(client.assertion(key=ECKey.generate_key("P-256"))))
    unauthenticated(await client.token(client.assertion({"kid": other.key.kid}, other.key)))
    mine = ECKey.generate_key("P-256")
    unauthenticated(await client.token(client.assertion({"jwk": mine.as_dict(private=False)}, mine)))
    unauthenticated(await client.token(client.assertion({"jku": "https://evil.example/keys"}, mine)))
    # without a kid, the one key that there is
    assert (await client.token(client.assertion({"kid": None}))).status == 200


async def test_nobody_can_tell_an_unknown_client_from_a_bad_signature(world: World) -> None:
    client, revoked = await world.client(), await world.client()
    await world.identity.administration.revoke_client(revoked.client_id, "operator")
    wrong = await client.token(client.assertion(key=ECKey.generate_key("P-256")))
    nobody = "cli_" + "0" * 26
    unknown = await client.token(client.assertion(iss=nobody, sub=nobody))
    no_id = await client.token(client.assertion(iss="admin", sub="admin"))
    gone = await revoked.token()
    unauthenticated(wrong)
    without_trace = {"request-id", "content-length"}
    shown = [
        (each.status, each.content, {k: v for k, v in each.headers.items() if k not in without_trace})
        for each in (wrong, unknown, no_id, gone)
    ]
    assert shown.count(shown[0]) == 4


@pytest.mark.parametrize(
    "assertion",
    [
        "",
        "x",
        "a.b.c",
        "a.b",
        "a.b.c.d",
        ".".join(["eyJhbGciOiJFUzI1NiJ9"] * 3),
        "é.é.é",
        "a" * 7000,
        forged({"alg": "ES256"}, {}),
        "W10.W10.W10",
        "bnVsbA.bnVsbA.bnVsbA",
    ],
)
async def test_what_is_no_assertion(world: World, assertion: str) -> None:
    client = await world.client()
    form = client.form("placeholder") | {"client_assertion": assertion, "grant_type": "client_credentials"}
    unauthenticated(await client.post("/oauth2/token", form, [("dpop", client.proof())]))


async def test_deep_nesting_is_refused_not_crashed_on(world: World) -> None:
    client = await world.client()
    deep = base64.urlsafe_b64encode(b'{"alg":"ES256","typ":"dpop+jwt","a":' + b"[" * 1400).rstrip(b"=").decode()
    plain = base64.urlsafe_b64encode(b'{"alg":"ES256"}').rstrip(b"=").decode()
    unauthenticated(await client.token(f"{deep}.e30.c2ln"))
    unauthenticated(await client.token(f"{plain}.{deep}.c2ln"))
    refused(await client.token(proofs=[f"{deep}.e30.c2ln"]), "invalid_dpop_proof")
    assert (await client.introspect(f"{deep}.e30.c2ln")).json == {"active": False}


async def test_other_ways_to_authenticate_are_refused(world: World) -> None:
    client = await world.client()
    unauthenticated(
        await client.post("/oauth2/token", {"grant_type": "client_credentials", "client_id": client.client_id})
    )
    unauthenticated(await client.token(client_secret="s"))
    unauthenticated(
        await client.token(client_assertion_type="urn:ietf:params:oauth:client-assertion-type:saml2-bearer")
    )
    unauthenticated(await client.token(client_assertion_type=None))
    basic = await client.post(
        "/oauth2/token", client.form(grant_type="client_credentials"), [("authorization", "Basic YTpi")]
    )
    unauthenticated(basic)
    assert basic.headers["www-authenticate"] == 'Basic realm="this server takes private_key_jwt only"'


@pytest.mark.parametrize(
    ("authorization", "scheme"),
    [
        (None, "private_key_jwt"),
        ("Bearer a.b.c", "Bearer"),
        ("dpop a.b.c", "DPoP"),
        ("", "private_key_jwt"),
        ("4242424242424242", "private_key_jwt"),
        ("sk_live_of_another_platform x", "private_key_jwt"),
        ('a"b c', "private_key_jwt"),
        ("x" * 33, "private_key_jwt"),
    ],
)
async def test_each_401_has_a_challenge(world: World, authorization: str | None, scheme: str) -> None:
    """RFC 9110, 15.5.2, and RFC 6749, 5.2: under the scheme that the client tried."""
    client = await world.client()
    headers = [] if authorization is None else [("authorization", authorization)]
    answer = await client.post("/oauth2/token", {"grant_type": "client_credentials"}, headers)
    unauthenticated(answer)
    assert answer.headers["www-authenticate"] == f'{scheme} realm="this server takes private_key_jwt only"'


async def test_unknown_parameters_of_the_query_are_ignored(world: World) -> None:
    """RFC 6749, 3.2. What is known there counts in the body only: it may not be in the URI (2.3.1)."""
    client = await world.client()
    form = client.form(grant_type="client_credentials")
    proof = [("dpop", client.proof())]
    assert (await client.post("/oauth2/token?x=1&grant_type=password", form, proof)).status == 200
    answer = await client.post("/oauth2/token?grant_type=client_credentials", client.form(), [("dpop", client.proof())])
    refused(answer, "invalid_request")
    for path in ("revoke", "introspect"):
        assert (await client.post(f"/oauth2/{path}?x=1", client.form(token="a"))).status == 200
    for path in ("/oauth2/jwks", "/.well-known/oauth-authorization-server", "/.well-known/oauth-protected-resource"):
        assert (await send(world.app, "GET", f"{path}?x=1")).status == 200


# ---- the form


@pytest.mark.parametrize(
    ("body", "media"),
    [
        (b"grant_type=client_credentials&grant_type=client_credentials", "application/x-www-form-urlencoded"),
        (b"a=%zz", "application/x-www-form-urlencoded"),
        (b"\xff\xfe", "application/x-www-form-urlencoded"),
        (b'{"grant_type":"client_credentials"}', "application/json"),
        (b"x=" + b"y" * 20000, "application/x-www-form-urlencoded"),
    ],
)
async def test_bad_forms(world: World, body: bytes, media: str) -> None:
    refused(
        await send(world.app, "POST", "/oauth2/token", headers={"content-type": media}, body=body), "invalid_request"
    )


async def test_a_form_that_says_that_it_is_compressed_is_not_read_as_if_it_were_not(world: World) -> None:
    client = await world.client()
    for encoding in ("gzip", "identity, gzip", "br"):
        form = client.form(grant_type="client_credentials")
        headers = [("dpop", client.proof()), ("content-encoding", encoding)]
        refused(await client.post("/oauth2/token", form, headers), "invalid_request")
    form = client.form(grant_type="client_credentials")
    headers = [("dpop", client.proof()), ("content-encoding", "Identity")]
    assert (await client.post("/oauth2/token", form, headers)).status == 200


async def test_an_empty_form(world: World) -> None:
    unauthenticated(
        await send(world.app, "POST", "/oauth2/token", headers={"content-type": "application/x-www-form-urlencoded"})
    )


async def test_unknown_parameters_are_ignored(world: World) -> None:
    assert (await (await world.client()).token(display="popup")).status == 200


async def test_get_is_no_way_to_a_token(world: World) -> None:
    assert (await send(world.app, "GET", "/oauth2/token?grant_type=client_credentials")).status == 405


# ---- grant, scope, resource


@pytest.mark.parametrize(
    "grant", ["authorization_code", "password", "refresh_token", "urn:ietf:params:oauth:grant-type:token-exchange"]
)
async def test_only_client_credentials(world: World, grant: str) -> None:
    refused(await (await world.client()).token(grant_type=grant), "unsupported_grant_type")


async def test_a_grant_type_is_needed(world: World) -> None:
    refused(await (await world.client()).token(grant_type=None), "invalid_request")


@pytest.mark.parametrize(
    "scope",
    [
        "transfers:write",
        "accounts:read transfers:write",
        "admin",
        "*",
        "accounts:read  payments:write",
        "ACCOUNTS:READ",
    ],
)
async def test_no_scope_beyond_the_registration(world: World, scope: str) -> None:
    refused(await (await world.client("accounts:read payments:write")).token(scope=scope), "invalid_scope")


async def test_one_resource(world: World) -> None:
    client = await world.client()
    assert (await client.token(resource=ISSUER)).status == 200
    refused(await client.token(resource="https://other.example"), "invalid_target")


# ---- DPoP


async def test_a_proof_is_needed_and_exactly_one(world: World) -> None:
    client = await world.client()
    refused(await client.token(proofs=[]), "invalid_dpop_proof")
    refused(await client.token(proofs=[client.proof(), client.proof()]), "invalid_dpop_proof")


async def test_a_proof_counts_once(world: World) -> None:
    client = await world.client()
    proof = client.proof()
    assert (await client.token(proofs=[proof])).status == 200
    refused(await client.token(proofs=[proof]), "invalid_dpop_proof")


async def test_bad_proofs(world: World) -> None:
    client = await world.client()
    now = int(world.clock.now().timestamp())
    bad = [
        client.proof("GET"),
        client.proof(url=ISSUER + "/oauth2/revoke"),
        client.proof(url="https://evil.example/oauth2/token"),
        client.proof(iat=now - 120),
        client.proof(iat=now + 120),
        client.proof()[:-10] + "AAAAAAAAAA",
        client.assertion(),
        "x",
    ]
    for proof in bad:
        refused(await client.token(proofs=[proof]), "invalid_dpop_proof")


async def test_no_token_when_replay_can_not_be_checked(world: World) -> None:
    client = await world.client()
    await world.valkey.aclose()
    world.valkey.connection_pool.connection_kwargs["path"] = "/nonexistent/valkey.sock"
    await world.valkey.connection_pool.disconnect()
    answer = await client.token()
    assert answer.status == 503
    assert answer.json["retryable"] is True


# ---- limits and records


async def test_who_fails_too_often_has_to_wait(world: World) -> None:
    client = await world.client()
    bad = client.form(client.assertion(aud="x"), grant_type="client_credentials")
    here, there = [("x-envoy-external-address", "192.0.2.1")], [("x-envoy-external-address", "192.0.2.2")]
    for _ in range(200):
        answer = await client.post("/oauth2/token", bad, here)
        assert answer.status == 401
    limited = await client.post("/oauth2/token", bad, here)
    assert limited.status == 429
    assert int(limited.headers["retry-after"]) >= 1
    assert (await client.post("/oauth2/token", bad, there)).status == 401
    # the client itself is not locked out: it comes from somewhere else
    good = client.form(grant_type="client_credentials")
    assert (await client.post("/oauth2/token", good, [*there, ("dpop", client.proof())])).status == 200


async def test_failures_become_one_fact_a_minute_and_client(world: World) -> None:
    await world.tenant("acme")
    client = await world.client(tenant="acme")
    for _ in range(3):
        await client.token(client.assertion(key=ECKey.generate_key("P-256")))
    await client.token(client.assertion(aud="x"))
    await client.token(client.assertion(iss="cli_" + "0" * 26, sub="cli_" + "0" * 26))
    world.clock.advance(timedelta(seconds=61))
    await world.identity.failures.tell()
    facts = {fact["resource"]: fact for fact in await world.facts("identity.authentication.failed")}
    mine: Any = facts[client.client_id]
    assert mine["tenant"] == "acme"
    assert mine["data"]["reasons"] == {"signature": 3, "audience": 1}
    nobody: Any = facts["unknown"]
    assert (nobody["tenant"], nobody["data"]["count"]) == ("platform", 1)
    await world.identity.failures.tell(all_of_it=True)
    assert len(await world.facts("identity.authentication.failed")) == 2


async def test_nothing_that_authenticates_is_stored(world: World) -> None:
    client = await world.client()
    assertion, proof = client.assertion(), client.proof()
    token = (await client.token(assertion, proofs=[proof])).json["access_token"]
    await client.revoke(token)
    await world.identity.failures.tell(all_of_it=True)
    tables = await world.tables.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    everything = ""
    for table in tables:
        rows = await world.tables.query(f'SELECT t::text AS row FROM "{table["tablename"]}" t')
        everything += "\n".join(row["row"] for row in rows)
    for secret in (assertion, proof, token):
        assert secret not in everything
        assert secret.split(".")[2] not in everything
    assert client.client_id in everything or "shop" in everything
