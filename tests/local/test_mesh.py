"""A real Envoy fed by our control plane and identity agent: mTLS between two services, rotation under load, what it refuses."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from tallystick.chassis import charter
from tallystick.chassis.charter import Charter
from tallystick.chassis.keys import root as root_key
from tallystick.fabric import envoy
from tallystick.kernel.clock import ManualClock, SystemClock
from tallystick.local import pki
from tallystick.local.ads import AdsServer, Rejection
from tallystick.local.agent import IdentityAgent
from tallystick.local.parts.envoy import Envoy
from tallystick.local.pki import Authority
from tallystick.local.sampling import WHOLE, Sampler
from tests.fabric.support import echo_replica, topology_in

CHARTER = """
[service]
name = "{name}"
purpose = "A throw-away service of a test"
owner = "nobody"
[data.nothing]
class = "internal"
subject = "nobody"
purpose = "nothing is held"
basis = "none needed"
retention = "1 day"
protection = "none needed"
[limits]
max_body_bytes = 1024
max_in_flight = 64
max_queue = 1024
database_connections = 1
[limits.rates]
read = {{ per_second = 100000, burst = 100000 }}
[slo]
availability_percent = 99.0
p99_ms = 100
[scale]
min_replicas = 1
max_replicas = 4
cpu_millis = 100
memory_mib = 64
"""
CALLER = """
[calls.callee]
actions = ["GET /internal/things"]
timeout_ms = 2000
retries = 0
when_down = "fail-closed"
note = "a test"
"""
CALLEE = """
[callers]
caller = ["GET /internal/things"]
[edge]
paths = [{ prefix = "/v1/things", rate = "read" }]
"""


def charters() -> dict[str, Charter]:
    texts = {"caller": CALLER, "callee": CALLEE}
    # tables of a TOML file come in any order, so what differs can be put at the end
    return {name: charter.parse(CHARTER.format(name=name) + more, f"{name}.toml") for name, more in texts.items()}


class Mesh:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.charters = charters()
        self.topology = topology_in(directory)
        self.refused: list[Rejection] = []
        self.ads = AdsServer(self.topology.ads_socket, self.refused.append)
        self.bundle = b""
        self.errors: list[Exception] = []
        self.agent: IdentityAgent
        self.envoy: Envoy

    async def root(self) -> root_key.Root:
        key = self.directory / "root.key"
        if not key.exists():
            root_key.create(key)
        return await root_key.LocalRoot.open(key)

    async def authority(self, clock: Any) -> Authority:
        domain = self.topology.trust_domain
        path = self.directory / "authority.json"
        return await Authority.open(path, self.root, trust_domain=domain, hosts=("localhost",), clock=clock)

    async def start(self) -> None:
        found = envoy.resources(self.charters, self.topology)
        self.ads.put("listener", {item["name"]: envoy.message("listener", item) for item in found.listeners})
        self.ads.put("cluster", {item["name"]: envoy.message("cluster", item) for item in found.clusters})
        for name in self.charters:
            self.endpoints(name)
        self.agent = IdentityAgent(
            await self.authority(SystemClock()),
            self.ads,
            {name: self.topology.spiffe(name) for name in self.charters},
            clock=SystemClock(),
            on_bundle=lambda bundle: setattr(self, "bundle", bundle),
            on_error=self.errors.append,
        )
        self.agent.issue_all()
        await self.ads.start()
        for folder in ("in", "caller"):
            (self.topology.mesh_dir / folder).mkdir(parents=True)
        self.envoy = Envoy(
            self.directory / "envoy",
            self.topology.admin_socket,
            bootstrap=json.dumps(envoy.bootstrap(self.topology)),
            arguments=envoy.ARGUMENTS,
            sockets=[],
            log=self.directory / "envoy.log",
        )
        await self.envoy.start()

    def endpoints(self, name: str, *sockets: Path) -> None:
        found = envoy.endpoints(name, sockets)
        self.ads.put("endpoints", {found["cluster_name"]: envoy.message("endpoints", found)})

    async def inner(self, path: str = "/internal/things") -> int:
        """A call of `caller` to `callee`, as the caller's process makes it."""
        connector = aiohttp.UnixConnector(str(self.topology.outbound("caller", "callee")), force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session, session.get(f"http://callee{path}") as answer:
            await answer.read()
            return answer.status

    async def outer(self) -> tuple[int, int]:
        """A request at the edge over a connection of its own: status and serial number of the certificate that was shown."""
        context = ssl.create_default_context(cadata=self.bundle.decode())
        reader, writer = await asyncio.open_connection("localhost", self.topology.public_port, ssl=context)
        try:
            shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            writer.write(b"GET /v1/things HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            status = int((await reader.readline()).split()[1])
            await reader.read()
        finally:
            writer.close()
        return status, x509.load_der_x509_certificate(shown).serial_number

    async def until(self, status: int, call: Callable[[], Awaitable[int]]) -> None:
        async with asyncio.timeout(60):
            while await call() != status:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Mesh]:
    mesh = Mesh(directory)
    try:
        await mesh.start()
        async with echo_replica(directory / "r.sock", "r"):
            mesh.endpoints("callee", directory / "r.sock")
            await mesh.until(200, mesh.inner)
            yield mesh
    finally:
        if hasattr(mesh, "envoy"):
            await mesh.envoy.stop()
        await mesh.ads.stop()


async def test_rotation_and_rollover_under_load_lose_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates of both sides are replaced again and again, the root once, under calls that each open connections."""
    old = ManualClock(SystemClock().now() - timedelta(days=300))
    premade = Mesh(directory)
    await premade.authority(old)  # a root that has 65 days left: the next one is announced, and not used yet
    async with running(directory) as mesh:
        assert len(x509.load_pem_x509_certificates(mesh.bundle)) == 2
        results: list[int] = []
        serials: set[int] = set()
        stop = asyncio.Event()

        async def inside() -> None:
            while not stop.is_set():
                results.append(await mesh.inner())

        async def outside() -> None:
            while not stop.is_set():
                status, serial = await mesh.outer()
                results.append(status)
                serials.add(serial)

        issuers: set[str] = set()
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(inside())
                group.create_task(outside())
            for turn in range(30):
                if turn == 15:
                    monkeypatch.setattr(pki, "SWITCH", timedelta(days=70))
                mesh.agent._due = dict.fromkeys(mesh.agent._due, SystemClock().now())
                seen, had = len(serials), len(results)
                assert len(await mesh.agent.renew()) == 3
                [_, issuing] = x509.load_pem_x509_certificates(mesh.agent._authority.edge().chain)
                issuers.add(issuing.issuer.rfc4514_string())
                async with asyncio.timeout(60):  # each is met under way, and by some calls that began before it
                    while len(serials) == seen or len(results) < had + 8:
                        await asyncio.sleep(0.005)
            stop.set()
        assert set(results) == {200}
        assert len(issuers) == 2
        assert mesh.refused == []


async def test_the_callee_accepts_its_caller_only_and_only_what_is_agreed(directory: Path) -> None:
    async with running(directory) as mesh:
        assert await mesh.inner("/internal/other") == 403
        # A certificate of the same authority for another service: the caller's own socket now presents that.
        stranger = mesh.agent._authority.service(mesh.topology.spiffe("stranger"))
        from tallystick.local.agent import _certificate

        mesh.ads.put("secret", {"identity-caller": envoy.message("secret", _certificate("identity-caller", stranger))})
        (directory / "r2.sock").unlink(missing_ok=True)
        await mesh.envoy.stop()
        for socket in mesh.topology.mesh_dir.rglob("*.sock"):
            socket.unlink()
        await mesh.envoy.start()
        statuses = set()
        async with asyncio.timeout(60):
            while 403 not in statuses:
                statuses.add(await mesh.inner())
                await asyncio.sleep(0.05)
        assert 200 not in statuses


async def test_a_killed_envoy_comes_back_with_everything(directory: Path) -> None:
    async with running(directory) as mesh:
        await mesh.envoy.stop()
        for socket in mesh.topology.mesh_dir.rglob("*.sock"):
            socket.unlink()
        await mesh.envoy.start()
        await mesh.until(200, mesh.inner)


async def test_a_replica_that_left_gets_nothing_more(directory: Path) -> None:
    async with running(directory) as mesh:
        mesh.endpoints("callee")
        await mesh.until(503, mesh.inner)
        mesh.endpoints("callee", directory / "r.sock")
        await mesh.until(200, mesh.inner)


async def test_what_envoy_refuses_is_heard_in_its_own_words_until_it_has_something_better(directory: Path) -> None:
    async with running(directory) as mesh:
        broken = envoy.message("cluster", {"name": "broken", "type": "EDS", "connect_timeout": "1s"})
        mesh.ads.put("cluster", {"broken": broken})
        async with asyncio.timeout(60):
            while not mesh.refused:
                await asyncio.sleep(0.02)
        assert "broken" in mesh.refused[0].text
        assert await mesh.inner() == 200
        heard = len(mesh.refused)
        mesh.ads.put("cluster", {"further": envoy.message("cluster", {"name": "further", "connect_timeout": "1s"})})
        async with asyncio.timeout(60):
            while len(mesh.refused) == heard:
                await asyncio.sleep(0.02)
        assert mesh.ads.rejections == mesh.refused[-1:], "the last one counts"
        mesh.ads.remove("cluster", "broken")
        async with asyncio.timeout(60):
            while mesh.ads.rejections:
                await asyncio.sleep(0.02)
        assert await mesh.inner() == 200


async def test_the_proxy_samples_the_share_that_it_is_told(directory: Path) -> None:
    async with running(directory) as mesh:
        sampler = Sampler(mesh.envoy)
        before = await sampler._requests()
        for share, low, high in ((WHOLE, 200, 200), (2_000, 10, 80)):
            await sampler._tell(share)
            sampled = await _sampled(mesh.envoy)
            for _ in range(200):
                await mesh.outer()
            assert low <= await _sampled(mesh.envoy) - sampled <= high, f"of 200 requests at {share} in 10,000"
        assert await sampler._requests() == before + 400


async def _sampled(envoy_: Envoy) -> int:
    _, body = await envoy_.ask("GET", r"/stats?filter=^http\.edge\.tracing\.random_sampling$")
    return int(body.decode().rpartition(": ")[2])
