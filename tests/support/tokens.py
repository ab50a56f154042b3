"""Keys, tokens, proofs and identity's inner endpoints for tests: minted with other code (joserfc) than that which checks them."""

import asyncio
import base64
import hashlib
import json
import re
import secrets
import time
from pathlib import Path
from typing import Any

from aiohttp import web
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

PUBLIC_URL = "https://localhost:8443"
MTLS_URL = "https://localhost:8446"
TRUST_DOMAIN = "tallystick.test"


class PrimeKey:
    """RSA with a prime for its modulus, Mersenne's 2^2203 - 1: whoever sees the public key can sign for it (PS256, RFC 8017 section 9.1.1)."""

    MODULUS = 2**2203 - 1

    def __init__(self) -> None:
        self.public = {"kty": "RSA", "n": b64(self.MODULUS.to_bytes(276)), "e": "AQAB"}

    def as_dict(self, *, private: bool = False) -> dict[str, str]:
        assert not private
        return self.public

    def thumbprint(self) -> str:
        said = f'{{"e":"AQAB","kty":"RSA","n":"{self.public["n"]}"}}'
        return b64(hashlib.sha256(said.encode()).digest())

    def sign(self, text: bytes) -> bytes:
        salt = bytes(32)
        hashed = hashlib.sha256(bytes(8) + hashlib.sha256(text).digest() + salt).digest()
        size = 276 - 32 - 1
        stream = b"".join(hashlib.sha256(hashed + count.to_bytes(4)).digest() for count in range(size // 32 + 1))
        masked = int.from_bytes(b"\1" + salt) ^ int.from_bytes(stream[:size])
        masked &= (1 << self.MODULUS.bit_length() - 1 - 8 * 33) - 1
        message = (masked << 8 * 33) | int.from_bytes(hashed + b"\xbc")
        return pow(message, pow(65537, -1, self.MODULUS - 1), self.MODULUS).to_bytes(276)


AnyKey = ECKey | RSAKey | OKPKey | OctKey | PrimeKey
#: Unix seconds, for claims of parametrized tests.
NOW = int(time.time())


def named(change: Any) -> str:
    """The id of a parametrized test of changed claims, the same in each process: times relative to now, of keys their type or no more."""
    text = json.dumps(change, default=lambda key: key.key_type)
    text = re.sub(r"\b[0-9]{10}\b", lambda number: _from_now(int(number[0])), text)
    return re.sub(r"[A-Za-z0-9_-]{43}", "thumbprint", text)[:60]


def _from_now(seconds: int) -> str:
    return f"now{seconds - NOW:+}" if abs(seconds - NOW) <= 366 * 86400 else str(seconds)


def sign(header: dict[str, Any], payload: dict[str, Any] | bytes, key: AnyKey, alg: str | None = None) -> str:
    """A compact JWS of whatever is asked for, sensible or not. `alg` signs by another algorithm than the header says."""
    content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    text = f"{b64(json.dumps(header).encode())}.{b64(content)}"
    if isinstance(key, PrimeKey):
        return f"{text}.{b64(key.sign(text.encode()))}"
    algorithm: Any = jws.JWSRegistry.algorithms[alg or header["alg"]]
    return f"{text}.{b64(algorithm.sign(text.encode(), key))}"


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Holder:
    """A client with its proof key."""

    def __init__(
        self, key: ECKey | RSAKey | OKPKey | PrimeKey | None = None, alg: str = "ES256", client: str = "cli_one"
    ) -> None:
        self.key = key or ECKey.generate_key("P-256")
        self.alg = alg
        self.client = client
        self.jkt = self.key.thumbprint()

    def proof(
        self,
        token: str | None,
        method: str = "POST",
        url: str = PUBLIC_URL + "/v1/payments",
        *,
        header: dict[str, Any] | None = None,
        key: AnyKey | None = None,
        **claims: Any,
    ) -> str:
        """A DPoP proof; `header` and `claims` change or (None) remove members."""
        head = {"typ": "dpop+jwt", "alg": self.alg, "jwk": self.key.as_dict(private=False), **(header or {})}
        body = {
            "jti": secrets.token_urlsafe(16),
            "htm": method,
            "htu": url,
            "iat": int(time.time()),
            "ath": b64(hashlib.sha256(token.encode()).digest()) if token is not None else None,
            **claims,
        }
        return sign(_without_none(head), _without_none(body), key or self.key)

    def headers(self, token: str, **options: Any) -> list[tuple[bytes, bytes]]:
        """What a request with `token` carries."""
        return authorization(token, self.proof(token, **options))


def authorization(token: str, *proofs: str, scheme: str = "DPoP") -> list[tuple[bytes, bytes]]:
    found = [(b"host", b"anything"), (b"authorization", f"{scheme} {token}".encode())]
    return found + [(b"dpop", proof.encode()) for proof in proofs]


class Issuer:
    """Identity's signing side."""

    def __init__(self, kid: str = "k1") -> None:
        self.kid = kid
        self.key = ECKey.generate_key("P-256", {"kid": kid, "alg": "ES256", "use": "sig"})

    @property
    def jwk(self) -> dict[str, Any]:
        return dict(self.key.as_dict(private=False))

    def access(
        self,
        holder: Holder,
        *,
        scope: str = "payments:write payments:read",
        header: dict[str, Any] | None = None,
        key: AnyKey | None = None,
        **claims: Any,
    ) -> str:
        now = int(time.time())
        head = {"typ": "at+jwt", "alg": "ES256", "kid": self.kid, **(header or {})}
        body = {
            "iss": PUBLIC_URL,
            "aud": PUBLIC_URL,
            "exp": now + 120,
            "iat": now,
            "jti": secrets.token_urlsafe(12),
            "client_id": holder.client,
            "sub": holder.client,
            "tenant": "acme",
            "scope": scope,
            "cnf": {"jkt": holder.jkt},
            **claims,
        }
        return sign(_without_none(head), _without_none(body), key or self.key)

    def transaction(self, client: str = "cli_one", *, header: dict[str, Any] | None = None, **claims: Any) -> str:
        now = int(time.time())
        head = {"typ": "txntoken+jwt", "alg": "ES256", "kid": self.kid, **(header or {})}
        body = {
            "iss": PUBLIC_URL,
            "aud": TRUST_DOMAIN,
            "exp": now + 60,
            "iat": now,
            "jti": secrets.token_urlsafe(12),
            "txn": secrets.token_urlsafe(12),
            "sub": client,
            "tenant": "acme",
            "scope": "payments:write",
            **claims,
        }
        return sign(_without_none(head), _without_none(body), self.key)


class IdentityServer:
    """The four inner endpoints that authentication needs, on a Unix socket. `down` makes it refuse, `calls` counts; tokens are
    answered when `answers` is set.
    """

    def __init__(self, socket: Path, issuer: Issuer) -> None:
        self.socket = socket
        self.issuers = [issuer]
        self.epoch = 0
        self.revocations: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.down = False
        self.answers = asyncio.Event()
        self.answers.set()
        self.expires_in = 60
        self.refuse: dict[str, Any] | None = None
        app = web.Application(middlewares=[self._count])
        app.router.add_get("/internal/jwks", self._jwks)
        app.router.add_get("/internal/revocations", self._revocations)
        app.router.add_post("/internal/token-exchange", self._token)
        app.router.add_post("/internal/service-tokens", self._token)
        self._runner = web.AppRunner(app)

    async def start(self) -> None:
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket)).start()

    async def stop(self) -> None:
        await self._runner.cleanup()

    def revoke(self, kind: str, name: str) -> dict[str, Any]:
        self.epoch += 1
        entry = {"epoch": self.epoch, "kind": kind, "id": name, "until": int(time.time()) + 300}
        self.revocations.append(entry)
        return entry

    def count(self, path: str) -> int:
        return self.calls.count(path)

    @web.middleware
    async def _count(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.calls.append(request.path)
        if self.down:
            return web.Response(status=503, text="no healthy upstream")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _jwks(self, request: web.Request) -> web.Response:
        return web.json_response({"keys": [issuer.jwk for issuer in self.issuers]})

    async def _revocations(self, request: web.Request) -> web.Response:
        return web.json_response({"epoch": self.epoch, "revocations": self.revocations})

    async def _token(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        await self.answers.wait()
        if self.refuse is not None:
            return web.json_response(self.refuse, status=self.refuse["status"], content_type="application/problem+json")
        token = self.issuers[0].transaction(**_named(self.asked[-1]))
        return web.json_response({"transaction_token": token, "expires_in": self.expires_in})


def _named(asked: dict[str, Any]) -> dict[str, Any]:
    """Whom a transaction token is asked for: those of the access token, or those who were named."""
    if "subject" in asked:
        return {"client": asked["subject"], "tenant": asked["tenant"], "scope": "", "purp": asked["purpose"]}
    try:
        payload = asked["access_token"].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (KeyError, IndexError, ValueError):
        return {}
    return {"client": claims["sub"], "tenant": claims["tenant"], "scope": claims.get("scope", ""), "txn": claims["jti"]}


def _without_none(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
