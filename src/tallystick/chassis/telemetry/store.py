"""Spans stored on this machine, when no collector is configured: JSON lines, a bounded file per process.

The file is `<dir>/<source>.jsonl`; when it is full it is renamed to `<dir>/<source>.1.jsonl`. `SpanFile` also stores the proxy's spans
beside those of the services. `tallystick trace ID` uses `read_trace`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

MAX_FILE_BYTES = 8 * 1024 * 1024
_SOURCE = re.compile(r"[A-Za-z0-9_.-]{1,80}")
TRACE_ID = re.compile(r"[0-9a-f]{32}")


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of work in a trace. Times are Unix nanoseconds; ids are hex (trace 32, span 16 digits)."""

    trace: str
    span: str
    parent: str | None = None
    name: str
    service: str
    replica: int = 0
    kind: Literal["internal", "server", "client", "producer", "consumer"] = "internal"
    start: int
    end: int
    failed: bool = False
    attributes: dict[str, str | int | float | bool] = {}

    @property
    def milliseconds(self) -> float:
        return (self.end - self.start) / 1e6


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Span)


class SpanFile:
    """Appends spans to a source's file. A full file replaces the older one, whose spans are then lost."""

    def __init__(self, directory: Path, source: str, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        if _SOURCE.fullmatch(source) is None:
            msg = f"{source!r} can't be a file name"
            raise ValueError(msg)
        self._path = directory / f"{source}.jsonl"
        self._older = directory / f"{source}.1.jsonl"
        self._max_bytes = max_bytes
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def append(self, spans: Iterable[Span]) -> None:
        """Write all of them at once. Raises OSError (no room, no such directory)."""
        data = b"".join(_encoder.encode(span) + b"\n" for span in spans)
        if 0 < self._size() > self._max_bytes - len(data):
            self._path.replace(self._older)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)

    def _size(self) -> int:
        """The size of the current file in bytes; read each time, because a restarted process continues the same file."""
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0


def read_trace(directory: Path, trace_id: str) -> list[Span]:
    """The spans of a trace from all sources, by start. An incomplete line at the end of a file, from a crash, is skipped. Raises
    ValueError for a malformed id.
    """
    if TRACE_ID.fullmatch(trace_id) is None:
        msg = f"{trace_id!r} is not a trace id: 32 hex digits, the Request-Id of a service's answer (what the edge answers itself has no trace)"
        raise ValueError(msg)
    wanted = trace_id.encode()
    found: dict[str, Span] = {}
    for line in _lines(directory):
        if wanted not in line or not line.endswith(b"\n"):
            continue
        try:
            span = _decoder.decode(line)
        except msgspec.DecodeError:
            continue
        if span.trace == trace_id:
            found[span.span] = span
    return sorted(found.values(), key=lambda span: (span.start, -span.end))


def _lines(directory: Path) -> Iterator[bytes]:
    """The lines of all files. Of each source the newer file is opened first: one that is renamed meanwhile is then read twice, not missed."""
    for source in sorted({path.name.removesuffix(".jsonl").removesuffix(".1") for path in directory.glob("*.jsonl")}):
        for name in (f"{source}.jsonl", f"{source}.1.jsonl"):
            with suppress(FileNotFoundError), (directory / name).open("rb") as file:
                yield from file
