"""The ledger's command: exact amounts, files of both forms, each wrong line with its place, and a plot that shows what is there."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from tallystick.cli.apiclient import Answer
from tallystick.cli.commands import dispatch
from tallystick.cli.ledger.app import refused
from tallystick.cli.ledger.files import _show, _target, bringing
from tallystick.cli.ledger.files.reading import File, Survey, lines
from tallystick.cli.ledger.money import minor, plain, shown
from tallystick.cli.ledger.picture import picture, ticks
from tallystick.cli.ledger.plot import TERMINAL, in_terminal, series_of, wanted
from tallystick.cli.ledger.reports import _show_statement, _show_trial_balance, named_rule
from tallystick.cli.ledger.series import Series, span, thinned
from tallystick.cli.lines import MAX_LINE
from tallystick.cli.output import Failed, columns, console, print_line, print_table
from tallystick.kernel.currencies import EXPONENTS

# ---- amounts --------------------------------------------------------------------------------------------------------


@given(st.integers(-(2**63) + 1, 2**63 - 1), st.sampled_from(sorted(EXPONENTS)))
def test_amounts_come_back_exactly(value: int, code: str) -> None:
    text = plain({"amount": str(value), "currency": code})
    assert minor(text, code) == value


@pytest.mark.parametrize(
    ("text", "code", "value"),
    [("12.50", "EUR", 1250), ("12.5", "EUR", 1250), ("12", "EUR", 1200), ("-0.01", "EUR", -1), ("7", "JPY", 7), ("7.0", "JPY", 7), ("1.234", "BHD", 1234)],
)  # fmt: skip
def test_amounts_as_people_write_them(text: str, code: str, value: int) -> None:
    assert minor(text, code) == value


@pytest.mark.parametrize(
    "text", ["", "x", "1e3", "1,000.00", "1.005", ".5", "5.", "0x1", "nan", "١", "9" * 21, "1.000000000000000000001"]
)
def test_what_is_no_amount_of_euros_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        minor(text, "EUR")


def test_money_is_shown_in_its_units() -> None:
    assert shown({"amount": "-5", "currency": "EUR"}) == "-0.05 EUR"
    assert shown({"amount": "5", "currency": "JPY"}) == "5 JPY"


# ---- files ----------------------------------------------------------------------------------------------------------


def survey(path: Path) -> tuple[Survey, list[tuple[int, dict[str, Any]]]]:
    file = File(path)
    found = file.survey(lambda _: None)
    return found, [(line, json.loads(encoded)) for line, _, encoded in file.records()]


def wrong(found: Survey) -> list[tuple[int, str | None]]:
    return [(one.line, one.field) for one in found.wrong]


def test_transfers_of_a_csv_file(tmp_path: Path) -> None:
    file = tmp_path / "h.csv"
    file.write_text(
        "id,transaction,reference,debit,credit,amount,currency,effective_at,code,metadata.order\n"
        "1,,,a,b,12.50,EUR,2026-01-31,x,7\n"
        "2,,INV-1,a,b,5,JPY,,,\n"
        "3,t,REF,a,b,1.00,EUR,2026-01-31T10:00:00Z,,\n"
        ",t,,b,c,1.00,EUR,,,\n"
        "5,,,a,b,0.01,EUR,,,\n"
    )
    found, records = survey(file)
    assert found.wrong == []
    eur = {"amount": "1250", "currency": "EUR"}
    first = {"type": "transfer", "id": "1", "debit_account": "a", "credit_account": "b", "amount": eur, "code": "x", "metadata": {"order": "7"}, "effective_at": "2026-01-31T00:00:00Z"}  # fmt: skip
    assert records[0] == (2, first)
    assert records[1][1]["type"] == "transaction"
    assert (records[1][1]["id"], records[1][1]["reference"], len(records[1][1]["transfers"])) == ("2", "INV-1", 1)
    line, whole = records[2]
    assert (line, whole["id"], whole["reference"], whole["effective_at"]) == (4, "t", "REF", "2026-01-31T10:00:00Z")
    assert [leg.get("id") for leg in whole["transfers"]] == ["3", None]
    assert records[3][0] == 6


def test_accounts_of_a_csv_file(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("path,name,currency,normal_side,floor,opening,closed\na:b,Anna,EUR,credit,-10.00,-2.50,no\n")
    _, records = survey(file)
    opening = {"amount": "-250", "currency": "EUR"}
    assert records == [(2, {"type": "account", "name": "Anna", "currency": "EUR", "normal_side": "credit", "path": "a:b", "floor": "-1000", "opening": opening})]  # fmt: skip


def test_each_wrong_line_is_told_with_its_field_and_the_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "h.csv"
    file.write_text(
        "id,debit,credit,amount,currency,final\n1,a,b,1.00,EUR,\n2,a,b,1.005,EUR,\n3,a,b,1.00,XXQ,\n4,a,b,1.00,EUR,maybe\n5,a,b\n"
        "4242424242424242,a,b,1.00,EUR,\n7,a,b,1.00,EUR,\n"
    )
    found, records = survey(file)
    assert wrong(found) == [(3, "amount"), (4, "currency"), (5, "final"), (6, None), (7, "/id")]
    assert [line for line, _ in records] == [2, 8]
    assert "4242" not in repr(found.wrong)


def test_an_amount_below_zero_and_one_with_a_plus_sign_are_no_amounts(tmp_path: Path) -> None:
    file = tmp_path / "h.csv"
    file.write_text(
        "debit,credit,amount,currency,expires_in\na,b,-1.00,EUR,\na,b,+1.00,EUR,\na,b,1.00,EUR,\u0663\na,b,1.00,EUR,30\n"
    )
    found, records = survey(file)
    assert [(one.line, one.field, one.detail) for one in found.wrong] == [
        (2, "amount", "-1.00 is below zero: to move money the other way, exchange debit and credit"),
        (3, "amount", "'+1.00' is not an amount such as 12.50"),
        (4, "expires_in", "must be a number of seconds"),
    ]
    assert [line for line, _ in records] == [5]


def test_a_byte_that_is_no_text_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "h.csv"
    head = "name,currency,normal_side\n".encode("utf-8-sig") + "Zoë,EUR,credit\n".encode() * 3000
    file.write_bytes(head + "Zoë,EUR,credit\n".encode("latin-1") + b"Anna,EUR,credit\n")
    with pytest.raises(Failed, match=r"h\.csv, line 3002: not valid UTF-8"):
        survey(file)
    file.write_bytes(head)
    assert survey(file)[0].records == 3000


def test_wrong_lines_of_json(tmp_path: Path) -> None:
    good = '{"type":"account","name":"a","currency":"EUR","normal_side":"debit","id":"x"}'
    file = tmp_path / "a.jsonl"
    twice = good[:-1] + ',"id":"y"}'
    file.write_text(
        "\n".join([good, "{", good.replace("debit", "left"), "", '{"type":"nothing"}', "[]", twice, good]) + "\n"
    )
    found, records = survey(file)
    assert wrong(found) == [(2, None), (3, "/normal_side"), (5, "/type"), (6, None), (7, None)]
    assert [line for line, _ in records] == [1, 8]


def test_rows_of_one_transaction_agree(tmp_path: Path) -> None:
    file = tmp_path / "h.csv"
    file.write_text("transaction,reference,debit,credit,amount,currency\nt,A,a,b,1,EUR\nt,B,b,c,1,EUR\n")
    assert wrong(survey(file)[0]) == [(3, "reference")]


def test_a_wrong_row_of_a_transaction_is_told_at_its_own_line(tmp_path: Path) -> None:
    file = tmp_path / "transfers.csv"
    head = "transaction,reference,debit,credit,amount,currency\n"
    file.write_text(head + "t,A,a,b,1,EUR\nt,A,b,c,1.001,EUR\nt,A,b,c,1,EUR\nu,B,a,b,1,EUR\nu,C,a,b,1,EUR\n")
    found = Survey()
    assert list(File(file).records(found)) == []
    assert [(wrong.line, wrong.field) for wrong in found.wrong] == [(3, "amount"), (6, "reference")]


def test_no_line_and_no_transaction_fills_the_memory(tmp_path: Path) -> None:
    head = b"transaction,debit,credit,amount,currency\n"
    line = tmp_path / "line.csv.gz"
    line.write_bytes(gzip.compress(head + b"t,a,b,1,EUR" + b" " * (MAX_LINE + 1)))
    with pytest.raises(Failed, match="line 2: longer than"):
        File(line).survey(lambda _: None)
    many = tmp_path / "many.csv"
    many.write_bytes(head + b"t,a,b,1,EUR\n" * 1500 + b"u,a,b,1,EUR\n")
    found = File(many).survey(lambda _: None)
    assert found.records == 1
    assert [(wrong.line, wrong.field) for wrong in found.wrong] == [(1002, "transaction")]


@pytest.mark.parametrize("header", ["a,b,c", "debit,credit,amount,currency,surprise", "name,name,currency,normal_side"])
def test_a_header_that_is_none_of_ours_is_refused(tmp_path: Path, header: str) -> None:
    file = tmp_path / "h.csv"
    file.write_text(header + "\n1,2,3\n")
    with pytest.raises(Failed, match=r"header|unknown columns|twice"):
        survey(file)


def test_plain_and_packed_files_are_the_same_content(tmp_path: Path) -> None:
    text = "id,debit,credit,amount,currency\n1,a,b,1.00,EUR\n".encode("utf-8-sig")
    plain_file, packed = tmp_path / "a.csv", tmp_path / "a.csv.gz"
    plain_file.write_bytes(text)
    packed.write_bytes(gzip.compress(text))
    assert survey(plain_file)[0].sha256 == survey(packed)[0].sha256
    whole = gzip.compress(text * 500)
    for content in (
        whole[:-20],
        whole[:2],
        whole[:8],
        whole[:10] + b"\xff" * 20,
        whole[:-8] + bytes(8),
        b"\x1f\x8bnone",
    ):
        packed.write_bytes(content)
        with pytest.raises(Failed, match="can't read all of"):
            survey(packed)


def exported(*records: dict[str, Any]) -> bytes:
    text = b"".join(json.dumps(one).encode() + b"\n" for one in records)
    end = {"type": "end", "sequence": 0, "records": {}, "sha256": hashlib.sha256(text).hexdigest()}
    return text + json.dumps(end).encode() + b"\n"


BOOK = {"type": "book", "name": "main", "sequence": 0, "exported_at": "2026-01-01T00:00:00Z"}
ACCOUNT = {"type": "account", "name": "a", "currency": "EUR", "normal_side": "debit", "id": "x"}


def test_an_export_that_was_changed_or_cut_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    whole = exported(BOOK, ACCOUNT)
    file.write_bytes(whole)
    found = survey(file)[0]
    assert (found.restores, found.sequence, found.records) == (True, 0, 2)
    for broken, why in (
        (whole.replace(b"EUR", b"USD"), "SHA-256"),
        (b"\n".join(whole.splitlines()[:2]) + b"\n", "incomplete export"),
        (whole + json.dumps(ACCOUNT).encode() + b"\n", "the export has already ended"),
        (exported(ACCOUNT, BOOK), "the first record of an export"),
    ):
        file.write_bytes(broken)
        with pytest.raises(Failed, match=why):
            survey(file)


def test_uploads_are_bounded_in_records_and_bytes() -> None:
    records = [(n, None, b"x" * 100) for n in range(1, 26)]
    assert [count for count, _ in lines(records, 10, 10**6)] == [10, 10, 5]
    assert [count for count, _ in lines(records, 1000, 700)] == [5, 5, 5, 5, 5]
    assert [count for count, _ in lines([(1, None, b"x" * 999)], 10, 10)] == [1]


async def test_a_file_that_can_not_be_brought_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads go a few at once: what came of it was a stack trace of all of them."""

    async def refuse(*_: object, **__: object) -> object:
        raise Failed("the edge is gone", 3)

    def records() -> Iterator[tuple[int, None, bytes]]:
        yield from ((n, None, b"{}") for n in range(100_000))

    file = SimpleNamespace(records=records)
    monkeypatch.setattr(bringing, "ask", refuse)
    with pytest.raises(Failed, match="the edge is gone"):
        await bringing._upload(None, "/v1/imports/imp_1", file, print)  # type: ignore[arg-type]


async def test_an_import_that_waits_says_why_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wait = {"reason": "The service's database is not available", "since": "?", "due_at": "?"}
    counts = {"accounts": 0, "accounts_known": 0, "transfers": 0, "refused": 0}
    told = iter(
        {"id": "imp_1", "state": state, "waiting": waiting, **counts}
        for state, waiting in [*[("queued", None)] * 2, *[("queued", wait)] * 3, ("done", None)]
    )

    async def ask(*_: object, **__: object) -> object:
        return next(told)

    monkeypatch.setattr(bringing, "ask", ask)
    monkeypatch.setattr(bringing, "POLL_S", 0.0)
    survey: Any = SimpleNamespace(records=1, sha256="", sequence=None)
    file: Any = None
    outcome = await bringing.bring(None, file, survey, book="main", mode="whole", dry_run=False, quiet=False)  # type: ignore[arg-type]
    assert outcome.document["state"] == "done"
    assert capsys.readouterr().err.count("waiting: The service's database is not available.") == 1


def test_a_file_that_can_not_be_used_is_said_before_the_platform_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(tmp_path)]
    assert dispatch(["ledger", "import", str(tmp_path / "none.csv"), *data]) == 2
    assert "can't read" in capsys.readouterr().err
    file = tmp_path / "h.csv"
    file.write_text("id,debit,credit,amount,currency\n1,a,b,x,EUR\n")
    report = tmp_path / "report.jsonl"
    assert dispatch(["ledger", "import", str(file), "--json", "--report", str(report), *data]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["refused"], told["refusals"][0]["line"]) == ("failed", 1, 2)
    assert json.loads(report.read_text())["field"] == "amount"
    assert dispatch(["ledger", "import", str(file), "--skip-invalid", "--in-parts", *data]) == 2
    file.write_text("id,debit,credit,amount,currency\n1,a,b,1.00,EUR\n")
    assert dispatch(["ledger", "import", str(file), *data]) == 3
    capsys.readouterr()
    assert dispatch(["ledger", "import", str(file), "--report", str(tmp_path / "none" / "r"), *data]) == 2
    assert "can't write" in capsys.readouterr().err


def answer(status: int, **document: Any) -> Answer:
    return Answer(status, {"Content-Type": "application/problem+json"}, json.dumps(document).encode())


def test_a_refusal_says_everything_once() -> None:
    kind = "https://tallystick.dev/problems/invalid-request"
    wrong = {"type": kind, "title": "Invalid request", "detail": "/from: neither a day nor a time"}
    errors = [{"pointer": "/from", "detail": "neither a day nor a time"}]
    told = str(refused(answer(400, **wrong, errors=errors)))
    assert told == "Invalid request: /from: neither a day nor a time"
    body = {**wrong, "detail": "not JSON"}
    assert (
        str(refused(answer(400, **body, errors=[{"pointer": "", "detail": "not JSON"}]))) == "Invalid request: not JSON"
    )
    number = {"title": "Invalid IBAN", "detail": "the check digits are wrong"}
    errors = [{"pointer": "/iban", "detail": "the check digits are wrong"}, {"pointer": "/to", "detail": "unknown"}]
    told = str(refused(answer(400, **number, errors=errors)))
    assert told == "Invalid IBAN: the check digits are wrong\n  at /iban\n  /to: unknown"
    no = {"type": "https://tallystick.dev/problems/transfer-refused", "title": "The ledger refused the transfer"}
    told = str(refused(answer(422, **no, reason="account_not_found", account="nobody")))
    assert told == "The ledger refused the transfer\n  reason: account_not_found\n  account: nobody"
    later = {
        "type": "https://tallystick.dev/problems/history-not-kept",
        "title": "No balance",
        "detail": "opened later",
    }
    assert "--by effective" in str(refused(answer(422, **later, created_at="2026-01-01T00:00:00Z")))
    assert "--by effective" not in str(refused(answer(422, **later)))


def test_an_import_that_was_refused_as_a_whole_is_not_there_already(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {"accounts": 0, "accounts_known": 0, "transfers": 0, "transfers_known": 0}
    document = {"book": "main", "state": "done", "dry_run": False, "sequence": 0, **counts}
    line = {"line": 2, "field": None, "reason": "insufficient_funds", "detail": "no"}
    _show(document, [line], None, again=False)
    assert "every line was refused" in capsys.readouterr().out
    _show({**document, "transfers_known": 1}, [line], None, again=False)
    assert "already has all of it" in capsys.readouterr().out


def write(out: Path, content: bytes = b"all of it\n") -> None:
    with ExitStack() as stack:
        _target(stack, out).write(content)


def test_a_file_takes_its_place_when_all_of_it_is_there(tmp_path: Path) -> None:
    file = tmp_path / "main.jsonl"
    file.write_text("before")
    with pytest.raises(ZeroDivisionError), ExitStack() as stack:
        _target(stack, file).write(b"half")
        assert file.read_text() == "before"
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["main.jsonl"]
    link = tmp_path / "link"
    link.symlink_to(file)
    write(link)
    assert (link.is_symlink(), file.read_bytes()) == (True, b"all of it\n")


def test_what_is_no_file_is_written_and_stays_what_it_is(tmp_path: Path) -> None:
    """As root, an export to /dev/null would else put a file in its place."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for out in (pipe, link):
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            write(out)
            assert os.read(reader, 100) == b"all of it\n"
        finally:
            os.close(reader)
    assert pipe.is_fifo()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for out in (tmp_path, tmp_path / "circle", tmp_path / "none" / "x"):
        with pytest.raises(Failed, match="can't write"):
            write(out)


# ---- plots ----------------------------------------------------------------------------------------------------------

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"rule": "floor", "value": "-10000"}, "floor -100.00"),
        ({"rule": "ceiling", "value": "500000"}, "ceiling 5000.00"),
        ({"rule": "normal_side", "value": "credit"}, "normal side credit"),
        ({"rule": "chart", "chart": {"pattern": "customers:**"}}, "chart customers:**"),
        ({"rule": "frozen"}, "frozen"),
    ],
)
def test_a_rule_is_named_with_its_amount_in_units(rule: dict[str, Any], said: str) -> None:
    assert named_rule(rule, "EUR") == said


def series(*amounts: int, code: str = "EUR") -> Series:
    steps = [(BEGIN + timedelta(days=n), amount) for n, amount in enumerate(amounts)]
    return Series("customers:1 & <co>", code, steps, BEGIN + timedelta(days=len(amounts)))


def test_what_is_piped_is_not_cut_off(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An id that ends in dots can't be used for anything."""
    table = Table(box=None)
    for text in ("account", "name"):
        table.add_column(text, no_wrap=True)
    table.add_row("acc_01m8h2an9ge12vjj45xsk8vn2p", "x" * 200)
    monkeypatch.delenv("COLUMNS", raising=False)
    console().print(table)
    assert "x" * 200 in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "80")
    console().print(table)
    assert "x" * 200 not in capsys.readouterr().out, "who says how wide it is, is believed"


@pytest.mark.parametrize("width", ["40", "60", "80", "120", None])
def test_no_amount_and_no_id_is_cut(
    width: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half an amount looks like another amount."""
    account, amount = "acc_01m8h2an9ge12vjj45xsk8vn2p", "1000000000000.01"
    if width is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", width)
    table = columns(
        {"account": "left", "name": "left", "posted": "right", "balance": "right", "": "left"}, wraps="name"
    )
    table.add_row(account, "a name of several words that goes on", f"{amount} EUR", f"-{amount}", "[red]closed[/]")
    print_table(table)
    told = capsys.readouterr().out
    for whole in (account, f" {amount} EUR", f"-{amount}", "closed", "several"):
        assert whole in told
    totals = columns({"account": "left", "debits": "right"}, wraps="account")
    totals.add_row(account, amount)
    print_table(totals)
    assert f"{account} {amount}" in " ".join(capsys.readouterr().out.split())


def eur(minor: int) -> dict[str, str]:
    return {"amount": str(minor), "currency": "EUR"}


@pytest.mark.parametrize("width", ["36", "80", "100"])
def test_a_line_goes_on_below_between_words(
    width: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [f"acc_01m8h2an9ge12vjj45xsk8vn{n}p" for n in range(6)]
    monkeypatch.setenv("COLUMNS", width)
    print_line(f"[green]✓[/] made  [dim]{'  '.join(ids)}[/] and another")
    first, *more = capsys.readouterr().out.splitlines()
    assert first.startswith("✓ made")
    assert all(line.startswith("    ") for line in more)
    assert all(len(line) <= int(width) for line in (first, *more))
    assert " ".join((first, *more)).split() == ["✓", "made", *ids, "and", "another"]


def test_a_line_that_fits_or_is_piped_stays_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_line("x" * 40 + " " + "y" * 39)
    assert capsys.readouterr().out == "x" * 40 + " " + "y" * 39 + "\n"
    monkeypatch.delenv("COLUMNS")
    print_line("word " * 300 + "end")
    assert capsys.readouterr().out == "word " * 300 + "end\n"


def test_a_word_that_no_terminal_has_room_for_is_left_to_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the terminal itself breaks is copied as one word."""
    monkeypatch.setenv("COLUMNS", "40")
    path = "/" + "p" * 100
    print_line(f"credentials in {path} now")
    assert capsys.readouterr().out.splitlines() == ["credentials in", f"    {path}", "    now"]


def test_a_statement_with_both_times_fits_into_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An amount that went on in the next line looked like that of another entry."""
    monkeypatch.setenv("COLUMNS", "80")
    entry = {"kind": "post", "code": "opening", "amount": eur(10000), "side": "credit", "balance": eur(15000)}
    at = {"recorded_at": "2026-12-01T07:22:21.294242Z", "effective_at": "2026-01-05T00:00:00.000000Z"}
    _show_statement(
        {
            "path": "customers:1:wallet", "name": "Anna", "by": "recorded", "as_of": 10451, "book": "main", "entries": 1,
            "from": "2026-12-01T07:22:18.468095Z", "to": "2026-12-01T07:22:32.722292Z", "opening": eur(5000), "data": [entry | at],
            "debits": eur(0), "credits": eur(10000), "closing": eur(15000), "has_more": False,
        }
    )  # fmt: skip
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 80
    assert "as of sequence 10,451 of main" in " ".join(told.split())
    assert re.search("2026-12-01 07:22:21  2026-01-05 +post +opening +100.00 +150.00 *\n", told)


def test_a_trial_balance_names_accounts_without_a_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = "acc_3h0d8tfvszh8zs44th4x0abtqk"
    amounts = {"debits": eur(0), "credits": eur(123456), "balance": eur(-123456)}
    lines = [
        {"account": own, "name": "Anna's wallet [bold]", "kind": "liability", **amounts},
        {"account": own, "name": "Bank", "path": "assets:bank", "kind": "asset", **amounts},
        {"accounts": 2, "kind": "asset", **amounts},
    ]
    totals = [{"currency": "EUR", "accounts": 4, "debits": eur(0), "credits": eur(0)}]
    found = {"book": "main", "as_of": 7, "data": lines, "totals": totals}
    _show_trial_balance(found, None)
    wide = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert wide[2:5] == [f"{own} Anna's wallet [bold]", "assets:bank", "(no path) (2)"]
    monkeypatch.setenv("COLUMNS", "80")
    _show_trial_balance(found, None)
    told = capsys.readouterr().out.splitlines()
    assert max(map(len, told)) <= 80
    assert re.fullmatch(rf"{own} Anna's  liability +0.00 +1234.56 +-1234.56  EUR *", told[2])
    assert told[3].strip() == "wallet [bold]"


def test_a_row_that_is_wider_than_the_terminal_goes_on_between_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = columns(dict.fromkeys(("client", "tenant", "name", "state", "bound to", "scope"), "left"), wraps="scope")
    table.add_row(
        "cli_01m8r7bbbkexmv9vagjybnbkaf", "default", "shop", "[green]active[/]", "key", "payments:read payments:write"
    )
    table.add_row(
        "cli_01m8r7vvb5ewdr1s2c28swhmmx",
        "default",
        "old",
        "revoked 2026-12-01T07:25:27",
        "certificate",
        "accounts:read",
    )
    print_table(table)
    assert [line.split() for line in capsys.readouterr().out.splitlines()[-4:]] == [
        ["cli_01m8r7bbbkexmv9vagjybnbkaf", "default", "shop", "active", "key"],
        ["payments:read", "payments:write"],
        ["cli_01m8r7vvb5ewdr1s2c28swhmmx", "default", "old", "revoked", "2026-12-01T07:25:27"],
        ["certificate", "accounts:read"],
    ]


def test_a_path_is_no_picture(capsys: pytest.CaptureFixture[str]) -> None:
    """Rich draws `:euro:` as a bag of money."""
    table = columns({"account": "left", "name": "left"}, wraps="name")
    table.add_row("bank:euro:1", "a:dog:b")
    print_table(table)
    console().print("bank:euro:1 [dim]bank:euro:1[/]")
    told = capsys.readouterr().out
    assert told.count("bank:euro:1") == 3
    assert "a:dog:b" in told


def test_a_table_is_as_wide_as_the_terminal_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    table = columns({"name": "left", "posted": "right"}, wraps="name")
    table.add_row("word " * 30, "1.00 EUR")
    print_table(table)
    assert max(map(len, capsys.readouterr().out.splitlines())) == 60


@pytest.mark.parametrize("room", [60, 80, 90, 200])
@pytest.mark.parametrize("effective", [False, True])
def test_a_plot_fits_into_the_terminal(room: int, *, effective: bool) -> None:
    text = in_terminal(dataclasses.replace(series(0, 10000, 10000, 2500), effective=effective), room)
    assert max(map(len, text.splitlines())) <= room
    assert re.search("[\u2801-\u28ff]", text), "it is drawn"


def test_a_plot_in_the_terminal_has_its_axes_and_steps() -> None:
    text = in_terminal(series(0, 10000, 10000, 2500))
    assert "(EUR)" in text
    labels = [line.partition("|")[0].strip() for line in text.splitlines()[1:-2]]
    assert labels == [f"{amount}.00" for amount in range(110, -1, -10)], "each line is a round amount"
    days = re.findall(r"[0-9]{2}-[0-9]{2} [0-9]{2}h", text.splitlines()[-1])
    assert (days[0], days[-1][:5]) == ("01-01 00h", "01-04"), "from its beginning to its end"
    assert max(map(len, text.splitlines())) <= 100
    flat = in_terminal(series(0, 0))
    assert "0.00" in flat


@given(st.lists(st.integers(-(2**63), 2**63), min_size=1, max_size=5), st.integers(0, 10**9))
def test_any_history_fits_the_terminal(amounts: list[int], seconds: int) -> None:
    steps = [(BEGIN + timedelta(seconds=seconds) * n, amount) for n, amount in enumerate(amounts)]
    lines = in_terminal(Series("x", "EUR", steps, steps[-1][0])).splitlines()
    assert 1 <= len(lines) - 4 <= 16
    assert any(line.strip().startswith("0.00 |") for line in lines)
    assert len({line.index("|") for line in lines[1:]}) == 1, "one axis, however long the amounts are"


@pytest.mark.parametrize(
    "lasted", [timedelta(0), timedelta(microseconds=1), timedelta(milliseconds=300), timedelta(hours=20)]
)
def test_a_picture_is_as_wide_as_its_time_and_has_room_for_its_amounts(lasted: timedelta) -> None:
    """However short that is, and long those: the line ends at the right, texts are within, and times are told apart."""
    steps = [(BEGIN, 0), (BEGIN + lasted, 2**63 - 1)]
    svg = ET.fromstring(picture(Series("x", "JPY", steps, steps[-1][0]), png=False))
    space = "{http://www.w3.org/2000/svg}"
    line = list(svg.iter(f"{space}polyline"))[-1].attrib["points"].split()
    assert float(line[-1].partition(",")[0]) == 936
    texts = list(svg.iter(f"{space}text"))
    for one in texts:
        length = 8 * len(one.text or "")
        assert (
            float(one.attrib["x"]) - {"start": 0, "middle": length // 2, "end": length}[one.attrib["text-anchor"]] >= 0
        )
    assert f"{BEGIN:%Y-%m-%d}" in (texts[0].text or "")
    times = [one.text for one in texts if one.attrib["y"] == "404.0"]
    assert len(set(times)) == (5 if lasted >= timedelta(milliseconds=300) else 2)


@given(st.integers(0, 10**7))
def test_the_last_change_is_seen_however_late_it_was(seconds: int) -> None:
    """Even in the last moment of the time that is drawn."""
    changed = BEGIN + timedelta(days=30)
    text = in_terminal(Series("x", "EUR", [(BEGIN, 700), (changed, 5700)], changed + timedelta(seconds=seconds)))
    rows = [line.partition("|")[2].strip(" \u2800") for line in text.splitlines() if "50.00 |" in line]
    assert rows != [""], "the line goes up through this row"


def test_pictures_are_what_their_names_say() -> None:
    from PIL import Image

    svg = ET.fromstring(picture(series(0, -500, 700), png=False))
    texts = ["".join(one.itertext()) for one in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert "customers:1 & <co>, EUR, 2026 UTC" in texts
    assert "0.00" in texts
    image = Image.open(BytesIO(picture(series(0, -500, 700), png=True)))
    assert (image.format, image.size) == ("PNG", (1920, 840))
    assert len(set(image.convert("RGB").get_flattened_data())) > 2


@given(st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=300))
def test_thinning_keeps_the_ends_and_the_peaks(amounts: list[int]) -> None:
    steps = series(*amounts).steps
    kept = thinned(steps, 40)
    assert len(kept) <= max(40, 4)
    assert kept[0] == steps[0]
    assert kept[-1] == steps[-1]
    assert {min(amounts), max(amounts)} <= {minor for _, minor in kept}
    assert kept == sorted(kept, key=lambda one: one[0])


@given(st.integers(-(2**63), 2**63), st.integers(0, 2**62))
def test_the_axis_has_zero_and_a_few_round_numbers(low: int, width: int) -> None:
    begin, end = span([low, low + width])
    assert begin <= 0 <= end
    assert begin < end
    found = ticks(begin, end)
    assert 0 in found
    assert len(found) <= 10


def told(by: str) -> dict[str, Any]:
    """A statement as the API answers it: the second entry was dated back to the first of January, before the first one and to the same instant
    as the third.
    """
    entries = [
        {"recorded_at": "2026-01-03T00:00:00Z", "effective_at": "2026-01-03T00:00:00Z", "balance": {"amount": "10"}},
        {"recorded_at": "2026-01-04T00:00:00Z", "effective_at": "2026-01-01T12:00:00Z", "balance": {"amount": "30"}},
        {"recorded_at": "2026-01-05T00:00:00Z", "effective_at": "2026-01-01T12:00:00Z", "balance": {"amount": "25"}},
    ]
    if by == "effective":
        entries = [{**one, "balance": {"amount": amount}} for one, amount in zip(entries[1:] + entries[:1], ("20", "15", "25"), strict=True)]  # fmt: skip
    return {
        "path": None, "account": "acc_1", "currency": "EUR", "by": by, "from": "2026-01-01T00:00:00Z", "to": "2026-01-06T00:00:00Z",
        "opening": {"amount": "0"}, "data": entries,
    }  # fmt: skip


def test_a_history_goes_by_the_time_of_its_statement() -> None:
    """By effective time, what counts from the same instant on is one step: there was no time between them."""
    recorded, effective = series_of(told("recorded")), series_of(told("effective"))
    assert [(when.day, minor) for when, minor in recorded.steps] == [(1, 0), (3, 10), (4, 30), (5, 25)]
    assert [(when.day, when.hour, minor) for when, minor in effective.steps] == [(1, 0, 0), (1, 12, 15), (3, 0, 25)]
    assert recorded.end == effective.end == datetime(2026, 1, 6, tzinfo=UTC)
    for each, note in ((recorded, False), (effective, True)):
        assert ("effective" in in_terminal(each)) is note
        assert (b"by effective time" in picture(each, png=False)) is note


def test_a_plot_goes_to_a_png_or_an_svg_or_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert wanted(plot=None) is None
    assert wanted(plot=True) == TERMINAL
    assert wanted(tmp_path / "x.svg") == tmp_path / "x.svg"
    with pytest.raises(Failed, match=r"\.png or \.svg"):
        wanted(tmp_path / "x.gif")
    with pytest.raises(Failed, match="not a directory"):
        wanted(tmp_path / "no" / "x.svg")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(Failed, match=r"pip install 'tallystick\[png\]'"):
        wanted(tmp_path / "x.png")
