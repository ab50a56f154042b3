"""The search for card numbers in clear: in every file that the platform wrote, and in every table as text.

A card number is a run of 13 to 19 digits on its own that passes the Luhn check and begins as the cards of this sandbox do; so are
the sandbox's test numbers and those of `tallystick replay`. The vault holds them sealed; nothing else may hold them at all.
"""

from __future__ import annotations

import asyncio
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tallystick.kernel.luhn import luhn
from tallystick.local.layout import Layout
from tallystick.local.rail.rules import BEHAVIOURS
from tallystick.local.verify.source import Source

PROMISE = "No card number in clear in any file, table, stream or log."
SHOWN = 20

#: Sixteen digits from 4 on (what the sandbox and `replay` use), not part of a longer run of digits or of a hexadecimal word. The ids of
#: spans and of keys are sixteen hexadecimal digits, and one in thousands has no letter: their places are known and left out.
_NUMBER: Final = re.compile(rb'(?<![0-9A-Fa-f._x-])(?<!"span":")(?<!"parent":")4[0-9]{15}(?![0-9A-Fa-f._-])')
_PLANTED: Final = {number.encode() for number in BEHAVIOURS}


async def search(source: Source, layout: Layout) -> tuple[list[str], str]:
    faults: list[str] = []
    files = size = 0
    for path in _files(layout.data):
        found, length = await asyncio.to_thread(_in_file, path)
        files += 1
        size += length
        faults += [f"{path.relative_to(layout.data)}: {_masked(number)}" for number in sorted(found)]
    tables = 0
    for service in source.services:
        for row in await source.rows(
            service,
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1",
        ):
            table = str(row["relname"])
            tables += 1
            # The name comes from the catalogue and is quoted by the server itself.
            statement = (
                await source.rows(
                    service,
                    "SELECT format('SELECT t::text AS line FROM %I AS t WHERE t::text ~ ''4[0-9]{15}''', $1::text) AS sql",
                    table,
                )
            )[0]["sql"]
            async for rows in source.pages(service, statement):
                for line in rows:
                    faults += [f"{service}.{table}: {_masked(number)}" for number in _numbers(line["line"].encode())]
            if len(faults) > SHOWN:
                break
    return faults[:SHOWN], f"{files:,} files ({size / 2**20:,.0f} MiB), {tables} tables"


def _files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def _in_file(path: Path) -> tuple[set[bytes], int]:
    try:
        with path.open("rb") as file:
            length = path.stat().st_size
            if not length:
                return set(), 0
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return set(_numbers(content)), length
    except (OSError, ValueError):  # gone, or shrunk, while we looked: a part's own temporary file
        return set(), 0


def _numbers(content: bytes | mmap.mmap) -> Iterator[bytes]:
    for match in _NUMBER.finditer(content):
        number = match[0]
        if number in _PLANTED or luhn(number.decode()):
            yield number


def _masked(number: bytes) -> str:
    """Enough to look for it, not enough to use it (PCI DSS 3.4.1)."""
    text = number.decode()
    return f"{text[:6]}******{text[-4:]}"
