"""The proxy's spans: kept, or counted as dropped; the proxy is answered either way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tallystick.chassis import telemetry
from tallystick.chassis.telemetry import store
from tallystick.local import collector as module
from tallystick.local.collector import Collector

TRACE = "0af7651916cd43dd8448eb211c80319c"


def export() -> bytes:
    request = ExportTraceServiceRequest()
    # The same fields are called by other names in the older of the packages that bring the message.
    scopes = module._field(request.resource_spans.add(), 2)
    span = module._field(scopes.add(), 2).add()
    span.trace_id, span.span_id, span.name = bytes.fromhex(TRACE), b"12345678", "ingress"
    return bytes(request.SerializeToString())  # type: ignore[no-untyped-call]


def dropped() -> float:
    [line] = [
        line
        for line in telemetry.exposition().decode().splitlines()
        if line.startswith("tallystick_proxy_spans_dropped_total ")
    ]
    return float(line.split()[1])


class Running:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.told: list[Exception] = []
        self.collector = Collector(directory / "c.sock", directory, None, self.told.append)

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
