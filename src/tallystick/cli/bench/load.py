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
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools

from tallystick.cli.apiclient import ApiClient

#: Requests that are due but not sent: more than this, and the run is cut short, for the queue only grows.
MAX_BACKLOG = 20_000
REQUEST_TIMEOUT = 30.0


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
    """One HTTP/1.1 connection with one request at a time. `sent_at` is when the one that waits was sent, None while none does."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self.sent_at: float | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own streams don't say that they are

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._fail(error or ConnectionResetError("closed by the edge"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.give_up(ConnectionResetError(str(error)))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        body, self._body = b"".join(self._body), []
        if not self._parser.should_keep_alive():
            self.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result((self._parser.get_status_code(), body))

    async def send(self, request: bytes) -> tuple[int, bytes]:
        if self._transport is None or self.closed:
            raise ConnectionResetError("not connected")
        self._waiting = self._loop.create_future()
        self.sent_at = time.perf_counter()
        self._transport.write(request)
        try:
            return await self._waiting
        finally:
            self.sent_at = None

    def give_up(self, error: Exception) -> None:
        self._fail(error)
        self.close()

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


class Generator:
    """`judge` looks at a good answer's body and names what is wrong with it, or gives None."""

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
        self._watch: asyncio.Task[None] | None = None
        self._token = ""
        self._ath = ""
        self._token_until = 0.0
        self._htus: dict[str, str] = {}
        # Each proof has a name of its own: one random part for the run, and a number.
        self._run = os.urandom(12).hex()
        self._numbers = itertools.count()

    async def open(self) -> None:
        for _ in range(self._size):
            self._idle.append(await self._connect())
        self._watch = asyncio.create_task(self._give_up_in_time())

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        for connection in self._idle:
            connection.close()
        await asyncio.sleep(0.05)

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            Connection, self._host, self._port, ssl=self._tls
        )
        self._all.add(connection)
        return connection

    async def _give_up_in_time(self) -> None:
        """One look a second at all connections: a timer for each request would cost more than the rest of sending it."""
        while True:
            await asyncio.sleep(1.0)
            self._all = {connection for connection in self._all if not connection.closed}
            late = time.perf_counter() - REQUEST_TIMEOUT
            for connection in self._all:
                if connection.sent_at is not None and connection.sent_at < late:
                    connection.give_up(TimeoutError("no answer in time"))

    async def closed_loop(self, shots: Callable[[], Shot], seconds: float) -> Result:
        """Every connection sends its next request when it has the answer: what the platform can do at most."""
        result = Result()
        await self._fresh_token()
        started = time.perf_counter()
        ends = started + seconds

        async def worker(connection: Connection) -> Connection:
            while (now := time.perf_counter()) < ends:
                await self._fresh_token()
                connection = await self._shoot(connection, shots(), now, started, result)
            return connection

        workers = [worker(self._idle.popleft()) for _ in range(len(self._idle))]
        self._idle.extend(await asyncio.gather(*workers))
        result.seconds = time.perf_counter() - started
        return result

    async def open_loop(self, shots: Callable[[], Shot], seconds: float, rate: float) -> Result:
        """`rate` requests a second, whatever the answers do."""
        result = Result(offered=rate)
        await self._fresh_token()
        due: deque[float] = deque()
        free = asyncio.Semaphore(0)
        started = time.perf_counter()
        total = int(seconds * rate)
        done = 0

        async def worker(connection: Connection) -> Connection:
            nonlocal done
            while True:
                await free.acquire()
                if not due:
                    return connection
                at = due.popleft()
                await self._fresh_token()
                connection = await self._shoot(connection, shots(), at, started, result)
                done += 1

        tasks = [asyncio.create_task(worker(self._idle.popleft())) for _ in range(len(self._idle))]
        queued = 0
        while queued < total:
            now = time.perf_counter()
            while queued < total and started + queued / rate <= now:
                due.append(started + queued / rate)
                queued += 1
                free.release()
            if len(due) > MAX_BACKLOG:
                result.unsent = len(due) + total - queued
                due.clear()
                break
            await asyncio.sleep(max(0.0, min(started + queued / rate - time.perf_counter(), 0.005)))
        for _ in tasks:
            free.release()
        # Each worker takes what is still due before it finds nothing and ends.
        while due:
            await asyncio.sleep(0.01)
        for _ in tasks:
            free.release()
        self._idle.extend(await asyncio.gather(*tasks))
        result.seconds = time.perf_counter() - started
        return result

    async def _shoot(
        self, connection: Connection, shot: Shot, due: float, started: float, result: Result
    ) -> Connection:
        try:
            if connection.closed:
                connection = await self._connect()
            status, body = await connection.send(self._request(shot))
        except (OSError, TimeoutError):
            result.broken += 1
            connection.close()
            return connection
        now = time.perf_counter()
        result.statuses[status] += 1
        if status < 300:
            wrong = self._judge(body)
            if wrong is None:
                result.latencies.append(now - due)
                result.per_second[int(now - started)] += 1
            else:
                result.refusals[wrong] += 1
        return connection

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
        now = time.monotonic()
        if now < self._token_until:
            return
        self._token_until = now + 1.0
        token = await self._api.token()
        self._token = f"DPoP {token}" if self._proves else f"Bearer {token}"
        self._ath = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
