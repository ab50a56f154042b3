"""`tallystick ledger` on a real platform: files in and out, what people see, and exit statuses."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey

from tests.system.conftest import NewPlatform, PlatformUnderTest

ACCOUNTS = """id,path,name,currency,normal_side,floor,opening
bank,assets:bank,Bank,EUR,debit,,
anna,customers:1:wallet,Anna [bold]X[/],EUR,credit,0.00,50.00
ben,customers:2:wallet,Ben,EUR,credit,0.00,12.50
"""
HISTORY = """id,transaction,reference,debit,credit,amount,currency,effective_at
t1,,,bank,anna,100.00,EUR,2026-01-05
t2,,INV-7,anna,ben,30.25,EUR,2026-02-01
a,tx1,,anna,ben,1.00,EUR,2026-03-01
b,tx1,,anna,assets:bank,2.00,EUR,2026-03-01
"""


class Commands:
    def __init__(self, platform: PlatformUnderTest, folder: Path) -> None:
        self.platform = platform
        self.folder = folder

    def told(self, *arguments: str, status: int = 0) -> Any:
        found = self.platform.cli("ledger", *arguments, "--json")
        assert found.status == status, found
        return found.json

    def shown(self, *arguments: str, status: int = 0) -> str:
        found = self.platform.cli("ledger", *arguments)
        assert found.status == status, found
        return found.out + found.err

    def file(self, name: str, content: str) -> str:
        path = self.folder / name
        path.write_text(content)
        return str(path)

    def posted(self, account: str, *more: str) -> str:
        amount: str = self.told("balance", account, *more)["balance"]["posted"]["amount"]
        return amount


@pytest.fixture
def ledger(new_platform: NewPlatform, tmp_path: Path) -> Commands:
    platform = new_platform()
    platform.start()
    return Commands(platform, tmp_path)


def test_the_ledger_from_the_command_line(ledger: Commands) -> None:
    assert "no accounts yet" in ledger.shown("accounts")
    _files_come_in_once(ledger)
    _what_people_see(ledger)
    _postings(ledger)
    _a_wrong_line_changes_nothing(ledger)
    _a_book_goes_out_and_comes_back(ledger)
    _the_operator_looks(ledger)
    _others_agree(ledger)
    ledger.platform.verified()


def _files_come_in_once(ledger: Commands) -> None:
    accounts, history = ledger.file("accounts.csv", ACCOUNTS), ledger.file("history.csv", HISTORY)
    tried = ledger.told("import", accounts, "--dry-run")
    assert (tried["state"], tried["accounts"], tried["transfers"]) == ("done", 4, 2)
    assert ledger.told("accounts")["data"] == []
    made = ledger.told("import", accounts)
    assert (made["state"], made["accounts"], made["transfers"], made["unchanged"]) == ("done", 4, 2, False)
    assert ledger.told("import", history)["transfers"] == 4
    again = ledger.told("import", history)
    assert (again["unchanged"], again["transfers"], again["transfers_known"]) == (True, 0, 4)
    assert "nothing changed" in ledger.shown("import", history)
    assert ledger.posted("customers:1:wallet") == "11675"
    assert ledger.posted("customers:1:wallet", "--effective", "2026-02-15T00:00:00Z") == "6975"
    shown = ledger.shown("balance", "customers:1:wallet", "--effective", "2026-02-15T00:00:00Z")
    assert "by effective time up to 2026-02-15T00:00:00Z, as of sequence 6" in shown


def _what_people_see(ledger: Commands) -> None:
    table = ledger.shown("accounts", "--path", "customers:*:wallet")
    assert "Anna [bold]X[/]" in table
    assert "116.75 EUR" in table
    assert "assets:bank" not in table
    statement = ledger.shown("statement", "customers:1:wallet", "--plot")
    assert "closing" in statement
    assert "116.75" in statement
    assert "(EUR)" in statement
    for name, begin in (("p.svg", b"<svg"), ("p.png", b"\x89PNG")):
        picture = ledger.folder / name
        assert str(picture) in ledger.shown("balance", "customers:1:wallet", "--plot", str(picture))
        assert picture.read_bytes().startswith(begin)
    _by_effective_time(ledger)
    totals = ledger.told("trial-balance")["totals"][0]
    assert totals["debits"] == totals["credits"]
    assert "(2)" in ledger.shown("trial-balance", "--level", "1")
    early = ledger.told("trial-balance", "--level", "1", "--effective", "2026-02-15T00:00:00Z")["totals"][0]
    assert early["debits"] == early["credits"] == {"amount": "13025", "currency": "EUR"}
    assert "say a level" in ledger.shown("trial-balance", "--effective", "2026-02-15T00:00:00Z", status=2)
    explained = ledger.shown("explain", "customers:1:wallet")
    assert "credits posted +100.00" in explained
    assert "available = 116.75" in explained
    february = ledger.told("explain", "customers:1:wallet", "--effective", "2026-02-15T00:00:00Z")
    assert (february["balance"]["posted"]["amount"], len(february["dated_back"]["entries"])) == ("6975", 2)
    explained = ledger.shown("explain", "customers:1:wallet", "--effective", "2026-02-15T00:00:00Z", "--limit", "1")
    for text in ("1 earlier ones: credits posted +100.00", "effective 2026-02-01 00:00:00", "available = 69.75"):
        assert text in explained


def _by_effective_time(ledger: Commands) -> None:
    by = ("--by", "effective")
    found = ledger.told("statement", "customers:1:wallet", *by)
    assert (found["by"], found["from"][:10], found["closing"]["amount"]) == ("effective", "2026-01-05", "11675")
    assert [one["effective_at"][:10] for one in found["data"][:-1]] == ["2026-01-05", "2026-02-01", "2026-03-01", "2026-03-01"]  # fmt: skip
    february = ledger.told("statement", "customers:1:wallet", *by, "--from", "2026-02-01", "--to", "2026-02-28")
    assert (february["opening"]["amount"], february["closing"]["amount"]) == ("10000", "6975")
    assert (
        ledger.told("statement", "customers:1:wallet", *by, "--sequence", str(found["as_of"]))["data"] == found["data"]
    )
    shown = ledger.shown("statement", "customers:1:wallet", *by, "--plot")
    assert "2026-02-01 00:00:00" in shown
    assert "effective, UTC" in shown
    picture = ledger.folder / "effective.svg"
    history = ledger.told("balance", "customers:1:wallet", "--plot", str(picture), *by)["history"]
    assert [one["balance"]["amount"] for one in history] == ["10000", "6975", "6675", "11675"]
    assert b"by effective time" in picture.read_bytes()
    assert "are for plots" in ledger.shown("balance", "customers:1:wallet", *by, status=2)
    assert "still to come" in ledger.shown("statement", "customers:1:wallet", *by, "--to", "2999-01-01", status=1)


def _postings(ledger: Commands) -> None:
    words = ("post", "--debit", "customers:1:wallet", "--credit", "customers:2:wallet", "--currency", "EUR")
    made = ledger.told(*words, "--amount", "12.5", "--reference", "R1", "--idempotency-key", "k1")
    assert made["transfers"][0]["amount"] == {"amount": "1250", "currency": "EUR"}
    assert ledger.told(*words, "--amount", "12.5", "--reference", "R1", "--idempotency-key", "k1")["id"] == made["id"]
    assert "held 5.00 EUR" in ledger.shown(*words, "--amount", "5", "--hold", "--expires-in", "86400")
    refused = ledger.shown(*words, "--amount", "5000", status=1)
    assert "insufficient_funds" in refused
    assert "99.25 EUR" in refused
    assert "too many decimals" in ledger.shown(*words, "--amount", "1.005", status=2)
    assert "Account not found" in ledger.shown("balance", "customers:9:wallet", status=1)


def _a_wrong_line_changes_nothing(ledger: Commands) -> None:
    wrong = ledger.file(
        "wrong.csv",
        "id,debit,credit,amount,currency\n1,bank,anna,1.00,EUR\n2,bank,nobody,1.00,EUR\n3,anna,ben,9999.00,EUR\n4,bank,ben,1.00,EUR\n",
    )
    report = ledger.folder / "report.jsonl"
    told = ledger.told("import", wrong, "--report", str(report), status=1)
    assert (told["state"], told["transfers"], told["refused"]) == ("failed", 0, 2)
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert [(one["line"], one["reason"]) for one in lines] == [(3, "account_not_found"), (4, "insufficient_funds")]
    before = ledger.posted("customers:2:wallet")
    table = ledger.shown("import", wrong, "--skip-invalid", status=1)
    assert "9999.00 EUR are needed" in " ".join(table.split())
    assert int(ledger.posted("customers:2:wallet")) == int(before) + 100
    assert ledger.told("import", wrong, "--skip-invalid", status=1)["unchanged"] is True


def _a_book_goes_out_and_comes_back(ledger: Commands) -> None:
    out = ledger.folder / "main.jsonl.gz"
    told = ledger.told("export", "--out", str(out))
    assert out.stat().st_mode & 0o077 == 0
    assert told["sequence"] == 10
    file = ledger.folder / "books.json"
    made = ledger.platform.cli("client", "create", "books", "--scope", "books:write accounts:read", "--out", str(file))
    assert made.status == 0, made
    opened = ledger.platform.cli("call", "POST", "/v1/books", "--body", '{"name":"copy"}', "--client", str(file))
    assert opened.status == 0, opened
    restored = ledger.told("import", str(out), "--book", "copy")
    assert (restored["state"], restored["sequence"]) == ("done", 10)
    for account in ("customers:1:wallet", "customers:2:wallet", "assets:bank"):
        here, there = ledger.told("balance", account), ledger.told("balance", account, "--book", "copy")
        assert here["balance"] == there["balance"]
    escaped = "/v1/accounts/customers%3A1%3Awallet?book=copy"  # as most libraries write a path's parameter
    assert ledger.platform.cli("call", "GET", escaped, "--client", str(file)).status == 0
    assert ledger.told("import", str(out), "--book", "copy")["unchanged"] is True
    assert "empty book" in ledger.told("import", str(out), status=1)["reason"]


def _the_operator_looks(ledger: Commands) -> None:
    told = ledger.told("check")
    assert told["sound"] is True
    assert {one["book"] for one in told["books"]} == {"main", "copy"}
    assert "add up" in ledger.shown("check")
    assert ledger.told("release", "copy")["released"] is True
    assert "no book nope" in ledger.shown("check", "nope", status=2)


def _others_agree(ledger: Commands) -> None:
    """A maker proposes, one approver reads it at a terminal and says yes, another is a program."""
    people = {
        name: _client(ledger, name, scope)
        for name, scope in (
            ("rules", "approvals:write"),
            ("ann", "transfers:read approvals:sign"),
            ("bob", "transfers:read approvals:sign"),
        )
    }
    approvers = [people[name][1] for name in ("ann", "bob")]
    rule = {"currency": "EUR", "above": "1000", "approvals": 2, "approvers": approvers}
    put = ("PUT", "/v1/books/main/approvals", "--body", json.dumps({"rules": [rule]}), "--client", people["rules"][0])
    assert ledger.platform.cli("call", *put).status == 0
    words = ("post", "--debit", "assets:bank", "--credit", "customers:1:wallet", "--currency", "EUR")
    assert "proposed 10.01 EUR" in ledger.shown(*words, "--amount", "10.01", "--reference", "R [bold]2[/]")
    other = ledger.told(*words, "--amount", "99")["id"]
    own = next(one["id"] for one in ledger.told("proposals")["data"] if one["id"] != other)
    assert own in ledger.shown("proposals")
    before = ledger.posted("customers:1:wallet")

    ann, bob = (("--client", people[name][0]) for name in ("ann", "bob"))
    assert "--yes" in ledger.shown("approve", own, *ann, status=2)
    typed, status = _typed(ledger, "n", "approve", own, *ann)
    assert (status, "nothing was signed" in typed) == (1, True), typed
    typed, status = _typed(ledger, "y", "approve", own, *ann)
    assert status == 0, typed
    for text in ("10.01 EUR  assets:bank -> customers:1:wallet", "R [bold]2[/]", "above 10.00 EUR", "1 more to come"):
        assert text in typed
    eve, _ = _client(ledger, "eve", "transfers:read approvals:sign")
    assert "rules name others" in ledger.shown("approve", own, "--yes", "--client", eve, status=1)
    assert ledger.told("approve", own, "--yes", *ann)["missing"] == 1, "what ann said is said"
    assert ledger.told("approve", own, "--yes", *bob)["status"] == "posted"
    assert int(ledger.posted("customers:1:wallet")) == int(before) + 1001

    shown = ledger.shown("proposals", own)
    assert f"approved by {people['ann'][1]}" in shown
    _signed_by_their_keys(ledger.told("proposals", own), dict(people.values()))
    assert ledger.told("reject", other, "--yes", *bob)["status"] == "rejected"
    assert "it is rejected" in ledger.shown("approve", other, "--yes", *ann, status=1)
    assert ledger.told("proposals")["data"] == []
    assert {one["id"] for one in ledger.told("proposals", "--status", "all")["data"]} == {own, other}


def _client(ledger: Commands, name: str, scope: str) -> tuple[str, str]:
    """A client's file and id."""
    file = ledger.folder / f"{name}.json"
    made = ledger.platform.cli("client", "create", name, "--scope", scope, "--out", str(file), "--json")
    assert made.status == 0, made
    return str(file), made.json["client_id"]


def _typed(ledger: Commands, answer: str, *arguments: str) -> tuple[str, int]:
    """A command on a terminal, where somebody types this answer: what the terminal shows, and the exit status."""
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "tallystick", "ledger", *arguments, "--data", str(ledger.platform.data)]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env={**os.environ, "TERM": "dumb"}) as process:
        os.close(its)
        said, asked = b"", False
        with suppress(OSError):  # EIO: how a terminal says that nobody writes to it any more
            while more := os.read(ours, 4096):
                said += more
                if not asked and b"[y/N]" in said:
                    asked = True
                    os.write(ours, answer.encode() + b"\n")
        status = process.wait(60)
    os.close(ours)
    return said.decode(), status


def _signed_by_their_keys(proposal: Any, files: dict[str, str]) -> None:
    """The signatures are by the keys in the approvers' files, which identity knows: others can check them without the ledger."""
    for decision in proposal["decisions"]:
        [file] = [file for file, client in files.items() if client == decision["approver"]]
        secret = json.loads(Path(file).read_text())["private_key_jwk"]
        found = jws.deserialize_compact(decision["signature"], ECKey.import_key(secret), algorithms=["ES256"])
        assert json.loads(found.payload)["digest"] == proposal["digest"]
    assert len(proposal["decisions"]) == 2
