"""Decisions about proposals from the command line: what is shown is what is signed, by the approver's registered key, and only when somebody
said yes.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest
from aiohttp import web

from tallystick.chassis.auth import statement
from tallystick.cli.commands import dispatch
from tallystick.contracts.ledger.messages import STATEMENT_TYPE
from tallystick.kernel import ids
from tallystick.services.ledger.model import Command, Header, digest
from tallystick.services.ledger.service.approvals import Plan, kept
from tests.support.edge import Edge

NOW = "2026-11-28T10:00:00.000000Z"
ME = "cli_one"


def proposal(*commands: Command, **changes: Any) -> dict[str, Any]:
    """A proposal as the ledger says it."""
    own = ids.proposals.text(ids.proposals.new())
    header = Header(id=ids.transactions.new(), reference="rent [bold]X\x1b[2J", reverses=changes.pop("reverses", None))
    plan = kept(Plan(header, commands or (post(500_000),)))
    transaction: dict[str, Any] = {"book": "main", "transfers": [], "reference": header.reference}
    rule = {"currency": "EUR", "above": "100000", "approvals": 2, "approvers": [ME, "cli_b"]}
    made = {
        "id": own, "book": "main", "status": "pending", "proposer": "cli_maker", "transaction": transaction, "plan": plan,
        "digest": digest(own, "main", msgspec.json.encode(transaction).decode(), plan), "rules": [rule, rule | {"pattern": "shop:**"}], "missing": 2, "decisions": [],
        "created_at": NOW, "expires_at": NOW, "reason": None,
    }  # fmt: skip
    return made | changes


def post(amount: int, **more: Any) -> Command:
    return Command(kind="post", id=ids.transfers.new(), debit="anna", credit="shop", amount=amount, currency="EUR", **more)  # fmt: skip


class Proposals(Edge):
    """Has proposals, and takes decisions about them that are signed by the key that the client is registered with."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.found: dict[str, dict[str, Any]] = {}
        self.undone: dict[str, Any] = {}
        self.becomes: dict[str, Any] = {"missing": 1}
        self.decided: list[dict[str, Any]] = []

    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/v1/proposals", self._list)
        router.add_get("/v1/proposals/{id}", self._get)
        router.add_get("/v1/transactions/{id}", self._transaction)
        router.add_post("/v1/proposals/{id}/{decision}", self._decide)

    def has(self, one: dict[str, Any]) -> str:
        self.found[one["id"]] = one
        return str(one["id"])

    async def _list(self, request: web.Request) -> web.StreamResponse:
        status = request.query.get("status")
        data = [one for one in self.found.values() if status in {None, one["status"]}]
        return web.json_response({"data": data, "has_more": False, "next": None})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        if (one := self.found.get(request.match_info["id"])) is None:
            slug = "https://tallystick.dev/problems/proposal-not-found"
            return web.json_response({"type": slug, "title": "There is no such proposal"}, status=404, content_type="application/problem+json")  # fmt: skip
        return web.Response(body=msgspec.json.encode(one), content_type="application/json")

    async def _transaction(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.undone[request.match_info["id"]])

    async def _decide(self, request: web.Request) -> web.StreamResponse:
        key = self.proved(request, request.headers["Authorization"].partition(" ")[2])
        assert key == self.key.thumbprint(), "the token is bound to the registered key"
        said = json.loads(statement((await request.json())["signature"], typ=STATEMENT_TYPE, jkt=key))
        assert abs(datetime.now(UTC).timestamp() - said.pop("iat")) < 60
        one = self.found[request.match_info["id"]]
        assert said == {"proposal": one["id"], "digest": one["digest"], "decision": request.match_info["decision"]}
        self.decided.append(said)
        return web.json_response(one | self.becomes)


class Terminal(io.StringIO):
    """Somebody who types this."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def edge(directory: Path) -> Iterator[Proposals]:
    made, loop = Proposals(directory), asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()

    def wait(future: Future[None]) -> None:
        future.result(10)

    wait(asyncio.run_coroutine_threadsafe(made.start(), loop))
    file = directory / "me.json"
    file.touch(0o600)
    file.write_bytes(msgspec.json.encode(made.credentials()))
    yield made
    wait(asyncio.run_coroutine_threadsafe(made.stop(), loop))
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def test_what_is_shown_is_signed_when_somebody_says_yes(
    edge: Proposals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = edge.has(proposal(post(500_000, code="x1"), post(1, balancing=True)))
    for answer in ("n\n", "", "\n", "yess\n"):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        assert run(edge, "approve", own) == 1
        assert "nothing was signed" in capsys.readouterr().err
    assert edge.decided == []
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert run(edge, "approve", own) == 0
    said = capsys.readouterr()
    assert [one["decision"] for one in edge.decided] == ["approve"]
    for text in ("1 post 5000.00 EUR  anna -> shop  code x1", "2 post up to 0.01 EUR  anna -> shop  balancing", "rent [bold]X\N{REPLACEMENT CHARACTER}[2J", "above 1000.00 EUR: 2 of", "above 1000.00 EUR on shop:**: 2 of", "[y/N]", ME, "1 more to come"):  # fmt: skip
        assert text in said.out, text
    assert "\x1b[2J" not in said.out


def test_programs_say_yes_and_get_json(edge: Proposals, capsys: pytest.CaptureFixture[str]) -> None:
    own = edge.has(proposal())
    edge.becomes = {"status": "rejected"}
    assert run(edge, "reject", own, "--yes", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["status"] == "rejected"
    assert "5000.00 EUR" in said.err
    assert [one["decision"] for one in edge.decided] == ["reject"]


def test_nobody_is_asked_where_nobody_is(
    edge: Proposals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert run(edge, "approve", edge.has(proposal())) == 2
    assert "--yes" in capsys.readouterr().err
    assert edge.tokens == []


@pytest.mark.parametrize("change", ["plan", "transaction", "book", "digest"])
def test_a_proposal_that_is_not_what_its_digest_is_over_is_not_signed(
    edge: Proposals, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    one = proposal()
    other: dict[str, Any] = {"plan": proposal()["plan"], "transaction": {"book": "main"}, "book": "other", "digest": "0" * 64}  # fmt: skip
    own = edge.has(one | {change: other[change]})
    for command in (("approve", own, "--yes"), ("proposals", own)):
        assert run(edge, *command) == 4
        assert "don't sign it" in capsys.readouterr().err
    assert edge.decided == []


def test_another_proposal_in_the_place_of_the_one_asked_for_is_not_signed(
    edge: Proposals, capsys: pytest.CaptureFixture[str]
) -> None:
    edge.found[own := ids.proposals.text(ids.proposals.new())] = proposal()
    assert run(edge, "approve", own, "--yes") == 4
    assert "don't sign it" in capsys.readouterr().err


def test_what_was_decided(edge: Proposals, capsys: pytest.CaptureFixture[str]) -> None:
    mine = {"approver": ME, "decision": "approve", "at": NOW, "signature": "x"}
    own = edge.has(proposal(decisions=[mine], missing=1))
    assert run(edge, "approve", own, "--yes") == 0, "a decision that arrived is not sent again"
    assert "1 more to come" in capsys.readouterr().out
    own = edge.has(proposal(status="rejected"))
    assert run(edge, "approve", own, "--yes") == 1
    assert "it is rejected" in capsys.readouterr().err
    assert edge.decided == []
    own = edge.has(proposal())
    edge.becomes = {"status": "refused", "reason": "insufficient_funds", "account": "customers:42"}
    assert run(edge, "approve", own, "--yes") == 1
    assert "it can't be posted: insufficient_funds, customers:42" in capsys.readouterr().out
    edge.becomes = {"status": "posted"}
    assert run(edge, "approve", own, "--yes") == 0
    assert "posted txn_" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "does"), [("pending", "would post"), ("posted", "posted"), ("rejected", "would have posted")]
)
def test_what_it_does_it_did_or_would_have_done(
    edge: Proposals, capsys: pytest.CaptureFixture[str], status: str, does: str
) -> None:
    assert run(edge, "proposals", edge.has(proposal(status=status))) == 0
    assert any(line.startswith(f"{does} ") for line in capsys.readouterr().out.splitlines())


def test_a_reversal_is_shown_with_its_accounts(edge: Proposals, capsys: pytest.CaptureFixture[str]) -> None:
    target, reverses = ids.transfers.new(), ids.transactions.new()
    command = Command(kind="reverse", id=ids.transfers.new(), target=target, amount=500_000, currency="EUR")
    own = edge.has(proposal(command, reverses=reverses))
    transfer = {"id": ids.transfers.text(target), "debit_account": "acc_from", "credit_account": "acc_to"}
    edge.undone[ids.transactions.text(reverses)] = {"transfers": [transfer]}
    assert run(edge, "proposals", own) == 0
    shown = capsys.readouterr().out
    assert f"1 reverse 5000.00 EUR  acc_to -> acc_from  target {ids.transfers.text(target)}" in shown
    assert ids.transactions.text(reverses) in shown


def test_the_list(edge: Proposals, capsys: pytest.CaptureFixture[str]) -> None:
    waits, posted = edge.has(proposal()), edge.has(proposal(post(7), post(5), status="posted"))
    assert run(edge, "proposals") == 0
    shown = capsys.readouterr().out
    assert (waits in shown, posted in shown, "5000.00 EUR" in shown) == (True, False, True)
    assert run(edge, "proposals", "--status", "all", "--json") == 0
    assert [one["id"] for one in json.loads(capsys.readouterr().out)["data"]] == [waits, posted]
    assert run(edge, "proposals", "--status", "expired") == 0
    assert "no expired proposals" in capsys.readouterr().out


def test_wrong_words(edge: Proposals, capsys: pytest.CaptureFixture[str]) -> None:
    own = ids.proposals.text(ids.proposals.new())
    assert run(edge, "approve", "txn_1", "--yes") == 2
    assert "'prp_'" in capsys.readouterr().err
    assert run(edge, "approve", own, "--yes") == 1
    assert "lists them" in capsys.readouterr().err
    assert run(edge, "proposals", own, "--status", "posted") == 2
    assert run(edge, "proposals", "--status", "odd") == 2
    assert dispatch(["ledger", "approve", own, "--yes"]) == 2
    assert "--client" in capsys.readouterr().err


def run(edge: Proposals, *arguments: str) -> int:
    return dispatch(["ledger", *arguments, "--client", str(edge.directory / "me.json"), "--data", str(edge.directory)])
