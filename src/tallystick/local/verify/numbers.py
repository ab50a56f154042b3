"""Searches for card numbers and IBANs in clear: in every file that the platform wrote, and in the texts of every table.

The vault holds them sealed; nothing else may hold them at all. The rule is the one by which the edge refuses a client's texts
(`kernel/numbers.py`). A number joined to a word before it by a dash or an underscore may be an id, which a client may write. Where clients'
texts are stored, in tables and streams, such numbers are reported but are not a fault. Logs and traces hold no clients' texts, so there they
are a fault. Only IBANs in capitals count.

The following are skipped, although they may look like numbers:

* the platform's ids, UUIDs, hexadecimal words with letters, bytes as PostgreSQL prints them, and what follows or precedes a decimal point;
* 16 hexadecimal digits in known places, of which one in two thousand has no letter: span ids in traces, and NATS's checksums of stream settings;
* columns of numbers, times and ids: they can't hold texts, and a large amount of money would sometimes look like a card number;
* the page headers in PostgreSQL's write-ahead log: they split words that cross from one page to the next;
* PostgreSQL's free space and visibility maps: some thousand pages with the same free space look like digits.

In PostgreSQL's files the bytes beside a word belong to the next column, so they say nothing about the word.

Base64 is left to chance: 13 digits in a row with a valid check digit occur once in some thousand GiB of it.
"""

from __future__ import annotations

import asyncio
import mmap
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tallystick.kernel.numbers import BETWEEN, cards, iban_length
from tallystick.kernel.words import counted
from tallystick.local.layout import Layout
from tallystick.local.verify.source import Source

PROMISE = "No file, table, stream or log holds a card number or an IBAN in clear."
SHOWN = 20
JOINED_SHOWN = 3

_IBAN: Final = re.compile(
    rb"[A-Z](?<![A-Za-z0-9].)[A-Z][0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![A-Za-z0-9])", re.DOTALL
)
#: What precedes digits that are not an account's number: bytes as PostgreSQL prints them, and span ids.
_OURS: Final = (b"\\x", b'"span":"', b'"parent":"')
_LONGEST_OURS: Final = max(map(len, _OURS))

#: The file with the checksum of a stream's settings.
_SUM: Final = "meta.sum"
#: Free space map and visibility map. They hold no text, and in a large table the bytes for a few thousand pages look like digits.
_MAPS: Final = ("_fsm", "_vm")

#: Sizes in PostgreSQL's write-ahead log: a page, the header of a segment's first page, and those of the others (`access/xlog_internal.h`).
_WAL: Final = "pg_wal"
_WAL_PAGE: Final = 8192
_WAL_FIRST_HEAD: Final = 40
_WAL_HEAD: Final = 24

_BETWEEN: Final = "".join(rf"\u{ord(low):04x}-\u{ord(high):04x}" for low, high in BETWEEN)
#: A coarse pattern for PostgreSQL to select rows by; `numbers` then decides.
_PERHAPS: Final = rf"[0-9]{{13}}|[0-9]{{4}}[{_BETWEEN}][0-9]{{4}}([{_BETWEEN}][0-9]{{4}}|[0-9]{{2}}[{_BETWEEN}])|[A-Z]{{2}}[0-9]{{2}} ?[A-Z0-9]{{4}}"
#: A statement for the texts of those rows of a table that match: all columns except numbers, times, booleans and ids; bytes as text.
_TEXTS: Final = r"""
SELECT format(
    'SELECT line FROM (SELECT concat_ws(E''\n'', %s) AS line FROM %I) AS t WHERE line ~ %L',
    string_agg(format(CASE a.atttypid WHEN 'bytea'::regtype THEN 'encode(%I, ''escape'')' ELSE '%I::text' END, a.attname), ', '),
    c.relname, $2::text
) AS sql
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type AS y ON y.oid = a.atttypid AND y.typcategory NOT IN ('N', 'D', 'T', 'B') AND y.typname <> 'uuid'
WHERE c.oid = $1::oid
GROUP BY c.relname
"""


class Shown(NamedTuple):
    """A number found, masked: enough to search for it, not enough to use it (PCI DSS 3.4.1). `joined`: to a word, as an id's digits are."""

    text: str
    joined: bool


async def search(source: Source, layout: Layout) -> tuple[list[str], str]:
    faults: list[str] = []
    joined: list[str] = []
    files = size = 0

    def tell(where: object, found: Iterable[Shown], *, of_clients: bool) -> None:
        for one in found:
            (joined if one.joined and of_clients else faults).append(f"{where}: {one.text}")

    keeps = (layout.postgres, layout.nats, layout.valkey)
    for path in _files(layout.data):
        columns = path.is_relative_to(layout.postgres)
        if columns and path.name.endswith(_MAPS):
            continue
        found, length = await asyncio.to_thread(_in_file, path, columns=columns)
        files += 1
        size += length
        tell(path.relative_to(layout.data), sorted(found), of_clients=any(path.is_relative_to(each) for each in keeps))
    tables = 0
    for service in source.services:
        for row in await source.rows(
            service,
            "SELECT oid, relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname",
        ):
            tables += 1
            # Names come from the catalogue and are quoted by the server itself. No row: the table has no column of texts.
            for texts in await source.rows(service, _TEXTS, row["oid"], _PERHAPS):
                async for lines in source.pages(service, texts["sql"]):
                    for line in lines:
                        tell(f"{service}.{row['relname']}", numbers(line["line"].encode()), of_clients=True)
            if len(faults) > SHOWN:
                break
    looked = f"{counted(files, 'file')} ({size / 2**20:,.0f} MiB), {counted(tables, 'table')}"
    if joined:
        looked += (
            f"; {len(joined):,} joined to a word, as an id's digits are, such as {', '.join(joined[:JOINED_SHOWN])}"
        )
    return faults[:SHOWN], looked


def _files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.name != _SUM:
            yield path


def _in_file(path: Path, *, columns: bool) -> tuple[set[Shown], int]:
    try:
        with path.open("rb") as file:
            length = path.stat().st_size
            if not length:
                return set(), 0
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                text = _without_heads(content) if columns and path.parent.name == _WAL else content
                return set(numbers(text, columns=columns)), length
    except (OSError, ValueError):  # a part's temporary file that was deleted or truncated meanwhile
        return set(), 0


def _without_heads(log: mmap.mmap) -> bytes:
    """A segment of PostgreSQL's write-ahead log without page headers: a record continues after the header of the next page."""
    pages = (log[page + _WAL_HEAD : page + _WAL_PAGE] for page in range(_WAL_PAGE, len(log), _WAL_PAGE))
    return b"".join((log[_WAL_FIRST_HEAD:_WAL_PAGE], *pages))


def numbers(content: bytes | mmap.mmap, *, columns: bool = False) -> Iterator[Shown]:
    """The numbers in clear. `columns`: `content` is a file of PostgreSQL's, where the bytes of columns adjoin."""
    for card in cards(content, columns=columns):
        if not content[max(0, card.begin - _LONGEST_OURS) : card.begin].endswith(_OURS):
            number = card.number
            shown = f"{number[:6]}******{number[-4:]}" if len(number) >= 16 else f"******{number[-4:]}"
            yield Shown(shown, card.joined)
    for match in _IBAN.finditer(content):
        words = match[0].decode()
        length = iban_length(words)
        if length and not words[length : length + 1].strip():
            iban = words[:length].replace(" ", "")
            begin, end = match.start(), match.start() + length
            beside = content[max(0, begin - 1) : begin], content[end : end + 1]
            yield Shown(f"{iban[:2]}******{iban[-4:]}", any(one in (b"-", b"_") for one in beside))
