"""The load generator: many requests, each signed or none (by what the token is bound to), over few connections, at a rate that does not wait for the answers.

Open loop: request number n is *due* at n / rate, and its latency counts from then, whether or not a connection was free. A closed
loop would ask a slow server less often and call it fast (coordinated omission). HTTP is spoken by httptools over asyncio, because
the generator shares the machine with what it measures.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools

from tallystick.cli.apiclient import ApiClient, EdgeUnreachable, TokenRefused
from tallystick.cli.failure import PART_FAILED, Failed

#: Requests that are due but not sent: more than this, and the run is cut short, for the queue only grows.
MAX_BACKLOG = 20_000
REQUEST_TIMEOUT = 30.0
#: Seconds between two looks at what is due, at least: the event loop's clock counts milliseconds, and half of one is none, for which it
#: would look without a pause and take a processor from what it measures. Latencies count from when a request was due all the same.
TICK = 0.001
#: Seconds between two tries of a connection to get through.
RECONNECT_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Shot:
    """One request to be made: path, body and idempotency key."""

    path: str
    body: bytes
    key: str


@dataclass(slots=True)
class Result:
    """What came of a run. Latencies are seconds, each from when the request was due."""

    seconds: float = 0.0
    offered: float | None = None
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    #: Answers whose status was good but whose content was not.
    refusals: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    unsent: int = 0
    #: Good answers in each second of the run.
    per_second: Counter[int] = field(default_factory=Counter)

    @property
    def good(self) -> int:
        return sum(n for status, n in self.statuses.items() if status < 300) - sum(self.refusals.values())

    @property
    def sent(self) -> int:
        return sum(self.statuses.values()) + self.broken

    @property
    def rate(self) -> float:
        return self.good / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float | None:
        """Milliseconds."""
        ordered = sorted(self.latencies)
        if not ordered:
            return None
        return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, 2)


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection with one request at a time. Its `owner` is told of each answer, and when it is closed.

    `due` is when the request that waits for an answer was due, None while none does; `sent_at` is when it was sent. Callbacks and not
    a future for each request: the generator's own time is on the machine that it measures.
    """

    def __init__(self, owner: Generator) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self.due: float | None = None
        self.sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own streams don't say that they are

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self._transport = None
        self._owner.lost(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body, self._body = b"".join(self._body), []
        if not self._parser.should_keep_alive():
            self.close()
        if self.due is not None:
            due, self.due = self.due, None
            self._owner.answered(self, due, self._parser.get_status_code(), body)

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes, due: float) -> None:
        """On an open connection on which nothing waits."""
        if self._transport is not None:
            self.due = due
            self.sent_at = time.perf_counter()
            self._transport.write(request)

    def close(self) -> None:
        """At once: what waits has no answer, which `lost` counts."""
        if self._transport is not None:
            self._transport.abort()


class Generator:
    """`judge` looks at a good answer's body and names what is wrong with it, or gives None.

    One run at a time. Each connection sends what `_next` says when it has an answer, and else waits in `_idle`.
    """

    def __init__(self, api: ApiClient, *, connections: int, judge: Callable[[bytes], str | None]) -> None:
        parts = urlsplit(api.credentials.api)
        self._host, self._port = parts.hostname or "", parts.port or 443
        self._origin = f"https://{parts.netloc}"
        self._head = f" HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\nAuthorization: "
        self._tls = api.credentials.tls()
        self._proves = not api.credentials.certificate_bound
        self._api = api
        self._signer = api.proof_key
        self._size = connections
        self._judge = judge
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._closed = False
        #: When the next request was due, None if there is none now; and where its answer goes.
        self._next: Callable[[], float | None] = lambda: None
        self._shots: Callable[[], Shot] | None = None
        self._result = Result()
        self._started = 0.0
        self._quiet = asyncio.Event()
        self._token = ""
        self._ath = ""
        self._htus: dict[str, str] = {}
        # Each proof has a name of its own: one random part for the run, and a number.
        self._run = os.urandom(12).hex()
        self._numbers = itertools.count()

    async def open(self) -> None:
        """Raises Failed."""
        await self._fresh_token()
        for number in range(self._size):
            try:
                self._idle.append(await self._connect())
            except OSError as error:
                await self.close()
                why = f"connection {number + 1} of {self._size} to {self._origin} failed: {error.strerror or error}"
                raise Failed(why, PART_FAILED) from error
        self._watch = asyncio.create_task(self._look_after())

    async def close(self) -> None:
        self._closed = True
        for task in (self._watch, *self._connecting):
            if task is not None:
                task.cancel()
        for connection in self._all:
            connection.close()
        await asyncio.sleep(0.05)

    async def closed_loop(self, shots: Callable[[], Shot], seconds: float) -> Result:
        """Every connection sends its next request when it has the answer: what the platform can do at most."""
        result = self._begin(shots, None)
        ends = self._started + seconds

        def next_() -> float | None:
            now = time.perf_counter()
            return now if now < ends else None

        self._next = next_
        self._use_idle()
        await asyncio.sleep(seconds)
        return await self._end(result)

    async def open_loop(self, shots: Callable[[], Shot], seconds: float, rate: float) -> Result:
        """`rate` requests a second, whatever the answers do."""
        result = self._begin(shots, rate)
        due: deque[float] = deque()
        self._next = lambda: due.popleft() if due else None
        total, queued = int(seconds * rate), 0
        while queued < total:
            now = time.perf_counter()
            while queued < total and self._started + queued / rate <= now:
                due.append(self._started + queued / rate)
                queued += 1
            self._use_idle()
            if len(due) > MAX_BACKLOG:
                result.unsent = len(due) + total - queued
                due.clear()
                break
            await asyncio.sleep(max(TICK, min(self._started + queued / rate - time.perf_counter(), 0.005)))
        while due:
            await asyncio.sleep(0.01)
        return await self._end(result)

    def _begin(self, shots: Callable[[], Shot], rate: float | None) -> Result:
        self._shots = shots
        self._result = Result(offered=rate)
        self._started = time.perf_counter()
        return self._result

    async def _end(self, result: Result) -> Result:
        """When all that was sent is answered or given up."""
        self._next = lambda: None
        while any(connection.due is not None for connection in self._all):
            self._quiet.clear()
            await self._quiet.wait()
        result.seconds = time.perf_counter() - self._started
        return result

    def _use_idle(self) -> None:
        while self._idle:
            connection = self._idle.popleft()
            if not connection.open:
                continue  # `lost` has another one made
            if not self._go_on(connection):
                return

    def _go_on(self, connection: Connection) -> bool:
        """Whether there was something to send."""
        due = self._next()
        if due is None or self._shots is None:
            self._idle.append(connection)
            self._quiet.set()
            return False
        connection.send(self._request(self._shots()), due)
        return True

    def answered(self, connection: Connection, due: float, status: int, body: bytes) -> None:
        """Of a connection, and it is free again, unless it closes."""
        result = self._result
        result.statuses[status] += 1
        if status < 300:
            wrong = self._judge(body)
            if wrong is None:
                now = time.perf_counter()
                result.latencies.append(now - due)
                result.per_second[int(now - self._started)] += 1
            else:
                result.refusals[wrong] += 1
        if connection.open:
            self._go_on(connection)

    def lost(self, connection: Connection) -> None:
        """A connection is closed, by whichever side; another one takes its place."""
        self._all.discard(connection)
        if connection.due is not None:
            self._result.broken += 1
            connection.due = None
        self._quiet.set()
        if not self._closed:
            task = asyncio.create_task(self._replace())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _replace(self) -> None:
        """Connects until it succeeds; what was due meanwhile and had only this connection to go is broken."""
        while True:
            try:
                connection = await self._connect()
            except OSError:
                if self._next() is not None:
                    self._result.broken += 1
                await asyncio.sleep(RECONNECT_PAUSE)
            else:
                self._idle.append(connection)
                self._use_idle()  # which looks whether it is still open
                return

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self), self._host, self._port, ssl=self._tls
        )
        self._all.add(connection)
        return connection

    async def _look_after(self) -> None:
        """One look a second at all connections, and at the token: a timer for each request would cost more than the rest of sending it."""
        while True:
            await asyncio.sleep(1.0)
            late = time.perf_counter() - REQUEST_TIMEOUT
            for connection in list(self._all):
                if connection.due is not None and connection.sent_at < late:
                    connection.close()
            with suppress(EdgeUnreachable, TokenRefused):  # who goes on with one that is over is told so, and counts it
                await self._fresh_token()

    def _request(self, shot: Shot) -> bytes:
        head = f"POST {shot.path}{self._head}{self._token}\r\nContent-Length: {len(shot.body)}\r\n"
        if self._proves:
            head += f"DPoP: {self._proof(shot.path)}\r\n"
        return f"{head}Idempotency-Key: {shot.key}\r\n\r\n".encode() + shot.body

    def _proof(self, path: str) -> str:
        htu = self._htus.get(path)
        if htu is None:
            htu = self._htus[path] = json.dumps(self._origin + path)
        claims = f'{{"jti":"{self._run}{next(self._numbers)}","htm":"POST","htu":{htu},"iat":{int(time.time())},"ath":"{self._ath}"}}'
        return self._signer.sign_claims(claims.encode())

    async def _fresh_token(self) -> None:
        token = await self._api.token()
        self._token = f"DPoP {token}" if self._proves else f"Bearer {token}"
        self._ath = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
