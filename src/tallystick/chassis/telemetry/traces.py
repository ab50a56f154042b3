"""Spans. The SDK is used only when the current trace is sampled; otherwise a span costs the reading of a variable.

Sampling is decided once, where the trace begins (at the edge's proxy), and passed on in `traceparent`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import Token
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, cast

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan

from tallystick.chassis.telemetry import context, redact
from tallystick.chassis.telemetry.logs import log
from tallystick.chassis.telemetry.store import Span, SpanFile
from tallystick.kernel.problem import Problem

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class SpanHandle(Protocol):
    """The handle in `with span(...) as handle`."""

    def set(self, key: str, value: Any) -> None:
        """Add an attribute. Key and value pass the same guards as those of a log line."""

    def fail(self) -> None:
        """Mark the span as failed, where no exception does that."""


class _NotSampled:
    __slots__ = ()

    def __enter__(self) -> SpanHandle:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def set(self, key: str, value: Any) -> None:
        pass

    def fail(self) -> None:
        pass


class _Sampled:
    """A span of the SDK. While its block runs it is the parent of further spans."""

    __slots__ = ("_attributes", "_kind", "_name", "_parent", "_span", "_token", "_tracer")

    def __init__(
        self, tracer: Tracer, parent: context.Trace, name: str, kind: SpanKind, attributes: dict[str, Any]
    ) -> None:
        self._tracer = tracer
        self._parent = parent
        self._name = name
        self._kind = kind
        self._attributes = attributes
        self._span: SdkSpan | None = None
        self._token: Token[context.Trace | None] | None = None

    def __enter__(self) -> SpanHandle:
        parent = SpanContext(int(self._parent.trace_id, 16), int(self._parent.span_id, 16), True, _SAMPLED)
        kept, _ = redact.fields(self._attributes)
        span = self._tracer.start_span(
            self._name, set_span_in_context(NonRecordingSpan(parent)), self._kind, attributes=kept
        )
        self._span = span
        here = f"{span.get_span_context().span_id:016x}"
        self._token = context.enter(context.Trace(self._parent.trace_id, here, sampled=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            context.leave(self._token)
        if self._span is None:
            return
        if error is not None:
            # A problem below 500 is an answer, not a failure. Only the type is kept, because messages may contain values.
            if not isinstance(error, Problem) or error.status >= 500:
                self._span.set_status(Status(StatusCode.ERROR))
            self._span.set_attribute("error", error.slug if isinstance(error, Problem) else type(error).__qualname__)
        self._span.end()

    def set(self, key: str, value: Any) -> None:
        if self._span is not None and redact.allowed(key):
            self._span.set_attribute(key, redact.clean(value))

    def fail(self) -> None:
        if self._span is not None:
            self._span.set_status(Status(StatusCode.ERROR))


_NOT_SAMPLED = _NotSampled()
_tracer: Tracer | None = None
_provider: TracerProvider | None = None


def span(name: str, kind: SpanKind = SpanKind.INTERNAL, **attributes: Any) -> _NotSampled | _Sampled:
    """A span of the current trace for a `with` block; it does nothing if the trace isn't sampled."""
    trace = context.current()
    if trace is None or not trace.sampled or _tracer is None:
        return _NOT_SAMPLED
    return _Sampled(_tracer, trace, name, kind, attributes)


def record(
    name: str,
    trace: context.Trace,
    start: int,
    end: int,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    failed: bool = False,
    **attributes: Any,
) -> None:
    """Record a span that has ended already, as a child of `trace`: for work that a batch did for many requests.

    Times are Unix nanoseconds. It does nothing if the trace isn't sampled.
    """
    if not trace.sampled or _tracer is None:
        return
    parent = SpanContext(int(trace.trace_id, 16), int(trace.span_id, 16), True, _SAMPLED)
    kept, _ = redact.fields(attributes)
    made = _tracer.start_span(
        name, set_span_in_context(NonRecordingSpan(parent)), kind, attributes=kept, start_time=start
    )
    if failed:
        made.set_status(Status(StatusCode.ERROR))
    made.end(end)


class FileExporter(SpanExporter):
    """Writes finished spans to this machine's own store."""

    def __init__(self, file: SpanFile, *, service: str, replica: int) -> None:
        self._file = file
        self._service = service
        self._replica = replica
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            self._file.append([self._kept(each) for each in spans])
        except OSError as error:
            if not self._failing:  # once, not for each batch: if the disk is full, logs go to the same disk
                log.warning("trace.not-stored", error=error)
            self._failing = True
            return SpanExportResult.FAILURE
        self._failing = False
        return SpanExportResult.SUCCESS

    def _kept(self, each: ReadableSpan) -> Span:
        here = cast("SpanContext", each.get_span_context())
        return Span(
            trace=f"{here.trace_id:032x}",
            span=f"{here.span_id:016x}",
            parent=None if each.parent is None else f"{each.parent.span_id:016x}",
            name=each.name,
            service=self._service,
            replica=self._replica,
            kind=cast("Any", each.kind.name.lower()),
            start=each.start_time or 0,
            end=each.end_time or 0,
            failed=each.status.status_code is StatusCode.ERROR,
            attributes={
                key: value for key, value in (each.attributes or {}).items() if isinstance(value, str | int | float)
            },
        )


def setup(*, service: str, replica: int, trace_dir: Path | None, otlp_endpoint: str | None) -> None:
    """Export spans by OTLP/HTTP, or into `trace_dir`, or with neither not at all. The queue is bounded; spans that don't fit are
    dropped, because a request never waits for its trace.
    """
    global _tracer, _provider
    close()
    exporter: SpanExporter
    if otlp_endpoint is not None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # 60 ms of import

        exporter = OTLPSpanExporter(endpoint=otlp_endpoint, timeout=5)
    elif trace_dir is not None:
        exporter = FileExporter(SpanFile(trace_dir, f"{service}-{replica}"), service=service, replica=replica)
    else:
        return
    resource = Resource({"service.name": service, "service.instance.id": f"{service}-{replica}"})
    _provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
    _provider.add_span_processor(
        BatchSpanProcessor(exporter, max_queue_size=4096, schedule_delay_millis=500, max_export_batch_size=512)
    )
    _tracer = _provider.get_tracer("tallystick")


def flush() -> None:
    """Export finished spans now."""
    if _provider is not None:
        _provider.force_flush(2_000)


def close() -> None:
    """Export finished spans and stop."""
    global _tracer, _provider
    if _provider is not None:
        _provider.shutdown()
    _provider = _tracer = None
