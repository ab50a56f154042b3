"""A request as ASGI has it: head and body in; status, headers and content out."""

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

#: Bytes from which a body is large. The proxy's buffers hold nearly all of a smaller one anyway.
LARGE = 100_000
#: A Content-Length of more digits is larger than every limit and not read as a number.
MAX_LENGTH_DIGITS = 18
#: Of a body that is too large: how many bytes are read and dropped before the answer, and for how many seconds at most.
MAX_DISCARDED = 4 << 20
DISCARD_SECONDS = 2.0

#: Header names as ASGI gives them.
SHARD, TIMEOUT, TOKEN = (name.lower().encode() for name in (SHARD_HEADER, TIMEOUT_HEADER, TOKEN_HEADER))
_SINGLE_HEADERS = (b"content-type", b"content-encoding", b"idempotency-key", TOKEN, TIMEOUT, SHARD)


class ClientGone(Exception):  # not a failure on our side
    """The client hung up before its request was complete."""


class Call:
    """What is known of one request so far. Its canonical log line is made from this.

    `bytes_in` is the size of the body, negative while the body is being read. `slug` is that of the problem it was answered with.
    """

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
    """Send an answer. To HEAD it has the headers that GET would get, Content-Length included, and no content."""
    headers = answer.headers
    if answer.status != 204:  # which has none (RFC 9110 section 8.6)
        headers.append((b"content-length", b"%d" % len(answer.content)))
    if not any(name == b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"no-store"))
    if scope["method"] == "HEAD":
        answer.content = b""
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.content})


async def read_body(call: Call, limit: int) -> bytes:
    """The whole body. While it arrives `call.bytes_in` is negative: a timeout then is the client's fault, not ours.

    Raises PayloadTooLarge, and ClientGone when the client hangs up.
    """
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
    """Whether the body may be so large that many of them would fill the memory, yet within the limit."""
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
    """Read and drop the body of a request that is refused before its body was read."""
    await _discard(call, {"more_body": True})


async def _discard(call: Call, message: MutableMapping[str, Any]) -> None:
    """Read on for a while and keep nothing, so that a client that sends a little too much is done before the answer comes.

    The server reads and drops what is left after that. Closing the connection while the other side still sends would break it
    under the answer: the edge would then say 503, "outcome not known", for what is plainly refused.
    """
    size = 0
    with contextlib.suppress(TimeoutError):  # the refusal stands, whatever still comes
        async with asyncio.timeout(DISCARD_SECONDS):
            while message.get("more_body", False) and size < MAX_DISCARDED:
                message = await call.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                size += len(message.get("body", b""))


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit} bytes.", limit=limit)


def refuse_repeated_headers(raw: Sequence[tuple[bytes, bytes]]) -> None:
    """Raises InvalidRequest when a header that can have one value only was sent twice."""
    names = [name for name, _ in raw]
    for name in _SINGLE_HEADERS:
        if names.count(name) > 1:
            raise InvalidRequest(f"The header {name.decode()} is there twice.")


async def lifespan(receive: Receive, send: Send) -> None:
    """Answer ASGI's lifespan messages. `app.run` opens and closes what a service needs, so there is nothing to do."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
