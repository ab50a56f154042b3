"""The logs of all processes: kept small while they are written, and read back merged by time.

Children write to their files themselves, so a line never waits for us. A file over the limit is copied to `<name>.log.1` and truncated; a
line written between the end of the copy and the cut (microseconds) is lost. What must not be lost is told as a fact, in the audit log.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

LIMIT: Final = 32 << 20
CHECK_EVERY: Final = 5.0
_decoder = msgspec.json.Decoder(dict[str, Any])

#: How each part writes its time: (pattern, format). The first group is the time.
_TEXT_TIMES: Final = (
    (re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC "), "%Y-%m-%d %H:%M:%S.%f"),  # PostgreSQL
    (re.compile(r"^\[\d+\] (\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d+) "), "%Y/%m/%d %H:%M:%S.%f"),  # NATS
    (re.compile(r"^\d+:[A-Z] (\d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d\.\d+) "), "%d %b %Y %H:%M:%S.%f"),  # Valkey
)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of one process: `fields` of a JSON line, else `text`."""

    at: datetime
    process: str
    fields: dict[str, Any] | None = None
    text: str = ""

    def of_trace(self, trace: str) -> bool:
        return self.fields is not None and trace in (self.fields.get("trace"), self.fields.get("trace_id"))


def parse(process: str, raw: bytes, previous: datetime) -> Line:
    """Parse a line. One without a time (a message's second line) gets the `previous` line's. Pure."""
    if raw.startswith(b"{"):
        try:
            fields = _decoder.decode(raw)
        except msgspec.DecodeError:
            pass
        else:
            return Line(at=_json_time(fields, previous), process=process, fields=fields)
    text = raw.decode(errors="replace").rstrip("\r\n")
    for pattern, form in _TEXT_TIMES:
        found = pattern.match(text)
        if found is not None:
            try:
                return Line(at=datetime.strptime(found[1], form).replace(tzinfo=UTC), process=process, text=text)
            except ValueError:
                break
    return Line(at=previous, process=process, text=text)


def _json_time(fields: dict[str, Any], previous: datetime) -> datetime:
    text = fields.get("time") or fields.get("at")
    try:
        found = datetime.fromisoformat(text) if isinstance(text, str) else previous
    except ValueError:
        return previous
    return found if found.tzinfo is not None else previous


def files(directory: Path, process: str | None) -> dict[str, list[Path]]:
    """Log files by process, older ones first. `process` is a service (all its replicas), a replica (`ledger-0`) or a part."""
    found: dict[str, list[Path]] = {}
    for path in sorted(directory.glob("*.log")):
        name = path.name.removesuffix(".log")
        if process is None or name == process or re.fullmatch(re.escape(process) + r"-\d+", name):
            older = path.with_name(path.name + ".1")
            found[name] = [*([older] if older.exists() else []), path]
    return found


def read(directory: Path, process: str | None = None, *, trace: str | None = None) -> Iterator[Line]:
    """All lines by time."""
    streams = [_lines(name, paths, trace) for name, paths in files(directory, process).items()]
    return heapq.merge(*streams, key=lambda line: line.at)


def _lines(process: str, paths: list[Path], trace: str | None) -> Iterator[Line]:
    previous = datetime.fromtimestamp(0, UTC)
    wanted = trace.encode() if trace else b""
    for path in paths:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue  # rotated away between the listing and now
        with file:
            for raw in file:
                if wanted not in raw:
                    continue
                line = parse(process, raw, previous)
                previous = line.at
                if trace is None or line.of_trace(trace):
                    yield line


async def follow(directory: Path, process: str | None = None, *, trace: str | None = None) -> AsyncIterator[Line]:
    """New lines as they come, until cancelled. Lines of one moment may come out of order between processes."""
    offsets = {path: path.stat().st_size for paths in files(directory, process).values() for path in paths[-1:]}
    rests: dict[Path, bytes] = {}
    while True:
        fresh: list[Line] = []
        for name, paths in files(directory, process).items():
            path = paths[-1]
            size = path.stat().st_size
            start = offsets.get(path, 0)
            if size < start:  # the file was cut: what came since then is at its beginning
                start, rests[path] = 0, b""
            if size == start:
                continue
            with path.open("rb") as file:
                file.seek(start)
                content = rests.get(path, b"") + file.read(size - start)
            offsets[path] = size
            *whole, rests[path] = content.split(b"\n")
            lines = [parse(name, raw, datetime.now(UTC)) for raw in whole if raw]
            fresh += [line for line in lines if trace is None or line.of_trace(trace)]
        for line in sorted(fresh, key=lambda line: line.at):
            yield line
        await asyncio.sleep(0.2)


def cut(path: Path, limit: int = LIMIT) -> bool:
    """Move what is in a file over the limit to `<name>.1`, and empty the file. Returns whether it did. Raises OSError, and nothing is lost."""
    try:
        if path.stat().st_size <= limit:
            return False
        older = path.with_name(path.name + ".1")
        partial = path.with_name(path.name + ".2")
        try:
            with path.open("rb") as source, partial.open("wb") as target:
                os.fchmod(target.fileno(), 0o600)
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()  # before the cut: a disk that is full is found out by now
                os.truncate(path, 0)  # writers append, so they continue at the beginning
        except OSError:
            partial.unlink(missing_ok=True)  # on a full disk its room is needed
            raise
        partial.replace(older)
    except FileNotFoundError:
        return False
    return True


async def rotate(directory: Path, on_error: Callable[[OSError], None]) -> None:
    """Keep the logs small for as long as the platform runs."""
    while True:
        try:
            for path in directory.glob("*.log"):
                if path.stat().st_size > LIMIT:
                    await asyncio.to_thread(cut, path)
        except OSError as error:
            on_error(error)
        await asyncio.sleep(CHECK_EVERY)
