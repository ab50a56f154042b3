"""Reads a file as records of a book: JSON lines or CSV, plain or gzip. Each record is checked as the ledger checks it, before any is sent."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from tallystick.chassis.web.decode import body_decoder
from tallystick.cli.failure import USAGE, Failed
from tallystick.cli.ledger.files.columns import Rows
from tallystick.cli.lines import MAX_LINE, text_lines
from tallystick.contracts.ledger.messages import BookRecord, Record
from tallystick.kernel.problem import InvalidRequest

#: Bytes of one record: a request's body can be 1.5 MiB. The largest transaction in an export is smaller.
MAX_RECORD: Final = 1_500_000

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Wrong:
    """An invalid line. `field` is a JSON pointer or the name of a column."""

    line: int
    field: str | None
    reason: str
    detail: str


@dataclass(slots=True)
class Survey:
    """What is in a file, found by reading it once before anything is sent. `sequence`: from the last line of an export."""

    records: int = 0
    sha256: str = ""
    wrong: list[Wrong] = field(default_factory=list)
    restores: bool = False
    sequence: int | None = None


class File:
    """The records of `path`. It may be read several times."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._decode: Callable[[bytes], Any] = body_decoder(Record, guarded=True)

    def survey(self, seen: Callable[[int], None]) -> Survey:
        """Read the whole file; `seen` is called for each record. Raises Failed if it is not a valid file."""
        found = Survey()
        content = hashlib.sha256()
        for _, record, encoded in self.records(found):
            if found.records == 0:
                found.restores = isinstance(record, BookRecord)
            elif isinstance(record, BookRecord):
                raise Failed(f"{self.path}: the record of the book must be the first record of an export", USAGE)
            found.records += 1
            content.update(encoded + b"\n")
            seen(1)
        found.sha256 = content.hexdigest()
        if found.restores and found.sequence is None:
            raise Failed(f"{self.path} is an incomplete export: its last line is missing", USAGE)
        return found

    def records(self, found: Survey | None = None) -> Iterator[tuple[int, Any, bytes]]:
        """The valid records, as (line, record, its JSON). Invalid lines are left out, and added to `found` if that is given."""
        with _opened(self.path) as content, ExitStack() as stack:
            try:
                first = content.peek(64).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
                source = self._json(content, found) if first in {b"{", b""} else self._csv(content)
                stack.callback(source.close)
                for line, item in source:
                    if isinstance(item, Wrong):
                        if found is not None:
                            found.wrong.append(item)
                        continue
                    try:
                        record = self._decode(item)
                        encoded = _encode(record)
                        if len(encoded) > MAX_RECORD:
                            raise InvalidRequest(f"a record has at most {MAX_RECORD} bytes")
                    except InvalidRequest as no:
                        if found is not None:
                            found.wrong.append(_wrong(line, no))
                        continue
                    yield line, record, encoded
            except (OSError, EOFError, zlib.error, csv.Error) as error:
                raise Failed(f"can't read all of {self.path}: {error}", USAGE) from error

    def _json(self, content: IO[bytes], found: Survey | None) -> Generator[tuple[int, bytes | Wrong], None, None]:
        digest = hashlib.sha256()
        number = 0
        ended = False
        while line := content.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise Failed(f"{self.path}, line {number}: longer than {MAX_LINE} bytes", USAGE)
            bare = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if not bare:
                continue
            if ended:
                raise Failed(f"{self.path}, line {number}: the export has already ended before this line", USAGE)
            if b'"end"' in bare and (trailer := _trailer(bare)) is not None:
                ended = True
                if trailer.get("sha256") != digest.hexdigest():
                    raise Failed(
                        f"{self.path} was changed after the export: its SHA-256 is not the one in its last line", USAGE
                    )
                if found is not None and isinstance(trailer.get("sequence"), int):
                    found.sequence = trailer["sequence"]
                continue
            digest.update(line)
            yield number, bare

    def _csv(self, content: IO[bytes]) -> Generator[tuple[int, bytes | Wrong], None, None]:
        with closing(text_lines(content, self.path)) as text:
            for line, made in Rows(text, self.path):
                if isinstance(made, str):
                    name, _, detail = made.partition("\0")
                    yield line, Wrong(line, name or None, "invalid-field", detail)
                else:
                    yield line, _encode(made)


def _trailer(line: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) and document.get("type") == "end" else None


def _wrong(line: int, no: InvalidRequest) -> Wrong:
    errors = no.extensions.get("errors")
    if isinstance(errors, list) and errors:
        return Wrong(line, errors[0]["pointer"] or None, "invalid-record", errors[0]["detail"])
    return Wrong(line, None, "invalid-record", no.detail)


@contextmanager
def _opened(path: Path) -> Iterator[io.BufferedReader]:
    """The content, unpacked. Raises Failed."""
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise Failed(f"can't read {path}: {error.strerror}", USAGE) from error
        if raw.peek(2)[:2] == b"\x1f\x8b":
            unpacked = stack.enter_context(gzip.GzipFile(fileobj=raw))
            yield stack.enter_context(io.BufferedReader(unpacked))
        else:
            yield raw


def lines(records: Iterable[tuple[int, Any, bytes]], most: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Uploads: (records, body), of at most so many records and bytes."""
    some: list[bytes] = []
    length = 0
    for line, _, encoded in records:
        if some and (len(some) == most or length + len(encoded) > size):
            yield len(some), b'{"lines":[' + b",".join(some) + b"]}"
            some, length = [], 0
        some.append(b'{"line":%d,"record":%b}' % (line, encoded))
        length += len(encoded) + 40
    if some:
        yield len(some), b'{"lines":[' + b",".join(some) + b"]}"
