"""The client between services, against real servers on Unix sockets that answer, stall, break off and lie."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.chassis import telemetry
from tallystick.chassis.call import Breaker, Client, RetryBudget
from tallystick.chassis.call.answers import Answered, Failed, problem_of
from tallystick.chassis.deadline import Deadline
from tallystick.kernel.problem import Conflict, DeadlineExceeded, Overloaded, Problem, Unprocessable, Upstream


class Echo(msgspec.Struct):
    method: str
    path: str
    headers: dict[str, str]
    body: Any


class InsufficientFunds(Unprocessable):
    slug, title = "insufficient-funds", "Not enough"

    def __init__(self, account: str) -> None:
        super().__init__(f"{account} has not enough", account=account)


class Server:
    """A server of a few lines that does what HTTP servers do wrong. `answers` are used in order, the last one for ever."""

    def __init__(self, path: Path, answers: list[bytes | float | None]) -> None:
        self.path = path
        self.answers = answers
        self.requests: list[Echo] = []
        self.at_once = 0
        self.peak = 0
        self.hold: asyncio.Event | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *rest = head.strip().split("\r\n")
                method, path, _ = line.split(" ")
                headers = {name.lower(): value for name, _, value in (each.partition(": ") for each in rest)}
                raw = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append(Echo(method, path, headers, json.loads(raw) if raw else None))
                answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
                self.at_once += 1
                self.peak = max(self.peak, self.at_once)
                if self.hold is not None:
                    await self.hold.wait()
                self.at_once -= 1
                if answer is None:
                    break
                if isinstance(answer, float):
                    await asyncio.sleep(answer)
                    answer = http(200, self.requests[-1])
                writer.write(answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def http(status: int, body: object = None, *, media: str = "application/json", more: str = "") -> bytes:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {media}\r\nContent-Length: {len(content)}\r\n{more}\r\n"
    return head.encode() + content


def problem(kind: Problem) -> bytes:
    return http(kind.status, kind.document("r1"), media="application/problem+json")


Start = Callable[..., Awaitable[tuple[Client, Server]]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    servers: list[asyncio.Server] = []
    clients: list[Client] = []
    with TemporaryDirectory(dir="/tmp") as folder:

        async def begin(
            *answers: bytes | float | None, timeout: float = 60.0, retries: int = 0, breaker: Breaker | None = None
        ) -> tuple[Client, Server]:
            path = Path(folder) / f"{len(servers)}.sock"
            server = Server(path, list(answers))
            servers.append(await asyncio.start_unix_server(server.serve, path))
            client = Client(path, "ledger", timeout=timeout, retries=retries, breaker=breaker)
            clients.append(client)
            return client, server

        yield begin
        for client in clients:
            await client.close()
        for each in servers:
            each.close()


OK = http(200, {"ok": True})


class Ok(msgspec.Struct):
    ok: bool


async def test_sends_budget_trace_and_token_and_decodes_the_answer(start: Start) -> None:
    client, server = await start(OK)
    with telemetry.continued("00-" + "a" * 32 + "-" + "b" * 16 + "-00"), Deadline.after(30).scope():
        answer = await client.request("POST", "/internal/transfers", {"n": 1}, answer=Ok, token="t.o.k")
    assert answer == Ok(ok=True)
    sent = server.requests[0]
    assert (sent.method, sent.path, sent.body) == ("POST", "/internal/transfers", {"n": 1})
    assert sent.headers["txn-token"] == "t.o.k"
    assert sent.headers["traceparent"].split("-")[1] == "a" * 32
    assert 0 < int(sent.headers["tallystick-timeout-ms"]) <= 30_000, "not the client's own minute"
    assert sent.headers["host"] == "ledger"


async def test_connections_are_kept(start: Start) -> None:
    client, server = await start(OK)
    for _ in range(5):
        await client.request("GET", "/x", answer=Ok)
    assert len(server.requests) == 5
    assert client._session is not None
    assert client._session.connector is not None
    assert sum(len(free) for free in client._session.connector._conns.values()) == 1


async def test_bytes_and_nothing(start: Start) -> None:
    client, _ = await start(OK)
    assert await client.request("GET", "/x", answer=bytes) == b'{"ok":true}'
    await client.request("DELETE", "/x")


async def test_expected_problem_comes_back_as_its_class_with_extensions(start: Start) -> None:
    client, server = await start(problem(InsufficientFunds("acc_1")), retries=3)
    with pytest.raises(InsufficientFunds) as caught:
        await client.request("POST", "/x", {}, answer=Ok, idempotent=True, problems=(InsufficientFunds,))
    assert caught.value.extensions == {"account": "acc_1"}
    assert caught.value.detail == "acc_1 has not enough"
    assert len(server.requests) == 1


async def test_unexpected_problem_is_our_failure_and_tells_nothing_of_theirs(start: Start) -> None:
    client, _ = await start(problem(Conflict("secret inner detail")))
    with pytest.raises(Upstream) as caught:
        await client.request("POST", "/x", {}, answer=Ok)
    assert "secret inner" not in str(caught.value.document())
    assert caught.value.outcome_unknown is False
    assert caught.value.context["slug"] == "conflict"


async def test_a_failure_inside_the_target_leaves_the_outcome_open(start: Start) -> None:
    client, server = await start(problem(Problem("boom")), retries=2)
    with pytest.raises(Upstream) as caught:
        await client.request("POST", "/x", {}, answer=Ok, idempotent=True)
    assert caught.value.outcome_unknown is True
    assert len(server.requests) == 1


async def test_busy_target_is_told_on(start: Start) -> None:
    client, _ = await start(problem(Overloaded()))
    with pytest.raises(Overloaded):
        await client.request("POST", "/x", {}, answer=Ok)


async def test_connection_lost_under_way_is_not_repeated_and_unknown(start: Start) -> None:
    client, server = await start(None, OK, retries=3)
    with pytest.raises(Upstream) as caught:
        await client.request("POST", "/x", {}, answer=Ok)
    assert caught.value.outcome_unknown is True
    assert len(server.requests) == 1


async def test_connection_lost_under_way_is_repeated_when_idempotent(start: Start) -> None:
    client, server = await start(None, http(503, b"upstream reset", media="text/plain"), OK, retries=3)
    assert await client.request("POST", "/x", {}, answer=Ok, idempotent=True) == Ok(ok=True)
    assert len(server.requests) == 3


async def test_retries_end(start: Start) -> None:
    client, server = await start(None, retries=2)
    with pytest.raises(Upstream) as caught:
        await client.request("POST", "/x", {}, answer=Ok, idempotent=True)
    assert caught.value.outcome_unknown is True
    assert len(server.requests) == 3


async def test_what_was_never_sent_is_repeated_and_known(start: Start) -> None:
    unhealthy = http(503, b"no healthy upstream", media="text/plain")
    client, server = await start(unhealthy, OK, retries=1)
    assert await client.request("POST", "/x", {}, answer=Ok) == Ok(ok=True)
    client, server = await start(unhealthy, retries=1)
    with pytest.raises(Upstream) as caught:
        await client.request("POST", "/x", {}, answer=Ok)
    assert caught.value.outcome_unknown is False
    assert len(server.requests) == 2


async def test_an_attempt_that_may_have_acted_counts_even_if_the_last_did_not(start: Start) -> None:
    client, _ = await start(None, http(503, b"no healthy upstream", media="text/plain"), retries=1)
    with pytest.raises(Upstream) as caught:
        await client.request("POST", "/x", {}, answer=Ok, idempotent=True)
    assert caught.value.outcome_unknown is True


async def test_no_socket() -> None:
    client = Client(Path("/tmp/there-is-no-such.sock"), "ledger", timeout=1.0)
    with pytest.raises(Upstream) as caught:
        await client.request("POST", "/x", {}, answer=Ok)
    assert caught.value.outcome_unknown is False
    await client.close()


async def test_late_answer(start: Start) -> None:
    client, server = await start(30.0, timeout=0.1, retries=2)
    with pytest.raises(DeadlineExceeded) as caught:
        await client.request("POST", "/x", {}, answer=Echo, idempotent=True)
    assert caught.value.outcome_unknown is True
    assert len(server.requests) <= 1, "it may have been on its way still, and is not sent again"


async def test_callers_deadline_shortens_the_budget_and_an_expired_one_sends_nothing(start: Start) -> None:
    client, _ = await start(3600.0, timeout=3600.0)
    with Deadline.after(0.1).scope(), pytest.raises(DeadlineExceeded):
        await client.request("POST", "/x", {}, answer=Echo)
    client, server = await start(OK)
    with Deadline.after(-1).scope(), pytest.raises(DeadlineExceeded) as caught:
        await client.request("POST", "/x", {}, answer=Echo)
    assert caught.value.outcome_unknown is False
    assert server.requests == []


@pytest.mark.parametrize(
    "answer",
    [
        http(200, b"not json"),
        http(200, {"ok": "yes"}),
        http(200, b"\xff\xfe"),
        b"HTTP/1.1 200 X\r\nContent-Length: 10\r\n\r\nshort",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Length: 99999999999\r\n\r\n",
        http(302, b"", more="Location: http://elsewhere/\r\n"),
        http(404, b"<html>", media="application/problem+json"),
    ],
)
async def test_nonsense_is_upstreams_failure(start: Start, answer: bytes) -> None:
    client, _ = await start(answer, timeout=0.5)
    with pytest.raises((Upstream, DeadlineExceeded)):
        await client.request("POST", "/x", {}, answer=Ok)


async def test_chunked_answer_has_a_bound(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallystick.chassis.call.client.MAX_ANSWER", 1000)
    chunk = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    client, _ = await start(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 3 + b"0\r\n\r\n")
    with pytest.raises(Upstream):
        await client.request("POST", "/x", {}, answer=bytes)


async def test_breaker_opens_answers_at_once_and_closes_again(start: Start) -> None:
    now = [0.0]
    client, server = await start(*[None] * 5, OK, breaker=Breaker(monotonic=lambda: now[0]))
    for _ in range(5):
        with pytest.raises(Upstream):
            await client.request("POST", "/x", {}, answer=Ok)
    with pytest.raises(Upstream) as caught:
        await client.request("POST", "/x", {}, answer=Ok)
    assert caught.value.outcome_unknown is False
    assert len(server.requests) == 5
    now[0] = 1.1
    assert await client.request("POST", "/x", {}, answer=Ok) == Ok(ok=True)
    assert await client.request("POST", "/x", {}, answer=Ok) == Ok(ok=True)


async def test_answers_of_a_gateway_without_a_target_open_the_breaker(start: Start) -> None:
    breaker = Breaker(monotonic=lambda: 0.0)
    client, server = await start(http(503, b"no healthy upstream", media="text/plain"), breaker=breaker)
    for _ in range(8):
        with pytest.raises(Upstream):
            await client.request("POST", "/x", {}, answer=Ok)
    assert len(server.requests) == 5


async def test_refusals_do_not_open_the_breaker(start: Start) -> None:
    client, server = await start(problem(InsufficientFunds("acc_1")))
    for _ in range(12):
        with pytest.raises(InsufficientFunds):
            await client.request("POST", "/x", {}, answer=Ok, problems=(InsufficientFunds,))
    assert len(server.requests) == 12


@pytest.mark.parametrize("answer", [problem(Problem("an accident")), problem(Unprocessable("not listed"))])
async def test_whatever_answers_closes_the_breaker_even_if_it_is_not_as_agreed(start: Start, answer: bytes) -> None:
    now = [0.0]
    gone = http(503, b"no healthy upstream", media="text/plain")
    client, server = await start(*[gone] * 5, *[answer] * 3, breaker=Breaker(monotonic=lambda: now[0]))
    for _ in range(5):
        with pytest.raises(Upstream):
            await client.request("POST", "/x", {}, answer=Ok)
    now[0] = 1.1
    for _ in range(3):
        with pytest.raises(Upstream):
            await client.request("POST", "/x", {}, answer=Ok)
    assert len(server.requests) == 8


async def test_a_problem_may_have_members_that_are_called_as_our_arguments_are(start: Start) -> None:
    document = {
        "type": "https://tallystick.dev/problems/insufficient-funds",
        "title": "x",
        "status": 422,
        "detail": "d",
        "headers": 1,
        "context": 2,
    }
    client, _ = await start(http(422, document, media="application/problem+json"))
    with pytest.raises(InsufficientFunds) as caught:
        await client.request("POST", "/x", {}, problems=(InsufficientFunds,))
    assert caught.value.extensions == {"headers": 1, "context": 2}


async def test_an_expected_deadline_says_that_the_outcome_is_unknown(start: Start) -> None:
    """It came back without saying so, and whoever asked it ended with an AttributeError."""
    client, _ = await start(problem(DeadlineExceeded()))
    with pytest.raises(DeadlineExceeded) as caught:
        await client.request("POST", "/x", {}, problems=(DeadlineExceeded,))
    assert caught.value.outcome_unknown


async def test_connections_and_those_who_wait_are_bounded(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tallystick.chassis.call.client.MAX_CONNECTIONS", 4)
    monkeypatch.setattr("tallystick.chassis.call.client.MAX_WAITING", 6)
    client, server = await start(OK)
    server.hold = asyncio.Event()
    calls = [asyncio.create_task(client.request("POST", "/x", {}, answer=Ok)) for _ in range(20)]
    done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_EXCEPTION)
    assert all(isinstance(call.exception(), Overloaded) for call in done)
    while len(server.requests) < 4:
        await asyncio.sleep(0.01)
    server.hold.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(each, Overloaded) for each in results) == 10
    assert results.count(Ok(ok=True)) == 10
    assert server.peak == 4


async def test_cancelled_call_gives_its_place_back(start: Start) -> None:
    client, server = await start(30.0, timeout=20.0)
    for _ in range(70):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await client.request("POST", "/x", {}, answer=Echo)
    server.answers = [OK]
    assert await client.request("POST", "/x", {}, answer=Ok) == Ok(ok=True)


async def test_a_closed_client_stays_closed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opened a new session, which nobody closed; and one that was being closed raised aiohttp's RuntimeError."""
    monkeypatch.setattr("tallystick.chassis.call.client.MAX_CONNECTIONS", 1)
    client, server = await start(OK, retries=5)
    assert await client.request("GET", "/x", answer=Ok) == Ok(ok=True)
    server.hold = asyncio.Event()
    under_way, waiting = [asyncio.create_task(client.request("GET", "/x", answer=Ok)) for _ in range(2)]
    while len(server.requests) < 2:
        await asyncio.sleep(0.01)
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    late = asyncio.create_task(client.request("GET", "/x", answer=Ok))
    await closing
    problems = await asyncio.gather(under_way, waiting, late, return_exceptions=True)
    await client.close()
    with pytest.raises(Upstream) as caught:
        await client.request("GET", "/x", answer=Ok)
    for each, unknown in zip([*problems, caught.value], [True, False, False, False], strict=True):
        assert isinstance(each, Upstream)
        assert (each.context["reason"], each.outcome_unknown) == ("client closed", unknown)
    assert len(server.requests) == 2
    server.hold.set()


# ---- pure parts ------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["ok", "fail", "wait"]), max_size=60))
def test_breaker_is_open_exactly_after_five_failures_in_a_row(events: list[str]) -> None:
    now = [0.0]
    breaker = Breaker(monotonic=lambda: now[0])
    row = 0
    for event in events:
        if event == "wait":
            now[0] += 1.0
        elif breaker.allow():
            if event == "ok":
                breaker.succeeded()
                row = 0
            else:
                breaker.failed()
                row += 1
        assert breaker.open == (row >= 5)


def test_only_one_probe_goes_out() -> None:
    now = [0.0]
    breaker = Breaker(monotonic=lambda: now[0])
    for _ in range(5):
        breaker.failed()
    now[0] = 1.0
    assert [breaker.allow() for _ in range(10)].count(True) == 1


def test_retries_are_a_tenth_of_successes() -> None:
    budget = RetryBudget(saved=2)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    for _ in range(10):
        budget.succeeded()
    assert [budget.take() for _ in range(2)] == [True, False]


@given(
    status=st.integers(300, 599), body=st.binary(max_size=200), media=st.sampled_from(["", "application/problem+json"])
)
def test_any_answer_is_a_problem(status: int, body: bytes, media: str) -> None:
    try:
        found = problem_of("x", Answered(status, {"Content-Type": media}, body), (InsufficientFunds,))
    except Failed as failed:
        assert isinstance(failed.problem, Upstream)
        assert failed.sent == (status >= 500) or b"no healthy" in body
    else:
        assert isinstance(found, Problem)
