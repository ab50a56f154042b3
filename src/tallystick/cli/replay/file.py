"""Reads the file: CSV, plain or gzip, as rows with exact amounts."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Final

from tallystick.cli.failure import USAGE, Failed
from tallystick.cli.lines import text_lines
from tallystick.kernel.luhn import check_digit
from tallystick.kernel.money import MAX_MINOR
from tallystick.kernel.numbers import found_in

#: The columns' names, unless `--map` gives others.
COLUMNS: Final = {
    "id": "TRANSACTION_ID",
    "customer": "CUSTOMER_ID",
    "terminal": "TERMINAL_ID",
    "amount": "TX_AMOUNT",
}
#: `--map` accepts it, since such files have it, and ignores it: a payment is made when it is sent.
TIME: Final = "time"
#: An idempotency key is made of two of them and a prefix, and has at most 255 characters.
MAX_NAME: Final = 100
FLOAT_NOISE: Final = Decimal("0.000001")
#: `Decimal` takes more: `1_5` for 15, and exponents with which it can't compute.
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    customer: str
    terminal: str
    minor: int


def columns_of(text: str) -> dict[str, str]:
    """COLUMNS with what `--map` says. Raises Failed."""
    columns = dict(COLUMNS)
    for part in filter(None, text.split(",")):
        what, separator, column = part.partition("=")
        if not separator or what not in (*COLUMNS, TIME) or not column:
            raise Failed(f"--map takes {', '.join(f'{k}=COLUMN' for k in COLUMNS)}, not {part!r}", USAGE)
        columns[what] = column
    return columns


@contextmanager
def reading(file: Path) -> Iterator[Iterable[str]]:
    """The lines of a CSV file, plain or gzip. Raises Failed."""
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(file.open("rb"))
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
        except OSError as error:
            why = (
                error.strerror
                or "it is not a regular file, and it must be read twice: to count its rows, then to send them"
            )
            raise Failed(f"can't read {file}: {why}", USAGE) from error
        content: IO[bytes] = stack.enter_context(io.BufferedReader(gzip.GzipFile(fileobj=raw))) if packed else raw
        yield stack.enter_context(closing(text_lines(content, file)))


def parse(lines: Iterable[str], columns: dict[str, str], exponent: int, skipped: list[str]) -> Iterator[Row]:
    """The rows. An invalid one is added to `skipped`, with its line number and the reason. Raises Failed for a file that is not such a CSV."""
    reader = csv.DictReader(lines, strict=True)
    ids: set[str] = set()
    try:
        missing = [name for name in columns.values() if name not in (reader.fieldnames or ())]
        if missing:
            raise Failed(f"the file has no column {', '.join(missing)}; name its columns with --map", USAGE)
        for record in reader:
            try:
                row = _row(record, columns, exponent)
                if row.id in ids:
                    raise ValueError(f"the {columns['id']} {row.id} occurs twice: it is one payment")
            except ValueError as error:
                skipped.append(f"line {reader.line_num}: {error}")
            else:
                ids.add(row.id)
                yield row
    except (csv.Error, EOFError, OSError, zlib.error) as error:
        raise Failed(f"line {reader.line_num + 1}: {error}", USAGE) from error


def _row(record: dict[str, Any], columns: dict[str, str], exponent: int) -> Row:
    values = {what: (record.get(columns[what]) or "").strip() for what in COLUMNS}
    empty = [columns[what] for what, value in values.items() if not value]
    if empty:
        raise ValueError(f"{', '.join(empty)} is empty")
    for what in ("id", "customer", "terminal"):
        if why := no_name(values[what]):
            raise ValueError(f"{columns[what]} {why}")
    return Row(values["id"], values["customer"], values["terminal"], to_minor(values["amount"], exponent))


def no_name(text: str) -> str | None:
    """Why a text can't be part of an idempotency key, or None if it can. Keys are printable ASCII and are stored, so they must not hold a
    card number. A long text is refused rather than cut off: the end may be all that tells two rows apart.
    """
    if not 1 <= len(text) <= MAX_NAME or not text.isascii() or not text.isprintable():
        return f"is not 1 to {MAX_NAME} printable ASCII characters"
    found = found_in(text)
    return f"contains {found}, or what looks like one" if found else None


def to_minor(text: str, exponent: int) -> int:
    """`40.77` -> 4077, exactly. ValueError if it is not a positive number, or has more decimals than the currency.

    Programs that compute with floats write `467.95000000000005`, so a difference of up to a millionth of a minor unit is rounded away.
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r:.40} is not an amount")
    amount = Decimal(text)
    if amount <= 0:
        raise ValueError(f"{text:.40} is not a positive amount")
    exact = amount.scaleb(exponent)
    minor = exact.to_integral_value()
    if abs(exact - minor) > FLOAT_NOISE or not 0 < minor <= MAX_MINOR:
        raise ValueError(f"{text:.40} is not a whole number of minor units that fits")
    return int(minor)


def card_number(customer: str) -> str:
    """A customer's test card: 16 digits that begin with 41, Luhn-valid, derived from the id. Never one of the sandbox's special cards."""
    digest = int.from_bytes(hashlib.sha256(b"tallystick replay card " + customer.encode()).digest()[:8])
    body = f"41{digest % 10**13:013d}"
    return body + check_digit(body)


def total(file: Path, columns: dict[str, str], exponent: int, limit: int | None) -> int:
    with reading(file) as lines:
        return sum(1 for _ in bounded(parse(lines, columns, exponent, []), limit))


def bounded(rows: Iterable[Row], limit: int | None) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if limit is not None and number >= limit:
            return
        yield row
