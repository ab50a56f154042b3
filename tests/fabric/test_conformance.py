"""What the charters say, asked of a real Envoy: who reaches what, from inside and from outside, and what a bad replica costs.

The table (caller, target, path) -> answer is derived from the charters, so it grows with them.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import shutil
import socket
import ssl
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest
from cryptography import x509
from yarl import URL

from tallystick.chassis import charter as charters_module
from tallystick.chassis.charter import Charter
from tallystick.fabric import envoy
from tallystick.fabric.shards import with_shards
from tests.fabric import support

CHARTERS = charters_module.load_all()
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
TWO_SHARDS = with_shards(CHARTERS, ["eu"])
ACTIONS = sorted(
    {action for charter in CHARTERS.values() for actions in charter.callers.values() for action in actions}
)


@dataclass
class Mesh:
    topology: envoy.Topology
    authority: support.Authority
    folder: Path

    def edge(self) -> aiohttp.ClientSession:
        context = ssl.create_default_context(cafile=str(self.authority.root))
        return aiohttp.ClientSession(
            f"https://localhost:{self.topology.public_port}",
            connector=aiohttp.TCPConnector(ssl=context, limit=64, force_close=False),
        )

    def mutual(self, certificate: tuple[Path, Path] | None) -> aiohttp.ClientSession:
        """The edge's other port; `certificate` are its file and its key's."""
        context = ssl.create_default_context(cafile=str(self.authority.root))
        if certificate is not None:
            context.load_cert_chain(*certificate)
        return aiohttp.ClientSession(
            f"https://localhost:{self.topology.mtls_port}", connector=aiohttp.TCPConnector(ssl=context)
        )

    def service(self, caller: str, target: str) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            "http://mesh",
            headers={"traceparent": TRACE},
            connector=aiohttp.UnixConnector(str(self.topology.outbound(caller, target))),
        )

    def attempts(self, replica: str) -> int:
        log = self.folder / f"{replica}.sock.log"
        return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: Unix sockets have no room for pytest's."""
    path = Path(tempfile.mkdtemp(prefix="tlf", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@asynccontextmanager
async def mesh(
    folder: Path,
    replicas: dict[str, list[tuple[str, ...]]],
    charters: dict[str, Charter] = CHARTERS,
    rules: dict[str, Charter] | None = None,
    trace_percent: float = 0.0,
) -> AsyncIterator[Mesh]:
    """Envoy for `charters`, with echo replicas: service -> one tuple of `echo.py` arguments per replica.

    `rules` are other charters, for the inbound side only.
    """
    sockets = {
        name: tuple(folder / f"{name}-{index}.sock" for index in range(len(each))) for name, each in replicas.items()
    }
    topology = support.topology_in(folder, replicas=sockets, trace_percent=trace_percent)
    resources = envoy.resources(charters, topology)
    listeners = resources.listeners
    if rules is not None:
        strict = {listener["name"]: listener for listener in envoy.resources(rules, topology).listeners}
        listeners = [strict.get(one["name"], one) if one["name"].startswith("in-") else one for one in listeners]
    authority = support.Authority(folder / "ca")
    for name in charters_module.workloads(charters):
        (topology.mesh_dir / name).mkdir(parents=True)
    (topology.mesh_dir / "in").mkdir()
    config = envoy.fold(
        envoy.bootstrap(topology),
        listeners,
        resources.clusters,
        resources.endpoints,
        support.secrets(authority, topology, resources.secrets),
    )
    async with AsyncExitStack() as stack:
        for name, each in replicas.items():
            for index, arguments in enumerate(each):
                process = support.echo_replica(sockets[name][index], f"{name}-{index}", *arguments)
                await stack.enter_async_context(process)
        await stack.enter_async_context(support.running_envoy(config, folder))
        yield Mesh(topology, authority, folder)


async def ask(
    session: aiohttp.ClientSession, method: str, path: str | URL, **more: Any
) -> tuple[int, dict[str, Any], Any]:
    """Status, body (JSON) and headers."""
    async with session.request(method, path, **more) as answer:
        return answer.status, json.loads(await answer.read()), answer.headers


def problem(answer: tuple[int, dict[str, Any], Any]) -> tuple[int, str]:
    """Checks that an answer is a whole problem document of the proxy; gives (status, slug)."""
    status, body, headers = answer
    assert headers["content-type"] == "application/problem+json", (status, body)
    assert body["status"] == status
    assert set(body) - {"request_id", "sent"} == {"type", "title", "status", "detail", "retryable"}
    if "strict-transport-security" in headers:  # from the edge
        assert re.fullmatch(r"[0-9a-f-]{36}|edge-\d{16}-\d+", body["request_id"]), body
        assert headers["request-id"] == body["request_id"]
    return status, body["type"].rsplit("/", 1)[1]


def concrete(action: str) -> tuple[str, str]:
    method, path = action.split(" ", 1)
    return method, re.sub(r"\{[a-z_]+\}", "fct_01", path)


@pytest.mark.parametrize("charters", [CHARTERS, TWO_SHARDS], ids=["whole", "sharded"])
async def test_inside_each_caller_reaches_what_the_charters_grant_and_nothing_else(
    folder: Path, charters: dict[str, Charter]
) -> None:
    pairs = list(charters_module.pairs(charters))
    async with mesh(folder, {name: [()] for name in charters}, charters) as it:
        granted = refused = 0
        for caller, target in pairs:
            async with it.service(caller, target) as session:
                for action in ACTIONS:
                    method, path = concrete(action)
                    answer = await ask(session, method, path)
                    if action in charters[target].callers[caller]:
                        granted += 1
                        assert answer[0] == 200, (caller, target, action, answer)
                        assert answer[1]["replica"] == f"{target}-0"
                    else:
                        refused += 1
                        assert problem(answer) == (403, "forbidden"), (caller, target, action)
                    others = {"GET", "POST", "DELETE", "PUT"} - {
                        granted_action.split(" ")[0]
                        for granted_action in charters[target].callers[caller]
                        if granted_action.split(" ")[1] == action.split(" ")[1]
                    }
                    # who may GET may ask for the head of the same answer
                    async with session.head(path) as head:
                        assert head.status == (200 if "GET" not in others else 403), (caller, target, path)
                    for other in others:
                        assert (await ask(session, other, path))[0] == 403, (caller, target, other, path)
                for path in (
                    "/",
                    "/internal",
                    "/v1/transfers",
                    "/health/ready",
                    "/metrics",
                    "/internal/transfers/x",
                ):
                    assert (await ask(session, "GET", path))[0] == 403, (caller, target, path)
        assert granted == sum(len(actions) for charter in charters.values() for actions in charter.callers.values())
        assert refused > 0

        sockets = {path.relative_to(it.topology.mesh_dir) for path in it.topology.mesh_dir.glob("*/*.sock")}
        expected = {Path(caller) / f"{target}.sock" for caller, target in pairs}
        expected |= {Path("in") / f"{name}.sock" for name, charter in charters.items() if charter.callers}
        assert sockets == expected, "a way in that no charter names"
        for file in [*(it.topology.mesh_dir / socket for socket in sockets), it.topology.admin_socket]:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


async def test_a_foreign_service_can_not_call_a_shard(folder: Path) -> None:
    """Also with a way out that it should not have: the shard's side knows its certificate, and lets it do nothing."""
    payments, eu = TWO_SHARDS["payments"], TWO_SHARDS["ledger-eu"]
    bold = msgspec.structs.replace(payments, calls={**payments.calls, "ledger-eu": payments.calls["ledger"]})
    eager = msgspec.structs.replace(eu, callers={**eu.callers, "payments": eu.callers["ledger"]})
    loose = {**TWO_SHARDS, "payments": bold, "ledger-eu": eager}
    async with mesh(folder, {"ledger-eu": [()]}, loose, rules=TWO_SHARDS) as it:
        for caller, status in (("payments", 403), ("ledger", 200)):
            async with it.service(caller, "ledger-eu") as session:
                for path in ("/internal/arrivals", "/internal/books/lookups"):
                    assert (await ask(session, "POST", path, data=b"{}"))[0] == status, (caller, path)
                assert (await ask(session, "POST", "/internal/transfers", data=b"{}"))[0] == 403, caller


async def test_a_client_that_names_a_shard_gets_there(folder: Path) -> None:
    async with mesh(folder, {"ledger": [()], "ledger-eu": [()], "payments": [()]}, TWO_SHARDS) as it, it.edge() as edge:
        prefixes = [path.prefix for path in TWO_SHARDS["ledger"].edge.paths]
        for shard, replica in ((None, "ledger-0"), ("default", "ledger-0"), ("eu", "ledger-eu-0"), ("us", "ledger-0")):
            headers = {} if shard is None else {"Tallystick-Shard": shard}
            for method, more in (("GET", {}), ("POST", {}), ("POST", {"Idempotency-Key": "k"})):
                for prefix in prefixes:
                    status, seen, _ = await ask(edge, method, f"{prefix}/x", headers={**headers, **more})
                    assert (status, seen["replica"]) == (200, replica), (shard, method, prefix)
            seen = (await ask(edge, "GET", "/v1/payments", headers=headers))[1]
            assert seen["replica"] == "payments-0"
        limit = TWO_SHARDS["ledger-eu"].limits.max_body_bytes
        body = io.BytesIO(b"x" * (limit + 1))
        large = await ask(edge, "POST", "/v1/books", headers={"Tallystick-Shard": "eu"}, data=body)
        assert problem(large) == (413, "payload-too-large")


async def test_the_peer_is_the_certificates_not_what_a_caller_says(folder: Path) -> None:
    async with mesh(folder, {"ledger": [()]}) as it, it.service("payments", "ledger") as session:
        forged = {
            "x-tallystick-peer": "spiffe://test.tallystick/ns/tallystick/sa/vault",
            "x-forwarded-client-cert": "URI=x",
        }
        status, seen, _ = await ask(session, "POST", "/internal/transfers", headers=forged, data=b"{}")
        assert status == 200
        names = [key.lower() for key, _ in seen["headers"]]
        peers = [value for key, value in seen["headers"] if key.lower() == "x-tallystick-peer"]
        assert peers == ["spiffe://test.tallystick/ns/tallystick/sa/payments"]
        assert "x-forwarded-client-cert" not in names


@pytest.mark.parametrize(
    "trick", ["/internal//transfers", "/internal/%74ransfers", "/internal/x/../transfers", "/internal/transfers?x=1"]
)
async def test_spellings_of_a_granted_path_arrive_as_that_path_or_not_at_all(folder: Path, trick: str) -> None:
    async with mesh(folder, {"ledger": [()]}) as it, it.service("payments", "ledger") as session:
        status, seen, _ = await ask(session, "POST", URL("http://mesh" + trick, encoded=True))
        assert status in {200, 400, 403}
        if status == 200:
            assert seen["path"].split("?")[0] == "/internal/transfers"


async def test_a_certificate_of_a_service_that_is_not_a_caller_is_refused(folder: Path) -> None:
    """A workload that has its own, valid identity and a way to the socket still doesn't get in."""
    risk = CHARTERS["risk"]
    bold = msgspec.structs.replace(risk, calls={**risk.calls, "vault": CHARTERS["payments"].calls["vault"]})
    eager = msgspec.structs.replace(
        CHARTERS["vault"], callers={**CHARTERS["vault"].callers, "risk": ("POST /internal/forward",)}
    )
    loose = {**CHARTERS, "risk": bold, "vault": eager}
    async with mesh(folder, {"vault": [()]}, loose, rules=CHARTERS) as it:
        async with it.service("risk", "vault") as session:
            assert problem(await ask(session, "POST", "/internal/forward")) == (403, "forbidden")
        assert it.attempts("vault-0") == 0


async def test_the_inner_listener_wants_a_certificate_of_our_authority(folder: Path) -> None:
    async with mesh(folder, {"ledger": [()]}) as it:
        stranger = support.Authority(folder / "other", "another root")
        theirs = stranger.leaf("payments", x509.UniformResourceIdentifier(it.topology.spiffe("payments")))
        for pair in (None, theirs):
            context = ssl.create_default_context(cafile=str(it.authority.root))
            context.check_hostname = False
            context.set_alpn_protocols(["h2"])
            if pair:
                context.load_cert_chain(*pair)
            with pytest.raises((ssl.SSLError, ConnectionError)):
                reader, writer = await asyncio.open_unix_connection(
                    str(it.topology.inbound("ledger")), ssl=context, server_hostname="ledger"
                )
                writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
                await writer.drain()
                assert await reader.read(1) == b"", "it spoke to a stranger"
                raise ConnectionResetError


async def test_outside_only_the_charters_paths_exist(folder: Path) -> None:
    async with mesh(folder, {name: [()] for name in CHARTERS}) as it, it.edge() as session:
        for name, charter in CHARTERS.items():
            for prefix in (path.prefix for path in charter.edge.paths):
                for suffix in ("", "/x", "?limit=1"):
                    status, seen, headers = await ask(session, "GET", prefix + suffix)
                    assert (status, seen["replica"]) == (200, f"{name}-0")
                    assert headers["strict-transport-security"].startswith("max-age=")
                    assert headers["x-content-type-options"] == "nosniff"
                    assert "server" not in headers or headers["server"] == "tallystick"
                    async with session.head(prefix + suffix) as head:
                        assert (head.status, head.headers["content-type"]) == (200, "application/json")
                assert problem(await ask(session, "GET", prefix + "x")) == (404, "not-found"), "half a segment"
            status, seen, _ = await ask(session, "GET", f"/openapi/{name}.json")
            assert (status, seen["replica"]) == (200, f"{name}-0")
        inner = [concrete(action)[1] for action in ACTIONS]
        for path in (
            "/",
            "/health/ready",
            "/metrics",
            "/internal/jwks",
            "/v1",
            "/openapi/nobody.json",
            "/admin",
            *inner,
        ):
            for method in ("GET", "POST"):
                answer = await ask(session, method, path)
                assert problem(answer) == (404, "not-found"), path
                assert answer[2]["strict-transport-security"]
        status, body, headers = await ask(session, "GET", "/openapi.json")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert [entry["service"] for entry in body["data"]] == list(CHARTERS)
        async with session.head("/openapi.json") as head:
            assert (head.status, head.headers["content-length"]) == (200, headers["content-length"])


async def test_outside_what_only_the_platform_may_say_is_removed(folder: Path) -> None:
    forged = {
        "x-tallystick-peer": "spiffe://test.tallystick/ns/tallystick/sa/payments",
        "x-tallystick-certificate": "ab" * 32,
        "X-Tallystick-Anything": "1",
        "x-forwarded-client-cert": "URI=spiffe://evil",
        "x-forwarded-for": "10.0.0.1",
        "x-forwarded-host": "evil.example",
        "forwarded": "for=10.0.0.1",
        "x-real-ip": "10.0.0.1",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-retry-on": "5xx",
        "tallystick-timeout-ms": "1",
        "traceparent": "00-11111111111111111111111111111111-2222222222222222-01",
        "tracestate": "evil=1",
        "baggage": "evil=1",
        "x-request-id": "evil",
    }
    async with mesh(folder, {"payments": [()]}, trace_percent=100) as it:
        own = it.authority.leaf("client", x509.DNSName("client"))
        for session, ours in ((it.edge(), set()), (it.mutual(own), {"x-tallystick-certificate"})):
            async with session:
                await removed(session, forged, ours)


async def removed(session: aiohttp.ClientSession, forged: dict[str, str], ours: set[str]) -> None:
    """`ours`: what the edge itself sets there."""
    status, seen, _ = await ask(session, "POST", "/v1/payments", headers=forged, data=b"{}")
    assert status == 200
    arrived = {key.lower(): value for key, value in seen["headers"]}
    assert {key for key in arrived if key.startswith("x-tallystick")} == ours
    assert {key for key in arrived if key.startswith("x-envoy")} == {"x-envoy-external-address"}
    assert arrived["x-envoy-external-address"] != "10.0.0.1", "from the connection"
    assert not arrived.keys() & {"forwarded", "x-real-ip", "x-forwarded-host", "x-forwarded-client-cert"}
    assert not arrived.keys() & {"baggage", "tallystick-timeout-ms"}
    assert "10.0.0.1" not in arrived["x-forwarded-for"]
    assert arrived["x-request-id"] != "evil"
    version, trace, _, flags = arrived["traceparent"].split("-")
    assert (version, flags, len(trace)) == ("00", "01", 32), "100 % sampled here"
    assert trace != "1" * 32
    assert arrived.get("tracestate", "") == ""


async def test_outside_bad_requests_get_problem_documents(folder: Path) -> None:
    limit = CHARTERS["payments"].limits.max_body_bytes
    async with mesh(folder, {"payments": [()]}) as it, it.edge() as session:
        assert problem(await ask(session, "POST", "/v1/payments", data=b"x" * (limit + 1))) == (
            413,
            "payload-too-large",
        )
        assert it.attempts("payments-0") == 0, "refused before any byte of it was passed on"
        assert (await ask(session, "POST", "/v1/payments", data=b"x" * limit))[1]["bytes"] == limit
        for bad in ({"x-big": "x" * 30_000}, {f"x-{n}": "1" for n in range(80)}):
            assert problem(await ask(session, "GET", "/v1/payments", headers=bad)) == (431, "headers-too-large")
        for headers, path in (({"under_score": "1"}, "/v1/payments"), ({}, "/v1/payments/a%2fb")):
            url = URL(f"https://localhost:{it.topology.public_port}{path}", encoded=True)
            answer = await ask(session, "GET", url, headers=headers)
            assert problem(answer) == (400, "invalid-request")
            assert answer[1]["retryable"] is False
        upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        answer = await ask(session, "GET", "/v1/payments", headers=upgrade)
        assert problem(answer) == (403, "forbidden")
        assert "upgraded" in answer[1]["detail"], "nothing of who asks"
        # no replica at all: a problem that says so and may be tried again
        answer = await ask(session, "GET", "/v1/accounts")
        assert problem(answer) == (503, "unavailable")
        assert answer[2]["retry-after"] == "1"
        assert answer[1]["retryable"] is True


async def test_outside_speaks_tls_1_3_only_and_http_2(folder: Path) -> None:
    async with mesh(folder, {}) as it:
        old = ssl.create_default_context(cafile=str(it.authority.root))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection("localhost", it.topology.public_port, ssl=old)
        new = ssl.create_default_context(cafile=str(it.authority.root))
        new.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("localhost", it.topology.public_port, ssl=new)
        handshake = writer.get_extra_info("ssl_object")
        assert (handshake.version(), handshake.selected_alpn_protocol()) == ("TLSv1.3", "h2")
        writer.close()


async def test_outside_keys_are_agreed_on_that_no_quantum_computer_finds(folder: Path) -> None:
    """A client that knows the hybrid and nothing else is asked for its part of it; one that knows a group of ours besides is not turned away."""
    async with mesh(folder, {"payments": [()]}) as it:
        ports = (it.topology.public_port, it.topology.mtls_port)
        assert [await asyncio.to_thread(group_asked_for, port, [HYBRID]) for port in ports] == [HYBRID, HYBRID]
        assert await asyncio.to_thread(group_asked_for, ports[0], [P521]) is None
        async with it.edge() as session:
            assert (await ask(session, "GET", "/v1/payments"))[0] == 200


#: IANA's TLS supported groups: X25519MLKEM768, and one that is not offered.
HYBRID, P521 = 0x11EC, 0x0019


def group_asked_for(port: int, groups: list[int]) -> int | None:
    """The group of the server's HelloRetryRequest (RFC 8446, 4.1.4) to a client that knows `groups` and has sent a share of none."""

    def sized(width: int, content: bytes) -> bytes:
        return len(content).to_bytes(width, "big") + content

    extensions = {
        10: sized(2, b"".join(group.to_bytes(2, "big") for group in groups)),
        13: sized(2, b"\x04\x03"),  # ecdsa_secp256r1_sha256
        43: sized(1, b"\x03\x04"),  # TLS 1.3
        51: sized(2, b""),  # no share
    }
    hello = b"\x03\x03" + bytes(32) + sized(1, b"") + sized(2, b"\x13\x01") + sized(1, b"\x00")
    hello += sized(2, b"".join(kind.to_bytes(2, "big") + sized(2, content) for kind, content in extensions.items()))
    with socket.create_connection(("localhost", port), timeout=10) as raw:
        raw.sendall(b"\x16\x03\x01" + sized(2, b"\x01" + sized(3, hello)))
        answer = raw.recv(4096)
    retry = hashlib.sha256(b"HelloRetryRequest").digest()
    found = re.search(re.escape(retry) + rb".*\x00\x33\x00\x02(..)", answer, re.DOTALL)
    return int.from_bytes(found[1], "big") if found else None


async def test_the_coarse_limit_is_one_bucket_per_service(folder: Path) -> None:
    tight = msgspec.structs.replace(
        CHARTERS["payments"],
        edge=msgspec.structs.replace(CHARTERS["payments"].edge, per_second=1, burst=10),
    )
    charters = {**CHARTERS, "payments": tight}
    async with mesh(folder, {"payments": [()], "ledger": [()]}, charters) as it, it.edge() as session:
        answers = [await ask(session, "GET", path) for path in ("/v1/payments", "/v1/refunds") * 30]
        refused = [answer for answer in answers if answer[0] != 200]
        assert refused, "60 requests passed a bucket of 10"
        assert problem(refused[0]) == (429, "rate-limited")
        assert refused[0][2]["retry-after"] == "1"
        assert (await ask(session, "GET", "/v1/accounts"))[0] == 200, "another service's bucket"


async def load(session: aiohttp.ClientSession, count: int, *, keyed: bool) -> list[int]:
    """`count` POSTs, 16 at a time; their statuses in order of sending."""
    statuses = [0] * count
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            headers = {"idempotency-key": f"key-{number}"} if keyed else {}
            async with session.post("/v1/payments", data=b"{}", headers=headers) as answer:
                await answer.read()
                statuses[number] = answer.status

    async with asyncio.TaskGroup() as group:
        for _ in range(16):
            group.create_task(worker())
    return statuses


@pytest.mark.parametrize("keyed", [False, True])
async def test_a_killed_replica_costs_at_most_what_it_had_in_hand(folder: Path, keyed: bool) -> None:
    async with AsyncExitStack() as stack:
        it = await stack.enter_async_context(mesh(folder, {"payments": [(), ()]}))
        session = await stack.enter_async_context(it.edge())
        assert set(await load(session, 100, keyed=keyed)) == {200}
        running = asyncio.create_task(load(session, 3000, keyed=keyed))
        while it.attempts("payments-1") < 400:
            await asyncio.sleep(0.01)
        await kill_listener(it.folder / "payments-1.sock")
        statuses = await running
        failed = [status for status in statuses if status != 200]
        assert set(failed) <= {503}
        assert len(failed) <= (0 if keyed else 16), "more than the requests that were in flight"


async def kill_listener(socket: Path) -> None:
    """kill -9 of the echo process that listens on a socket."""
    for process in psutil.process_iter(["cmdline"]):
        if str(socket) in (process.info["cmdline"] or []):
            process.kill()
            return
    raise AssertionError(f"nobody listens on {socket}")


async def test_a_gray_replica_is_ejected_though_its_health_check_passes(folder: Path) -> None:
    async with mesh(folder, {"payments": [(), ("--gray",)]}) as it, it.edge() as session:
        # few enough for a busy machine to be done before the replica is given another try
        statuses = await load(session, 150, keyed=False)
        assert statuses.count(500) <= 5 + 16, "five in a row and what was in flight"
        assert set(statuses) == {200, 500}


async def test_the_only_replica_is_not_ejected(folder: Path) -> None:
    """A service that answers 500 is bad; a proxy that then answers 503 for it hides why."""
    async with mesh(folder, {"payments": [("--gray",)]}) as it, it.edge() as session:
        assert set(await load(session, 100, keyed=False)) == {500}


async def test_a_post_is_sent_again_only_with_a_key(folder: Path) -> None:
    """The replica reads the request and hangs up: it may have acted."""
    async with mesh(folder, {"payments": [("--lose",)], "ledger": [("--lose",)]}) as it:
        async with it.edge() as session:
            answer = await ask(session, "POST", "/v1/payments", data=b"{}")
            assert problem(answer) == (503, "unavailable")
            assert answer[2]["retry-after"] == "1"
            assert it.attempts("payments-0") == 1
            key = {"idempotency-key": "k"}
            assert (await ask(session, "POST", "/v1/payments", data=b"{}", headers=key))[0] == 503
            assert it.attempts("payments-0") > 2
            for path in ("/v1/payments/pay_1/disputes", "/v1/payments/pay_1/capture/more"):
                before = it.attempts("payments-0")
                assert (await ask(session, "POST", path, data=b"{}", headers=key))[0] == 503
                assert it.attempts("payments-0") == before + 1, "it takes no key"
            before = it.attempts("payments-0")
            assert (await ask(session, "POST", "/v1/payments/pay_1/capture?x=1", data=b"{}", headers=key))[0] == 503
            assert it.attempts("payments-0") > before + 1
        async with it.service("payments", "ledger") as session:
            answer = await ask(session, "POST", "/internal/transfers", data=b"{}", headers=key)
            assert problem(answer) == (503, "unavailable")
            assert "sent" not in answer[1], "it may have acted"
            assert it.attempts("ledger-0") == 1, "inside, the caller repeats by itself and one hop is enough"


async def test_outside_what_a_replica_died_with_is_not_told_as_taken_by_nobody(folder: Path) -> None:
    """The second try meets no replica, but the first one may have acted."""
    async with mesh(folder, {"payments": [("--die",)]}) as it, it.edge() as session:
        answer = await ask(session, "POST", "/v1/payments", data=b"{}", headers={"idempotency-key": "k"})
        assert problem(answer) == (503, "unavailable")
        assert it.attempts("payments-0") == 1
        assert "sent" not in answer[1]
        assert "not known" in answer[1]["detail"]


async def test_an_unsampled_request_has_a_trace_id_too(folder: Path) -> None:
    async with mesh(folder, {"payments": [()]}) as it, it.edge() as session:
        _, seen, _ = await ask(session, "GET", "/v1/payments")
        arrived = {key.lower(): value for key, value in seen["headers"]}
        version, trace, _, flags = arrived["traceparent"].split("-")
        assert (version, len(trace), flags) == ("00", 32, "00")


@pytest.mark.parametrize("flags", ["00", "01"])
async def test_inside_a_trace_is_passed_on_as_it_came(folder: Path, flags: str) -> None:
    """Whether it is recorded was decided at the edge: no hop may end it or begin it."""
    sent = f"00-{'1' * 32}-{'2' * 16}-{flags}"
    async with mesh(folder, {"ledger": [()]}) as it, it.service("payments", "ledger") as session:
        _, seen, _ = await ask(session, "POST", "/internal/transfers", data=b"{}", headers={"traceparent": sent})
        assert {key.lower(): value for key, value in seen["headers"]}["traceparent"] == sent


async def test_inside_a_call_that_reached_nobody_says_so(folder: Path) -> None:
    """So that the caller knows that it may repeat it, whatever it was."""
    async with mesh(folder, {}) as it, it.service("payments", "ledger") as session:
        answer = await ask(session, "POST", "/internal/transfers", data=b"{}")
        assert problem(answer) == (503, "unavailable")
        assert answer[1]["sent"] is False


async def test_a_sampled_request_leaves_a_span_with_the_collector(folder: Path) -> None:
    async with AsyncExitStack() as stack:
        received: asyncio.Queue[bytes] = asyncio.Queue(10)

        async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.put_nowait(await reader.readuntil(b"\r\n"))
            writer.close()

        server = await asyncio.start_unix_server(collect, str(folder / "otlp.sock"))
        stack.push_async_callback(server.wait_closed)
        stack.callback(server.close)
        it = await stack.enter_async_context(mesh(folder, {"payments": [()]}, trace_percent=100))
        session = await stack.enter_async_context(it.edge())
        assert (await ask(session, "GET", "/v1/payments"))[0] == 200
        async with asyncio.timeout(30):
            assert (await received.get()).startswith(b"POST /v1/traces HTTP/1.1")
