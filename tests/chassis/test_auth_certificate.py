"""Tokens that are bound to a certificate (RFC 8705, section 3), next to those that are bound to a key: which is good for what, and where."""

import hashlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import valkey.asyncio

from tallystick.chassis.auth import (
    CredentialsRefused,
    InsufficientScope,
    Refused,
    ReplayCheckUnavailable,
    RevocationFeedStale,
    statement,
)
from tallystick.chassis.auth.certificate import header_of, thumbprint
from tallystick.chassis.telemetry.logs import captured
from tests.chassis.test_auth_edge import PATH, World, opened
from tests.support.tokens import MTLS_URL, PUBLIC_URL, Holder, authorization, b64, sign

HEADER = b"x-tallystick-certificate"
ALGORITHMS = 'algs="ES256 PS256 EdDSA Ed25519"'


class Certificate:
    """What the edge and a token say of a certificate."""

    def __init__(self) -> None:
        digest = hashlib.sha256(secrets.token_bytes(32)).digest()
        self.told = digest.hex().encode()
        self.x5t = b64(digest)
        self.cnf = {"x5t#S256": self.x5t}
        self.header = (HEADER, self.told)


@pytest.fixture
async def world(directory: Path, valkey: valkey.asyncio.Valkey) -> AsyncIterator[World]:
    async with opened(directory, valkey) as made:
        yield made


@pytest.fixture
def certificate() -> Certificate:
    return Certificate()


async def refused(world: World, headers: list[tuple[bytes, bytes]], error: str, scheme: str) -> CredentialsRefused:
    """401, with the error under the scheme that was used, and DPoP named in any case."""
    with pytest.raises(CredentialsRefused) as caught:
        await world.ask(headers)
    assert caught.value.status == 401
    told = caught.value.headers["WWW-Authenticate"]
    described = f'error="{error}", error_description="{caught.value.detail}"'
    if scheme == "Bearer":
        assert told == f"DPoP {ALGORITHMS}, Bearer {described}"
    else:
        assert told == f"DPoP {described}, {ALGORITHMS}"
    return caught.value


async def test_a_token_over_its_certificate(
    world: World, certificate: Certificate, valkey: valkey.asyncio.Valkey
) -> None:
    """Again and again with the same headers: no proof, nothing to be seen twice, nothing asked of Valkey."""
    token = world.issuer.access(world.holder, cnf=certificate.cnf)
    for scheme in ("Bearer", "bearer", "BEARER"):
        subject = await world.ask([*authorization(token, scheme=scheme), certificate.header])
        assert (subject.client_id, subject.tenant, subject.jkt) == ("cli_one", "acme", "")
    assert await valkey.dbsize() == 0
    assert world.server.count("/internal/jwks") == 1


async def test_without_valkey_writes_go_on(directory: Path, certificate: Certificate) -> None:
    """Nothing has to be remembered of such a request; of one with a proof it has."""
    gone = valkey.asyncio.Valkey(unix_socket_path=str(directory / "none.sock"))
    world = World(directory, gone)
    await world.server.start()
    await world.feed.fetch()
    token = world.issuer.access(world.holder, cnf=certificate.cnf)
    with captured():
        await world.ask([*authorization(token, scheme="Bearer"), certificate.header])
        with pytest.raises(ReplayCheckUnavailable):
            await world.ask(world.holder.headers(world.issuer.access(world.holder)))
    await gone.aclose()
    await world.client.close()
    await world.server.stop()


async def test_stolen(world: World, certificate: Certificate) -> None:
    """On the port without certificates, and with the thief's own."""
    token = world.issuer.access(world.holder, cnf=certificate.cnf)
    bearer = authorization(token, scheme="Bearer")
    assert "over mutual TLS" in (await refused(world, bearer, "invalid_token", "Bearer")).detail
    other = await refused(world, [*bearer, Certificate().header], "invalid_token", "Bearer")
    assert "another certificate" in other.detail
    # with a proof that would be good for a token that is bound to the thief's key
    thief = Holder()
    await refused(world, [*bearer, (b"dpop", thief.proof(token).encode())], "invalid_token", "Bearer")
    await refused(world, thief.headers(token), "invalid_token", "DPoP")


@pytest.mark.parametrize(
    "told",
    [
        [],
        [b""],
        [b"-"],
        ["same", "same"],
        ["same", b"ab" * 32],
        [b"ab" * 32, "same"],
        ["upper"],
        ["short"],
        ["longer"],
        ["base64url"],
        [b"\xff" * 64],
    ],
)
async def test_what_the_edge_never_says(world: World, certificate: Certificate, told: list[bytes | str]) -> None:
    """One value, in the one form that the edge has for it; anything else is no certificate."""
    forms = {
        "same": certificate.told,
        "upper": certificate.told.upper(),
        "short": certificate.told[:-1],
        "longer": certificate.told + b"0",
        "base64url": certificate.x5t.encode(),
    }
    token = world.issuer.access(world.holder, cnf=certificate.cnf)
    headers = [(HEADER, forms[one] if isinstance(one, str) else one) for one in told]
    await refused(world, [*authorization(token, scheme="Bearer"), *headers], "invalid_token", "Bearer")


async def test_each_binding_has_its_scheme(world: World, certificate: Certificate) -> None:
    by_key = world.issuer.access(world.holder)
    by_certificate = world.issuer.access(world.holder, cnf=certificate.cnf)
    proof = (b"dpop", world.holder.proof(by_key, url=MTLS_URL + PATH).encode())
    await refused(
        world, [*authorization(by_key, scheme="Bearer"), certificate.header, proof], "invalid_token", "Bearer"
    )
    await refused(world, [*authorization(by_key, scheme="Bearer"), certificate.header], "invalid_token", "Bearer")
    own = (b"dpop", world.holder.proof(by_certificate, url=MTLS_URL + PATH).encode())
    await refused(world, [*authorization(by_certificate), certificate.header, own], "invalid_token", "DPoP")
    await refused(world, [*authorization(by_certificate), certificate.header], "invalid_token", "DPoP")
    for scheme in ("Basic", "", "MAC"):
        with pytest.raises(CredentialsRefused) as caught:
            await world.ask([*authorization(by_certificate, scheme=scheme), certificate.header])
        assert caught.value.headers["WWW-Authenticate"] == f"DPoP {ALGORITHMS}, Bearer"


@pytest.mark.parametrize(
    "cnf",
    [
        {},
        {"jkt": "own", "x5t#S256": "own"},
        {"x5t#S256": None},
        {"x5t#S256": ""},
        {"x5t#S256": "A" * 42},
        {"x5t#S256": "A" * 44},
        {"x5t#S256": "=" * 43},
        {"x5t#S256": 5},
        {"x5t#S256": ["own"]},
        {"x5t": "own"},
        {"jwk": {}},
    ],
)
async def test_a_token_is_bound_once(world: World, certificate: Certificate, cnf: dict[str, Any]) -> None:
    """Signed by identity's key, and yet no token: bound to nothing, or twice."""
    own = {"jkt": world.holder.jkt, "x5t#S256": certificate.x5t, "x5t": certificate.x5t}
    token = world.issuer.access(
        world.holder, cnf={name: own[name] if value == "own" else value for name, value in cnf.items()}
    )
    await refused(world, [*authorization(token, scheme="Bearer"), certificate.header], "invalid_token", "Bearer")
    await refused(world, world.holder.headers(token), "invalid_token", "DPoP")


async def test_a_proof_is_made_for_the_origin_that_it_is_sent_to(world: World, certificate: Certificate) -> None:
    """Tokens that are bound to a key are good at both ports of the edge; their proofs are for one of them (RFC 9449, 4.2: `htu`)."""
    token = world.issuer.access(world.holder)
    for url, headers in ((PUBLIC_URL, []), (MTLS_URL, [certificate.header])):
        await world.ask([*world.holder.headers(token, url=url + PATH), *headers])
    for url, headers in ((MTLS_URL, []), (PUBLIC_URL, [certificate.header])):
        await refused(world, [*world.holder.headers(token, url=url + PATH), *headers], "invalid_dpop_proof", "DPoP")


async def test_no_credentials(world: World, certificate: Certificate) -> None:
    """Each port says what it takes; a certificate alone is nobody."""
    for headers, told in (([], f"DPoP {ALGORITHMS}"), ([certificate.header], f"DPoP {ALGORITHMS}, Bearer")):
        with pytest.raises(CredentialsRefused) as caught:
            await world.ask([(b"host", b"x"), *headers])
        assert caught.value.headers["WWW-Authenticate"] == told
        assert caught.value.extensions["error"] == "missing_token"


async def test_it_expires_is_revoked_and_writes_wait_for_the_feed(world: World, certificate: Certificate) -> None:
    token = world.issuer.access(world.holder, cnf=certificate.cnf, jti="t1")
    headers = [*authorization(token, scheme="Bearer"), certificate.header]
    await world.ask(headers)
    world.elapsed += 10.5
    with pytest.raises(RevocationFeedStale):
        await world.ask(headers)
    await world.ask(headers, strict=False)
    world.server.revoke("jti", "t1")
    await world.feed.fetch()
    assert "revoked" in (await refused(world, headers, "invalid_token", "Bearer")).detail
    other = [
        *authorization(world.issuer.access(world.holder, cnf=certificate.cnf), scheme="Bearer"),
        certificate.header,
    ]
    await world.ask(other)
    world.later(121)
    await world.feed.fetch()
    assert "expired" in (await refused(world, other, "invalid_token", "Bearer")).detail


async def test_it_is_exchanged_as_any(world: World, certificate: Certificate) -> None:
    token = world.issuer.access(world.holder, cnf=certificate.cnf)
    subject = await world.ask([*authorization(token, scheme="Bearer"), certificate.header])
    assert (await world.auth.transaction(await world.auth.exchange(subject), "payments")).client_id == "cli_one"
    assert world.server.asked == [{"access_token": token}]


async def test_a_missing_scope_is_told_under_its_scheme(world: World, certificate: Certificate) -> None:
    by_certificate = world.issuer.access(world.holder, cnf=certificate.cnf)
    subject = await world.ask([*authorization(by_certificate, scheme="Bearer"), certificate.header])
    with pytest.raises(InsufficientScope) as caught:
        subject.require_scope("audit:read")
    lacking = 'error="insufficient_scope", scope="audit:read"'
    assert caught.value.headers["WWW-Authenticate"] == f"DPoP {ALGORITHMS}, Bearer {lacking}"
    with pytest.raises(InsufficientScope) as caught:
        (await world.ask(world.holder.headers(world.issuer.access(world.holder)))).require_scope("audit:read")
    assert caught.value.headers["WWW-Authenticate"] == f"DPoP {lacking}, {ALGORITHMS}"


async def test_statements_need_a_key(world: World, certificate: Certificate) -> None:
    """An approval is signed by the key that the token is bound to: with a certificate there is none that others know."""
    token = world.issuer.access(world.holder, cnf=certificate.cnf)
    subject = await world.ask([*authorization(token, scheme="Bearer"), certificate.header])
    text = sign({"typ": "x+jwt", "alg": "ES256", "jwk": world.holder.key.as_dict(private=False)}, {}, world.holder.key)
    assert statement(text, typ="x+jwt", jkt=world.holder.jkt) == b"{}"
    with pytest.raises(Refused, match="DPoP"):
        statement(text, typ="x+jwt", jkt=subject.jkt)


def test_thumbprints_in_both_forms() -> None:
    """RFC 8705, 3.1: the SHA-256 of the DER, base64url without padding."""
    one = Certificate()
    assert thumbprint(one.told.decode()) == one.x5t
    assert header_of(one.x5t) == one.told
    for bad in ("", "-", one.told.decode().upper(), one.told.decode() + "\n", "g" * 64, "٣" * 64, one.x5t):
        assert thumbprint(bad) is None
