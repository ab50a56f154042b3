"""The path of a request: find its row, check who is asking, read the body, call the handler, answer, write one log line.

Plain ASGI over an endpoint table. It is our own code because every payment goes through it; `bench/` shows what it costs.
The checks run in this order: path, entry (edge or mesh), size, free place, token, policy, rate, body. No body is decoded
before its sender is authenticated, and a large body is not even kept in memory until then.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import msgspec
from opentelemetry.trace import SpanKind

from tallystick.chassis.auth.authenticator import PEER_HEADER
from tallystick.chassis.call import TIMEOUT_HEADER
from tallystick.chassis.deadline import Deadline
from tallystick.chassis.shares import OWNER
from tallystick.chassis.telemetry import context, metrics
from tallystick.chassis.telemetry.logs import log, request_done
from tallystick.chassis.telemetry.traces import span
from tallystick.chassis.web.bound import SECONDS, Bound
from tallystick.chassis.web.decode import invalid
from tallystick.chassis.web.messages import Headers, Reply, Request
from tallystick.chassis.web.openapi import openapi
from tallystick.chassis.web.routing import Router
from tallystick.chassis.web.table import Endpoint
from tallystick.chassis.web.wire import (
    SHARD,
    TIMEOUT,
    TOKEN,
    Answer,
    Call,
    ClientGone,
    Receive,
    Scope,
    Send,
    drop_body,
    header_list,
    is_large,
    lifespan,
    plain,
    read_body,
    refuse_repeated_headers,
    send_answer,
)
from tallystick.kernel.deployment import HOME, SHARD_HEADER
from tallystick.kernel.numbers import found_in, suspect
from tallystick.kernel.problem import (
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    NotFound,
    Problem,
    RequestTimeout,
    Unavailable,
)

if TYPE_CHECKING:
    from tallystick.chassis.auth import Subject
    from tallystick.chassis.auth.authenticator import Authenticator
    from tallystick.chassis.auth.cedar import Authorizer
    from tallystick.chassis.limits import Limits

#: A handler's own calls end at the deadline and report what they know. This much later a handler that did not end is cancelled.
GRACE_SECONDS = 0.25

_KEY = re.compile(rb"[\x20-\x7e]{1,255}")
_BUDGET = re.compile(rb"[1-9][0-9]{0,5}")
_COLON = re.compile(rb"%3[Aa]")
_PROBLEM = b"application/problem+json"
#: Seconds: the Retry-After of a retryable problem that does not set one itself.
_DEFAULT_RETRY_AFTER = b"1"
_UNLISTED = metrics.counter(
    "answers_unlisted", "Problems and statuses that the endpoint's row does not list", ["route", "what"]
)
_FAILURES = metrics.counter("requests_failed", "Requests that ended in an unexpected exception", ["route"])

_encode = msgspec.json.Encoder().encode


class Application:
    """The ASGI application of one service. Raises ValueError or TypeError for a table that can't be served.

    `shard` is the shard of the service that this process serves: a request whose `Tallystick-Shard` names another one is refused.
    `shards` are the names of all shards, empty for a service without shards. `ready()` says whether requests may be sent here, and
    the state of each part. `limits` bounds the requests in flight and counts rates; without it (tests, tools) nothing is limited.
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
        shard: str = HOME,
        shards: Sequence[str] = (),
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
        self._shard = shard.encode()
        self._gate = None if limits is None else limits.gate
        self._ready = ready
        self._router: Router[Bound] = Router()
        for row in table:
            most = max_mesh_body_bytes if row.mesh else max_body_bytes
            self._router.add(row, Bound(row, max_body=most if row.max_body is None else min(row.max_body, most)))
        document = _encode(openapi(name, table, shards=shards))
        self._own: dict[str, Callable[[], Answer]] = {
            "/health/live": lambda: plain(200, b'{"live":true}'),
            "/health/ready": self._readiness,
            "/metrics": lambda: plain(200, metrics.exposition(), metrics.CONTENT_TYPE.encode()),
            f"/openapi/{name}.json": lambda: plain(200, document),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    # ---- a request --------------------------------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = self._own.get(scope["path"])
        call = Call(scope, receive)
        if own is not None and scope["method"] in ("GET", "HEAD"):
            answer = own()
            answer.headers.append((b"request-id", call.trace.trace_id.encode()))
            await send_answer(scope, send, answer)
            return
        started = perf_counter()
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
            await send_answer(scope, send, answer)
        except ClientGone:
            answer = Answer(499, [], b"")
        finally:
            context.leave(token)
        self._done(bound, call, answer, perf_counter() - started)
        if call.cancelled:
            raise asyncio.CancelledError

    def _find(self, scope: Scope) -> tuple[Bound, dict[str, str]]:
        # A second spelling of a path is a way around access rules, so no escape is taken but that of a colon: most libraries escape it in
        # a path parameter (RFC 3986 section 3.3 allows both). Only values contain colons; no rule and no route does.
        raw = scope.get("raw_path", b"")
        if b"%" in raw and b"%" in _COLON.sub(b"", raw):
            raise NotFound("There is nothing at this path.")
        return self._router.find(scope["method"], scope["path"])

    async def _work(self, bound: Bound, parameters: dict[str, str], call: Call) -> Answer:
        timer: asyncio.Timeout | None = None
        try:
            self._check_entry(bound, call)
            deadline = Deadline.after(self._budget(bound, call))
            entered = deadline.enter()
            try:
                async with asyncio.timeout(deadline.remaining() + GRACE_SECONDS) as timer:
                    admitted = bound.entry == "edge" and is_large(call, bound.max_body)
                    if admitted:
                        await self._admit_before_body(bound, call)
                    body = await read_body(call, bound.max_body)
                    if self._gate is None:
                        reply = await self._serve(bound, parameters, call, body, deadline, admitted=admitted)
                    else:
                        await self._gate.enter()
                        try:
                            reply = await self._serve(bound, parameters, call, body, deadline, admitted=admitted)
                        finally:
                            self._gate.leave()
            finally:
                deadline.leave(entered)
            return self._render(bound, reply, call)
        except Problem as problem:
            return self._refuse(problem, call, bound)
        except ClientGone:
            raise
        except asyncio.CancelledError:
            # Only a stopping process cancels requests, those that outlast its drain time. They get an answer that says so.
            call.cancelled = True
            stopping = Unavailable("The service is stopping. Ask again, with the same idempotency key.")
            answer = self._refuse(stopping, call, bound)
            answer.headers.append((b"connection", b"close"))
            return answer
        except Exception as error:  # noqa: BLE001  # whatever a handler raises becomes an answer that does not repeat its text
            if timer is not None and timer.expired():
                late = RequestTimeout() if call.bytes_in < 0 else DeadlineExceeded()
                return self._refuse(late, call, bound)
            _FAILURES.labels(bound.route).inc()
            log.error("request.failed", route=bound.route, error=error)
            return self._refuse(Problem("Something failed on our side; the request id names it."), call, bound)

    def _check_entry(self, bound: Bound, call: Call) -> None:
        """A mesh row takes requests of the services that it names only, an edge row those of everyone but services."""
        if len(call.headers) != len(call.raw):
            refuse_repeated_headers(call.raw)
        if bound.entry == "mesh":
            if self._authenticator is None:
                raise Forbidden
            call.caller = self._authenticator.peer(call.raw)
            if call.caller not in bound.callers:
                raise Forbidden("This is not for the service that asks.", context={"caller": call.caller})
        elif PEER_HEADER in call.headers and bound.entry == "edge":
            raise NotFound("There is nothing at this path.")
        elif call.headers.get(SHARD, self._shard) != self._shard:
            # The edge routes by this header, so it names no shard that exists, or the request did not come through the edge.
            raise InvalidRequest(f"{SHARD_HEADER} names no shard of this service.")

    @staticmethod
    def _budget(bound: Bound, call: Call) -> float:
        """The request's time budget in seconds. A calling service says how much of its own time is left; a client can't choose."""
        text = call.headers.get(TIMEOUT) if bound.entry == "mesh" else None
        if text is None:
            return bound.timeout
        if _BUDGET.fullmatch(text) is None:
            raise InvalidRequest(f"{TIMEOUT_HEADER} is not a whole number of milliseconds from 1 to 999999.")
        return min(int(text) / 1000, bound.timeout)

    async def _admit_before_body(self, bound: Bound, call: Call) -> None:
        """Admit the sender of a large body before it is read: a thousand strangers' bodies of a mebibyte each would fill the memory."""
        try:
            await self._admit(bound, call)
        except Problem:
            await drop_body(call)
            raise

    async def _serve(
        self,
        bound: Bound,
        parameters: dict[str, str],
        call: Call,
        raw_body: bytes,
        deadline: Deadline,
        *,
        admitted: bool,
    ) -> Reply[Any]:
        if not admitted:
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
        if bound.entry != "edge" or call.subject is None:
            return await endpoint.handler(self._service, request)
        OWNER.set(call.subject.tenant)
        try:
            return await endpoint.handler(self._service, request)
        finally:
            OWNER.set(None)

    async def _admit(self, bound: Bound, call: Call) -> None:
        """Check token, scope, policy and rate. Raises the problem of the first check that fails."""
        endpoint = bound.endpoint
        if bound.entry == "edge" and self._authenticator is not None:
            subject = await self._authenticator.edge(
                call.scope["method"], call.scope["path"], call.raw, strict=bound.strict
            )
            call.subject = subject
            if endpoint.scope is not None:
                subject.require_scope(endpoint.scope)
            self._allow(bound, subject)
            if endpoint.rate is not None and self._limits is not None:
                await self._limits.rate(subject, endpoint.rate)
        elif bound.entry == "mesh" and self._authenticator is not None and call.caller is not None:
            token = call.headers.get(TOKEN)
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

    async def _judge(self, bound: Bound, call: Call, tokens: Sequence[str]) -> list[Subject | Problem]:
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
    def _query(bound: Bound, call: Call) -> Any:
        raw: bytes = call.scope["query_string"]
        if bound.query is not None:
            return bound.query(raw)
        if raw and not bound.endpoint.ignores_query:
            raise invalid("", "this endpoint takes no query parameters")
        return None

    @staticmethod
    def _idempotency_key(call: Call, *, required: bool) -> str | None:
        value: bytes | None = call.headers.get(b"idempotency-key")
        if value is None:
            if required:
                raise InvalidRequest("This needs the header Idempotency-Key: a name of yours for this one request.")
            return None
        if _KEY.fullmatch(value) is None:
            raise InvalidRequest("Idempotency-Key is 1 to 255 printable ASCII characters.")
        if suspect(value) and (what := found_in(value.decode("ascii"))) is not None:
            raise InvalidRequest(f"Idempotency-Key holds {what}: it is kept, so make it a name without one.")
        return value.decode("ascii")

    # ---- answers ----------------------------------------------------------------------------------------------------

    def _render(self, bound: Bound, reply: Reply[Any], call: Call) -> Answer:
        content = reply.content
        if content is None:
            content = b"" if reply.value is None else _encode(reply.value)
        status = bound.endpoint.status if reply.status is None else reply.status
        if status < 400 and status not in bound.statuses:
            _UNLISTED.labels(bound.route, str(status)).inc()
            log.warning("status.unlisted", route=bound.route, status=status)
        headers = [] if reply.headers is None else header_list(reply.headers.items())
        if content and not any(name == b"content-type" for name, _ in headers):
            produces = bound.endpoint.produces if status < 400 else _PROBLEM.decode()
            headers.append((b"content-type", produces.encode()))
        if reply.replayed:
            call.replayed = True
            headers.append((b"idempotent-replayed", b"true"))
        return Answer(status, headers, content)

    def _refuse(self, problem: Problem, call: Call, bound: Bound | None) -> Answer:
        call.slug = problem.slug
        route = "(none)" if bound is None else bound.route
        if bound is not None and problem.status != 500 and not bound.lists(problem):
            _UNLISTED.labels(route, problem.slug).inc()
            log.warning("problem.unlisted", route=route, slug=problem.slug)
        if problem.context:
            log.info("request.refused", **{**problem.context, "route": route, "slug": problem.slug})
        try:
            content = _encode(problem.document(call.trace.trace_id))
        except (
            TypeError,
            ValueError,
        ) as error:  # an extension that is no JSON: a bug, but the status stays what it was
            log.error("problem.not-rendered", route=route, slug=problem.slug, error=error)
            content = _encode(Problem(problem.title).document(call.trace.trace_id) | {"status": problem.status})
        headers = [(b"content-type", _PROBLEM), *header_list(problem.headers.items())]
        if problem.retryable and problem.status >= 500 and not any(name == b"retry-after" for name, _ in headers):
            headers.append((b"retry-after", _DEFAULT_RETRY_AFTER))
        return Answer(problem.status, headers, content)

    def _done(self, bound: Bound | None, call: Call, answer: Answer, seconds: float) -> None:
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

    def _readiness(self) -> Answer:
        good, parts = self._ready()
        return plain(200 if good else 503, _encode({"ready": good, "parts": parts}))
