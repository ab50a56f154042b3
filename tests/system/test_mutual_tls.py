"""Tokens that are bound to a certificate (RFC 8705), on a whole platform: the way through, and what a thief of one gets.

The client is `tests.support.stranger`, which shares no code with the platform, and the platform's own command line.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tallystick.cli.bench import baseline
from tallystick.cli.failure import Failed
from tallystick.local.layout import Layout
from tests.fabric.test_mutual_tls import self_signed
from tests.support.stranger import Answer, Client, Edge, b64, oauth_refused, plant, refused, unb64
from tests.system.conftest import Credentials, PlatformUnderTest
from tests.system.test_hostile_mesh import by_socket

TENANT = "mutual-tls"
SCOPE = "accounts:read accounts:write payments:read"
PATH = "/v1/accounts"
HEADER = "x-tallystick-certificate"
FORM = ("Content-Type", "application/x-www-form-urlencoded")


def context(platform: PlatformUnderTest, certificate: Path, key: Path) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(platform.ca))
    made.load_cert_chain(certificate, key)
    return made


@pytest.fixture
def file(platform: PlatformUnderTest, credentials: Credentials) -> Path:
    """The credentials of a client that is bound to a certificate, as the command line writes them; made when first asked for."""
    credentials(TENANT)  # makes the tenant
    path = platform.data.parent / "bound.json"  # a client's own place: what is in the platform's is searched for keys
    if path.exists():
        return path
    made = platform.cli(
        "client",
        "create",
        "bound",
        "--bind",
        "certificate",
        "--scope",
        SCOPE,
        "--tenant",
        TENANT,
        "--out",
        str(path),
        "--json",
    )
    assert made.status == 0, made
    assert made.json["bind"] == "certificate"
    return path


@asynccontextmanager
async def at(platform: PlatformUnderTest, port: int, pair: tuple[Path, Path] | None = None) -> AsyncIterator[Edge]:
    async with Edge(port, platform.ca) as edge:
        if pair is not None:
            edge.context = context(platform, *pair)
        yield edge


async def token(client: Client) -> str:
    answer = await client.post_form(client.form(), headers=[FORM])
    assert (answer.status, answer.json["token_type"]) == (200, "Bearer"), answer
    return plant("access token", answer.json["access_token"])


async def get(edge: Edge, access: str, *more: tuple[str, str], scheme: str = "Bearer") -> Answer:
    return await edge.send("GET", PATH, [("Authorization", f"{scheme} {access}"), *more])


def unauthenticated(answer: Answer, scheme: str, where: str = "") -> None:
    document = refused(answer, 401, "unauthenticated", where=where)
    assert document["error"] == "invalid_token", where
    assert f'{scheme} error="invalid_token"' in answer.header("www-authenticate"), where


def test_the_command_line_uses_the_certificate_by_itself(platform: PlatformUnderTest, file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o600
    written = json.loads(file.read_text())
    plant("private key", written["private_key_jwk"]["d"])
    plant("private key", written["tls_client_key"].split("\n")[1])
    assert (written["issuer"], written["api"]) == (platform.url, f"https://localhost:{platform.mtls_port}")
    body = '{"name": "Bound", "currency": "EUR", "normal_side": "credit"}'
    made = platform.cli(
        "call", "POST", PATH, "--client", str(file), "--body", body, "--idempotency-key", "mtls-1", "--json"
    )
    assert (made.status, made.json["status"]) == (0, 201), made
    listed = platform.cli("client", "list", "--tenant", TENANT, "--json")
    bound = {each["client_id"]: each["tls_client_certificate_bound_access_tokens"] for each in listed.json["data"]}
    assert bound.pop(written["client_id"]) is True
    assert set(bound.values()) == {False}


def test_the_load_generator_comes_with_a_certificate(platform: PlatformUnderTest) -> None:
    short = ("--seconds", "2", "--accounts", "10", "--connections", "4", "--no-baseline")
    found = platform.cli("bench", "transfers", "--bind", "certificate", *short, "--json")
    assert found.status == 0, found
    assert found.json["bind"] == "certificate"
    assert found.json["most"]["statuses"].keys() == {"200"} or found.json["most"]["statuses"].keys() == {"201"}
    written = json.loads((platform.data / "secrets" / "clients" / "bench-certificate.json").read_text())
    assert written["api"] == f"https://localhost:{platform.mtls_port}"


async def test_the_yardstick_is_the_mean_of_its_slices_and_leaves_nothing(
    platform: PlatformUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "SCALE", 1)
    monkeypatch.setattr(baseline, "WARM_UP", 1)
    layout = Layout(platform.data)
    # on a busy machine 32 clients have no transaction behind them after one second, which is refused
    async with baseline.yardstick(layout, 3) as yardstick:
        slices = [await yardstick.measure() for _ in range(2)]
        assert all(each.tps > 0 and each.latency_ms > 0 for each in slices)
        assert min(each.tps for each in slices) <= yardstick.tps <= max(each.tps for each in slices)
    with pytest.raises(Failed, match="pgbench"):
        await yardstick.measure()  # its tables are gone, and so is the password that it had
    assert not (layout.run / "bench.pgpass").exists()


def test_the_load_generator_sends_batches(platform: PlatformUnderTest) -> None:
    short = ("--seconds", "2", "--accounts", "10", "--connections", "2", "--no-baseline")
    found = platform.cli("bench", "transfers", "--batch", "50", *short, "--json")
    assert found.status == 0, found
    assert (found.json["subject"], found.json["batch"]) == ("transfers, 50 in each request", 50)
    assert found.json["most"]["errors"] == 0
    refused = platform.cli("bench", "tokens", "--batch", "50", *short)
    assert refused.status == 2
    assert "for transfers only" in refused.err


async def test_the_whole_way_and_what_a_thief_gets(platform: PlatformUnderTest, file: Path, tmp_path: Path) -> None:
    certificate, key, digest = self_signed(tmp_path, "mine")
    other = self_signed(tmp_path, "thief")[:2]
    async with (
        at(platform, platform.mtls_port, (certificate, key)) as edge,
        at(platform, platform.port) as plain,
        at(platform, platform.mtls_port, other) as theirs,
        at(platform, platform.mtls_port) as nobody,
    ):
        client = Client(edge, file)
        access = await token(client)
        claims = json.loads(unb64(access.split(".")[1]))
        assert claims["cnf"] == {"x5t#S256": b64(bytes.fromhex(digest))}
        assert claims["iss"] == claims["aud"] == platform.url
        for _ in range(3):
            assert (await get(edge, access)).status == 200
        # behind the first service the transaction token speaks for it: payments reads what it asks the ledger for
        answer = await edge.send("GET", "/v1/payments", [("Authorization", f"Bearer {access}")])
        assert answer.status == 200, answer

        mine = (HEADER, digest)
        for where, stolen in {
            "the other port": await get(plain, access),
            "the other port, with the header": await get(plain, access, mine),
            "another certificate": await get(theirs, access),
            "another certificate, with the header": await get(theirs, access, mine),
            "both, and the header in another case": await get(theirs, access, (HEADER.upper(), digest)),
        }.items():
            unauthenticated(stolen, "Bearer", where)
        for thief in (plain, theirs):
            proof = Client(thief, file).proof("GET", PATH, access)
            unauthenticated(await get(thief, access, mine, ("DPoP", proof), scheme="DPoP"), "DPoP")
        unauthenticated(await get(edge, access, ("DPoP", client.proof("GET", PATH, access)), scheme="DPoP"), "DPoP")
        refused(await get(nobody, access, mine), 421, "certificate-required")
        # that the rest proves something
        assert (await get(edge, access, (HEADER, "ab" * 32))).status == 200, (
            "what a client says by this name is not read"
        )

        scope = await edge.send("GET", "/v1/audit/key", [("Authorization", f"Bearer {access}")])
        refused(scope, 403, "insufficient-scope")
        assert 'Bearer error="insufficient_scope"' in scope.header("www-authenticate")


async def test_no_token_without_the_certificate_or_by_a_forged_header(
    platform: PlatformUnderTest, file: Path, tmp_path: Path
) -> None:
    certificate, key, digest = self_signed(tmp_path, "mine")
    async with at(platform, platform.port) as plain, at(platform, platform.mtls_port, (certificate, key)) as edge:
        forger = Client(plain, file)
        for headers in ([FORM], [FORM, (HEADER, digest)]):
            oauth_refused(await forger.post_form(forger.form(), headers=headers), "invalid_request")
        oauth_refused(await forger.post_form(forger.form()), "invalid_request", where="with a proof")
        # what it says is overwritten by what it has
        client = Client(edge, file)
        answer = await client.post_form(client.form(), headers=[FORM, (HEADER, "ab" * 32)])
        claims = json.loads(unb64(answer.json["access_token"].split(".")[1]))
        assert claims["cnf"] == {"x5t#S256": b64(bytes.fromhex(digest))}


async def test_through_the_mesh_nobody_claims_a_certificate(
    platform: PlatformUnderTest, file: Path, tmp_path: Path
) -> None:
    """From each caller's place: neither the API nor the token endpoint is there, and where the charters let it in, it has no say."""
    certificate, key, digest = self_signed(tmp_path, "mine")
    async with at(platform, platform.mtls_port, (certificate, key)) as edge:
        client = Client(edge, file)
        access = await token(client)
        headers = {"Authorization": f"Bearer {access}", HEADER: digest}
        mesh = platform.data / "run" / "mesh"
        asked = 0
        for socket in mesh.glob("*/*.sock"):
            if socket.parent.name == "in":
                continue
            for method, path in (("GET", PATH), ("POST", "/oauth2/token"), ("GET", "/v1/payments")):
                answer = await by_socket(socket, method, path, headers, None if method == "GET" else {})
                assert answer.status == 403, (socket, path, answer)
                asked += 1
        assert asked > 20
        answer = await by_socket(mesh / "payments" / "identity.sock", "GET", "/internal/jwks", headers)
        assert answer.status == 200
        assert (await get(edge, access)).status == 200


async def test_revocation_and_introspection(platform: PlatformUnderTest, file: Path, tmp_path: Path) -> None:
    certificate, key, digest = self_signed(tmp_path, "mine")
    async with at(platform, platform.mtls_port, (certificate, key)) as edge, at(platform, platform.port) as plain:
        client = Client(edge, file)
        access = await token(client)
        for where in (client, Client(plain, file)):  # no token is asked for, so no certificate is needed
            said = (await where.post_form(where.form(token=access), "/oauth2/introspect", headers=[FORM])).json
            assert (said["token_type"], said["cnf"]) == ("Bearer", {"x5t#S256": b64(bytes.fromhex(digest))})
        assert (await get(edge, access)).status == 200
        assert (await client.post_form(client.form(token=access), "/oauth2/revoke", headers=[FORM])).status == 200
        ending = time.monotonic() + 30
        while (answer := await get(edge, access)).status != 401:
            assert time.monotonic() < ending, answer
        unauthenticated(answer, "Bearer")


async def test_tokens_bound_to_a_key_at_both_ports(
    platform: PlatformUnderTest, credentials: Credentials, tmp_path: Path
) -> None:
    """A client with a key may come there too, with proofs that are made for there; a proof is good at one of both."""
    pair = self_signed(tmp_path, "mine")[:2]
    async with at(platform, platform.mtls_port, pair) as edge, at(platform, platform.port) as plain:
        client, same = Client(edge, credentials(TENANT)), Client(plain, credentials(TENANT))
        same.proof_key = client.proof_key
        assert (await client.call("GET", PATH)).status == 200
        access = await client.token()
        for sent, made in ((edge, same), (plain, client)):
            proof = made.proof("GET", PATH, access)
            answer = await get(sent, access, ("DPoP", proof), scheme="DPoP")
            assert refused(answer, 401, "unauthenticated")["error"] == "invalid_dpop_proof"
        answer = await get(plain, access, ("DPoP", same.proof("GET", PATH, access)), scheme="DPoP")
        assert answer.status == 200
        unauthenticated(await get(edge, access), "Bearer")


async def test_metadata_leads_there(platform: PlatformUnderTest, file: Path, tmp_path: Path) -> None:
    pair = self_signed(tmp_path, "mine")[:2]
    async with at(platform, platform.port) as plain, at(platform, platform.mtls_port, pair) as edge:
        said: dict[str, Any] = (await plain.send("GET", "/.well-known/openid-configuration")).json
        aliases = said["mtls_endpoint_aliases"]
        assert aliases["token_endpoint"] == f"{edge.url}/oauth2/token"
        assert said["issuer"] == platform.url
        client = Client(edge, file)
        path = aliases["token_endpoint"].removeprefix(edge.url)
        assert (await client.post_form(client.form(), path, headers=[FORM])).status == 200
