"""The logs of all processes: kept small while they are written, and read back merged by time.

Children write to their files themselves, so a line never waits for us. A file over the limit is copied to `<name>.log.1` and truncated; a
line written between the end of the copy and the cut (microseconds) is lost. What must not be lost is told as a fact, in the audit log.
A reader sees each line once, also of files that are cut while it reads.
"""

from __future__ import annotations

import asyncio
import fcntl
import heapq
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import msgspec

LIMIT: Final = 32 << 20
CHECK_EVERY: Final = 5.0
CHUNK: Final = 1 << 20
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
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


def files(directory: Path, process: str | None) -> dict[str, Path]:
    """Log files by process. `process` is a service (all its replicas), a replica (`ledger-0`) or a part."""
    found: dict[str, Path] = {}
    for path in sorted(directory.glob("*.log")):
        name = path.name.removesuffix(".log")
        if process is None or name == process or re.fullmatch(re.escape(process) + r"-\d+", name):
            found[name] = path
    return found


class Lines:
    """The lines of all processes or of one (as in `files`), all or those of one trace: first `read`, then `follow`. Each line comes once,
    unless a file was cut twice between two looks.
    """

    def __init__(self, directory: Path, process: str | None = None, *, trace: str | None = None) -> None:
        self._directory = directory
        self._process = process
        self._trace = trace
        self._tails: dict[str, _Tail] = {}

    def read(self) -> Iterator[Line]:
        """All complete lines by time."""
        return heapq.merge(*(self._fresh(tail) for tail in self._all()), key=lambda line: line.at)

    def unfinished(self) -> Iterator[Line]:
        """The last lines of files that don't end with one; after `read`, when nothing will be followed."""
        for tail in self._all():
            yield from self._parsed(tail, [tail.rest] if tail.rest else [])

    async def follow(self) -> AsyncIterator[Line]:
        """New lines as they come, until cancelled. Lines of one moment may come out of order between processes."""
        while True:
            fresh = [line for tail in self._all(datetime.now(UTC)) for line in self._fresh(tail)]
            for line in sorted(fresh, key=lambda line: line.at):
                yield line
            await asyncio.sleep(0.2)

    def _all(self, begun: datetime = _EPOCH) -> list[_Tail]:
        """Of files that are seen for the first time, the lines before the first one with a time get `begun`."""
        for name, path in files(self._directory, self._process).items():
            if name not in self._tails:
                self._tails[name] = _Tail(name, path, begun)
        return list(self._tails.values())

    def _fresh(self, tail: _Tail) -> Iterator[Line]:
        while chunk := tail.more():
            *whole, tail.rest = (tail.rest + chunk).split(b"\n")
            yield from self._parsed(tail, whole)

    def _parsed(self, tail: _Tail, raws: list[bytes]) -> Iterator[Line]:
        wanted = (self._trace or "").encode()
        for raw in raws:
            if not raw or wanted not in raw:
                continue
            line = parse(tail.process, raw, tail.previous)
            tail.previous = line.at
            if self._trace is None or line.of_trace(self._trace):
                yield line


class _Tail:
    """What was not read yet of one process's log: of the file put aside, then of the current one, also when that is put aside meanwhile."""

    def __init__(self, process: str, path: Path, begun: datetime) -> None:
        self.process = process
        self.previous = begun  # the time of the last line
        self.rest = b""
        self._path = path
        self._offset = 0  # in the current file
        self._older: BinaryIO | None = None
        self._older_is: tuple[int, int] | None = None  # which file was the one put aside

    def more(self) -> bytes:
        """Up to `CHUNK` bytes more; none when there are none now."""
        while True:
            if self._older is not None:
                if chunk := self._older.read(CHUNK):
                    return chunk
                self._older.close()
                self._older = None
            try:
                with self._path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_SH)
                    if self._put_aside():
                        continue
                    if os.fstat(file.fileno()).st_size < self._offset:  # emptied by somebody else
                        self._offset = 0
                    file.seek(self._offset)
                    chunk = file.read(CHUNK)
                    self._offset += len(chunk)
                    return chunk
            except FileNotFoundError:  # deleted by somebody
                return b""

    def _put_aside(self) -> bool:
        """Whether the file that was current is now the one put aside, or is so for a first look: then that is read on."""
        try:
            older = _older(self._path).open("rb")
        except FileNotFoundError:
            return False
        status = os.fstat(older.fileno())
        which = (status.st_ino, status.st_mtime_ns)
        if which == self._older_is:
            older.close()
            return False
        older.seek(self._offset)
        self._older, self._older_is, self._offset = older, which, 0
        return True


def _older(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def cut(path: Path, limit: int = LIMIT) -> bool:
    """Move what is in a file over the limit to `<name>.1`, and empty the file. Returns whether it did; it does not while somebody reads.
    Raises OSError, and nothing is lost.
    """
    partial = path.with_name(path.name + ".2")
    try:
        if path.stat().st_size <= limit:
            return False
        with path.open("rb") as source:
            fcntl.flock(source, fcntl.LOCK_EX | fcntl.LOCK_NB)  # who reads sees both files as they are before or after
            try:
                with partial.open("wb") as target:
                    os.fchmod(target.fileno(), 0o600)
                    shutil.copyfileobj(source, target, 1 << 20)
                    target.flush()  # before the cut: a disk that is full is found out by now
                partial.replace(_older(path))
                os.truncate(path, 0)  # writers append, so they continue at the beginning
            except OSError:
                partial.unlink(missing_ok=True)  # on a full disk its room is needed
                raise
    except (FileNotFoundError, BlockingIOError):
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
