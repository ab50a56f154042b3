"""A client of the edge that shares no code with the platform: sockets, TLS and HTTP/1.1 by hand, JOSE from `cryptography`.

It sends what it is told to, sensible or not, and reads what comes back to the byte. Everything in what it sent that must not
be found again in what the platform writes is kept in `PLANTED`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import secrets
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

#: Kind -> secrets that were sent to the platform or came from it.
PLANTED: dict[str, set[str]] = {}

#: What an answer never shows: places in code, names of our parts and tables, addresses, keys.
_INTERNALS = re.compile(
    r"Traceback|\.py\b|/src/|/tmp/|msgspec|asyncpg|pydantic|asyncio|uvicorn|starlette|postgres|valkey|nats|SELECT |INSERT "
    r"|relation |0x[0-9a-f]{6}|spiffe|\.sock\b|object at|Exception|Error\b|NoneType|errno",
)

Pairs = Sequence[tuple[str, str]]


def plant(kind: str, secret: str) -> str:
    PLANTED.setdefault(kind, set()).add(secret)
    return secret


def card_number() -> str:
    """A new number of Visa's range with the right check digit (ISO/IEC 7812), which the sandbox's rail approves."""
    digits = "4" + "".join(secrets.choice("0123456789") for _ in range(14))
    doubled = [int(digit) * (2 - place % 2) for place, digit in enumerate(digits)]
    check = -sum(value - 9 if value > 9 else value for value in doubled) % 10
    return plant("card number", f"{digits}{check}")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    def header(self, name: str) -> str:
        """The header, which is there at most once; "" for none."""
        found = self.all(name)
        assert len(found) <= 1, f"{name} is there {len(found)} times: {found}"
        return found[0] if found else ""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def refused(answer: Answer, status: int, slug: str, *words: str, where: object = "") -> dict[str, Any]:
    """Assert that this is a problem document as the contract says, that it helps, and that it gives nothing away."""
    shown = f"{where} -> {answer.status} {answer.body[:400]!r}"
    assert answer.status == status, shown
    assert answer.header("content-type") == "application/problem+json", shown
    document: dict[str, Any] = answer.json
    assert document["status"] == status, shown
    assert document["type"].rpartition("/")[2] == slug, shown
    assert isinstance(document["retryable"], bool), shown
    assert document["title"], shown
    assert len(document["detail"]) > 10, shown
    said = json.dumps(document, ensure_ascii=False).lower()
    for word in words:
        assert word.lower() in said, f"{word!r} is not in {shown}"
    assert document["request_id"] == answer.header("request-id") != "", shown
    assert "no-store" in answer.header("cache-control"), shown
    assert not (found := _INTERNALS.search(answer.body.decode())), f"shows {found}: {shown}"
    return document


def oauth_refused(answer: Answer, code: str, *, where: object = "") -> dict[str, Any]:
    """Assert that this is an error of RFC 6749 section 5.2."""
    shown = f"{where} -> {answer.status} {answer.body[:400]!r}"
    assert answer.status == (401 if code == "invalid_client" else 400), shown
    document: dict[str, Any] = answer.json
    assert document["error"] == code, shown
    assert re.fullmatch(r"[\x20-\x21\x23-\x5b\x5d-\x7e]+", document["error_description"]), shown
    assert "access_token" not in document, shown
    assert answer.header("cache-control") == "no-store", shown
    assert answer.header("request-id"), shown
    assert not (found := _INTERNALS.search(answer.body.decode())), f"shows {found}: {shown}"
    return document


# ---- HTTP ----------------------------------------------------------------------------------------------------------


class Edge:
    """One address, spoken to over TLS. `async with Edge(...)`; connections are used again."""

    def __init__(self, port: int, ca: Path) -> None:
        self.port = port
        self.url = f"https://localhost:{port}"
        self.ca = ca
        self.context = ssl.create_default_context(cafile=str(ca))
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for _reader, writer in self._idle:
            await hang_up(writer)

    async def connect(self, context: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=context or self.context, server_hostname="localhost", limit=1 << 20
        )

    async def raw(self, data: bytes, *, within: float = 30.0) -> list[Answer]:
        """These bytes on a connection of their own, and all answers until the edge has no more to say."""
        reader, writer = await self.connect()
        try:
            with suppress(ConnectionError, BrokenPipeError):
                writer.write(data)
                await writer.drain()
            return await read_all(reader, within)
        finally:
            await hang_up(writer)

    async def send(
        self, method: str, target: str, headers: Pairs = (), body: bytes | None = None, *, within: float = 60.0
    ) -> Answer:
        """One well-formed HTTP/1.1 request, with these headers as they are."""
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        names = {name.lower() for name, _ in headers}
        if "host" not in names:
            lines.append(f"Host: localhost:{self.port}")
        if body is not None and not names & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(body)}")
        data = "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")
        while True:
            fresh = not self._idle
            reader, writer = await self.connect() if fresh else self._idle.pop()
            try:
                async with asyncio.timeout(within):
                    writer.write(data)
                    with suppress(ConnectionError):  # an answer may come although the rest was not wanted
                        await writer.drain()
                    answer = await read_answer(reader, head=method == "HEAD")
            except BaseException:
                await hang_up(writer)
                raise
            if answer is None:
                await hang_up(writer)
                if fresh:
                    raise ConnectionResetError(f"no answer to {method} {target}")
                continue  # it had been closed while it was idle: nothing was sent
            if "close" in answer.header("connection"):
                await hang_up(writer)
            else:
                self._idle.append((reader, writer))
            return answer


# ---- HTTP/2, as much of it as an attack needs (RFC 9113, RFC 7541) -------------------------------------------------

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS_FRAME, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def fields(*pairs: tuple[str, str]) -> bytes:
    """A header block: literals without indexing and without Huffman codes; names and values below 127 bytes."""
    block = b""
    for name, value in pairs:
        block += b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode("latin-1")
    return block


class Http2:
    """One connection, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, edge: Edge) -> Http2:
        context = ssl.create_default_context(cadata=None)
        context.load_verify_locations(cafile=str(edge.ca))
        context.set_alpn_protocols(["h2"])
        reader, writer = await edge.connect(context)
        chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        assert chosen == "h2", chosen
        writer.write(PREFACE + frame(SETTINGS, 0, 0))
        return cls(reader, writer)

    def get(self, stream: int, *more: tuple[str, str], path: str = "/oauth2/jwks", method: str = "GET") -> bytes:
        """A whole request as one HEADERS frame."""
        pseudo = ((":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path))
        return frame(HEADERS_FRAME, 0x5, stream, fields(*pseudo, *more))

    async def read(self) -> tuple[int, int, int, bytes] | None:
        """The next frame as (kind, flags, stream, payload); None when the connection has ended."""
        try:
            head = await self.reader.readexactly(9)
            payload = await self.reader.readexactly(int.from_bytes(head[:3]))
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            return None
        return head[3], head[4], int.from_bytes(head[5:9]) & 0x7FFFFFFF, payload

    async def outcome(self, stream: int) -> str:
        """What became of a request: `200` or `4xx` (other statuses are not told apart), `reset`, or `closed`."""
        while (found := await self.read()) is not None:
            kind, _, number, payload = found
            if kind == GOAWAY:
                return "closed"
            if number == stream and kind == RST_STREAM:
                return "reset"
            if number == stream and kind == HEADERS_FRAME:
                return "200" if payload[:1] == b"\x88" else "4xx"  # the index of `:status: 200` (RFC 7541, appendix A)
        return "closed"

    async def content(self, stream: int) -> bytes:
        """The whole content of an answer, whatever its status."""
        content = b""
        while (found := await self.read()) is not None:
            kind, flags, number, payload = found
            if number == stream:
                content += payload if kind == DATA else b""
                if flags & 1:
                    return content
        return content


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(ConnectionError, ssl.SSLError, OSError):
        await writer.wait_closed()


async def read_all(reader: asyncio.StreamReader, within: float) -> list[Answer]:
    """Answers until the connection ends, or says nothing for a moment after at least one."""
    answers: list[Answer] = []
    while True:
        try:
            async with asyncio.timeout(1.0 if answers else within):
                answer = await read_answer(reader)
        except TimeoutError:
            if not answers:
                raise
            return answers
        if answer is None:
            return answers
        answers.append(answer)


async def read_answer(reader: asyncio.StreamReader, *, head: bool = False) -> Answer | None:
    """The next answer, None if the connection ended before it."""
    try:
        start = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        return None
    first, *lines = start.decode("latin-1").rstrip("\r\n").split("\r\n")
    version, _, rest = first.partition(" ")
    assert version in {"HTTP/1.1", "HTTP/1.0"}, first
    headers = tuple((name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines))
    answer = Answer(int(rest[:3]), headers, b"")
    if head or answer.status in {204, 304} or answer.status < 200:
        return answer
    if "chunked" in answer.header("transfer-encoding"):
        body = b""
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return Answer(answer.status, headers, body)
    length = answer.header("content-length")
    body = await reader.readexactly(int(length)) if length else await reader.read()
    return Answer(answer.status, headers, body)


# ---- JOSE ----------------------------------------------------------------------------------------------------------


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Key:
    """A P-256 key pair."""

    def __init__(self, private: ec.EllipticCurvePrivateKey | None = None, kid: str | None = None) -> None:
        self.private = private or ec.generate_private_key(ec.SECP256R1())
        self.kid = kid
        numbers = self.private.private_numbers()
        x, y = (b64(value.to_bytes(32)) for value in (numbers.public_numbers.x, numbers.public_numbers.y))
        self.public = {"kty": "EC", "crv": "P-256", "x": x, "y": y}
        self.secret = {**self.public, "d": b64(numbers.private_value.to_bytes(32))}

    @classmethod
    def of(cls, jwk: Mapping[str, str]) -> Key:
        x, y, d = (int.from_bytes(unb64(jwk[name])) for name in ("x", "y", "d"))
        public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1())
        return cls(ec.EllipticCurvePrivateNumbers(d, public).private_key(), jwk["kid"])

    def sign(self, data: bytes) -> bytes:
        r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)

    def pem(self) -> bytes:
        return self.pem_of(self.private.public_key())

    @staticmethod
    def pem_of(public: ec.EllipticCurvePublicKey) -> bytes:
        return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


class RsaKey:
    """RSA with PKCS #1 v1.5: what RS256 is, which is taken nowhere."""

    def __init__(self) -> None:
        self.private = rsa.generate_private_key(65537, 2048)
        numbers = self.private.public_key().public_numbers()
        self.public = {"kty": "RSA", "n": b64(numbers.n.to_bytes(256)), "e": b64(numbers.e.to_bytes(3))}

    def sign(self, data: bytes) -> bytes:
        return self.private.sign(data, padding.PKCS1v15(), hashes.SHA256())


class SharedSecret:
    """HS256 with whatever bytes: the old trick is the public key."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, data: bytes) -> bytes:
        return hmac.digest(self._secret, data, "sha256")


class Unsigned:
    """`alg: none`."""

    def sign(self, data: bytes) -> bytes:
        return b""


AnyKey = Key | RsaKey | SharedSecret | Unsigned


def jws(header: Mapping[str, Any], claims: Mapping[str, Any] | bytes, key: AnyKey) -> str:
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    text = f"{b64(json.dumps(header).encode())}.{b64(payload)}"
    return f"{text}.{b64(key.sign(text.encode()))}"


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, of which None removes a member."""
    return {name: value for name, value in {**base, **changes}.items() if value is not None}


# ---- the client ----------------------------------------------------------------------------------------------------


class Client:
    """A registered client: what `tallystick client create` wrote, and its own keys for proofs."""

    _numbers = count(1)

    def __init__(self, edge: Edge, file: Path) -> None:
        document = json.loads(file.read_text())
        self.edge = edge
        self.id: str = document["client_id"]
        self.tenant: str = document["tenant"]
        self.scope: str = document["scope"]
        self.issuer: str = document["issuer"]
        self.key = Key.of(document["private_key_jwk"])
        plant("private key", document["private_key_jwk"]["d"])
        self.proof_key = Key()
        self._token = ""
        self._until = 0.0
        self._asking = asyncio.Lock()

    # -- the token endpoint

    def assertion(self, key: AnyKey | None = None, *, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A client assertion; `header` and `claims` change or (None) remove members."""
        now = int(time.time())
        head = {"typ": "client-authentication+jwt", "alg": "ES256", "kid": self.key.kid}
        body = {
            "iss": self.id,
            "sub": self.id,
            "aud": self.issuer,
            "jti": secrets.token_urlsafe(16),
            "iat": now,
            "exp": now + 60,
        }
        return plant("client assertion", jws(merged(head, header or {}), merged(body, claims), key or self.key))

    def form(self, assertion: str | None = None, **fields: str) -> dict[str, str]:
        return {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion or self.assertion(),
            **fields,
        }

    async def post_form(
        self, form: Mapping[str, str] | str, path: str = "/oauth2/token", headers: Pairs | None = None
    ) -> Answer:
        """Without `headers`: with the media type and a fresh proof."""
        if headers is None:
            headers = [
                ("Content-Type", "application/x-www-form-urlencoded"),
                ("DPoP", self.proof("POST", path, token=None)),
            ]
        body = form if isinstance(form, str) else urlencode(form)
        return await self.edge.send("POST", path, headers, body.encode())

    async def token(self) -> str:
        async with self._asking:
            if time.monotonic() > self._until:
                answer = await self.post_form(self.form())
                assert answer.status == 200, answer
                self._token = plant("access token", answer.json["access_token"])
                self._until = time.monotonic() + answer.json["expires_in"] - 20
            return self._token

    # -- requests

    def proof(
        self,
        method: str,
        path: str,
        token: str | None,
        *,
        key: AnyKey | None = None,
        header: Mapping[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """A DPoP proof for a path at the edge; `header` and `claims` change or (None) remove members."""
        signer = key or self.proof_key
        head = {"typ": "dpop+jwt", "alg": "ES256", "jwk": getattr(signer, "public", self.proof_key.public)}
        body = {
            "jti": secrets.token_urlsafe(16),
            "htm": method,
            "htu": self.edge.url + path.partition("?")[0],
            "iat": int(time.time()),
            "ath": None if token is None else b64(hashlib.sha256(token.encode()).digest()),
        }
        return plant("proof", jws(merged(head, header or {}), merged(body, claims), signer))

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = "",
        headers: Pairs = (),
        raw: bytes | None = None,
        kind: str = "application/json",
        within: float = 60.0,
    ) -> Answer:
        """A request with a fresh proof. `key`: the Idempotency-Key; "" makes a new one for a POST, None sends none."""
        token = await self.token()
        content = raw if raw is not None or body is None else json.dumps(body).encode()
        given = [("Authorization", f"DPoP {token}"), ("DPoP", self.proof(method, path, token)), *headers]
        if content is not None and not any(name.lower() == "content-type" for name, _ in headers) and kind:
            given.append(("Content-Type", kind))
        if key == "":
            key = f"stranger-{next(self._numbers)}-{secrets.token_hex(4)}" if method == "POST" else None
        if key is not None:
            given.append(("Idempotency-Key", key))
        return await self.edge.send(method, path, given, content, within=within)

    async def reveal(self, token: str) -> Answer:
        """Without the log's proof nothing is shown, and on a busy machine that may not come in time: then it is asked for again."""
        path, body = f"/v1/tokens/{token}/reveal", {"purpose": "chargeback.evidence"}
        answer = await self.call("POST", path, body)
        for _ in range(10):
            if answer.status != 503:
                break
            answer = await self.call("POST", path, body)
        return answer

    async def make(self, path: str, body: object) -> dict[str, Any]:
        answer = await self.call("POST", path, body)
        assert answer.status in {200, 201}, (path, answer)
        made: dict[str, Any] = answer.json
        return made
