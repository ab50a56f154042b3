"""Replay's file: exact amounts, cards of its own, and every row that can't be used is told."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.cli.apiclient import Answer, EdgeUnreachable
from tallystick.cli.commands import dispatch
from tallystick.cli.output import Failed
from tallystick.cli.replay import _show
from tallystick.cli.replay.file import COLUMNS, Row, card_number, columns_of, parse, reading, to_minor, total
from tallystick.cli.replay.run import Once, Run, _bar
from tallystick.kernel.luhn import luhn
from tallystick.local.rail.rules import BEHAVIOURS

HEADER = "TRANSACTION_ID,TX_DATETIME,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT,TX_FRAUD"


def rows(*lines: str, columns: dict[str, str] | None = None) -> tuple[list[Row], list[str]]:
    skipped: list[str] = []
    found = list(parse([HEADER + "\n", *(line + "\n" for line in lines)], columns or dict(COLUMNS), 2, skipped))
    return found, skipped


def test_a_row_is_told_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """`[/x]` ended the report with a stack trace, after all rows were sent."""
    run = Run(key="x", currency="EUR", in_flight=1, whole=False)
    run.tally.skipped = rows("1,t,7,9,[/x]\x1b[2J,0")[1]
    _show(run.report())
    told = capsys.readouterr().out
    assert "skipped line 2: '[/x]" in told
    assert "\x1b" not in told


@given(st.integers(1, 10**12))
def test_amounts_are_exact(minor: int) -> None:
    assert to_minor(f"{minor // 100}.{minor % 100:02d}", 2) == minor
    assert to_minor(str(minor), 0) == minor
    assert to_minor(repr(minor / 100), 2) == minor  # as a program that reckons in floats writes it


@pytest.mark.parametrize(
    "text",
    ["", "x", "0", "0.00", "-1", "1.005", "nan", "inf", "1e400", "0.0000000001", "9" * 30, "1_5", "1e999999999", "٣"],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a"):
        to_minor(text, 2)


def test_a_long_amount_is_told_by_its_beginning() -> None:
    """All of it, up to a line of four megabytes, was in the report."""
    for text in ("-" + "9" * 5000, "9" * 5000):
        with pytest.raises(ValueError, match="is not a") as refused:
            to_minor(text, 2)
        assert len(str(refused.value)) < 100


def test_noise_of_floats_is_forgiven_and_nothing_more() -> None:
    assert to_minor("467.95000000000005", 2) == 46795
    with pytest.raises(ValueError, match="whole number"):
        to_minor("467.951", 2)


@given(st.text(min_size=1, max_size=30))
def test_customers_get_cards_that_pass_and_have_no_behaviour_of_their_own(customer: str) -> None:
    number = card_number(customer)
    assert len(number) == 16
    assert number.startswith("4")
    assert luhn(number)
    assert number not in BEHAVIOURS
    assert number == card_number(customer)


def test_a_bad_line_in_the_middle_is_told_with_its_number_and_the_others_go_on() -> None:
    found, skipped = rows("1,t,7,9,40.77,0", "2,t,7,9,abc,0", "3,t,,9,1.00,0", "4,t,7,9,0.01,1")
    assert [row.id for row in found] == ["1", "4"]
    assert [row.minor for row in found] == [4077, 1]
    assert [line.split(":")[0] for line in skipped] == ["line 3", "line 4"]


def test_a_row_that_is_there_twice_is_one_payment() -> None:
    """Its amount was counted twice, and the ledger was said not to hold what its payments say."""
    found, skipped = rows("1,t,7,9,1.00,0", "1,t,7,9,1.00,0", "1,t,7,9,2.00,0", "2,t,7,9,1.00,0")
    assert [row.id for row in found] == ["1", "2"]
    assert skipped == [f"line {n}: the TRANSACTION_ID 1 occurs twice: it is one payment" for n in (3, 4)]


@pytest.mark.parametrize("number", ["4000001234567899", "GB82WEST12345698765432"])
def test_a_row_named_by_a_card_number_is_told_and_the_others_go_on(number: str) -> None:
    """As the name of a request it is refused, and the run came to its end there."""
    found, skipped = rows(
        f"1,t,{number},9,1.00,0", f"{number},t,7,9,1.00,0", f"3,t,7,{number},1.00,0", "4,t,7,9,1.00,0"
    )
    assert [row.id for row in found] == ["4"]
    assert [line.partition(" contains ")[0] for line in skipped] == [
        "line 2: CUSTOMER_ID",
        "line 3: TRANSACTION_ID",
        "line 4: TERMINAL_ID",
    ]
    assert number not in "".join(skipped)


@pytest.mark.parametrize("file", [".may.csv", ".june.csv"])
def test_a_file_without_a_name_before_its_dot_needs_one(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All such files were one run: rows of the second were said to have been sent."""
    (tmp_path / file).write_text(f"{HEADER}\n")
    for arguments in ([], ["--name", ""]):
        assert dispatch(["replay", str(tmp_path / file), *arguments, "--data", str(tmp_path)]) == 2
        assert "choose another with --name" in capsys.readouterr().err


def test_rows_are_counted_in_their_currency(tmp_path: Path) -> None:
    """In one of three decimals they were taken for invalid, and progress went beyond its end."""
    file = tmp_path / "f.csv"
    file.write_text(f"{HEADER}\n1,t,7,9,1.005,0\n2,t,7,9,1.00,0\n")
    assert total(file, dict(COLUMNS), 3, None) == 2


async def test_progress_is_shown_on_a_terminal_only(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty line went to a standard error that is a file."""
    async with _bar(1, "payments", quiet=False) as advance:
        advance(1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["José", "a\tb", "x" * 101], ids=["letter", "control", "long"])
def test_what_can_not_be_the_name_of_a_request_is_told(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keys were cut off at 255 characters, and rows that differed behind that were one payment; a customer's `é` ended the run."""
    found, skipped = rows(f"1,t,{name},9,1.00,0", f"{name},t,7,9,1.00,0", "3,t,7,9,1.00,0", f"{'x' * 100},t,7,9,1.00,0")
    assert [row.id for row in found] == ["3", "x" * 100]
    assert all(line.endswith("is not 1 to 100 printable ASCII characters") for line in skipped)
    file = tmp_path / "f.csv"
    file.write_text(f"{HEADER}\n")
    assert dispatch(["replay", str(file), "--name", name, "--data", str(tmp_path)]) == 2
    assert "choose another with --name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [(EdgeUnreachable("nobody answers"), "nobody answers\nrun the command again"), (Failed("no", 4), "no")],
    ids=["unreachable", "refused"],
)
def test_why_a_run_ends_early_is_said(
    error: Failed, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was a stack trace and exit status 1."""

    async def request(*_: object) -> Answer:
        raise error

    file = tmp_path / "payments.csv"
    file.write_text(f"{HEADER}\n1,t,7,9,1.00,0\n2,t,7,9,1.00,0\n")
    monkeypatch.setattr(Run, "_request", request)
    monkeypatch.setattr("tallystick.cli.replay.own_client", lambda *_: None)
    monkeypatch.setattr("tallystick.cli.apiclient.ApiClient", lambda *_, **__: nullcontext())
    assert dispatch(["replay", str(file), "--data", str(tmp_path)]) == error.status
    assert said in capsys.readouterr().err


def test_columns_can_be_mapped_and_wrong_maps_are_refused() -> None:
    columns = columns_of("id=TX,amount=SUM")
    assert (columns["id"], columns["amount"], columns["terminal"]) == ("TX", "SUM", "TERMINAL_ID")
    for bad in ("id", "nothing=TX", "id="):
        with pytest.raises(Failed):
            columns_of(bad)
    with pytest.raises(Failed, match="no column SUM"):
        rows("1,t,7,9,1.00,0", columns=columns_of("amount=SUM"))


def test_no_column_is_demanded_that_nothing_is_done_with() -> None:
    """A file without times was refused. One that is named is to be there all the same: else another one may be misspelt too."""
    line = ["TRANSACTION_ID,CUSTOMER_ID,TERMINAL_ID,TX_AMOUNT\n", "1,7,9,40.77\n"]
    assert list(parse(line, dict(COLUMNS), 2, [])) == [Row("1", "7", "9", 4077)]
    with pytest.raises(Failed, match="no column WHEN"):
        list(parse(line, columns_of("time=WHEN"), 2, []))
    assert rows("1,t,7,9,40.77,0", columns=columns_of("time=TX_DATETIME"))[0] == [Row("1", "7", "9", 4077)]


def test_a_row_that_is_no_text_is_told_by_its_own_line(tmp_path: Path) -> None:
    """It was the line up to which the file had been read ahead."""
    file = tmp_path / "rows.csv"
    rows_before = "".join(f"{number},t,7,9,1.00,0\n" for number in range(3000))
    file.write_bytes(f"{HEADER}\n{rows_before}".encode() + b"3001,t,J\xf6rg,9,1.00,0\n" + rows_before.encode())
    with pytest.raises(Failed, match=r"line 3002: not valid UTF-8"), reading(file) as lines:
        list(parse(lines, dict(COLUMNS), 2, []))


def test_gzip_and_plain_files_read_the_same(tmp_path: Path) -> None:
    text = f"{HEADER}\n1,t,7,9,40.77,0\n"
    plain, packed = tmp_path / "a.csv", tmp_path / "a.csv.gz"
    plain.write_text("\ufeff" + text)
    packed.write_bytes(gzip.compress(text.encode()))
    for file in (plain, packed):
        with reading(file) as lines:
            assert [row.minor for row in parse(lines, dict(COLUMNS), 2, [])] == [4077]


def test_files_that_are_cut_off_or_missing_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "b.csv.gz"
    whole = gzip.compress(f"{HEADER}\n1,t,7,9,40.77,0\n".encode() * 200)
    for content in (
        whole[:-20],
        whole[:2],
        whole[:8],
        whole[:10] + b"\xff" * 20,
        whole[:-8] + bytes(8),
        b"\x1f\x8bnone",
    ):
        broken.write_bytes(content)
        with pytest.raises(Failed), reading(broken) as lines:
            list(parse(lines, dict(COLUMNS), 2, []))
    with pytest.raises(Failed, match="can't read"), reading(tmp_path / "missing.csv"):
        pass
    reader, writer = os.pipe()
    os.write(writer, HEADER.encode())
    with pytest.raises(Failed, match="it must be read twice"), reading(Path(f"/dev/fd/{reader}")):
        pass
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("option", ["--limit", "--in-flight"])
@pytest.mark.parametrize("count", ["0", "-1"])
def test_a_number_of_rows_or_requests_that_is_none(
    option: str, count: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(["replay", str(tmp_path / "x.csv"), option, count, "--data", str(tmp_path)]) == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize("whole", [True, False])
def test_a_part_of_a_file_is_not_compared(whole: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Its terminals' accounts may hold more from an earlier run."""
    _show(Run(key="x", currency="EUR", in_flight=1, whole=whole).report())
    told = capsys.readouterr().out
    assert ("ledger  0 accounts" in told, "not compared" in told) == (whole, not whole)


async def test_a_name_that_had_other_content_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same file again in another currency has the same keys."""
    document = b'{"type": "https://x/idempotency-key-reused"}'

    async def request(*_: object) -> Answer:
        return Answer(422, {"Content-Type": "application/problem+json"}, document)

    monkeypatch.setattr(Run, "_request", request)
    with pytest.raises(Failed, match="--name") as refused:
        await Run(key="x", currency="USD", in_flight=1, whole=True)._make_account("9")
    assert refused.value.status == 1


async def test_what_is_still_being_made_when_a_run_ends_early_ends_with_it() -> None:
    """Else each of them is a page of a program's own words after the reason."""
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    gone, ended = asyncio.Event(), []

    async def make(key: str) -> str:
        try:
            await gone.wait()
        finally:
            ended.append(key)
        if key == "fails":
            raise Failed("the edge is gone")
        return key

    once = Once(make)
    waiting = [asyncio.ensure_future(once.get(key)) for key in ("fails", "made")]
    await asyncio.sleep(0)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    gone.set()
    await asyncio.sleep(0)
    gone.clear()
    late = asyncio.ensure_future(once.get("late"))
    for _ in range(2):  # until it is being made
        await asyncio.sleep(0)
    late.cancel()
    await once.close()
    assert once.items() == {"made": "made"}
    assert sorted(ended) == ["fails", "late", "made"]
    del once, make
    gc.collect()
    assert unseen == []
