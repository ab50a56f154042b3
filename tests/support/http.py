"""An ASGI application called in-process, and the real authenticator with a test's own keys behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from valkey.asyncio import Valkey

from tallystick.chassis.auth.authenticator import Authenticator
from tallystick.chassis.auth.identity import MeshIdentity
from tallystick.chassis.auth.replay import ProofStore
from tallystick.chassis.auth.revocation import RevocationFeed
from tallystick.chassis.call import Client
from tallystick.kernel.clock import SystemClock
from tests.support.tokens import MTLS_URL, PUBLIC_URL, TRUST_DOMAIN, Holder, IdentityServer, Issuer


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    content: bytes

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name.lower()]
        assert len(found) <= 1, f"{name} is there twice"
        return found[0] if found else None

    @property
    def json(self) -> Any:
        return json.loads(self.content)


async def ask(
    app: Any,
    method: str,
    target: str,
    body: bytes | list[bytes] | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
    *,
    json_type: bool = True,
) -> Answer:
    """One request to an ASGI application. A list of bytes is a body that comes in pieces, without its length."""
    parts = urlsplit(target)
    given = list(headers or [])
    names = {name for name, _ in given}
    if isinstance(body, list):
        given.append((b"transfer-encoding", b"chunked"))
    elif body is not None:
        given.append((b"content-length", b"%d" % len(body)))
    if body is not None and json_type and b"content-type" not in names:
        given.append((b"content-type", b"application/json"))
    pieces = list(body) if isinstance(body, list) else [body or b""]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not pieces:
            await asyncio.Event().wait()
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope = {
        "type": "http",
        "method": method,
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "headers": given,
    }
    await app(scope, receive, send)
    start, end = sent
    assert (start["type"], end["type"]) == ("http.response.start", "http.response.body")
    found = [(name.decode(), value.decode()) for name, value in start["headers"]]
    answer = Answer(start["status"], found, end["body"])
    if method == "HEAD":  # its length is that of the content which GET would bring
        assert answer.content == b""
    else:
        assert answer.header("content-length") == (None if answer.status == 204 else str(len(answer.content)))
    return answer


@dataclass
class World:
    """Identity's keys, one client with its own, and the authenticator that checks both."""

    issuer: Issuer
    holder: Holder
    identity: IdentityServer
    authenticator: Authenticator
    feed: RevocationFeed

    def edge(
        self, method: str, path: str, *, scope: str = "payments:write payments:read", **claims: Any
    ) -> list[tuple[bytes, bytes]]:
        """The headers of a good request from outside."""
        token = self.issuer.access(self.holder, scope=scope, **claims)
        return self.holder.headers(token, method=method, url=PUBLIC_URL + path)

    @staticmethod
    def mesh(service: str, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        """The headers of a request from another service, as the mesh hands it on."""
        return [(b"x-tallystick-peer", f"spiffe://{TRUST_DOMAIN}/ns/default/sa/{service}".encode()), *more]


@asynccontextmanager
async def world(directory: Path, valkey: Valkey) -> AsyncIterator[World]:
    issuer = Issuer()
    identity = IdentityServer(directory / "identity.sock", issuer)
    await identity.start()
    client = Client(identity.socket, "identity", timeout=30.0)
    inner = MeshIdentity(client)
    feed = RevocationFeed(inner.revocations)
    authenticator = Authenticator(
        public_url=PUBLIC_URL,
        mtls_url=MTLS_URL,
        trust_domain=TRUST_DOMAIN,
        identity=inner,
        proofs=ProofStore(valkey, "shop"),
        feed=feed,
        clock=SystemClock(),
    )
    running = asyncio.create_task(authenticator.run())
    try:
        async with asyncio.timeout(60):
            while not authenticator.ready:
                await asyncio.sleep(0.005)
        yield World(issuer, Holder(), identity, authenticator, feed)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await client.close()
        await identity.stop()
