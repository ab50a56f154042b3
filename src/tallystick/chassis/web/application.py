"""The way of a request: find the row, check who asks, read the body, do it, answer, write one line.

Plain ASGI over an endpoint table. It is our own because it is on the way of every payment; `bench/` has what it costs.
The order of the checks is: path, way in, size, room, token, policy, rate, body. Nothing of a body is looked at before its
sender is known.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
from opentelemetry.trace import SpanKind

from tallystick.chassis.deadline import Deadline
from tallystick.chassis.telemetry import context, metrics
from tallystick.chassis.telemetry.logs import log, request_done
from tallystick.chassis.telemetry.traces import span
from tallystick.chassis.web.bound import SECONDS, Bound, RequestTimeout
from tallystick.chassis.web.decode import invalid
from tallystick.chassis.web.messages import Headers, Reply, Request
from tallystick.chassis.web.openapi import openapi
from tallystick.chassis.web.routing import Router
from tallystick.chassis.web.table import Endpoint
from tallystick.kernel.problem import (
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    Problem,
    Unavailable,
)

if TYPE_CHECKING:
    from tallystick.chassis.auth import Subject
    from tallystick.chassis.auth.authenticator import Authenticator
    from tallystick.chassis.auth.cedar import Authorizer
    from tallystick.chassis.limits import Limits

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: The handler's own calls end at the deadline and say what they know; this is for one that does not.
GRACE_SECONDS = 0.25

PEER = b"x-tallystick-peer"
_ONCE = (b"content-type", b"content-encoding", b"idempotency-key", b"txn-token", b"tallystick-timeout-ms")
_KEY = re.compile(rb"[\x20-\x7e]{1,255}")
_BUDGET = re.compile(rb"[1-9][0-9]{0,5}")
_PROBLEM = b"application/problem+json"
_UNLISTED = metrics.counter("problems_unlisted", "Problems that the endpoint's row does not list", ["route", "slug"])
_FAILURES = metrics.counter("requests_failed", "Requests that ended in an unexpected exception", ["route"])

_encode = msgspec.json.Encoder().encode


class _ClientGone(Exception):  # not an error of ours
    """The client hung up before its request was whole."""


class _Call:
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


class _Answer:
    __slots__ = ("content", "headers", "status")

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
        self.status = status
        self.headers = headers
        self.content = content


class Application:
    """The ASGI application of one service. Raises ValueError or TypeError for a table that can't be served.

    `ready()` says whether to send requests here, and the state of each part. `limits` bounds the requests in flight and counts
    rates; without it (tests, tools) nothing is limited.
    """

    def __init__(
        self,
        name: str,
        service: Any,
        endpoints: Iterable[Endpoint],
        *,
        authenticator: Authenticator | None = None,
        authorizer: Authorizer | None = None,
        limits: Limits | None = None,
        max_body_bytes: int = 1 << 20,
        max_mesh_body_bytes: int = 4 << 20,
        ready: Callable[[], tuple[bool, dict[str, bool]]] = lambda: (True, {}),
    ) -> None:
        table = tuple(endpoints)
        if authenticator is None and any(row.public is None for row in table):
            msg = f"{name} has rows that need an authenticator"
            raise ValueError(msg)
        if authorizer is None and any(row.public is None for row in table):
            msg = f"{name} has rows that need an authorizer: a policy.cedar"
            raise ValueError(msg)
        self._service = service
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._limits = limits
        self._gate = None if limits is None else limits.gate
        self._ready = ready
        self._router: Router[Bound] = Router()
        for row in table:
            self._router.add(row, Bound(row, max_body=max_mesh_body_bytes if row.mesh else max_body_bytes))
        document = _encode(openapi(name, table))
        self._own: dict[str, Callable[[], _Answer]] = {
            "/health/live": lambda: _plain(200, b'{"live":true}'),
            "/health/ready": self._readiness,
            "/metrics": lambda: _plain(200, metrics.exposition(), metrics.CONTENT_TYPE.encode()),
            f"/openapi/{name}.json": lambda: _plain(200, document),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    # ---- the way of a request ---------------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = self._own.get(scope["path"])
        if own is not None and scope["method"] == "GET":
            await _send(send, own())
            return
        started = perf_counter()
        call = _Call(scope, receive)
        bound: Bound | None = None
        token = context.enter(call.trace)
        try:
            try:
                bound, parameters = self._find(scope)
            except Problem as problem:
                answer = self._refuse(problem, call, None)
            else:
                if call.trace.sampled:
                    with span(bound.route, SpanKind.SERVER) as handle:
                        answer = await self._work(bound, parameters, call)
                        handle.set("status", answer.status)
                        if answer.status >= 500:
                            handle.fail()
                else:
                    answer = await self._work(bound, parameters, call)
            answer.headers.append((b"request-id", call.trace.trace_id.encode()))
            await _send(send, answer)
        except _ClientGone:
            answer = _Answer(499, [], b"")
        finally:
            context.leave(token)
        self._done(bound, call, answer, perf_counter() - started)
        if call.cancelled:
            raise asyncio.CancelledError

    def _find(self, scope: Scope) -> tuple[Bound, dict[str, str]]:
        # No path of ours needs an escape. Two spellings of one path are how access rules are walked around.
        if b"%" in scope.get("raw_path", b""):
            raise NotFound("There is nothing at this path.")
        return self._router.find(scope["method"], scope["path"])

    async def _work(self, bound: Bound, parameters: dict[str, str], call: _Call) -> _Answer:
        timer: asyncio.Timeout | None = None
        try:
            self._way_in(bound, call)
            deadline = Deadline.after(self._budget(bound, call))
            entered = deadline.enter()
            try:
                async with asyncio.timeout(deadline.remaining() + GRACE_SECONDS) as timer:
                    body = await _read(call, bound.max_body)
                    if self._gate is None:
                        reply = await self._serve(bound, parameters, call, body, deadline)
                    else:
                        await self._gate.enter()
                        try:
                            reply = await self._serve(bound, parameters, call, body, deadline)
                        finally:
                            self._gate.leave()
            finally:
                deadline.leave(entered)
            return self._render(bound, reply, call)
        except Problem as problem:
            return self._refuse(problem, call, bound)
        except _ClientGone:
            raise
        except asyncio.CancelledError:
            # Only a process that stops does this, to requests that outlast its patience: they are told so.
            call.cancelled = True
            stopping = Unavailable("The service is stopping. Ask again, with the same idempotency key.")
            answer = self._refuse(stopping, call, bound)
            answer.headers.append((b"connection", b"close"))
            return answer
        except Exception as error:  # noqa: BLE001  # whatever a handler raises ends here, as an answer without its text
            if timer is not None and timer.expired():
                late = RequestTimeout() if call.bytes_in < 0 else DeadlineExceeded()
                return self._refuse(late, call, bound)
            _FAILURES.labels(bound.route).inc()
            log.error("request.failed", route=bound.route, error=error)
            return self._refuse(Problem("Something failed on our side; the request id names it."), call, bound)

    def _way_in(self, bound: Bound, call: _Call) -> None:
        """Mesh rows are for the services that they name, edge rows for everyone but services."""
        if len(call.headers) != len(call.raw):
            _refuse_twice(call.raw)
        if bound.entry == "mesh":
            if self._authenticator is None:
                raise Forbidden
            call.caller = self._authenticator.peer(call.raw)
            if call.caller not in bound.callers:
                raise Forbidden("This is not for the service that asks.", context={"caller": call.caller})
        elif PEER in call.headers and bound.entry == "edge":
            raise NotFound("There is nothing at this path.")

    @staticmethod
    def _budget(bound: Bound, call: _Call) -> float:
        """Seconds. A service says how much of its own time is left; a client has no say in ours."""
        text = call.headers.get(b"tallystick-timeout-ms") if bound.entry == "mesh" else None
        if text is None:
            return bound.timeout
        if _BUDGET.fullmatch(text) is None:
            raise InvalidRequest("Tallystick-Timeout-Ms is not a whole number of milliseconds from 1 to 999999.")
        return min(int(text) / 1000, bound.timeout)

    async def _serve(
        self, bound: Bound, parameters: dict[str, str], call: _Call, raw_body: bytes, deadline: Deadline
    ) -> Reply[Any]:
        await self._admit(bound, call)
        query = self._query(bound, call)
        endpoint = bound.endpoint
        body = bound.body(raw_body, call.headers)
        key = None
        if endpoint.idempotency is not None:
            key = self._idempotency_key(call, required=endpoint.idempotency == "required")
        request = Request(
            body=body,
            query=query,
            path=parameters,
            headers=Headers(call.raw),
            raw_body=raw_body,
            route=bound.route,
            trace_id=call.trace.trace_id,
            deadline=deadline,
            subject=call.subject,
            caller=call.caller,
            idempotency_key=key,
            judge=(lambda tokens: self._judge(bound, call, tokens)) if bound.entry == "mesh" else None,
        )
        return await endpoint.handler(self._service, request)

    async def _admit(self, bound: Bound, call: _Call) -> None:
        """Token, scope, policy and rate. Raises the problem of the first that says no."""
        endpoint = bound.endpoint
        if bound.entry == "edge" and self._authenticator is not None:
            subject = await self._authenticator.edge(
                call.scope["method"], call.scope["path"], call.raw, money=bound.money
            )
            call.subject = subject
            if endpoint.scope is not None:
                subject.require_scope(endpoint.scope)
            self._allow(bound, subject)
            if endpoint.rate is not None and self._limits is not None:
                await self._limits.rate(subject, endpoint.rate)
        elif bound.entry == "mesh" and self._authenticator is not None and call.caller is not None:
            token = call.headers.get(b"txn-token")
            if token is not None:
                call.subject = await self._authenticator.transaction(token.decode("latin-1"), call.caller)
                self._allow(bound, call.subject)
        elif endpoint.rate is not None and self._limits is not None:
            address = call.headers.get(b"x-envoy-external-address", b"")[:64].decode("latin-1")
            await self._limits.take(f"address:{address}", endpoint.rate)

    def _allow(self, bound: Bound, subject: Subject) -> None:
        if self._authorizer is None:
            raise Forbidden
        self._authorizer.require(subject, action=bound.endpoint.action, resource=bound.resource(subject.tenant))

    async def _judge(self, bound: Bound, call: _Call, tokens: Sequence[str]) -> list[Subject | Problem]:
        judged: list[Subject | Problem] = []
        for token in tokens:
            if self._authenticator is None or call.caller is None:
                judged.append(Forbidden())
                continue
            try:
                subject = await self._authenticator.transaction(token, call.caller)
                self._allow(bound, subject)
            except Problem as problem:
                judged.append(problem)
            else:
                judged.append(subject)
        return judged

    @staticmethod
    def _query(bound: Bound, call: _Call) -> Any:
        raw: bytes = call.scope["query_string"]
        if bound.query is not None:
            return bound.query(raw)
        if raw:
            raise invalid("", "this endpoint takes no query parameters")
        return None

    @staticmethod
    def _idempotency_key(call: _Call, *, required: bool) -> str | None:
        value: bytes | None = call.headers.get(b"idempotency-key")
        if value is None:
            if required:
                raise InvalidRequest("This needs the header Idempotency-Key: a name of yours for this one request.")
            return None
        if _KEY.fullmatch(value) is None:
            raise InvalidRequest("Idempotency-Key is 1 to 255 printable ASCII characters.")
        return value.decode("ascii")

    # ---- answers ----------------------------------------------------------------------------------------------------

    def _render(self, bound: Bound, reply: Reply[Any], call: _Call) -> _Answer:
        content = reply.content
        if content is None:
            content = b"" if reply.value is None else _encode(reply.value)
        status = bound.endpoint.status if reply.status is None else reply.status
        headers = [] if reply.headers is None else _header_list(reply.headers.items())
        if content and not any(name == b"content-type" for name, _ in headers):
            produces = bound.endpoint.produces if status < 400 else _PROBLEM.decode()
            headers.append((b"content-type", produces.encode()))
        if reply.replayed:
            call.replayed = True
            headers.append((b"idempotent-replayed", b"true"))
        return _Answer(status, headers, content)

    def _refuse(self, problem: Problem, call: _Call, bound: Bound | None) -> _Answer:
        call.slug = problem.slug
        route = "(none)" if bound is None else bound.route
        if bound is not None and problem.status != 500 and not bound.lists(problem):
            _UNLISTED.labels(route, problem.slug).inc()
            log.warning("problem.unlisted", route=route, slug=problem.slug)
        if problem.context:
            log.info("request.refused", **{**problem.context, "route": route, "slug": problem.slug})
        try:
            content = _encode(problem.document(call.trace.trace_id))
        except (TypeError, ValueError) as error:  # an extension that is no JSON: a bug, but the answer stays the answer
            log.error("problem.not-rendered", route=route, slug=problem.slug, error=error)
            content = _encode(Problem(problem.title).document(call.trace.trace_id) | {"status": problem.status})
        return _Answer(problem.status, [(b"content-type", _PROBLEM), *_header_list(problem.headers.items())], content)

    def _done(self, bound: Bound | None, call: _Call, answer: _Answer, seconds: float) -> None:
        if bound is None:
            SECONDS.labels("(none)", str(answer.status)).observe(seconds)
        else:
            bound.observe(answer.status, seconds)
        subject = call.subject
        request_done(
            route="(none)" if bound is None else bound.route,
            status=answer.status,
            seconds=seconds,
            trace=call.trace.trace_id,
            tenant=None if subject is None else subject.tenant,
            client=None if subject is None else subject.client_id,
            caller=call.caller,
            slug=call.slug,
            replayed=call.replayed,
            bytes_in=max(call.bytes_in, 0),
            bytes_out=len(answer.content),
        )

    def _readiness(self) -> _Answer:
        good, parts = self._ready()
        return _plain(200 if good else 503, _encode({"ready": good, "parts": parts}))


def _plain(status: int, content: bytes, kind: bytes = b"application/json") -> _Answer:
    return _Answer(status, [(b"content-type", kind)], content)


def _header_list(pairs: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in pairs]


async def _send(send: Send, answer: _Answer) -> None:
    headers = answer.headers
    headers.append((b"content-length", b"%d" % len(answer.content)))
    if not any(name == b"cache-control" for name, _ in headers):
        headers.append((b"cache-control", b"no-store"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.content})


async def _read(call: _Call, limit: int) -> bytes:
    """The whole body. While it is on its way `call.bytes_in` is negative: a timeout then is the client's, not ours."""
    length = call.headers.get(b"content-length")
    if length is None:
        if b"transfer-encoding" not in call.headers:
            return b""
    elif not length.isdigit() or int(length[:20]) > limit:
        raise _too_large(limit)
    elif length == b"0":
        return b""
    call.bytes_in = -1
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await call.receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            break
    call.bytes_in = size
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(limit: int) -> PayloadTooLarge:
    # The rest of the body is not worth reading, so the connection can't go on.
    return PayloadTooLarge(f"The body is larger than {limit} bytes.", headers={"Connection": "close"}, limit=limit)


def _refuse_twice(raw: Sequence[tuple[bytes, bytes]]) -> None:
    names = [name for name, _ in raw]
    for name in _ONCE:
        if names.count(name) > 1:
            raise InvalidRequest(f"The header {name.decode()} is there twice.")


async def _lifespan(receive: Receive, send: Send) -> None:
    """What a service opens and closes is `app.run`'s business, so there is nothing to do here but to say so."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
