"""Calls from one service to another through its mesh socket: deadlines, bounded retries where they are safe, a circuit breaker, and
problems as classes.

The mesh does load balancing, health checks and authentication. The rest costs about 0.2 ms of CPU a call (aiohttp), which is why
the clients in `contracts` batch their calls (`chassis.batching`).
"""

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, cast, overload

import aiohttp
import msgspec
from opentelemetry.trace import SpanKind

from tallystick.chassis import telemetry
from tallystick.chassis.call.answers import Answered, Failed, problem_of
from tallystick.chassis.call.breaker import Breaker, RetryBudget
from tallystick.chassis.deadline import budget
from tallystick.kernel.problem import DeadlineExceeded, Overloaded, Problem, Upstream

T = TypeVar("T")

TIMEOUT_HEADER: Final = "Tallystick-Timeout-Ms"
TOKEN_HEADER: Final = "Txn-Token"  # noqa: S105 - draft-ietf-oauth-transaction-tokens
MAX_ANSWER: Final = 16 * 1024 * 1024  # bytes
MAX_CONNECTIONS: Final = 64
MAX_WAITING: Final = 512
BACKOFF: Final = 0.025  # seconds before the first retry, doubled for each further one; half of the pause is random
MAX_BACKOFF: Final = 0.25

_encoder = msgspec.json.Encoder()
_retries = telemetry.counter("call_retries_total", "Calls tried again", ["target"])
_failures = telemetry.counter("call_failures_total", "Calls that brought no answer to rely on", ["target"])
_seconds = telemetry.histogram("call_seconds", "Duration of calls with their retries", ["target"])


class Client:
    """The client of one target. Make one per target and process, inside the event loop; `close` it at the end. A closed client stays
    closed: its calls raise Upstream, those that were under way with `outcome_unknown`.
    """

    def __init__(
        self,
        socket: Path,
        target: str,
        *,
        timeout: float,
        retries: int = 0,
        breaker: Breaker | None = None,
    ) -> None:
        """`timeout` (seconds, retries included) and `retries` are the charter's `[calls.<target>]`."""
        self.target = target
        self._socket = socket
        self._timeout = timeout
        self._retries = retries
        self._breaker = breaker or Breaker()
        self._budget = RetryBudget()
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)
        self._waiting = 0
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
        self._context = {"target": target}
        self._retried, self._failed = _retries.labels(target), _failures.labels(target)
        self._duration = _seconds.labels(target)

    @overload
    async def request(
        self,
        method: str,
        path: str,
        body: object = ...,
        *,
        answer: type[T],
        idempotent: bool | None = ...,
        problems: tuple[type[Problem], ...] = ...,
        timeout: float | None = ...,
        token: str | None = ...,
        headers: Mapping[str, str] | None = ...,
    ) -> T: ...

    @overload
    async def request(
        self,
        method: str,
        path: str,
        body: object = ...,
        *,
        answer: None = ...,
        idempotent: bool | None = ...,
        problems: tuple[type[Problem], ...] = ...,
        timeout: float | None = ...,
        token: str | None = ...,
        headers: Mapping[str, str] | None = ...,
    ) -> None: ...

    async def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        answer: type[T] | None = None,
        idempotent: bool | None = None,
        problems: tuple[type[Problem], ...] = (),
        timeout: float | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T | None:
        """Call the target and decode its answer as `answer` (`bytes`: undecoded; None: the answer is not read).

        `body` is a msgspec type or JSON bytes. `idempotent`: repeating the call has no further effect, so it may be retried; by
        default that holds for GET, HEAD, PUT and DELETE. `timeout` (seconds) can only shorten the charter's. `token` is the
        transaction token.

        Raises one of `problems` when the target answered with it, `Overloaded` or `RateLimited` when the target is too busy,
        `DeadlineExceeded` when the time ran out, and `Upstream` for everything else. The last two have `outcome_unknown` set when the
        target may have acted.
        """
        if idempotent is None:
            idempotent = method in {"GET", "HEAD", "PUT", "DELETE"}
        whole = self._timeout if timeout is None else min(timeout, self._timeout)
        seconds = budget(whole)
        loop = asyncio.get_running_loop()
        started = loop.time()
        if seconds <= 0:
            raise DeadlineExceeded(outcome_unknown=False, context=self._context)
        if self._waiting >= MAX_WAITING:
            raise Overloaded(context=self._context)
        content = body if isinstance(body, bytes) or body is None else _encoder.encode(body)
        call = _Call(method, path, content, self._headers(content, token, headers))
        attempts = 1 + self._retries
        sent = False
        with telemetry.span(f"{method} {self.target}", SpanKind.CLIENT, target=self.target, path=path):
            call.headers["traceparent"] = telemetry.traceparent()
            try:
                for attempt in range(attempts):
                    try:
                        body = await self._attempt(call, seconds - (loop.time() - started), problems)
                        return self._decoded(body, answer)
                    except Failed as failed:
                        sent = sent or failed.sent
                        pause = min(MAX_BACKOFF, BACKOFF * 2**attempt) * (0.5 + random.random() / 2)  # noqa: S311
                        if (
                            attempt + 1 == attempts
                            or not failed.again
                            or (sent and not idempotent)
                            or loop.time() - started + pause >= seconds
                            or not self._budget.take()
                        ):
                            self._failed.inc()
                            raise _final(failed.problem, sent=sent) from failed.__cause__
                        self._retried.inc()
                        await asyncio.sleep(pause)
            finally:
                self._duration.observe(loop.time() - started)
        raise AssertionError("the last attempt returns or raises")

    async def close(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _attempt(self, call: "_Call", seconds: float, problems: tuple[type[Problem], ...]) -> bytes:
        """One attempt. Raises Failed when there is no usable answer, and a Problem when that is the answer."""
        if not self._breaker.allow():
            raise self._unreachable("breaker open", sent=False, again=False, down=False)
        begun = False
        try:
            async with asyncio.timeout(seconds), _Place(self):
                if self._closed:
                    raise self._unreachable("client closed", sent=False, again=False, down=False)
                begun = True
                answered = await self._exchange(call, seconds)
            if answered.status >= 300:
                problem = problem_of(self.target, answered, problems)
                self._breaker.succeeded()  # a refusal is an answer
                raise problem
        except Failed as failed:
            if not failed.down:
                self._breaker.succeeded()  # it did answer, though not as agreed
            self._note(failed)
            raise
        except TimeoutError as error:
            late = DeadlineExceeded(f"The service {self.target} did not answer in time.", context=self._context)
            # With less than half of the usual time this says nothing about the target: the caller had too little left.
            no_answer = Failed(late, sent=begun, again=False, down=seconds >= self._timeout / 2)
            self._note(no_answer)
            raise no_answer from error
        except (aiohttp.ClientConnectorError, ConnectionRefusedError, FileNotFoundError) as error:
            raise self._unreachable(type(error).__name__, sent=False) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(type(error).__name__, sent=True) from error
        self._breaker.succeeded()
        self._budget.succeeded()
        return answered.body

    def _headers(self, content: bytes | None, token: str | None, more: Mapping[str, str] | None) -> dict[str, str]:
        headers = {"Host": self.target}
        if content is not None:
            headers["Content-Type"] = "application/json"
        if token is not None:
            headers[TOKEN_HEADER] = token
        if more:
            headers.update(more)
        return headers

    async def _exchange(self, call: "_Call", seconds: float) -> Answered:
        session = self._session or self._open()
        call.headers[TIMEOUT_HEADER] = str(max(1, int(seconds * 1000)))
        async with session.request(
            call.method,
            f"http://{self.target}{call.path}",
            data=call.content,
            headers=call.headers,
            allow_redirects=False,
        ) as response:
            parts: list[bytes] = []
            size = response.content_length or 0
            if size <= MAX_ANSWER:
                size = 0
                async for part in response.content.iter_any():
                    parts.append(part)
                    size += len(part)
                    if size > MAX_ANSWER:
                        break
            if size > MAX_ANSWER:
                raise aiohttp.ClientPayloadError("the answer is too long")
            return Answered(response.status, response.headers, parts[0] if len(parts) == 1 else b"".join(parts))

    def _open(self) -> aiohttp.ClientSession:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(self._socket), limit=MAX_CONNECTIONS, keepalive_timeout=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),  # `_attempt` has its own
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        return self._session

    def _decoded(self, body: bytes, answer: type[T] | None) -> T | None:
        if answer is None:
            return None
        if answer is bytes:
            return cast("T", body)
        decoder = self._decoders.get(answer)
        if decoder is None:
            decoder = self._decoders[answer] = msgspec.json.Decoder(answer)
        try:
            return cast("T", decoder.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._failed.inc()
            context = {**self._context, "reason": "unreadable answer"}
            raise Upstream(
                f"The service {self.target} did not answer as agreed.", outcome_unknown=True, context=context
            ) from error

    def _unreachable(self, reason: str, *, sent: bool, again: bool = True, down: bool = True) -> Failed:
        problem = Upstream(f"The service {self.target} is not available.", context={**self._context, "reason": reason})
        failed = Failed(problem, sent=sent, again=again, down=down)
        self._note(failed)
        return failed

    def _note(self, failed: Failed) -> None:
        if not failed.down:
            return
        if self._breaker.failed():
            telemetry.log.warning("call.breaker_opened", target=self.target, slug=failed.problem.slug)


class _Call(msgspec.Struct, frozen=True):
    method: str
    path: str
    content: bytes | None
    headers: dict[str, str]


class _Place:
    """One of the client's connections, for a block. The calls that wait for one are counted."""

    __slots__ = ("_client",)

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __aenter__(self) -> None:
        client = self._client
        client._waiting += 1
        try:
            await client._places.acquire()
        finally:
            client._waiting -= 1

    async def __aexit__(self, *_: object) -> None:
        self._client._places.release()


def _final(problem: Problem, *, sent: bool) -> Problem:
    """The problem for the caller. An earlier attempt may have acted even if the last one certainly did not."""
    if isinstance(problem, (Upstream, DeadlineExceeded)):
        problem.outcome_unknown = sent
    return problem
