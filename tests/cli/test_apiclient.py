"""The client of the edge, against a TLS 1.3 server that checks its tokens and proofs and misbehaves on request."""

import asyncio
import json
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tallystick.cli.apiclient import Answer, ApiClient, EdgeUnreachable, TokenRefused
from tallystick.cli.client import fresh_certificate, new_file
from tallystick.cli.credentials import Credentials, CredentialsError
from tallystick.cli.output import Common, Failed
from tallystick.cli.own_client import chosen_client, own_client
from tallystick.local import control
from tests.support.edge import ISSUER, Edge, certificate


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    await asyncio.sleep(0)
    return web.Response()


def problem(status: int, slug: str = "x", **headers: str) -> web.Response:
    return web.json_response(
        {"type": f"https://tallystick.dev/problems/{slug}", "status": status},
        status=status,
        headers=headers,
        content_type="application/problem+json",
    )


@pytest.fixture
async def edge(directory: Path) -> AsyncIterator[Edge]:
    made = Edge(directory)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def api(edge: Edge) -> AsyncIterator[ApiClient]:
    async with ApiClient(edge.credentials(), timeout=60) as made:
        yield made


async def test_one_token_and_a_proof_for_each_request(edge: Edge, api: ApiClient) -> None:
    answers = await asyncio.gather(*(api.request("GET", "/v1/payments?limit=5") for _ in range(20)))
    assert all(answer.status == 201 for answer in answers)
    assert len(edge.tokens) == 1
    assert len(edge.proofs) == 21
    assert edge.requests[0][1] == "/v1/payments?limit=5"


async def test_body_key_and_headers(edge: Edge, api: ApiClient) -> None:
    answer = await api.request("POST", "/v1/payments", {"a": 1}, idempotency_key="k1", headers={"X-One": "1"})
    assert answer.ok
    assert answer.json() == {"n": 1}
    method, _, headers, body = edge.requests[0]
    assert (method, body) == ("POST", b'{"a":1}')
    assert (headers["Idempotency-Key"], headers["X-One"], headers["Content-Type"]) == ("k1", "1", "application/json")


async def test_token_is_renewed_before_it_ends_and_when_it_is_refused(edge: Edge, api: ApiClient) -> None:
    edge.life = 5
    await api.request("GET", "/v1/payments")
    api._token_until = 0.0
    edge.life = 120
    await api.request("GET", "/v1/payments")
    assert len(edge.tokens) == 2

    def refused() -> web.Response:
        return problem(401, **{"WWW-Authenticate": 'DPoP error="invalid_token", algs="ES256"'})

    edge.next = [refused()]
    answer = await api.request("POST", "/v1/payments", {})
    assert answer.status == 201
    assert len(edge.tokens) == 3
    edge.next = [refused(), refused()]
    assert (await api.request("POST", "/v1/payments", {})).status == 401


async def test_repeats_what_is_safe(edge: Edge, api: ApiClient) -> None:
    edge.next = [problem(503), hang_up, problem(429, **{"Retry-After": "0"}), problem(409, "request-in-progress")]
    answer = await api.request("POST", "/v1/payments", {}, idempotency_key="k")
    assert (answer.status, answer.attempts) == (201, 5)
    assert {request[2]["Idempotency-Key"] for request in edge.requests} == {"k"}


async def test_does_not_repeat_what_is_not(edge: Edge, api: ApiClient) -> None:
    edge.next = [problem(503)]
    assert (await api.request("POST", "/v1/payments", {})).status == 503
    edge.next = [hang_up]
    with pytest.raises(EdgeUnreachable, match="it is unknown whether"):
        await api.request("POST", "/v1/payments", {})
    assert len(edge.requests) == 2


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422, 500, 507])
async def test_answers_that_stay_are_given_back(edge: Edge, api: ApiClient, status: int) -> None:
    edge.next = [problem(status, "some-slug")]
    answer = await api.request("POST", "/v1/payments", {}, idempotency_key="k")
    assert (answer.status, answer.slug, answer.attempts, answer.ok) == (status, "some-slug", 1, False)


def elsewhere(shard: object) -> web.Response:
    body = {"type": "https://tallystick.dev/problems/book-elsewhere", "status": 421, "shard": shard}
    return web.json_response(body, status=421, content_type="application/problem+json")


async def test_it_is_sent_on_to_the_shard_that_has_the_book(edge: Edge, api: ApiClient) -> None:
    edge.next = [elsewhere("eu")]
    answer = await api.request("POST", "/v1/payments", {"book": "europe"})
    assert (answer.ok, answer.attempts) == (True, 2)
    assert [headers.get("Tallystick-Shard") for _, _, headers, _ in edge.requests] == [None, "eu"]
    assert edge.requests[0][3] == edge.requests[1][3] == b'{"book":"europe"}'
    assert len(set(edge.proofs)) == len(edge.proofs), "each time with a proof of its own"
    edge.requests.clear()
    edge.next = [elsewhere("eu"), elsewhere("us"), elsewhere("eu")]
    assert (await api.request("GET", "/v1/payments")).status == 421, "round in circles"
    assert len(edge.requests) == 3
    for answered, given in (
        (elsewhere("eu"), {"Tallystick-Shard": "us"}),
        (elsewhere(7), {}),
        (elsewhere("a\r\nb"), {}),
    ):
        edge.requests.clear()
        edge.next = [answered]
        assert (await api.request("GET", "/v1/payments", headers=given)).status == 421
        assert len(edge.requests) == 1


async def test_what_is_all_about_one_book_stays_with_its_shard(edge: Edge) -> None:
    def named() -> list[str | None]:
        return [headers.get("Tallystick-Shard") for _, _, headers, _ in edge.requests]

    async with ApiClient(edge.credentials(), one_book=True) as api:
        edge.next = [None, elsewhere("eu")]
        for _ in range(3):
            assert (await api.request("GET", "/v1/payments")).ok
        assert named() == [None, None, "eu", "eu"]
        edge.next = [elsewhere("us")]
        assert (await api.request("GET", "/v1/payments")).ok, "it has been moved"
        assert named()[4:] == ["eu", "us"]
    edge.requests.clear()
    async with ApiClient(edge.credentials(), shard="eu") as api:
        await api.request("GET", "/v1/payments")
        await api.request("GET", "/v1/payments", headers={"Tallystick-Shard": "us"})
        assert named() == ["eu", "us"]


async def test_ends_after_five(edge: Edge, api: ApiClient) -> None:
    edge.next = [problem(503) for _ in range(9)]
    answer = await api.request("GET", "/v1/payments")
    assert (answer.status, answer.attempts) == (503, 5)


async def test_no_edge_at_all(directory: Path) -> None:
    edge = Edge(directory)
    certificate(directory)
    async with ApiClient(edge.credentials(), attempts=2) as api:
        with pytest.raises(EdgeUnreachable):
            await api.request("GET", "/v1/payments")


async def test_an_edge_with_another_ca(edge: Edge, directory: Path) -> None:
    other = directory / "other"
    other.mkdir()
    certificate(other)
    async with ApiClient(edge.credentials(ca=str(other / "ca.pem")), attempts=1) as api:
        with pytest.raises(EdgeUnreachable):
            await api.request("GET", "/v1/payments")
    assert edge.proofs == []


async def test_token_refused(edge: Edge, api: ApiClient) -> None:
    edge.next_token = [web.json_response({"error": "invalid_client", "error_description": "no"}, status=401)]
    with pytest.raises(TokenRefused, match="invalid_client: no"):
        await api.request("GET", "/v1/payments")
    edge.next_token = [problem(503), None]
    assert (await api.request("GET", "/v1/payments")).status == 201


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"access_token": "x", "token_type": "Bearer", "expires_in": 5}', b"<html>"]
)
async def test_token_answers_that_are_none(edge: Edge, api: ApiClient, answer: bytes) -> None:
    edge.next_token = [web.Response(body=answer)]
    with pytest.raises(TokenRefused):
        await api.token()


# ---- with a certificate -----------------------------------------------------------------------------------------------


async def test_with_a_certificate_no_proof_is_sent(edge_for_certificates: Edge, directory: Path) -> None:
    """The token comes from the API's own origin, for the issuer's name; and from there on the connection says it all."""
    edge, certificate = edge_for_certificates, json.loads((directory / "certificate.json").read_text())
    assert edge.certificate == certificate["tls_client_certificate"]
    async with ApiClient(edge.credentials(issuer=ISSUER, **certificate), timeout=60) as api:
        assert (await api.request("POST", "/v1/payments", {}, idempotency_key="k")).status == 201
        assert (await api.request("GET", "/v1/payments?limit=5")).status == 201
    assert (len(edge.tokens), edge.proofs) == (1, [])
    for kind in ("DPoP", "N_A", ""):
        edge.next_token = [web.json_response({"access_token": "x.y.z", "token_type": kind, "expires_in": 60})]
        async with ApiClient(edge.credentials(issuer=ISSUER, **certificate), attempts=1) as api:
            with pytest.raises(TokenRefused):
                await api.token()


async def test_without_or_with_another_certificate_the_edge_does_not_speak(
    edge_for_certificates: Edge, directory: Path
) -> None:
    edge = edge_for_certificates
    for shown in ({}, fresh_certificate("cli_one")):
        async with ApiClient(edge.credentials(issuer=edge.url, **shown), attempts=1, timeout=60) as api:
            with pytest.raises(EdgeUnreachable):
                await api.token()


@pytest.fixture
async def edge_for_certificates(directory: Path) -> AsyncIterator[Edge]:
    certificate = fresh_certificate("cli_one")
    (directory / "certificate.json").write_text(json.dumps(certificate))
    made = Edge(directory)
    made.certificate = certificate["tls_client_certificate"]
    await made.start()
    yield made
    await made.stop()


def test_a_fresh_certificate() -> None:
    made = fresh_certificate("cli_one")
    [found] = x509.load_pem_x509_certificates(made["tls_client_certificate"].encode())
    found.verify_directly_issued_by(found)
    assert found.subject.rfc4514_string() == "CN=cli_one"
    assert found.not_valid_after_utc - found.not_valid_before_utc > timedelta(days=3650)
    key = serialization.load_pem_private_key(made["tls_client_key"].encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == found.public_key()
    assert fresh_certificate("cli_one") != made


def test_certificates_that_are_none(edge_free: Credentials, directory: Path) -> None:
    certificate(directory)
    good, other = fresh_certificate("cli_one"), fresh_certificate("cli_two")
    ca = str(directory / "ca.pem")
    for change in (
        {"tls_client_key": None},
        {"tls_client_key": other["tls_client_key"]},
        {"tls_client_key": "no"},
        {"tls_client_certificate": ""},
        {"tls_client_certificate": good["tls_client_key"]},
    ):
        with pytest.raises(CredentialsError, match="client certificate and its key"):
            msgspec.structs.replace(edge_free, ca=ca, **{**good, **change}).tls()
    msgspec.structs.replace(edge_free, ca=ca, **good).tls()


# ---- credentials -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [False, True])
def test_credentials_in_the_data_directory_go_where_the_platform_is_now(
    edge_free: Credentials, directory: Path, monkeypatch: pytest.MonkeyPatch, *, bound: bool
) -> None:
    """After `up --port` or a move of the directory they named an edge and a CA file of before: `demo`, `ledger` and `call` went nowhere."""
    written = edge_free
    if bound:
        written = msgspec.structs.replace(edge_free, **fresh_certificate(edge_free.client_id))
    for place in ("secrets/clients/demo.json", "clients/shop.json"):
        (file := directory / "d" / place).parent.mkdir(parents=True)
        file.write_bytes(msgspec.json.encode(written))
        file.chmod(0o600)
    common = Common(data=directory / "d")
    now = control.Status(
        edge="https://localhost:2", mtls="https://localhost:5", ca="", ops="", data="", pid=1, ready=True, started_at="", parts=[], services=[], rejections=[]
    )  # fmt: skip

    async def ask(*_: object) -> control.Status:
        return now

    monkeypatch.setattr(control, "ask", ask)
    shop = directory / "d" / "clients" / "shop.json"
    for found in (
        own_client(common, "demo", "payments:read"),
        chosen_client(common, None),
        chosen_client(common, shop),
    ):
        assert (found.issuer, found.api) == (now.edge, now.mtls if bound else now.edge)
        assert found.ca == str(common.layout.ca)
        assert found.private_key_jwk == written.private_key_jwk
    elsewhere = shop.rename(directory / "shop.json")
    assert chosen_client(common, elsewhere) == written, "it may be of another platform"


KILLED = """
import os, pathlib, signal, sys
from tallystick.cli.client import new_file
with new_file(pathlib.Path(sys.argv[1])) as keep:
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_command_that_is_killed_while_it_registers_leaves_no_credentials_that_are_none(directory: Path) -> None:
    """An empty file was there, which every later command stumbled over until it was deleted by hand."""
    file = directory / "demo.json"
    assert subprocess.run([sys.executable, "-c", KILLED, file], check=False).returncode == -signal.SIGKILL
    assert list(directory.glob("*.json")) == []
    with new_file(file) as keep:
        keep({"client_id": "cli_1"})
    assert json.loads(file.read_text()) == {"client_id": "cli_1"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_credentials_that_came_there_meanwhile_are_not_written_over(directory: Path) -> None:
    file = directory / "demo.json"
    with pytest.raises(Failed, match="may hold a key"), new_file(file) as keep:
        file.write_text("another's")
        keep({"client_id": "cli_1"})
    assert [path.read_text() for path in directory.iterdir()] == ["another's"]


def test_of_two_commands_at_once_one_registers_their_client(
    edge_free: Credentials, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one said that the file exists already, or is not a credentials file."""
    common = Common(data=directory / "d")
    found: list[Credentials] = []
    registered: list[Path] = []
    other = Thread(target=lambda: found.append(own_client(common, "demo", "payments:read")))

    def register(_common: Common, _edge: object, _asked: object, file: Path) -> None:
        registered.append(file)
        if len(registered) == 1:
            other.start()
            other.join(0.5)  # it waits for this one
        with new_file(file) as keep:
            keep(edge_free)

    monkeypatch.setattr("tallystick.cli.own_client.register", register)
    monkeypatch.setattr("tallystick.cli.own_client.running", lambda _: SimpleNamespace(edge=ISSUER, mtls=ISSUER))
    found.append(own_client(common, "demo", "payments:read"))
    other.join(60)
    assert [one.client_id for one in found] == [edge_free.client_id] * 2
    assert len(registered) == 1


def test_credentials_file(edge_free: Credentials, directory: Path) -> None:
    path = directory / "client.json"
    path.write_bytes(msgspec.json.encode(edge_free))
    path.chmod(0o600)
    assert Credentials.load(path) == edge_free
    path.chmod(0o640)
    with pytest.raises(CredentialsError, match="chmod 600"):
        Credentials.load(path)


def test_credentials_are_told_without_their_keys(edge_free: Credentials) -> None:
    """Whatever prints them: a failed assertion, a log of a program's locals."""
    whole = msgspec.structs.replace(edge_free, tls_client_certificate="CERTIFICATE", tls_client_key="PRIVATE")
    assert str(whole.private_key_jwk["d"]) not in repr(whole)
    assert "PRIVATE" not in str(whole)


@pytest.fixture
def edge_free(directory: Path) -> Credentials:
    return Edge(directory).credentials()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"client_id": "secret-text"}', b"\xff", b"[1]"])
def test_credentials_that_are_none(directory: Path, content: bytes) -> None:
    path = directory / "client.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(CredentialsError) as caught:
        Credentials.load(path)
    assert "secret-text" not in repr(caught.value)
    with pytest.raises(CredentialsError):
        Credentials.load(directory / "absent.json")


@pytest.mark.parametrize(
    "change", [{"kty": "RSA"}, {"crv": "P-384"}, {"d": None}, {"d": "AAAA"}, {"x": "!!"}, {"y": 5}]
)
def test_private_keys_that_are_none(edge_free: Credentials, change: dict[str, Any]) -> None:
    jwk = {**edge_free.private_key_jwk, **change}
    with pytest.raises(CredentialsError) as caught:
        ApiClient(msgspec.structs.replace(edge_free, private_key_jwk=jwk))
    assert str(edge_free.private_key_jwk["d"]) not in repr(caught.value)


def test_an_answer_that_is_no_problem_has_no_slug() -> None:
    assert Answer(500, {"Content-Type": "text/html"}, b"<html>").slug == ""
    assert Answer(500, {"Content-Type": "application/problem+json"}, b"[]").slug == ""
