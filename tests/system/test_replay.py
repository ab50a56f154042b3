"""`tallystick replay`: a file of card payments, plain and packed, twice, with a line that is none; then `verify`."""

from __future__ import annotations

import csv
import gzip
import io
import random
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import PlatformUnderTest

ROWS = 300
COLUMNS = ("TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT")
OTHERS = ("nr", "at", "who", "where", "how_much")


def written(name: str, columns: tuple[str, ...]) -> tuple[str, int]:
    """A file of payments, the same for the same name, and their sum in cents. Amounts as a program writes them: 40.5, 7.0."""
    chance = random.Random(name)
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(columns)
    total = 0
    for number in range(ROWS):
        cents = chance.randint(1, 20_000)
        total += cents
        customer, terminal = chance.randint(1, 150), chance.randint(1, 20)
        rows.writerow(
            (number, f"2018-07-25 {number // 60:02}:{number % 60:02}:00", customer, terminal, str(cents / 100))
        )
    return out.getvalue(), total


def replay(platform: PlatformUnderTest, file: Path, *options: str) -> tuple[int, Any]:
    found = platform.cli("replay", str(file), "--json", *options)
    assert found.out, found
    return found.status, found.json


def test_a_file_is_paid_once(platform: PlatformUnderTest, tmp_path: Path) -> None:
    text, total = written("plain", COLUMNS)
    file = tmp_path / "plain.csv"
    file.write_text(text)
    status, first = replay(platform, file)
    assert (first["sent"], first["new"], first["replayed"], first["problems"]) == (ROWS, ROWS, 0, {})
    assert first["sums"]["file"] == str(total)
    paid, refused = int(first["sums"]["settled"]), int(first["sums"]["declined"])
    assert paid + refused == total
    assert first["sums"]["ledger"] == str(paid)
    assert (status, first["complete"], first["accounts_wrong"]) == (0, True, {})
    again = replay(platform, file)
    assert again[0] == 0
    assert (again[1]["new"], again[1]["replayed"]) == (0, ROWS)
    for name in ("statuses", "declined", "sums", "accounts"):
        assert again[1][name] == first[name]
    platform.verified()


def test_a_packed_file_with_other_columns_and_a_line_that_is_no_payment(
    platform: PlatformUnderTest, tmp_path: Path
) -> None:
    text, total = written("packed", OTHERS)
    lines = text.splitlines(keepends=True)
    broken = {100: "100,2018-07-25,7,7,twelve\r\n", 200: "200,2018-07-25,7,7\r\n"}
    lost = sum(round(float(lines[at].strip().rpartition(",")[2]) * 100) for at in broken)
    for at, line in broken.items():
        lines[at] = line
    file = tmp_path / "packed.csv.gz"
    file.write_bytes(gzip.compress("".join(lines).encode()))
    options = ("--map", "id=nr,time=at,customer=who,terminal=where,amount=how_much")
    status, found = replay(platform, file, *options)
    assert (found["sent"], found["skipped"], found["problems"]) == (ROWS - 2, 2, {})
    assert [row.split(":")[0] for row in found["skipped_rows"]] == ["line 101", "line 201"]
    assert found["sums"]["file"] == str(total - lost)
    assert found["sums"]["ledger"] == found["sums"]["settled"]
    assert (status, found["complete"]) == (1, False), "a file that was not paid whole is not done"
    platform.verified()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a,b\n1,2\n", "--map"),
        (gzip.compress(b"TRANSACTION_ID")[:-9], "line"),
        (b"TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT\n\xff\xfe,1,1,1,1\n", "line"),
    ],
    ids=["other columns", "cut off", "not UTF-8"],
)
def test_a_file_that_is_none_is_said_to_be(
    platform: PlatformUnderTest, tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "none.csv"
    file.write_bytes(content)
    found = platform.cli("replay", str(file))
    assert (found.status, said in found.err) == (2, True), found
    assert "Traceback" not in found.err
    assert platform.cli("replay", str(tmp_path / "absent.csv")).status == 2
