"""A client of the edge made of another library (joserfc), and the way into identity without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import msgspec
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey

from tallystick.chassis.auth.identity import Exchanged
from tallystick.chassis.auth.jose import Jwk
from tallystick.chassis.auth.revocation import Snapshot
from tallystick.chassis.web.application import Application
from tallystick.kernel.clock import Clock
from tallystick.services.identity.model.assertions import TYPE

ISSUER = "https://localhost:8443"
MTLS_ORIGIN = "https://localhost:8446"
TRUST_DOMAIN = "test.tallystick"
FORM = "application/x-www-form-urlencoded"

SigningJwk = ECKey | RSAKey | OKPKey


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


async def send(
    app: Application,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | list[tuple[str, str]] | None = None,
    body: bytes = b"",
) -> Answer:
    """One request to an ASGI application."""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else headers or []
    path, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in pairs]
        + ([(b"content-length", str(len(body)).encode())] if body else []),
    }
    got: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def take(message: Any) -> None:
        got.append(message)

    await app(scope, receive, take)
    return Answer(
        got[0]["status"],
        {name.decode().lower(): value.decode() for name, value in got[0]["headers"]},
        b"".join(message.get("body", b"") for message in got[1:]),
    )


def peer(service: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/ns/tallystick/sa/{service}"


async def inner(app: Application, caller: str, method: str, path: str, body: object = None) -> Answer:
    """A request through the mesh, as Envoy hands it on."""
    headers = {"x-tallystick-peer": peer(caller), "content-type": "application/json"}
    return await send(app, method, path, headers=headers, body=b"" if body is None else json.dumps(body).encode())


@dataclass
class ApiClient:
    """A registered client. Everything it sends can be bent by the arguments."""

    app: Application
    clock: Clock
    client_id: str
    key: SigningJwk
    alg: str = "ES256"
    dpop: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256"))

    def assertion(self, header: dict[str, Any] | None = None, key: SigningJwk | None = None, **claims: Any) -> str:
        now = int(self.clock.now().timestamp())
        merged = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": ISSUER,
            "jti": secrets.token_urlsafe(12),
            "iat": now,
            "exp": now + 60,
        } | claims
        head = {"alg": self.alg, "kid": self.key.kid} | (header or {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # it calls EdDSA deprecated; clients still use it
            return jwt.encode(
                {name: value for name, value in head.items() if value is not None},
                {name: value for name, value in merged.items() if value is not None},
                key or self.key,
                algorithms=["ES256", "PS256", "EdDSA", "Ed25519", "RS256"],
            )

    def proof(
        self, method: str = "POST", url: str = ISSUER + "/oauth2/token", key: ECKey | None = None, **claims: Any
    ) -> str:
        signer = key or self.dpop
        merged = {
            "jti": secrets.token_urlsafe(12),
            "htm": method,
            "htu": url,
            "iat": int(self.clock.now().timestamp()),
        } | claims
        head = {"alg": "ES256", "typ": "dpop+jwt", "jwk": signer.as_dict(private=False)}
        return jwt.encode(head, merged, signer)

    def form(self, assertion: str | None = None, **parameters: str | None) -> dict[str, str]:
        merged = {"client_assertion_type": TYPE, "client_assertion": assertion or self.assertion()} | parameters
        return {name: value for name, value in merged.items() if value is not None}

    async def post(
        self, path: str, form: Mapping[str, str] | bytes, headers: list[tuple[str, str]] | None = None
    ) -> Answer:
        body = form if isinstance(form, bytes) else urlencode(form).encode()
        pairs = [("content-type", FORM), *(headers or [])]
        return await send(self.app, "POST", path, headers=pairs, body=body)

    async def token(
        self, assertion: str | None = None, *, proofs: list[str] | None = None, **parameters: str | None
    ) -> Answer:
        form = self.form(assertion, **({"grant_type": "client_credentials"} | parameters))
        headers = [("dpop", proof) for proof in (proofs if proofs is not None else [self.proof()])]
        return await self.post("/oauth2/token", form, headers)

    async def access_token(self, scope: str | None = None) -> str:
        answer = await self.token(scope=scope)
        assert answer.status == 200, answer.content
        return str(answer.json["access_token"])

    async def revoke(self, token: str | None) -> Answer:
        return await self.post("/oauth2/revoke", self.form(token=token))

    async def introspect(self, token: str, assertion: str | None = None) -> Answer:
        return await self.post("/oauth2/introspect", self.form(assertion, token=token))

    def edge_headers(self, token: str, method: str, url: str) -> list[tuple[bytes, bytes]]:
        ath = base64.urlsafe_b64encode(_sha256(token)).rstrip(b"=").decode()
        return [
            (b"authorization", f"DPoP {token}".encode()),
            (b"dpop", self.proof(method, url, ath=ath).encode()),
        ]


class PeerIdentity:
    """What `chassis.auth` asks identity for, as the service `caller`: the wire format of both sides meets here."""

    def __init__(self, app: Callable[[], Application], caller: str) -> None:
        self._app = app
        self._caller = caller

    async def keys(self) -> list[Jwk]:
        answer = await inner(self._app(), self._caller, "GET", "/internal/jwks")
        assert answer.status == 200, answer.content
        return msgspec.convert(answer.json["keys"], list[Jwk])

    async def revocations(self) -> Snapshot:
        answer = await inner(self._app(), self._caller, "GET", "/internal/revocations")
        assert answer.status == 200, answer.content
        return msgspec.json.decode(answer.content, type=Snapshot)

    async def exchange(self, access_token: str) -> Exchanged:
        answer = await inner(
            self._app(), self._caller, "POST", "/internal/token-exchange", {"access_token": access_token}
        )
        assert answer.status == 200, answer.content
        return msgspec.json.decode(answer.content, type=Exchanged)

    async def service_token(self, tenant: str, subject: str, purpose: str) -> Exchanged:
        asked = {"tenant": tenant, "subject": subject, "purpose": purpose}
        answer = await inner(self._app(), self._caller, "POST", "/internal/service-tokens", asked)
        assert answer.status == 200, answer.content
        return msgspec.json.decode(answer.content, type=Exchanged)


def decoded(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, unchecked."""
    header, claims, _ = token.split(".")
    return _part(header), _part(claims)


def forged(header: Mapping[str, Any], claims: Mapping[str, Any], signature: bytes = b"") -> str:
    """A compact JWS that nobody signed."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def _part(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return found


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
