"""Forged, borrowed, bent and repeated credentials at the edge: access tokens, DPoP proofs, client assertions.

Made with no code of the platform. What is refused is refused with the scheme's own error, and nothing happened.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.stranger import (
    ASSERTION_TYPE,
    Answer,
    Client,
    Edge,
    Key,
    RsaKey,
    SharedSecret,
    Unsigned,
    b64,
    jws,
    merged,
    oauth_refused,
    refused,
    unb64,
)
from tests.system.conftest import EVERY_SCOPE, Credentials, PlatformUnderTest

TENANT = "hostile-tokens"
PATH = "/v1/accounts"
#: The order of P-256's group: (r, s) and (r, N - s) are both signatures of the same.
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def unauthenticated(answer: Answer, error: str | None, *, where: object = "") -> None:
    """A 401 of RFC 9449 section 7.1 (and 6750 section 3) as a problem document."""
    document = refused(answer, 401, "unauthenticated", where=where)
    challenge = answer.header("www-authenticate")
    assert challenge.startswith("DPoP "), (where, challenge)
    assert 'algs="ES256' in challenge, (where, challenge)
    if error is None:
        assert "error=" not in challenge, (where, challenge)
    else:
        assert f'error="{error}"' in challenge, (where, challenge)
        assert document["error"] == error, (where, document)


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, payload, _ = token.split(".")
    return json.loads(unb64(header)), json.loads(unb64(payload))


async def present(client: Client, token: str, *, scheme: str = "DPoP", proof: str | None = None) -> Answer:
    """A GET with this token, and a good proof for it unless there is another."""
    proof = proof or client.proof("GET", PATH, token)
    return await client.edge.send("GET", PATH, [("Authorization", f"{scheme} {token}"), ("DPoP", proof)])


# ---- access tokens -------------------------------------------------------------------------------------------------


async def test_no_forged_access_token_is_good(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT))
        token = await client.token()
        assert (await present(client, token)).status == 200
        header, claims = parts(token)
        head, body, signature = token.split(".")
        [published] = [
            key for key in (await edge.send("GET", "/oauth2/jwks")).json["keys"] if key["kid"] == header["kid"]
        ]
        x, y = unb64(published["x"]), unb64(published["y"])
        public = ec.EllipticCurvePublicNumbers(int.from_bytes(x), int.from_bytes(y), ec.SECP256R1()).public_key()
        pem = Key.pem_of(public)
        own, rsa = Key(), RsaKey()
        longer = merged(claims, {"exp": claims["exp"] + 3600})
        forged: dict[str, str] = {
            "own key under their kid": jws(header, claims, own),
            "own key under a kid of its own": jws({**header, "kid": "mine"}, claims, own),
            "no kid": jws(merged(header, {"kid": None}), claims, own),
            "own key in the header": jws({**header, "jwk": own.public}, claims, own),
            "own key at a URL": jws({**header, "jku": "https://example.com/jwks"}, claims, own),
            "kid as a path": jws({**header, "kid": "../../../../dev/null"}, claims, SharedSecret(b"")),
            "kid as SQL": jws({**header, "kid": "' OR 1=1 --"}, claims, own),
            "other claims under the old signature": f"{head}.{b64(json.dumps(longer).encode())}.{signature}",
            "other header under the old signature": f"{b64(json.dumps({**header, 'x': 1}).encode())}.{body}.{signature}",
            "alg none": jws({**header, "alg": "none"}, claims, Unsigned()),
            "alg NONE": jws({**header, "alg": "NONE"}, claims, Unsigned()),
            "alg none with their signature": f"{b64(json.dumps({**header, 'alg': 'none'}).encode())}.{body}.{signature}",
            "ES256 without signature": f"{head}.{body}.",
            "no third part": f"{head}.{body}",
            "signature of zeros": f"{head}.{body}.{b64(bytes(64))}",
            "signature of ones": f"{head}.{body}.{b64((1).to_bytes(32) * 2)}",
            "signature of r and s at the order": f"{head}.{body}.{b64(N.to_bytes(32) * 2)}",
            "HS256 with the public key as PEM": jws({**header, "alg": "HS256"}, claims, SharedSecret(pem)),
            "HS256 with the public key as JWK": jws(
                {**header, "alg": "HS256"}, claims, SharedSecret(json.dumps(published).encode())
            ),
            "HS256 with the public point": jws({**header, "alg": "HS256"}, claims, SharedSecret(b"\x04" + x + y)),
            "HS256 with nothing": jws({**header, "alg": "HS256"}, claims, SharedSecret(b"")),
            "ES256 signed by HMAC": jws(header, claims, SharedSecret(pem)),
            "RS256": jws({**header, "alg": "RS256"}, claims, rsa),
            "ES384": jws({**header, "alg": "ES384"}, claims, own),
            "another type": jws({**header, "typ": "JWT"}, claims, own),
            "cut": token[:-4],
            "cut to the header": head,
            "doubled": f"{token}.{token}",
            "with padding": token + "=",
            "with space in it": token[:50] + " " + token[50:],
            "in upper case": token.upper(),
            "a proof in its place": client.proof("GET", PATH, token),
            "an assertion in its place": client.assertion(),
            "empty": "",
            "null": "null",
            "an encrypted one": "a.b.c.d.e",
            "header nested deeply": f"{b64(b'[' * 3000)}.{body}.{signature}",
            "claims nested deeply": f"{head}.{b64(b'{' + b'1:' * 3000)}.{signature}",
            "header no JSON": f"{b64(b'no')}.{body}.{signature}",
            "no UTF-8": f"{b64(bytes([255, 254]))}.{body}.{signature}",
            "20 kB": token + "A" * 20_000,
        }
        for name, text in forged.items():
            answer = await present(client, text, proof=client.proof("GET", PATH, text))
            unauthenticated(answer, "invalid_token", where=name)
        assert (await present(client, token)).status == 200


async def test_a_token_works_by_its_scheme_and_in_its_place_only(
    platform: PlatformUnderTest, credentials: Credentials
) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT))
        token = await client.token()

        async def send(*headers: tuple[str, str], path: str = PATH) -> Answer:
            return await edge.send("GET", path, [*headers, ("DPoP", client.proof("GET", path, token))])

        assert (await send(("Authorization", f"dpop {token}"))).status == 200, "the scheme has no case (RFC 9110, 11.1)"
        unauthenticated(await send(), None)
        for scheme in ("Bearer", "bearer", "Basic", "DPoPX", "MAC"):
            answer = await send(("Authorization", f"{scheme} {token}"))
            # another way to authenticate is told no error (RFC 6750, 3.1)
            unauthenticated(answer, "invalid_token" if scheme.lower() == "bearer" else None, where=scheme)
        for value in (token, f"DPoP:{token}", f"DPoP\t{token}"):
            unauthenticated(await send(("Authorization", value)), None, where=value[:10])
        for value in ("DPoP", f"DPoP {token}, DPoP {token}"):
            unauthenticated(await send(("Authorization", value)), "invalid_token", where=value[:10])
        twice = ("Authorization", f"DPoP {token}")
        unauthenticated(await send(twice, twice), "invalid_token", where="twice the same")
        unauthenticated(await send(twice, ("Authorization", "DPoP x")), "invalid_token", where="two")
        # not in the query, not in a cookie, not in a form (FAPI 2.0, 5.3.4: in the header only)
        unauthenticated(await send(path=f"{PATH}?access_token={token}"), None)
        unauthenticated(await send(("Cookie", f"access_token={token}")), None)
        unauthenticated(await send(("X-Access-Token", token), ("Proxy-Authorization", f"DPoP {token}")), None)
        form = urlencode({"access_token": token}).encode()
        kind = ("Content-Type", "application/x-www-form-urlencoded")
        unauthenticated(await edge.send("POST", PATH, [kind], form), None)


async def test_a_token_is_nothing_without_its_key(platform: PlatformUnderTest, credentials: Credentials) -> None:
    """A stolen token, and a proof that is good but by the thief's key; and one client's token with another's key."""
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT))
        other = Client(edge, credentials("hostile-other"))
        token, theirs = await client.token(), await other.token()
        for proof in (
            client.proof("GET", PATH, token, key=Key()),
            other.proof("GET", PATH, token),
            client.proof("GET", PATH, token, key=RsaKey(), header={"alg": "PS256"}),
            client.proof("GET", PATH, theirs),
        ):
            unauthenticated(await present(client, token, proof=proof), "invalid_dpop_proof")
        # the thief's signature under the owner's public key
        proof = client.proof("GET", PATH, token, key=Key(), header={"jwk": client.proof_key.public})
        unauthenticated(await present(client, token, proof=proof), "invalid_dpop_proof")


async def test_a_revoked_token_is_refused_everywhere_at_once(
    platform: PlatformUnderTest, credentials: Credentials
) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT))
        token = await client.token()
        paths = ("/v1/accounts", "/v1/payments", "/v1/webhook_endpoints", "/v1/audit/key")
        for path in paths:
            assert (await client.call("GET", path)).status == 200, path
        assert (await client.post_form(client.form(token=token), "/oauth2/revoke")).status == 200
        ending = time.monotonic() + 30
        while True:
            answers = [await client.call("GET", path) for path in paths]
            if {answer.status for answer in answers} == {401}:
                break
            assert time.monotonic() < ending, answers
            await asyncio.sleep(0.05)
        for answer in answers:
            unauthenticated(answer, "invalid_token")
        inactive = await client.post_form(client.form(token=token), "/oauth2/introspect")
        assert inactive.json == {"active": False}


# ---- proofs --------------------------------------------------------------------------------------------------------


async def test_no_bad_proof_is_good(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT))
        token = await client.token()
        now = int(time.time())
        url = edge.url + PATH
        key = client.proof_key
        good = {"htm": "GET", "htu": url, "iat": now, "jti": secrets.token_hex(8)}

        def proof(**changes: Any) -> str:
            return client.proof("GET", PATH, token, **changes)

        # that the good ones are good, or the rest would prove nothing
        for name, fine in {
            "plain": proof(),
            "from 55 s ago": proof(iat=now - 55),
            "a little ahead": proof(iat=int(time.time()) + 3),
            "with more members": proof(extra={"a": [1]}, header={"x": 1}),
            "htu in another spelling": proof(htu=url.replace("localhost", "LOCALHOST").replace("v1", "%76%31")),
            "htu with query": proof(htu=url + "?limit=1#x"),
        }.items():
            assert (await present(client, token, proof=fine)).status == 200, name

        private = dict(key.secret)
        bad: dict[str, str] = {
            "older than a minute": proof(iat=now - 62),
            "from yesterday": proof(iat=now - 86400),
            "from the future": proof(iat=now + 30),
            "from the year 5138": proof(iat=10**11),
            "iat as text": proof(iat=str(now)),
            "iat true": proof(iat=True),
            "iat negative": proof(iat=-now),
            "no iat": proof(iat=None),
            "over": proof(exp=now - 1),
            "not yet": proof(nbf=now + 60),
            "no jti": proof(jti=None),
            "jti empty": proof(jti=""),
            "jti a number": proof(jti=5),
            "jti of 300": proof(jti="x" * 300),
            "no ath": proof(ath=None),
            "ath of another token": proof(ath=b64(bytes(32))),
            "ath in hex": proof(ath=bytes(unb64(parts(proof())[1]["ath"])).hex()),
            "no htm": proof(htm=None),
            "another method": proof(htm="POST"),
            "method in lower case": proof(htm="get"),
            "no htu": proof(htu=None),
            "another path": proof(htu=edge.url + "/v1/payments"),
            "a path below": proof(htu=url + "/"),
            "another host": proof(htu=f"https://example.com:{edge.port}{PATH}"),
            "another port": proof(htu=f"https://localhost{PATH}"),
            "http": proof(htu=url.replace("https", "http")),
            "a user before the host": proof(htu=url.replace("localhost", "x@localhost")),
            "path only": proof(htu=PATH),
            "a list of addresses": proof(htu=[url]),
            "no typ": proof(header={"typ": None}),
            "typ JWT": proof(header={"typ": "JWT"}),
            "no jwk": proof(header={"jwk": None}),
            "the private key in it": proof(header={"jwk": private}),
            "a private key of null": proof(header={"jwk": {**key.public, "d": None}}),
            "a symmetric key": jws(
                {"typ": "dpop+jwt", "alg": "HS256", "jwk": {"kty": "oct", "k": b64(b"x" * 32)}},
                good,
                SharedSecret(b"x" * 32),
            ),
            "alg none": client.proof("GET", PATH, token, key=Unsigned(), header={"alg": "none"}),
            "RS256": client.proof("GET", PATH, token, key=RsaKey(), header={"alg": "RS256"}),
            "alg not as signed": proof(header={"alg": "PS256"}),
            "crit": proof(header={"crit": ["x"], "x": 1}),
            "a point off the curve": proof(header={"jwk": {**key.public, "y": b64(bytes(32))}}),
            "the key in another spelling": proof(
                header={"jwk": {**key.public, "x": b64(b"\0" + unb64(key.public["x"]))}}
            ),
            "only a kid": proof(header={"jwk": None, "kid": key.kid or "k"}),
            "signature cut": proof()[:-2],
            "not a JWS": "x",
            "an access token in its place": token,
            "huge": proof(extra="x" * 5000),
            "claims a list": jws({"typ": "dpop+jwt", "alg": "ES256", "jwk": key.public}, b"[]", key),
            "claims nested deeply": jws({"typ": "dpop+jwt", "alg": "ES256", "jwk": key.public}, b'{"a":' * 500, key),
        }
        for name, text in bad.items():
            unauthenticated(await present(client, token, proof=text), "invalid_dpop_proof", where=name)
        authorization = ("Authorization", f"DPoP {token}")
        for name, headers in {
            "none": [],
            "two": [("DPoP", proof()), ("DPoP", proof())],
            "two in one": [("DPoP", f"{proof()}, {proof()}")],
            "empty": [("DPoP", "")],
        }.items():
            answer = await edge.send("GET", PATH, [authorization, *headers])
            unauthenticated(answer, "invalid_dpop_proof", where=name)


async def test_a_proof_is_good_once(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT))
        token = await client.token()
        proof = client.proof("GET", PATH, token)
        assert (await present(client, token, proof=proof)).status == 200
        head, body, signature = proof.split(".")
        raw = unb64(signature)
        # the same proof under its other valid signature, and its jti and key in a new one
        turned = b64(raw[:32] + (N - int.from_bytes(raw[32:])).to_bytes(32))
        again = client.proof("GET", PATH, token, jti=parts(proof)[1]["jti"])
        for text in (proof, f"{head}.{body}.{turned}", again):
            unauthenticated(await present(client, token, proof=text), "invalid_dpop_proof")
        # with another query and body it is still the same proof
        answer = await edge.send("GET", f"{PATH}?limit=1", [("Authorization", f"DPoP {token}"), ("DPoP", proof)])
        unauthenticated(answer, "invalid_dpop_proof")
        # another client's proof may have the same jti: nobody can use up another's
        other = Client(edge, credentials("hostile-other"))
        theirs = await other.token()
        same = other.proof("GET", PATH, theirs, jti=parts(proof)[1]["jti"])
        assert (await present(other, theirs, proof=same)).status == 200


async def test_of_100_replays_at_once_one_gets_through(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT))
        token = await client.token()
        a, b = [
            (await client.make("/v1/accounts", {"name": side, "currency": "EUR", "normal_side": side}))["id"]
            for side in ("debit", "credit")
        ]
        body = json.dumps(
            {
                "amount": {"amount": "7", "currency": "EUR"},
                "source": {"type": "account", "account": a},
                "destination": {"account": b},
                "reference": (reference := secrets.token_hex(8)),
            }
        ).encode()
        proof = client.proof("POST", "/v1/payments", token)

        async def shot(number: int) -> Answer:
            headers = [
                ("Authorization", f"DPoP {token}"),
                ("DPoP", proof),
                ("Content-Type", "application/json"),
                ("Idempotency-Key", f"{reference}-{number}"),
            ]
            return await edge.send("POST", "/v1/payments", headers, body)

        answers = await asyncio.gather(*(shot(number) for number in range(100)))
        assert Counter(answer.status for answer in answers) == {201: 1, 401: 99}
        for answer in answers:
            if answer.status == 401:
                unauthenticated(answer, "invalid_dpop_proof")
        found = await client.call("GET", f"/v1/payments?reference={reference}")
        assert len(found.json["data"]) == 1
        balance = (await client.call("GET", f"/v1/accounts/{b}")).json["balance"]
        assert balance["posted"]["amount"] == "7"


# ---- the token endpoint --------------------------------------------------------------------------------------------


async def test_no_bad_assertion_gets_a_token(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT))
        other = Client(edge, credentials("hostile-other"))
        issuer, now = client.issuer, int(time.time())
        for name, fine in {
            "plain": client.assertion(),
            "typ JWT": client.assertion(header={"typ": "JWT"}),
            "no typ": client.assertion(header={"typ": None}),
            "a little ahead": client.assertion(iat=now + 8, nbf=now + 8),
        }.items():
            assert (await client.post_form(client.form(fine))).status == 200, name
        pem = client.key.pem()
        bad: dict[str, str] = {
            "aud the token endpoint": client.assertion(aud=f"{issuer}/oauth2/token"),
            "aud a list": client.assertion(aud=[issuer]),
            "aud a list of two": client.assertion(aud=[issuer, "https://example.com"]),
            "aud with a slash": client.assertion(aud=issuer + "/"),
            "aud in upper case": client.assertion(aud=issuer.upper()),
            "aud another": client.assertion(aud="https://example.com"),
            "no aud": client.assertion(aud=None),
            "over": client.assertion(iat=now - 120, exp=now - 1),
            "over by five minutes": client.assertion(iat=now - 400, exp=now - 300),
            "no exp": client.assertion(exp=None),
            "for a day": client.assertion(exp=now + 86400),
            "for ever": client.assertion(exp=2**53),
            "exp as text": client.assertion(exp=str(now + 60)),
            "exp true": client.assertion(exp=True),
            "made in a minute": client.assertion(iat=now + 70, exp=now + 100),
            "not yet": client.assertion(nbf=now + 70),
            "no jti": client.assertion(jti=None),
            "jti empty": client.assertion(jti=""),
            "jti a number": client.assertion(jti=7),
            "jti of 300": client.assertion(jti="x" * 300),
            "no iss": client.assertion(iss=None),
            "no sub": client.assertion(sub=None),
            "iss another client": client.assertion(iss=other.id),
            "another client's name": client.assertion(iss=other.id, sub=other.id),
            "unknown client": client.assertion(iss="cli_" + "0" * 26, sub="cli_" + "0" * 26),
            "no client's name": client.assertion(iss="admin", sub="admin"),
            "sub a list": client.assertion(sub=[client.id]),
            "alg none": client.assertion(Unsigned(), header={"alg": "none"}),
            "RS256": client.assertion(RsaKey(), header={"alg": "RS256"}),
            "HS256 with the public key": client.assertion(SharedSecret(pem), header={"alg": "HS256"}),
            "HS256 with nothing": client.assertion(SharedSecret(b""), header={"alg": "HS256"}),
            "ES256 by another key": client.assertion(Key()),
            "another key in the header": client.assertion(mine := Key(), header={"jwk": mine.public}),
            "unknown kid": client.assertion(header={"kid": "nobody"}),
            "another client's kid": client.assertion(header={"kid": other.key.kid}),
            "kid a number": client.assertion(header={"kid": 5}),
            "typ of an access token": client.assertion(header={"typ": "at+jwt"}),
            "typ of a proof": client.assertion(header={"typ": "dpop+jwt"}),
            "crit": client.assertion(header={"crit": ["b64"], "b64": False}),
            "a proof in its place": client.proof("POST", "/oauth2/token", None),
            "an access token in its place": await client.token(),
            "cut": client.assertion()[:-3],
            "no JWS": "x",
            "huge": client.assertion(x="y" * 7000),
            "claims nested deeply": jws({"alg": "ES256", "kid": client.key.kid}, b'{"a":' * 800, client.key),
        }
        said = set()
        for name, assertion in bad.items():
            answer = await client.post_form(client.form(assertion))
            said.add(answer.body)
            oauth_refused(answer, "invalid_client", where=name)
        assert len(said) == 1, f"tells apart why: {said}"


async def test_bad_forms_get_no_token(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT, "accounts:read", name="reader"))
        good = client.form

        def encoded(**more: str) -> str:
            return urlencode({**good(), **more})

        proof = ("DPoP", client.proof("POST", "/oauth2/token", None))
        form = ("Content-Type", "application/x-www-form-urlencoded")
        cases: list[tuple[str, Mapping[str, str] | str, str]] = [
            ("scope not granted", good(scope="accounts:write"), "invalid_scope"),
            ("every scope there is", good(scope=EVERY_SCOPE), "invalid_scope"),
            ("one more scope", good(scope="accounts:read tokens:reveal"), "invalid_scope"),
            ("scope in upper case", good(scope="ACCOUNTS:READ"), "invalid_scope"),
            ("scope with a line feed", good(scope="accounts:read\ntokens:reveal"), "invalid_request"),
            ("scope of another kind", good(scope="openid"), "invalid_scope"),
            ("password", good(grant_type="password", username="a", password="b"), "unsupported_grant_type"),
            ("code", good(grant_type="authorization_code", code="x"), "unsupported_grant_type"),
            ("refresh", good(grant_type="refresh_token", refresh_token="x"), "unsupported_grant_type"),
            (
                "exchange, which is for services",
                good(grant_type="urn:ietf:params:oauth:grant-type:token-exchange"),
                "unsupported_grant_type",
            ),
            ("no grant type", good(grant_type=""), "invalid_request"),
            ("another resource", good(resource="https://example.com"), "invalid_target"),
            ("a parameter twice", encoded() + "&scope=accounts:read&scope=accounts:read", "invalid_request"),
            ("the grant type twice", encoded() + "&grant_type=client_credentials", "invalid_request"),
            ("the same escaped", encoded() + "&%67rant_type=client_credentials", "invalid_request"),
            ("an assertion twice", encoded() + "&client_assertion=x", "invalid_request"),
            ("a NUL", encoded() + "&scope=%00", "invalid_request"),
            ("no UTF-8", encoded() + "&scope=%ff", "invalid_request"),
            ("half an escape", encoded() + "&scope=%4", "invalid_request"),
            ("a semicolon and a space", encoded() + "; x=1", "invalid_request"),
            ("40 parameters", encoded() + "&".join(f"&p{n}=1" for n in range(40)), "invalid_request"),
            ("20 kB", encoded(x="y" * 20_000), "invalid_request"),
            ("a secret too", good(client_secret="x"), "invalid_client"),
            ("another way to authenticate", good(client_assertion_type="urn:x"), "invalid_client"),
            ("another name in the form", good(client_id="cli_" + "0" * 26), "invalid_client"),
            ("nothing", "", "invalid_client"),
            (
                "a secret only",
                {"grant_type": "client_credentials", "client_id": client.id, "client_secret": "x"},
                "invalid_client",
            ),
        ]
        for name, body, error in cases:
            oauth_refused(await client.post_form(body), error, where=name)
        for kind in ("application/json", "", "multipart/form-data; boundary=x", "text/plain"):
            sent = json.dumps(good()) if kind == "application/json" else urlencode(good())
            headers = [proof, *([("Content-Type", kind)] if kind else [])]
            oauth_refused(await client.post_form(sent, headers=headers), "invalid_request", where=kind)
        basic = ("Authorization", "Basic " + base64.b64encode(f"{client.id}:x".encode()).decode())
        answer = await client.post_form(good(), headers=[form, proof, basic])
        oauth_refused(answer, "invalid_client")
        assert answer.header("www-authenticate"), "RFC 6749, 5.2: a client that used the header is told the scheme"
        for name, headers in {
            "no proof": [form],
            "two proofs": [form, proof, ("DPoP", client.proof("POST", "/oauth2/token", None))],
            "a proof for elsewhere": [form, ("DPoP", client.proof("POST", "/v1/payments", None))],
            "a proof for another method": [form, ("DPoP", client.proof("GET", "/oauth2/token", None))],
            "an old proof": [form, ("DPoP", client.proof("POST", "/oauth2/token", None, iat=int(time.time()) - 90))],
            "a proof with a private key": [
                form,
                ("DPoP", client.proof("POST", "/oauth2/token", None, header={"jwk": client.proof_key.secret})),
            ],
        }.items():
            oauth_refused(await client.post_form(good(), headers=headers), "invalid_dpop_proof", where=name)
        # a token may be asked for by POST only, and not in the address
        query = urlencode(good())
        refused(await edge.send("GET", f"/oauth2/token?{query}"), 405, "method-not-allowed", "POST")
        answer = await edge.send("POST", f"/oauth2/token?{query}", [form, proof], b"")
        oauth_refused(answer, "invalid_client", where="what is in the address is not looked at")
        # what it may have, it gets, and no more than that
        granted = (await client.post_form(good())).json
        assert (granted["token_type"], granted["scope"]) == ("DPoP", "accounts:read")
        assert granted["expires_in"] <= 300


async def test_an_assertion_is_good_once(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT))
        assertion = client.assertion()
        answers = await asyncio.gather(*(client.post_form(client.form(assertion)) for _ in range(20)))
        assert Counter(answer.status for answer in answers) == {200: 1, 401: 19}
        again = client.assertion(jti=parts(assertion)[1]["jti"])
        oauth_refused(await client.post_form(client.form(again)), "invalid_client")
        # and the proof beside it too
        proof = client.proof("POST", "/oauth2/token", None)
        headers = [("Content-Type", "application/x-www-form-urlencoded"), ("DPoP", proof)]
        answers = await asyncio.gather(*(client.post_form(client.form(), headers=headers) for _ in range(10)))
        assert Counter(answer.status for answer in answers) == {200: 1, 400: 9}
        for answer in answers:
            if answer.status == 400:
                oauth_refused(answer, "invalid_dpop_proof")


async def test_nobody_revokes_or_looks_into_another_s_token(
    platform: PlatformUnderTest, credentials: Credentials
) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT))
        other = Client(edge, credentials("hostile-other"))
        token = await client.token()
        oauth_refused(await other.post_form(other.form(token=token), "/oauth2/revoke"), "invalid_request")
        seen = [
            await other.post_form(other.form(token=text), "/oauth2/introspect")
            for text in (token, token[:-3], "nonsense", jws({"alg": "none"}, {}, Unsigned()))
        ]
        assert [answer.json for answer in seen] == [{"active": False}] * 4
        assert (await present(client, token)).status == 200
        own = (await client.post_form(client.form(token=token), "/oauth2/introspect")).json
        assert (own["active"], own["client_id"]) == (True, client.id)
        # who does not authenticate learns nothing
        for path in ("/oauth2/revoke", "/oauth2/introspect"):
            oauth_refused(await client.post_form({"token": token}, path), "invalid_client")
            forged = {"token": token, "client_assertion_type": ASSERTION_TYPE, "client_assertion": "x.y.z"}
            oauth_refused(await client.post_form(forged, path), "invalid_client")
        assert (await present(client, token)).status == 200
