"""Logs: JSON lines on standard output, each with the trace id, with allowed keys and masked values only.

The logger is a few lines of our own (docs/adr/0007): its main task is to refuse fields, and a general logger does not know which.
The one line that every request writes, `request.done`, takes a shorter path.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec

from tallystick.chassis.telemetry import context, metrics, redact
from tallystick.chassis.telemetry.output import Output

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_encoder = msgspec.json.Encoder(enc_hook=redact.named)
_ERRORS = metrics.counter("errors_logged", "Lines of level error, without those of requests", ["event"])


class _Process:
    """The state of this process's logging, and what is the same in each of its lines."""

    def __init__(self) -> None:
        self.service = ""
        self.replica = 0
        self.threshold = 20
        self.write: Callable[[bytes], None] = _to_stderr
        self.output: Output | None = None


def _to_stderr(line: bytes) -> None:
    """Where lines go before `setup`, and in command-line tools, whose standard output is for their results."""
    sys.stderr.buffer.write(line)
    sys.stderr.buffer.flush()


_process = _Process()


class RequestDone(msgspec.Struct):
    """The canonical line of a request, which always has these fields. Each is a name, an id or a number of our own."""

    time: datetime
    level: str
    event: str
    service: str
    replica: int
    trace: str
    route: str
    status: int
    ms: float
    tenant: str | None
    client: str | None
    caller: str | None
    slug: str | None
    replayed: bool
    bytes_in: int
    bytes_out: int


def request_done(
    *,
    route: str,
    status: int,
    seconds: float,
    trace: str,
    tenant: str | None = None,
    client: str | None = None,
    caller: str | None = None,
    slug: str | None = None,
    replayed: bool = False,
    bytes_in: int = 0,
    bytes_out: int = 0,
) -> None:
    """Write the canonical line of a request. `slug` is that of the problem it was answered with, if any."""
    level = "error" if status >= 500 else "info"
    if _LEVELS[level] < _process.threshold:
        return
    line = RequestDone(
        datetime.now(UTC),
        level,
        "request.done",
        _process.service,
        _process.replica,
        trace,
        route,
        status,
        round(seconds * 1000, 3),
        tenant,
        client,
        caller,
        slug,
        replayed,
        bytes_in,
        bytes_out,
    )
    _process.write(_encoder.encode(line) + b"\n")


class Log:
    """The logger. `log.info("payment.settled", payment="pay_...")`: the event as dotted words, and named values.

    An exception is passed as `error=`. Its type and the code places in its traceback are written, its message is not.
    """

    __slots__ = ()

    def debug(self, event: str, /, **fields: Any) -> None:
        self._write("debug", event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if level == "error":
            _ERRORS.labels(redact.mask(event)).inc()
        if _LEVELS[level] < _process.threshold:
            return
        kept, dropped = redact.fields(fields)
        line: dict[str, Any] = {
            "time": datetime.now(UTC),
            "level": level,
            "event": redact.mask(event),
            "service": _process.service,
            "replica": _process.replica,
        }
        if (trace := context.current()) is not None:
            line["trace"] = trace.trace_id
        for key, value in kept.items():
            line.setdefault(key, value)
        if isinstance(error := fields.get("error"), BaseException):
            line["error"] = type(error).__qualname__
            line["stack"] = redact.stack(error)
        if dropped:
            line["dropped"] = dropped
        _process.write(_encoder.encode(line) + b"\n")


log = Log()


class _Bridge(logging.Handler):
    """Passes the log records of libraries (uvicorn, nats, asyncio) to our logger, and so through the same masks."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields: dict[str, Any] = {"logger": record.name, "message": record.getMessage()}
            if record.exc_info and record.exc_info[1] is not None:
                fields["error"] = record.exc_info[1]
            getattr(log, _level_of(record.levelno))("library.log", **fields)
        except Exception as error:  # noqa: BLE001  # a logging.Handler must not raise into its caller
            # Not by `handleError`, which would print the message and its arguments unmasked.
            log.error("library.log", logger=record.name, error=error)


def _level_of(number: int) -> str:
    if number >= 40:
        return "error"
    return "warning" if number >= 30 else "info" if number >= 20 else "debug"


def setup(*, service: str, replica: int, level: str, descriptor: int = 1) -> None:
    """Send this process's lines to `descriptor` (standard output), those of libraries included."""
    _process.service = service
    _process.replica = replica
    _process.threshold = _LEVELS[level]
    _process.output = Output(descriptor)
    _process.write = _process.output.write
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(max(_process.threshold, logging.INFO))
    for chatty in ("uvicorn.access", "uvicorn.error", "uvicorn.asgi"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    sys.excepthook = _uncaught


def close() -> None:
    """Write what is queued."""
    if _process.output is not None:
        _process.output.close()
        _process.output = None
        _process.write = _to_stderr


@contextmanager
def captured() -> Iterator[list[dict[str, Any]]]:
    """For tests: the lines that are written inside the block, decoded."""
    lines: list[dict[str, Any]] = []
    before = _process.write
    _process.write = lambda line: lines.append(msgspec.json.decode(line))
    try:
        yield lines
    finally:
        _process.write = before


def _uncaught(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
    """Replaces the interpreter's handler, whose traceback has the exception's message, which may quote a value."""
    del traceback
    log.error("process.uncaught", error=error, name=kind.__qualname__)
    close()
