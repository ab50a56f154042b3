"""The load generator against a server that answers well, late, half, or not at all."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import uvloop
from cryptography import x509

from tallystick.chassis.auth import jose
from tallystick.cli import apiclient
from tallystick.cli.apiclient import ApiClient
from tallystick.cli.bench import _accounts, load
from tallystick.cli.bench.baseline import Yardstick, _Programs
from tallystick.cli.bench.load import Generator, Shot
from tallystick.cli.bench.usage import Meter
from tallystick.cli.client import fresh_certificate
from tallystick.cli.commands import dispatch
from tallystick.cli.credentials import Credentials, Signer
from tallystick.cli.output import Failed
from tallystick.local.layout import Layout
from tallystick.local.parts import Postgres
from tallystick.local.secrets import SecretFiles
from tests.fabric.support import Authority

Answer = Callable[[asyncio.StreamWriter, int], Awaitable[None]]


class Server:
    """Keeps the heads of requests; `answer(writer, number)` says what comes back."""

    def __init__(self, answer: Answer) -> None:
        self.heads: list[str] = []
        self.connections = 0
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await reader.readexactly(int(head.lower().split("content-length: ")[1].split("\r\n")[0]))
                self.heads.append(head)
                await self._answer(writer, len(self.heads))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def good(writer: asyncio.StreamWriter, number: int) -> None:
    del number
    writer.write(b"HTTP/1.1 201 Created\r\ncontent-le")
    await asyncio.sleep(0)
    writer.write(b"ngth: 2\r\n\r\nok")


@asynccontextmanager
async def generator(
    directory: Path, answer: Answer, certificate: dict[str, str] | None = None
) -> AsyncIterator[tuple[Generator, Server]]:
    """`certificate`: what the generator comes with, by the names of `Credentials`; the server insists on it."""
    authority = Authority(directory / "ca")
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.leaf("edge", x509.DNSName("localhost"), address))
    if certificate is not None:
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(cadata=certificate["tls_client_certificate"])
    server = Server(answer)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls) as listening:
        port = listening.sockets[0].getsockname()[1]

        async def token() -> str:
            return "token"

        url = f"https://localhost:{port}"
        credentials = Credentials(
            client_id="",
            tenant="",
            issuer=url,
            api=url,
            scope="",
            private_key_jwk={},
            ca=str(authority.root),
            **(certificate or {}),
        )
        api = SimpleNamespace(credentials=credentials, proof_key=Signer(), token=token)
        made = Generator(cast(ApiClient, api), connections=2, judge=lambda body: None if body == b"ok" else "no")
        await made.open()
        try:
            yield made, server
        finally:
            await made.close()


def shot() -> Shot:
    return Shot("/v1/transfers", b"{}", "key")


async def test_each_request_has_a_proof_of_its_own(directory: Path) -> None:
    async with generator(directory, good) as (made, server):
        result = await made.open_loop(shot, 0.2, 100)
    assert (result.good, result.broken, result.unsent, server.connections) == (20, 0, 0, 2)
    proofs = [head.split("DPoP: ")[1].split("\r\n")[0] for head in server.heads]
    claims: list[dict[str, Any]] = [msgspec.json.decode(jose.parse(proof, 4096).payload) for proof in proofs]
    assert len({each["jti"] for each in claims}) == 20
    assert {each["htm"] for each in claims} == {"POST"}
    assert all("Authorization: DPoP token\r\n" in head and "Idempotency-Key: key\r\n" in head for head in server.heads)


def test_between_two_requests_the_processor_is_left_to_what_is_measured(directory: Path) -> None:
    """uvloop's clock counts milliseconds: a pause of less than half of one is none, and a loop with such pauses never rests."""

    async def looks() -> tuple[int, int]:
        count = 0
        async with generator(directory, good) as (made, _):
            use_idle = made._use_idle

            def counted() -> None:
                nonlocal count
                count += 1
                use_idle()

            made._use_idle = counted  # type: ignore[method-assign]
            result = await made.open_loop(shot, 0.4, 1500)
        return result.good, count

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        good_ones, count = runner.run(looks())
    assert good_ones == 600
    assert count <= 450


async def test_with_a_certificate_nothing_is_signed(directory: Path) -> None:
    async with generator(directory, good, fresh_certificate("cli_one")) as (made, server):
        result = await made.open_loop(shot, 0.2, 100)
    assert (result.good, result.broken) == (20, 0)
    assert all("Authorization: Bearer token\r\n" in head and "DPoP" not in head for head in server.heads)


async def test_a_late_answer_is_given_up_and_the_next_request_has_a_new_connection(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        load, "REQUEST_TIMEOUT", 0.9
    )  # a second later all are looked at, and the others were sent a moment ago

    async def never_the_first(writer: asyncio.StreamWriter, number: int) -> None:
        if number > 1:
            await good(writer, number)

    async with asyncio.timeout(60), generator(directory, never_the_first) as (made, server):
        result = await made.closed_loop(shot, 2.5)
    assert result.broken == 1
    assert result.good > 1
    assert server.connections == 3


async def test_who_hangs_up_is_asked_again_on_another_connection(directory: Path) -> None:
    async def hangs_up_ten_times(writer: asyncio.StreamWriter, number: int) -> None:
        if number <= 10:
            writer.close()
        else:
            await good(writer, number)

    async with asyncio.timeout(60), generator(directory, hangs_up_ten_times) as (made, server):
        result = await made.open_loop(shot, 0.2, 100)
    assert (result.good, result.broken, result.unsent) == (10, 10, 0)
    assert server.connections == 12


async def test_what_is_due_while_nobody_listens_is_broken(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "RECONNECT_PAUSE", 0.001)
    failures = 5

    async with asyncio.timeout(60), generator(directory, good) as (made, server):
        connect = made._connect

        async def refused_at_first() -> load.Connection:
            nonlocal failures
            if failures:
                failures -= 1
                raise ConnectionRefusedError
            return await connect()

        monkeypatch.setattr(made, "_connect", refused_at_first)
        for connection in list(made._all):
            connection.close()
        result = await made.open_loop(shot, 0.2, 100)
    assert result.good + result.broken == 20
    assert 0 <= result.broken <= 5
    assert (failures, result.good > 0, server.connections) == (0, True, 4)


async def test_answers_that_close_break_or_refuse_are_told_apart(directory: Path) -> None:
    async def by_turns(writer: asyncio.StreamWriter, number: int) -> None:
        answers = {
            1: b"HTTP/1.1 201 Created\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
            2: b"this is not HTTP\r\n\r\n",
            3: b"HTTP/1.1 429 Slow\r\ncontent-length: 0\r\n\r\n",
            4: b"HTTP/1.1 201 Created\r\ncontent-length: 3\r\n\r\nbad",
        }
        writer.write(answers[number])

    async with generator(directory, by_turns) as (made, server):
        result = await made.open_loop(shot, 0.1, 40)
    assert (result.good, result.broken, dict(result.statuses)) == (1, 1, {201: 2, 429: 1})
    assert dict(result.refusals) == {"no": 1}
    assert server.connections >= 3


async def test_accounts_that_got_no_money_are_no_ground_for_a_measurement() -> None:
    """What is posted each by itself is answered as done, also where each was refused."""

    class Edge:
        status = "posted"

        async def request(self, _method: str, path: str, _body: Any, **_: Any) -> apiclient.Answer:
            made = (
                {"id": "acc_1"} if path == "/v1/accounts" else {"data": [{"status": self.status, "reason": "ceiling"}]}
            )
            return apiclient.Answer(201, {}, msgspec.json.encode(made))

    edge = Edge()
    assert await _accounts(edge, "run", 2) == ["acc_1", "acc_1"]  # type: ignore[arg-type]
    edge.status = "rejected"
    with pytest.raises(Failed, match="ceiling"):
        await _accounts(edge, "run", 2)  # type: ignore[arg-type]


def test_the_password_of_the_yardstick_goes_with_it(directory: Path) -> None:
    layout = Layout(directory)
    layout.prepare()
    SecretFiles(layout.secrets).get(Postgres.name)
    with pytest.raises(KeyboardInterrupt), _Programs(layout):
        assert (layout.run / "bench.pgpass").stat().st_mode & 0o077 == 0
        raise KeyboardInterrupt
    assert not (layout.run / "bench.pgpass").exists()


async def test_a_baseline_that_came_to_nothing_is_said() -> None:
    """pgbench has no rate then; what it says began with its version, and was cut off before the end."""

    class Busy(_Programs):
        def __init__(self) -> None: ...

        async def run(self, program: str, *arguments: str, timeout: float = 60.0) -> str:
            return "pgbench (18.6)\nduration: 2 s\nnumber of transactions actually processed: 0\n"

    with pytest.raises(Failed, match=r"completed no transaction within 2 s.*--seconds"):
        await Yardstick(Busy(), 2).measure()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("payments", "--rate", "nan"), "--rate"),
        (("payments", "--rate", "inf"), "--rate"),
        (("payments", "--rate", "1e300"), "--rate"),
        (("payments", "--rate", "0"), "--rate"),
        (("payments", "--hot"), "for transfers only"),
        (("tokens", "--hot"), "for transfers only"),
    ],
)
def test_what_can_not_be_measured_is_refused(
    arguments: tuple[str, ...], said: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rates that are no number ended in a stack trace once the closed loop was over, and a report told of a hot account that there was not."""
    assert dispatch(["bench", *arguments, "--data", str(directory)]) == 2
    assert said in capsys.readouterr().err


async def test_connections_that_can_not_be_had_are_told(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was a stack trace."""
    async with generator(directory, good) as (made, _):

        async def connect() -> load.Connection:
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(made, "_connect", connect)
        with pytest.raises(Failed, match=r"connection 1 of 2 to https://localhost:\d+ failed: Too many open files"):
            await made.open()


def status_of(**pids: int) -> Any:
    parts = [SimpleNamespace(name=name, pid=pid) for name, pid in pids.items()]
    return SimpleNamespace(pid=os.getpid(), parts=parts, services=[])


def test_processes_that_end_during_a_run_are_left_out_of_its_usage() -> None:
    """One that ended before the measurement was a stack trace, and one that ended during it had used less than no time."""
    burning = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True)\ninput()"
    gone, ending = (
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for script in ("", burning)
    )
    gone.communicate()
    assert ending.stdout is not None
    ending.stdout.readline()
    meter = Meter(status_of(nats=gone.pid, valkey=ending.pid))
    ending.communicate(b"\n")
    usage = meter.stop()
    assert usage.cpu.keys() == usage.memory.keys() == {"supervisor"}


#: A server with a backend that has worked; at a line it ends, and another one works and ends.
SERVER = """
import os, time
open("/proc/self/comm", "w").write("postgres")
def backend(wait):
    if (pid := os.fork()) == 0:
        while time.process_time() < 0.2: pass
        print(flush=True)
        if wait: input()
        os._exit(0)
    return pid
first = backend(True)
os.waitpid(first, 0)
os.waitpid(backend(False), 0)
print(flush=True)
input()
"""


def test_what_backends_used_that_have_ended_is_counted() -> None:
    """A backend's end took away what it had used, and what began and ended during a run was never seen."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdout.readline()
        meter = Meter(status_of(postgres=server.pid))
        server.stdin.write(b"\n")
        server.stdin.flush()
        for _ in range(2):
            server.stdout.readline()
        used = meter.stop().cpu["postgres"]
        server.communicate(b"\n")
    assert used >= 0.15
