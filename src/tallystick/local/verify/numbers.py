"""The search for card numbers and IBANs in clear: in every file that the platform wrote, and in every table's texts.

What counts is the rule that the edge refuses a client's texts by (`kernel/numbers.py`). A number that a dash or an underscore joins to a word before
it may be an id, which a client may write: where clients' texts are kept, in tables and streams, those are said and are no fault; in a log or a
trace, which hold none of them, they are. An IBAN is in capitals here. The vault holds them sealed; nothing else
may hold them at all.

Left out is what is no number of an account although it may look like one: the platform's ids, UUIDs, hexadecimal words that hold letters,
bytes as PostgreSQL prints them, what follows or precedes a decimal point, and 16 hexadecimal digits where they are known to stand, of which
one in two thousand has no letter: the ids of spans in the traces, and the sums in which NATS notes what a stream's settings are. Of tables,
columns of numbers, times and ids are left out: they can't hold a text, and a large sum of money would be taken for a card now and then.
PostgreSQL's log is read without the heads of its pages, which cut a word in two as often as it crosses from one page to the next; and in
its files what stands beside a word says nothing of it, being the next column's bytes. Its maps of free space and of what is visible are
left out: a table's few thousand pages with room for the same look like digits there.

What is left to chance is base64, in which 13 digits in a row are a number with the right check digit once in some thousand GiB.
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

PROMISE = "No card number and no IBAN in clear in any file, table, stream or log."
SHOWN = 20
JOINED_SHOWN = 3

_IBAN: Final = re.compile(
    rb"[A-Z](?<![A-Za-z0-9].)[A-Z][0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![A-Za-z0-9])", re.DOTALL
)
#: What stands before digits that are no number of an account: bytes as PostgreSQL prints them, and the ids of spans.
_OURS: Final = (b"\\x", b'"span":"', b'"parent":"')
_LONGEST_OURS: Final = max(map(len, _OURS))

#: Beside each stream's settings, in a file of its own.
_SUM: Final = "meta.sum"
#: A byte of these says how much room a page of a table has, and two bits of those who sees it: no text, and in a large table the bytes of a few
#: thousand pages look like digits.
_MAPS: Final = ("_fsm", "_vm")

#: The pages of PostgreSQL's log and their heads, the first one's of a segment and the others' (`access/xlog_internal.h`).
_WAL: Final = "pg_wal"
_WAL_PAGE: Final = 8192
_WAL_FIRST_HEAD: Final = 40
_WAL_HEAD: Final = 24

_BETWEEN: Final = "".join(rf"\u{ord(low):04x}-\u{ord(high):04x}" for low, high in BETWEEN)
#: What may be a number, for PostgreSQL to look for: `numbers` says whether it is one.
_PERHAPS: Final = rf"[0-9]{{13}}|[0-9]{{4}}[{_BETWEEN}][0-9]{{4}}([{_BETWEEN}][0-9]{{4}}|[0-9]{{2}}[{_BETWEEN}])|[A-Z]{{2}}[0-9]{{2}} ?[A-Z0-9]{{4}}"
#: The texts of a table's rows, of those that may hold a number: every column but numbers, times, truths and ids; bytes as the text in them.
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
    """So far as it may be shown: enough to look for it, not enough to use it (PCI DSS 3.4.1). `joined` to a word, as an id's digits are."""

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
        looked += f"; joined to a word, as the digits of an id are: {len(joined):,}, such as {', '.join(joined[:JOINED_SHOWN])}"
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
    except (OSError, ValueError):  # gone, or shrunk, while we looked: a part's own temporary file
        return set(), 0


def _without_heads(log: mmap.mmap) -> bytes:
    """A segment of PostgreSQL's log as one text: a record goes on behind the head of the next page."""
    pages = (log[page + _WAL_HEAD : page + _WAL_PAGE] for page in range(_WAL_PAGE, len(log), _WAL_PAGE))
    return b"".join((log[_WAL_FIRST_HEAD:_WAL_PAGE], *pages))


def numbers(content: bytes | mmap.mmap, *, columns: bool = False) -> Iterator[Shown]:
    """What is there in clear. `columns`: in a file of PostgreSQL's, one column's bytes right behind the other's."""
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
