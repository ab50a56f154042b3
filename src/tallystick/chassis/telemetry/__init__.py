"""Logs, traces and metrics of a process. Nothing that a customer typed appears in any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tallystick.chassis.telemetry import logs, traces
from tallystick.chassis.telemetry.context import Trace, begin, continued, current, parse, trace_id, traceparent
from tallystick.chassis.telemetry.logs import log, request_done
from tallystick.chassis.telemetry.metrics import DURATIONS, SIZES, counter, exposition, gauge, histogram
from tallystick.chassis.telemetry.redact import allow
from tallystick.chassis.telemetry.traces import record, span

if TYPE_CHECKING:
    from tallystick.chassis.settings import Settings

__all__ = [
    "DURATIONS",
    "SIZES",
    "Trace",
    "allow",
    "begin",
    "close",
    "continued",
    "counter",
    "current",
    "exposition",
    "gauge",
    "histogram",
    "log",
    "parse",
    "record",
    "request_done",
    "setup",
    "span",
    "trace_id",
    "traceparent",
]


def setup(settings: Settings) -> None:
    """Start writing log lines to standard output, and spans to where the settings say."""
    logs.setup(service=settings.deployment, replica=settings.replica, level=settings.log_level)
    traces.setup(
        service=settings.deployment,
        replica=settings.replica,
        trace_dir=settings.trace_dir,
        otlp_endpoint=settings.otlp_endpoint,
    )


def close() -> None:
    """Write out what is queued: spans first, because exporting them may log something."""
    traces.close()
    logs.close()
