"""A TLS 1.3 server that stands in for the edge: it checks tokens and proofs, and misbehaves on request."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc import jwt
from joserfc.jwk import ECKey

from tallystick.chassis.auth import ProofVerifier, Refused
from tallystick.chassis.auth.jose import sha256
from tallystick.cli.credentials import Credentials
from tests.support.ports import free_port

#: Where nobody listens: of clients that come with a certificate it is a name only.
ISSUER = "https://localhost:1"


class Edge:
    """Token endpoint and one resource. `next` holds what to do with the next requests to the resource, None for the normal."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        #: The certificate that clients have to come with, PEM: tokens are bound to it then, and no proof is asked for.
        self.certificate: str | None = None
        self.key = ECKey.generate_key("P-256", {"kid": "c1"})
        self.next: list[Any] = []
        self.next_token: list[Any] = []
        self.life = 120
        self.tokens: list[str] = []
        self.proofs: list[str] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self._verifier = ProofVerifier()
        app = web.Application()
        app.router.add_post("/oauth2/token", self._token)
        self.routes(app.router)
        self._runner = web.AppRunner(app)

    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_route("*", "/v1/payments", self._resource)

    async def start(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate(self.directory))
        if self.certificate is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self.certificate)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context).start()

    async def stop(self) -> None:
        await self._runner.cleanup()

    def credentials(self, **changes: Any) -> Credentials:
        members = {
            "client_id": "cli_one",
            "tenant": "acme",
            "issuer": self.url,
            "api": self.url,
            "scope": "payments:write",
            "private_key_jwk": self.key.as_dict(private=True),
            "ca": str(self.directory / "ca.pem"),
        }
        return msgspec.convert({**members, **changes}, Credentials)

    def proved(self, request: web.Request, token: str | None) -> str:
        """The thumbprint of the key of a request's proof, which is good; "" where a certificate does."""
        if self.certificate is not None:
            assert "DPoP" not in request.headers
            return ""
        [proof] = request.headers.getall("DPoP")
        assert proof not in self.proofs
        self.proofs.append(proof)
        return self._verifier.verify(
            proof,
            method=request.method,
            url=self.url + request.path,
            now=time.time(),
            token_hash=sha256(token) if token else None,
        ).jkt

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        self.proved(request, None)
        found = jwt.decode(str(form["client_assertion"]), self.key, algorithms=["ES256"])
        assert found.header["typ"] == "client-authentication+jwt"
        assert found.header["kid"] == "c1"
        assert found.claims["aud"] == (self.url if self.certificate is None else ISSUER)
        assert found.claims["iss"] == found.claims["sub"] == form["client_id"] == "cli_one"
        assert found.claims["exp"] - time.time() <= 60
        assert form["grant_type"] == "client_credentials"
        if self.next_token and (answer := self.next_token.pop(0)) is not None:
            return answer if isinstance(answer, web.Response) else await answer(request)
        self.tokens.append(f"token.{len(self.tokens)}.x")
        kind = "DPoP" if self.certificate is None else "Bearer"
        return web.json_response({"access_token": self.tokens[-1], "token_type": kind, "expires_in": self.life})

    async def _resource(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((request.method, request.path_qs, dict(request.headers), body))
        scheme, _, token = request.headers["Authorization"].partition(" ")
        assert scheme == ("DPoP" if self.certificate is None else "Bearer")
        try:
            self.proved(request, token)
        except Refused as refused:
            raise AssertionError(refused.reason) from refused
        if self.next and (answer := self.next.pop(0)) is not None:
            return answer if isinstance(answer, web.Response) else await answer(request)
        return web.json_response({"n": len(self.requests)}, status=201)


def certificate(directory: Path) -> tuple[Path, Path]:
    """A CA and a leaf for localhost: (chain, key)."""
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test ca {directory.name}")])

    def build(subject: x509.Name, public: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )
        if ca:
            usage = x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        else:
            names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(ca_key, hashes.SHA256())

    pem = serialization.Encoding.PEM
    leaf_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    (directory / "ca.pem").write_bytes(build(ca_name, ca_key.public_key(), ca=True).public_bytes(pem))
    (directory / "leaf.pem").write_bytes(build(leaf_name, key.public_key(), ca=False).public_bytes(pem))
    (directory / "leaf.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return directory / "leaf.pem", directory / "leaf.key"
