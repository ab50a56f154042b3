"""The two ends of a request as ASGI has them: its head and body in, status, headers and content out."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from tallystick.chassis.call import TIMEOUT_HEADER, TOKEN_HEADER
from tallystick.chassis.telemetry import context
from tallystick.kernel.deployment import SHARD_HEADER
from tallystick.kernel.problem import InvalidRequest, PayloadTooLarge

if TYPE_CHECKING:
    from tallystick.chassis.auth import Subject

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: Bytes. A smaller body lies in the proxy's buffers anyway, nearly whole.
LARGE = 100_000
#: Digits of a Content-Length that are read: more of them are too large for every limit.
MAX_LENGTH_DIGITS = 18
#: Bytes of a body that is too large that are read and dropped before the answer, and the seconds that this may take.
MAX_DISCARDED = 4 << 20
DISCARD_SECONDS = 2.0

#: Names of headers as they arrive.
SHARD, TIMEOUT, TOKEN = (name.lower().encode() for name in (SHARD_HEADER, TIMEOUT_HEADER, TOKEN_HEADER))
_ONCE = (b"content-type", b"content-encoding", b"idempotency-key", TOKEN, TIMEOUT, SHARD)


class ClientGone(Exception):  # not an error of ours
    """The client hung up before its request was whole."""


class Call:
    """What is known of one request so far; the canonical line is made of it."""

    __slots__ = (
        "bytes_in",
        "caller",
        "cancelled",
        "headers",
        "raw",
        "receive",
        "replayed",
        "scope",
        "slug",
        "subject",
        "trace",
    )

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope = scope
        self.receive = receive
        self.raw: Sequence[tuple[bytes, bytes]] = scope["headers"]
        self.headers = dict(self.raw)
        parent = self.headers.get(b"traceparent")
        self.trace = (parent and context.parse(parent.decode("latin-1"))) or context.begin()
        self.subject: Subject | None = None
        self.caller: str | None = None
        self.slug: str | None = None
        self.replayed = False
        self.cancelled = False
        self.bytes_in = 0


class Answer:
    __slots__ = ("content", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
        self.status = status
        self.headers = headers
        self.content = content


def plain(status: int, content: bytes, kind: bytes = b"application/json") -> Answer:
    return Answer(status, [(b"content-type", kind)], content)


def header_list(pairs: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in pairs]


async def send_answer(scope: Scope, send: Send, answer: Answer) -> None:
    """What is asked by HEAD has the headers that GET would have, the length too, and no content."""
    headers = answer.headers
    headers.append((b"content-length", b"%d" % len(answer.content)))
    if not any(name == b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"no-store"))
    if scope["method"] == "HEAD":
        answer.content = b""
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.content})


async def read_body(call: Call, limit: int) -> bytes:
    """The whole body. While it is on its way `call.bytes_in` is negative: a timeout then is the client's, not ours."""
    length = _announced(call)
    if length == 0:
        return b""
    if length is not None and length > limit:
        raise _too_large(limit)
    call.bytes_in = -1
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await call.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            await _discard(call, message)
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            break
    call.bytes_in = size
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def is_large(call: Call, limit: int) -> bool:
    """Whether its body may be so large that many of them would fill the memory, and is not too large."""
    if limit < LARGE:
        return False
    length = _announced(call)
    return length is None or LARGE <= length <= limit


def _announced(call: Call) -> float | None:
    """How many bytes of body the head announces; None where it does not say (chunked), infinity for nonsense."""
    text = call.headers.get(b"content-length")
    if text is None:
        return None if b"transfer-encoding" in call.headers else 0
    digits = text.lstrip(b"0")
    if not text.isdigit() or len(digits) > MAX_LENGTH_DIGITS:
        return math.inf
    return int(digits or b"0")


async def drop_body(call: Call) -> None:
    """Of a request that is refused before its body was read."""
    await _discard(call, {"more_body": True})


async def _discard(call: Call, message: MutableMapping[str, Any]) -> None:
    """Read on for a while and keep nothing, so that who sends a little too much has sent it before the answer comes. What there is beyond
    that the server reads and drops after the answer: who closes while the other side still sends has it find a broken connection
    instead of the answer, and the edge would say 503 and "outcome not known" for what is plainly refused.
    """
    size = 0
    with contextlib.suppress(TimeoutError):  # too large it is already, whatever is still to come
        async with asyncio.timeout(DISCARD_SECONDS):
            while message.get("more_body", False) and size < MAX_DISCARDED:
                message = await call.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                size += len(message.get("body", b""))


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit} bytes.", limit=limit)


def refuse_twice(raw: Sequence[tuple[bytes, bytes]]) -> None:
    names = [name for name, _ in raw]
    for name in _ONCE:
        if names.count(name) > 1:
            raise InvalidRequest(f"The header {name.decode()} is there twice.")


async def lifespan(receive: Receive, send: Send) -> None:
    """What a service opens and closes is `app.run`'s business, so there is nothing to do here but to say so."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
