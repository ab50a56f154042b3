"""Receives the proxy's spans (OTLP/HTTP with protobuf, over a Unix socket), and adds them to the services' spans in the local store.

With an OTLP endpoint configured the batches are passed on to it. Either way they are without what a client typed, and Envoy never waits:
it is answered at once, and when the queue is full spans are dropped, and the exports that they came in counted.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp
from aiohttp import web
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tallystick.chassis import telemetry
from tallystick.chassis.telemetry.store import Span, SpanFile

MAX_BODY: Final = 4 << 20
QUEUE: Final = 256
SpanKind = Literal["internal", "server", "client", "producer", "consumer"]
_KINDS: Final[dict[int, SpanKind]] = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}
#: The attributes of the proxy that are kept: names, numbers and codes, nothing from a client's input (no query, user agent or address).
KEPT: Final = frozenset(
    {
        "http.method",
        "http.status_code",
        "http.protocol",
        "response_flags",
        "upstream_cluster",
        "request_size",
        "response_size",
        "guid:x-request-id",  # the proxy's own, see `REQUEST_ID` of its answers
    }
)
_DROPPED: Final = telemetry.counter(
    "proxy_spans_dropped", "Exports of the proxy's spans that were neither kept nor passed on"
)


def strip(request: ExportTraceServiceRequest) -> None:
    """Remove attributes that are not in `KEPT` from an export."""
    for span in _spans(request):
        kept = [item for item in span.attributes if item.key in KEPT]
        del span.attributes[:]
        span.attributes.extend(kept)


def spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    """The spans of one export, as the store keeps them. Pure."""
    for span in _spans(request):
        yield Span(
            trace=span.trace_id.hex(),
            span=span.span_id.hex(),
            parent=span.parent_span_id.hex() or None,
            name=span.name[:128],
            service="envoy",
            kind=_KINDS.get(span.kind, "internal"),
            start=span.start_time_unix_nano,
            end=span.end_time_unix_nano,
            failed=span.status.code == 2,
            attributes=dict(_attributes(span.attributes)),
        )


def _spans(request: ExportTraceServiceRequest) -> Iterator[Any]:
    for resource in request.resource_spans:
        # By number: several packages bring these messages, and an older one calls the same fields by older names.
        for scope in _field(resource, 2):
            yield from _field(scope, 2)


def _field(message: Any, number: int) -> Any:
    return getattr(message, message.DESCRIPTOR.fields_by_number[number].name)


def _attributes(found: Iterable[Any]) -> Iterator[tuple[str, str | int | float | bool]]:
    for item in found:
        kind = item.value.WhichOneof("value")
        if kind in {"string_value", "int_value", "double_value", "bool_value"}:
            yield item.key, getattr(item.value, kind)


class Collector:
    """Serves `POST /v1/traces` on `socket`. `forward` is an OTLP/HTTP endpoint (its `/v1/traces` URL) or None for the local store."""

    def __init__(
        self, socket: Path, directory: Path, forward: str | None, on_error: Callable[[Exception], None]
    ) -> None:
        self._socket = socket
        self._file = SpanFile(directory, "envoy-0")
        self._forward = forward
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUE)
        self._runner: web.AppRunner | None = None
        self._task: asyncio.Task[None] | None = None
        self._on_error = on_error
        self._failing = False

    async def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        application = web.Application(client_max_size=MAX_BODY)
        application.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self._socket)).start()
        self._socket.chmod(0o600)
        self._task = asyncio.create_task(self._store(), name="collector")

    async def stop(self) -> None:
        """Writes what is queued, then ends."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._queue.join(), 2)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._socket.unlink(missing_ok=True)

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            self._queue.put_nowait(body)
        except asyncio.QueueFull:
            _DROPPED.inc()
        return web.Response(content_type="application/x-protobuf")

    async def _store(self) -> None:
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                body = await self._queue.get()
                try:
                    await self._one(session, body)
                except (OSError, DecodeError, AttributeError, KeyError, aiohttp.ClientError, TimeoutError) as error:
                    # The disk is full, the collector away, or what came is no export. Tracing never holds anything up.
                    _DROPPED.inc()
                    if not self._failing:  # once, until it works again
                        self._on_error(error)
                    self._failing = True
                else:
                    self._failing = False
                finally:
                    self._queue.task_done()

    async def _one(self, session: aiohttp.ClientSession, body: bytes) -> None:
        request = ExportTraceServiceRequest()
        request.MergeFromString(body)  # type: ignore[no-untyped-call]
        strip(request)
        if self._forward is None:
            self._file.append(spans(request))
            return
        headers = {"content-type": "application/x-protobuf"}
        content = request.SerializeToString()  # type: ignore[no-untyped-call]
        async with session.post(self._forward, data=content, headers=headers) as answer:
            answer.raise_for_status()
