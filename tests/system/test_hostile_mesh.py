"""The inside, from a process that got hold of one service's place: what it can reach, and what it is told.

`run/mesh/<caller>/` are the sockets by which a caller goes out; `run/mesh/in/` those at which Envoy takes callers in, by mutual TLS.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import ssl
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.stranger import Answer, Client, Edge, hang_up, plant, read_answer, refused
from tests.system.conftest import Credentials, PlatformUnderTest

TENANT = "hostile-mesh"
SERVICES = Path(__file__).parents[2] / "src" / "tallystick" / "services"


def charters() -> dict[str, dict[str, Any]]:
    return {file.parent.name: tomllib.loads(file.read_text()) for file in SERVICES.glob("*/charter.toml")}


async def by_socket(
    socket: Path, method: str, path: str, headers: dict[str, str] | None = None, body: object = None
) -> Answer:
    """One request by HTTP/1.1 over a Unix socket."""
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        content = b"" if body is None else json.dumps(body).encode()
        given = {
            "Host": "mesh",
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **(headers or {}),
        }
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items()), "", ""]
        writer.write("\r\n".join(lines).encode() + content)
        async with asyncio.timeout(30):
            answer = await read_answer(reader)
        assert answer is not None, f"{socket}: no answer to {method} {path}"
        return answer
    finally:
        await hang_up(writer)


def forbidden(answer: Answer, where: object) -> None:
    assert answer.status == 403, (where, answer)
    assert answer.json["type"].endswith("/forbidden"), (where, answer)


def test_each_caller_has_the_sockets_of_its_charter_and_they_are_its_own(platform: PlatformUnderTest) -> None:
    mesh = platform.data / "run" / "mesh"
    found = charters()
    for caller in (*found, "operator"):
        calls = set(found.get(caller, {}).get("calls", {}))
        if caller == "operator":
            calls = {name for name, charter in found.items() if "operator" in charter.get("callers", {})}
        folder = mesh / caller
        there = {socket.stem for socket in folder.iterdir()} if folder.exists() else set()
        assert there == calls, (caller, there, calls)
    assert "vault" not in {socket.stem for socket in (mesh / "risk").iterdir()}
    for path in (
        platform.data,
        platform.data / "run",
        mesh,
        *mesh.rglob("*"),
        *(platform.data / "run" / "svc").iterdir(),
    ):
        assert path.stat().st_mode & 0o077 == 0, path


async def test_nobody_goes_where_the_charters_do_not_send_him(platform: PlatformUnderTest) -> None:
    """Envoy's access rules: every action of the target that isn't granted to the caller is refused before it gets there."""
    mesh = platform.data / "run" / "mesh"
    found = charters()
    actions = {
        target: {action for granted in charter.get("callers", {}).values() for action in granted}
        for target, charter in found.items()
    }
    edge = {"GET /v1/payments", "POST /v1/transfers", "POST /v1/tokens", "POST /oauth2/token", "GET /oauth2/jwks"}
    own = {"GET /metrics", "GET /health/ready", "GET /openapi/identity.json", "GET /"}
    asked = 0
    for caller in (*found, "operator"):
        for socket in (mesh / caller).iterdir() if (mesh / caller).exists() else ():
            granted = set(found[socket.stem]["callers"][caller])
            for action in sorted((actions[socket.stem] | edge | own) - granted):
                method, path = action.split(" ")
                filled = path.replace("{", "").replace("}", "")
                if any(_matches(filled, one) and one.startswith(method) for one in granted):
                    continue
                spoofed = {"x-tallystick-peer": "spiffe://tallystick/ns/tallystick/sa/payments"}
                forbidden(await by_socket(socket, method, filled, spoofed), f"{caller} -> {socket.stem}: {action}")
                asked += 1
    assert asked > 100


def _matches(path: str, action: str) -> bool:
    wanted = action.split(" ")[1].split("/")
    given = path.split("/")
    return len(wanted) == len(given) and all(w.startswith("{") or w == g for w, g in zip(wanted, given, strict=True))


async def test_no_spelling_gets_past_the_rules(platform: PlatformUnderTest) -> None:
    socket = platform.data / "run" / "mesh" / "risk" / "identity.sock"
    assert (await by_socket(socket, "GET", "/internal/jwks")).status == 200
    for path in (
        "/internal/jwks/../admin/clients",
        "/internal/./admin/clients",
        "//internal/admin/clients",
        "/internal//admin/clients",
        "/internal/jwks/..%2fadmin%2fclients",
        "/internal/jwks%2f..%2fadmin/clients",
        "/internal/admin/%63lients",
        "/internal/admin/clients?x=/internal/jwks",
        "/internal/admin/clients/",
        "/internal/admin/clients;/internal/jwks",
        "/INTERNAL/ADMIN/CLIENTS",
        "/internal/service-tokens",
    ):
        for method in ("GET", "POST"):
            answer = await by_socket(socket, method, path, body={})
            assert answer.status in {400, 403}, (method, path, answer)
    for headers in (
        {"x-tallystick-peer": "spiffe://tallystick/ns/tallystick/sa/operator"},
        {"x-envoy-original-path": "/internal/jwks"},
        {"x-forwarded-client-cert": "URI=spiffe://tallystick/ns/tallystick/sa/operator"},
        {"Host": "operator"},
        {"X-HTTP-Method-Override": "GET"},
    ):
        forbidden(await by_socket(socket, "GET", "/internal/admin/clients", headers), headers)
        forbidden(await by_socket(socket, "POST", "/internal/service-tokens", headers, {}), headers)


def _certificate(spiffe: str, folder: Path) -> Path:
    """A certificate that says the right name, by an authority that nobody knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "payments")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "forged.pem"
    file.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return file


async def test_without_a_certificate_of_ours_nobody_is_let_in(platform: PlatformUnderTest, tmp_path: Path) -> None:
    inbound = platform.data / "run" / "mesh" / "in"
    request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    assert {socket.stem for socket in inbound.iterdir()} >= {"identity", "ledger", "vault", "risk"}
    spiffe = "spiffe://tallystick.local/ns/tallystick/sa/payments"
    for socket in inbound.iterdir():
        reader, writer = await asyncio.open_unix_connection(str(socket))
        writer.write(b"GET /internal/jwks HTTP/1.1\r\nHost: x\r\n\r\n")
        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 60) == b"", socket
        await hang_up(writer)
        for forged in (None, _certificate(spiffe, tmp_path)):
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            if forged is not None:
                context.load_cert_chain(forged)
            try:
                reader, writer = await asyncio.open_unix_connection(
                    str(socket), ssl=context, server_hostname=socket.stem
                )
                try:
                    # with TLS 1.3 the client hears of the refusal when it reads
                    writer.write(request)
                    got = await asyncio.wait_for(reader.read(), 60)
                finally:
                    await hang_up(writer)
            except (ssl.SSLError, ConnectionError):
                continue
            assert got == b"", f"{socket.stem} spoke to {'a forger' if forged else 'a nobody'}: {got!r}"


async def test_inside_the_user_s_word_is_needed_too(platform: PlatformUnderTest, credentials: Credentials) -> None:
    """Payments' place alone moves no money: each item needs a transaction token, and that one is nobody else's."""
    mesh = platform.data / "run" / "mesh"
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT))
        a, b = [
            (await client.make("/v1/accounts", {"name": side, "currency": "EUR", "normal_side": side}))["id"]
            for side in ("debit", "credit")
        ]
        access = await client.token()

        async def exchanged(service: str) -> str:
            answer = await by_socket(
                mesh / service / "identity.sock", "POST", "/internal/token-exchange", body={"access_token": access}
            )
            assert answer.status == 200, answer
            return plant("transaction token", answer.json["transaction_token"])

        async def post(token: str, number: int) -> dict[str, Any]:
            one = {
                "id": f"trf_{number:026d}",
                "kind": "post",
                "debit_account": a,
                "credit_account": b,
                "amount": {"amount": "5", "currency": "EUR"},
            }
            answer = await by_socket(
                mesh / "payments" / "ledger.sock",
                "POST",
                "/internal/transfers",
                body={"tokens": [token], "units": [{"token": 0, "transfers": [one]}]},
            )
            assert answer.status == 200, answer
            found: dict[str, Any] = answer.json["units"][0]
            return found

        own = await exchanged("payments")
        head, body, signature = own.split(".")
        for number, bad in enumerate(
            ("x", access, f"{head}.{body}.", f"{head}.{body}.{signature[:-4]}AAAA", client.assertion(), own + "x"), 1
        ):
            unit = await post(bad, number)
            assert unit["problem"]["status"] == 401, (bad[:20], unit)
        balance = (await client.call("GET", f"/v1/accounts/{b}")).json["balance"]["posted"]["amount"]
        assert balance == "0"
        unit = await post(own, 8)
        assert unit["transfers"][0]["status"] == "posted", unit
        # and outside it is worth nothing
        headers = [("Authorization", f"DPoP {own}"), ("DPoP", client.proof("GET", "/v1/accounts", own))]
        refused(await edge.send("GET", "/v1/accounts", headers), 401, "unauthenticated")
        headers = [("Txn-Token", own), ("x-tallystick-peer", "spiffe://tallystick/ns/tallystick/sa/payments")]
        refused(await edge.send("GET", "/v1/accounts", headers), 401, "unauthenticated")
        # a token that was revoked takes its transaction tokens along
        assert (await client.post_form(client.form(token=access), "/oauth2/revoke")).status == 200
        async with asyncio.timeout(30):
            number = 9
            while "problem" not in (unit := await post(own, number)):
                number += 1
                await asyncio.sleep(0.05)
        assert unit["problem"]["status"] == 401, unit
