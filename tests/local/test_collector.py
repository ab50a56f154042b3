"""The proxy's spans: kept, or counted as dropped; the proxy is answered either way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tallystick.chassis import telemetry
from tallystick.chassis.telemetry import store
from tallystick.local import collector as module
from tallystick.local.collector import Collector
from tests.support.ports import free_port

TRACE = "0af7651916cd43dd8448eb211c80319c"
CARD = "4242424242424242"


def export(**attributes: str) -> bytes:
    request = ExportTraceServiceRequest()
    # The same fields are called by other names in the older of the packages that bring the message.
    scopes = module._field(request.resource_spans.add(), 2)
    span = module._field(scopes.add(), 2).add()
    span.trace_id, span.span_id, span.name = bytes.fromhex(TRACE), b"12345678", "ingress"
    for key, value in attributes.items():
        item = span.attributes.add()
        item.key, item.value.string_value = key, value
    return bytes(request.SerializeToString())  # type: ignore[no-untyped-call]


def dropped() -> float:
    [line] = [
        line
        for line in telemetry.exposition().decode().splitlines()
        if line.startswith("tallystick_proxy_spans_dropped_total ")
    ]
    return float(line.split()[1])


class Running:
    def __init__(self, directory: Path, forward: str | None = None) -> None:
        self.directory = directory
        self.told: list[Exception] = []
        self.collector = Collector(directory / "c.sock", directory, forward, self.told.append)

    async def post(self, *bodies: bytes) -> None:
        connector = aiohttp.UnixConnector(str(self.directory / "c.sock"))
        async with aiohttp.ClientSession(connector=connector) as session:
            for body in bodies:
                async with session.post("http://collector/v1/traces", data=body) as answer:
                    assert answer.status == 200


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    running = Running(tmp_path)
    await running.collector.start()
    yield running
    await running.collector.stop()


async def test_what_is_no_export_is_counted_and_told_once_and_the_next_is_kept(running: Running) -> None:
    before = dropped()
    await running.post(b"\xff", b"\xff", export())
    await running.collector.stop()
    assert dropped() == before + 2
    assert len(running.told) == 1
    [span] = store.read_trace(running.directory, TRACE)
    assert span.name == "ingress"


async def test_the_proxy_is_answered_at_once_and_what_the_queue_has_no_room_for_is_counted(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on = asyncio.Event()

    async def hangs(*_: object) -> None:
        await going_on.wait()

    monkeypatch.setattr(running.collector, "_one", hangs)
    before = dropped()
    await running.post(*[export()] * (1 + module.QUEUE + 3))
    assert dropped() == before + 3
    going_on.set()


#: What the proxy tells of a request whose sender put a card number wherever there is room.
TYPED = {
    "http.method": "GET",
    "http.url": f"https://localhost/v1/payments/{CARD}?card={CARD}",
    "user_agent": CARD,
    "peer.address": "192.0.2.1",
    "http.status_code": "404",
    "upstream_cluster": "replicas-payments",
}
LEFT = {"http.method": "GET", "http.status_code": "404", "upstream_cluster": "replicas-payments"}


async def test_nothing_that_a_client_typed_is_kept(running: Running) -> None:
    await running.post(export(**TYPED))
    await running.collector.stop()
    [span] = store.read_trace(running.directory, TRACE)
    assert span.attributes == LEFT


async def test_nothing_that_a_client_typed_is_passed_on(tmp_path: Path) -> None:
    got: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        got.append(await request.read())
        return web.Response()

    application = web.Application()
    application.router.add_post("/v1/traces", take)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port := free_port()).start()
    running = Running(tmp_path, f"http://127.0.0.1:{port}/v1/traces")
    await running.collector.start()
    try:
        await running.post(export(**TYPED), export(**{"http.method": "POST"}))
    finally:
        await running.collector.stop()
        await runner.cleanup()
    passed = []
    for content in got:
        request = ExportTraceServiceRequest()
        request.MergeFromString(content)  # type: ignore[no-untyped-call]
        passed += list(module.spans(request))
    assert [(span.trace, span.name, span.attributes) for span in passed] == [
        (TRACE, "ingress", LEFT),
        (TRACE, "ingress", {"http.method": "POST"}),
    ]
    assert CARD.encode() not in b"".join(got)
