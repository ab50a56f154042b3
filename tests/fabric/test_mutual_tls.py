"""The edge's port for clients with certificates (RFC 8705), asked of a real Envoy: who gets in, and what the services are told."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from tests.fabric.test_conformance import ask, mesh, problem

HEADER = "x-tallystick-certificate"
CERTIFICATE_REQUEST = 13
"""RFC 8446, 4: the handshake message by which a server asks."""
Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: Unix sockets have no room for pytest's."""
    path = Path(tempfile.mkdtemp(prefix="tlm", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def self_signed(
    folder: Path, name: str, key: Key | None = None, *, days: tuple[int, int] = (-1, 1)
) -> tuple[Path, Path, str]:
    """Certificate file, key file, and the SHA-256 of the certificate in hex. Valid from and to so many days from now."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + dt.timedelta(days=days[0]))
        .not_valid_after(now + dt.timedelta(days=days[1]))
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )
    certificate, private = folder / f"{name}.pem", folder / f"{name}.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private, hashlib.sha256(made.public_bytes(serialization.Encoding.DER)).hexdigest()


def told(seen: dict[str, Any]) -> list[str]:
    """The certificates that a service was told of."""
    return [value for name, value in seen["headers"] if name.lower() == HEADER]


async def test_the_service_is_told_the_certificate_whoever_made_it(place: Path) -> None:
    async with mesh(place, {"payments": [()]}) as it:
        keys: dict[str, Key] = {
            "p256": ec.generate_private_key(ec.SECP256R1()),
            "p384": ec.generate_private_key(ec.SECP384R1()),
            "rsa": rsa.generate_private_key(65537, 2048),
        }
        made = [self_signed(place, name, key) for name, key in keys.items()]
        made.append(self_signed(place, "over", days=(-9, -8)))
        made.append(self_signed(place, "not-yet", days=(8, 9)))
        file, key = it.authority.leaf("issued", x509.DNSName("client"))
        der = ssl.PEM_cert_to_DER_cert(file.read_text())
        made.append((file, key, hashlib.sha256(der).hexdigest()))
        for certificate, private, digest in made:
            async with it.mutual((certificate, private)) as session:
                for _ in range(2):
                    status, seen, headers = await ask(session, "GET", "/v1/payments")
                    assert (status, told(seen)) == (200, [digest]), certificate
                    assert headers["strict-transport-security"]


async def test_without_a_certificate_nobody_is_let_in(place: Path) -> None:
    async with mesh(place, {"payments": [()]}) as it:
        async with it.mutual(None) as session:
            for method, path in (
                ("GET", "/v1/payments"),
                ("POST", "/v1/payments"),
                ("GET", "/openapi.json"),
                ("GET", "/x"),
            ):
                answer = await ask(session, method, path, headers={HEADER: "ab" * 32})
                assert problem(answer) == (421, "certificate-required"), path
        assert it.attempts("payments-0") == 0


async def test_a_certificate_of_a_key_that_is_not_asked_for_does_not_come(place: Path) -> None:
    """`docs/how-to/bind-tokens-to-a-certificate.md` says so: the TLS library has no Ed25519 and no P-521 on its list."""
    async with mesh(place, {"payments": [()]}) as it:
        keys: dict[str, Key] = {
            "ed25519": ed25519.Ed25519PrivateKey.generate(),
            "p521": ec.generate_private_key(ec.SECP521R1()),
        }
        for name, key in keys.items():
            certificate, private, _ = self_signed(place, name, key)
            async with it.mutual((certificate, private)) as session:
                answer = await ask(session, "GET", "/v1/payments")
                assert problem(answer) == (421, "certificate-required"), name
        assert it.attempts("payments-0") == 0


async def test_a_certificate_without_its_key_is_worth_nothing(place: Path) -> None:
    """Somebody else's certificate, which is no secret, and a key that says it is the one of it: the handshake ends there."""
    certificate, private, _ = self_signed(place, "theirs")
    _, mine, _ = self_signed(place, "mine")
    mine_point, their_point = (
        _key(file).public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        for file in (mine, private)
    )
    der = _key(mine).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    forged = place / "forged.key"
    body = base64.b64encode(der.replace(mine_point, their_point)).decode()
    forged.write_text(f"-----BEGIN EC PRIVATE KEY-----\n{body}\n-----END EC PRIVATE KEY-----\n")
    async with mesh(place, {"payments": [()]}) as it:
        context = ssl.create_default_context(cafile=str(it.authority.root))
        context.load_cert_chain(certificate, forged)
        with pytest.raises(OSError, match=r"(?i)decrypt|eof|reset|broken"):
            await asyncio.to_thread(session_of, it.topology.mtls_port, context)
        context.load_cert_chain(certificate, private)
        await asyncio.to_thread(session_of, it.topology.mtls_port, context)
        assert it.attempts("payments-0") == 1


def _key(file: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(file.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


async def test_each_connection_proves_the_key_again(place: Path) -> None:
    """No ticket that stands for a certificate: nothing but the key makes another connection."""
    async with mesh(place, {"payments": [()]}) as it:
        certificate, private, _ = self_signed(place, "client")
        context = ssl.create_default_context(cafile=str(it.authority.root))
        context.load_cert_chain(certificate, private)
        ports = (it.topology.mtls_port, it.topology.public_port)
        sessions = [await asyncio.to_thread(session_of, port, context) for port in ports]
        assert sessions == [False, True], "the plain port gives tickets, so this test would see one"


def session_of(port: int, context: ssl.SSLContext) -> bool:
    """Makes a request. Whether the server gave something to resume the connection with."""
    with (
        socket.create_connection(("localhost", port)) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as tls,
    ):
        tls.sendall(b"GET /v1/payments HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert tls.recv(4096).startswith(b"HTTP/1.1 200")
        return tls.session is not None and tls.session.has_ticket


async def test_nobody_else_can_say_a_certificate(place: Path) -> None:
    """Neither a client, at either port, nor a service through the mesh: what it says by this name is gone or overwritten."""
    async with mesh(place, {"payments": [()], "ledger": [()]}) as it:
        certificate, private, digest = self_signed(place, "client")
        forged = [{HEADER: "ab" * 32}, {HEADER.upper(): "ab" * 32}]
        for headers in forged:
            async with it.edge() as session:
                status, seen, _ = await ask(session, "GET", "/v1/payments", headers=headers)
                assert (status, told(seen)) == (200, [])
            async with it.mutual((certificate, private)) as session:
                status, seen, _ = await ask(session, "GET", "/v1/payments", headers=headers)
                assert (status, told(seen)) == (200, [digest])
            async with it.service("payments", "ledger") as session:
                status, seen, _ = await ask(session, "POST", "/internal/transfers", headers=headers, data=b"{}")
                assert (status, told(seen)) == (200, [])


async def test_the_plain_port_asks_nobody_for_a_certificate(place: Path) -> None:
    """A browser that is asked shows its user a list of certificates, whether one is required or not."""
    async with mesh(place, {"payments": [()]}) as it:
        certificate, private, _ = self_signed(place, "client")
        context = ssl.create_default_context(cafile=str(it.authority.root))
        context.load_cert_chain(certificate, private)
        heard: list[int] = []
        context._msg_callback = lambda *said: heard.append(int(said[4]))  # type: ignore[attr-defined]
        for port, expected in ((it.topology.public_port, False), (it.topology.mtls_port, True)):
            heard.clear()
            await asyncio.to_thread(session_of, port, context)
            assert (CERTIFICATE_REQUEST in heard) is expected


async def test_both_ports_know_the_same_paths(place: Path) -> None:
    async with mesh(place, {"payments": [()]}) as it:
        certificate, private, _ = self_signed(place, "client")
        async with it.mutual((certificate, private)) as session, it.edge() as plain:
            for method, path in (
                ("GET", "/"),
                ("POST", "/internal/transfers"),
                ("GET", "/openapi.json"),
                ("GET", "/v1/accounts"),
            ):
                here, there = await ask(session, method, path), await ask(plain, method, path)
                assert here[0] == there[0], path
                if here[0] >= 400:
                    assert problem(here) == problem(there)
