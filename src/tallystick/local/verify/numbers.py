"""The search for card numbers and IBANs in clear: in every file that the platform wrote, and in every table's texts.

A card number is 13 to 19 digits, together or in the groups that cards are printed in with spaces, dots or dashes between, in the range of a
card scheme and with the right check digit (`kernel/numbers.py`); whatever word it stands in, for what leaks a number may put a prefix before it.
An IBAN, in capitals, has its country's length and the right check digits. The vault holds them sealed; nothing else may hold them at all.

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
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tallystick.kernel.luhn import luhn
from tallystick.kernel.numbers import IBAN_LENGTHS, brand_of, iban_ok
from tallystick.local.layout import Layout
from tallystick.local.verify.source import Source

PROMISE = "No card number and no IBAN in clear in any file, table, stream or log."
SHOWN = 20

#: Between the groups of a number, in UTF-8: a space, a dot or a dash.
_BETWEEN: Final = rb"[ .-]|\xc2\xa0|\xe2\x80[\x80-\x95\xaf]"
#: The first character is a class of its own, by which `re` skips what can't begin a match; what precedes it is looked at after it.
_CARD: Final = re.compile(
    rb"[2-68](?<![0-9].)(?<![0-9][.].)(?<!\\x.)(?<!\"span\":\".)(?<!\"parent\":\".)"
    rb"(?<![0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-.)"
    rb"[0-9]{3}(?:[0-9]{9,15}"
    rb"|(" + _BETWEEN + rb")[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{1,3})?"
    rb"|(" + _BETWEEN + rb")[0-9]{6}\2[0-9]{4,5})"
    rb"(?![0-9]|[.][0-9]|-[0-9a-f]{12}\b)",
    re.DOTALL,
)
_IBAN: Final = re.compile(
    rb"[A-Z](?<![A-Za-z0-9].)[A-Z][0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![A-Za-z0-9])", re.DOTALL
)
_HEXADECIMAL: Final = b"0123456789abcdefABCDEF"
#: As ids are written. In PostgreSQL's files a capital is more likely the length of the next column's text.
_LOWER: Final = b"0123456789abcdef"
#: Ids and hashes in hexadecimal are not shorter; what is longer is looked at so far.
_SHORTEST: Final = 16
_LONGEST: Final = 256
#: From here on (128 bits) it is an id whatever stands beside it.
_CERTAIN: Final = 32

#: An id as `kernel/ids.py` writes it, and a fingerprint of the vault: 26 characters of base 32, 13 of which are digits one time in some ten million.
_ID: Final = re.compile(rb"[a-z]{2,3}_[0-7][0-9a-hjkmnp-tv-z]{25}")
_ID_LENGTH: Final = 30

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

#: The texts of a table's rows, of those that may hold a number: every column but numbers, times, truths and ids; bytes as the text in them.
_TEXTS: Final = r"""
SELECT format(
    'SELECT line FROM (SELECT concat_ws(E''\n'', %s) AS line FROM %I) AS t WHERE line ~ %L',
    string_agg(format(CASE a.atttypid WHEN 'bytea'::regtype THEN 'encode(%I, ''escape'')' ELSE '%I::text' END, a.attname), ', '),
    c.relname,
    '[0-9]{13}|[0-9]{4}[- .\u00a0\u2000-\u2015\u202f][0-9]{4}([- .\u00a0\u2000-\u2015\u202f][0-9]{4}|[0-9]{2}[- .\u00a0\u2000-\u2015\u202f])|[A-Z]{2}[0-9]{2} ?[A-Z0-9]{4}'
) AS sql
FROM pg_class AS c
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type AS y ON y.oid = a.atttypid AND y.typcategory NOT IN ('N', 'D', 'T', 'B') AND y.typname <> 'uuid'
WHERE c.oid = $1::oid
GROUP BY c.relname
"""


async def search(source: Source, layout: Layout) -> tuple[list[str], str]:
    faults: list[str] = []
    files = size = 0
    for path in _files(layout.data):
        columns = path.is_relative_to(layout.postgres)
        if columns and path.name.endswith(_MAPS):
            continue
        found, length = await asyncio.to_thread(_in_file, path, columns=columns)
        files += 1
        size += length
        faults += [f"{path.relative_to(layout.data)}: {shown}" for shown in sorted(found)]
    tables = 0
    for service in source.services:
        for row in await source.rows(
            service,
            "SELECT oid, relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY relname",
        ):
            tables += 1
            # Names come from the catalogue and are quoted by the server itself. No row: the table has no column of texts.
            for texts in await source.rows(service, _TEXTS, row["oid"]):
                async for lines in source.pages(service, texts["sql"]):
                    for line in lines:
                        faults += [f"{service}.{row['relname']}: {shown}" for shown in numbers(line["line"].encode())]
            if len(faults) > SHOWN:
                break
    return faults[:SHOWN], f"{files:,} files ({size / 2**20:,.0f} MiB), {tables} tables"


def _files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.name != _SUM:
            yield path


def _in_file(path: Path, *, columns: bool) -> tuple[set[str], int]:
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


def numbers(content: bytes | mmap.mmap, *, columns: bool = False) -> Iterator[str]:
    """What is there in clear, so far as it may be shown: enough to look for it, not enough to use it (PCI DSS 3.4.1).

    `columns`: it is a file of PostgreSQL's, one column's bytes right behind the other's.
    """
    for match in _CARD.finditer(content):
        digits = re.sub(rb"[^0-9]", b"", match[0]).decode()
        # Groups may be followed by something else: "4242 4242 4242 4242 12" is a card and a month.
        for number in dict.fromkeys((digits, digits[:16])) if match[1] else (digits,):
            if (
                brand_of(number) != "unknown"
                and luhn(number)
                and not _in_a_word(content, *match.span(), columns=columns)
            ):
                yield f"{number[:6]}******{number[-4:]}" if len(number) >= 16 else f"******{number[-4:]}"
                break
    for match in _IBAN.finditer(content):
        words = match[0].decode()
        # What follows may be the next word: the country says how long it is.
        length = IBAN_LENGTHS.get(words[:2], 0)
        ends = [index for index, char in enumerate(words, 1) if char != " "][length - 1 : length]
        if length and ends and not words[ends[0] :][:1].strip() and iban_ok(iban := words[: ends[0]].replace(" ", "")):
            yield f"{iban[:2]}******{iban[-4:]}"


def _in_a_word(content: bytes | mmap.mmap, start: int, end: int, *, columns: bool) -> bool:
    return _in_an_id(content, start, end) or _in_hexadecimal(content, start, end, columns=columns)


def _in_an_id(content: bytes | mmap.mmap, start: int, end: int) -> bool:
    """Whether the digits belong to one of the platform's ids, whatever stands beside that."""
    first = max(0, start - _ID_LENGTH)
    around = content[first : end + _ID_LENGTH]
    return any(
        word.start() <= start - first and end - first <= word.end()
        for place in range(len(around))
        if (word := _ID.match(around, place))
    )


def _in_hexadecimal(content: bytes | mmap.mmap, start: int, end: int, *, columns: bool) -> bool:
    """Whether the digits belong to a longer word of hexadecimal digits: an id's or a hash's. A short word with other letters in it is none."""
    before, after = content[max(0, start - _LONGEST) : start][::-1], content[end : end + _LONGEST]
    left, right = _run(before, _HEXADECIMAL), _run(after, _HEXADECIMAL)
    if end - start + left + right >= _CERTAIN:
        return True
    if columns:
        left, right = _run(before, _LOWER), _run(after, _LOWER)
    elif re.search(rb"[0-9A-Za-z]", before[left : left + 1] + after[right : right + 1]):
        return False
    return left + right > 0 and end - start + left + right >= _SHORTEST


def _run(text: bytes, of: bytes) -> int:
    """How many bytes of these the text begins with."""
    return len(text) - len(text.lstrip(of))
