"""Clients of the edge that write down what they asked and were told, for `tests.support.history` to judge."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Any

from tallystick.cli.apiclient import Answer, ApiClient, EdgeUnreachable, TokenRefused
from tallystick.kernel import ids
from tests.support.history import Anomaly, Attempt, Final, Move, Owner, Read, Told, check
from tests.system.stream import made, money

#: Problems that say for certain that the ledger decided, and how. Everything else leaves open what happened.
DECIDED = {
    "transfer-not-found": "not_found",
    "not-reversible": "not_reversible",
    "hold-not-open": None,
    "exceeds-hold": None,
    "exceeds-reversible": None,
    "insufficient-funds": None,
}

OWNERS = {
    "bank": Owner(debit_normal=True, floor=None),
    "anna": Owner(debit_normal=False, floor=0),
    "ben": Owner(debit_normal=False, floor=-500),
    "till": Owner(debit_normal=True, floor=0),
}


@dataclass
class Recorder:
    """`accounts`: owner's name -> account id. One tenant's whole book is made by this recorder and nobody else."""

    api: ApiClient
    rng: random.Random
    accounts: dict[str, str] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    unanswered: Counter[str] = field(default_factory=Counter)
    holds: list[str] = field(default_factory=list)
    posts: list[str] = field(default_factory=list)
    stopping: bool = False

    async def open(self) -> None:
        """The accounts, and something on each that has a floor."""
        for name, owner in OWNERS.items():
            side = "debit" if owner.debit_normal else "credit"
            floor = None if owner.floor is None else str(owner.floor)
            body = {"name": name, "currency": "EUR", "normal_side": side, "floor": floor}
            self.accounts[name] = (await made(self.api, "/v1/accounts", body, f"open-{name}"))["id"]

    # ---- what is asked ----------------------------------------------------------------------------------------------

    async def client(self) -> None:
        while not self.stopping:
            if self.rng.random() < 0.25:
                await self.read(self.rng.choice(list(OWNERS)))
            else:
                moves = self.moves()
                await self.send(moves, f"key-{moves[0].id}")

    async def repeater(self) -> None:
        """One request, sent by several at once and again later, until it has been answered twice."""
        while not self.stopping:
            moves = self.moves()
            key = f"same-{moves[0].id}"
            for _ in range(6):
                sent = await asyncio.gather(*(self.send(moves, key) for _ in range(self.rng.choice([1, 2, 4]))))
                await asyncio.sleep(self.rng.uniform(0, 0.4))
                # Without a stored answer for this key the id itself must do: another key for the same move.
                if len(moves) == 1 and self.rng.random() < 0.5:
                    key += "'"
                if sum(sent) > 1:
                    break

    def moves(self) -> tuple[Move, ...]:
        kind = self.rng.choice(["post", "post", "post", "hold", "capture", "void", "reverse", "unit"])
        if kind == "unit":
            return tuple(self._transfer(self.rng.choice(["post", "hold"])) for _ in range(self.rng.choice([2, 3, 5])))
        targets = self.posts if kind == "reverse" else self.holds
        if kind in {"post", "hold"} or not targets:
            return (self._transfer("hold" if kind == "hold" else "post"),)
        amount = None if kind == "void" else self.rng.choice([None, self.rng.randint(1, 150)])
        final = kind == "capture" and self.rng.random() < 0.3
        # Of the last few, so that several act on one at the same time.
        return (Move(_new_id(), kind, amount=amount, target=self.rng.choice(targets[-8:]), final=final),)

    def _transfer(self, kind: str) -> Move:
        debit, credit = self.rng.sample(list(OWNERS), 2)
        return Move(_new_id(), kind, debit, credit, self.rng.randint(1, 300))

    # ---- how it is sent ---------------------------------------------------------------------------------------------

    async def send(self, moves: tuple[Move, ...], key: str) -> bool:
        """Whether there was an answer."""
        path, body = self._request(moves)
        sent = monotonic()
        try:
            answer = await self.api.request("POST", path, body, idempotency_key=key)
        except (EdgeUnreachable, TokenRefused) as error:
            self._lost(type(error).__name__)
            told = None
        else:
            told = self._told(moves, answer)
        self.attempts.append(Attempt(moves, sent, inf if told is None else monotonic(), told))
        if told is None:
            await asyncio.sleep(0.1)
            return False
        for move, one in zip(moves, told, strict=True):
            if one.status == "held":
                self.holds.append(move.id)
            elif one.status == "posted" and move.kind in {"post", "capture"}:
                self.posts.append(move.id)
        return True

    def _request(self, moves: tuple[Move, ...]) -> tuple[str, dict[str, Any]]:
        first = moves[0]
        if first.kind not in {"post", "hold"}:
            body: dict[str, Any] = {"id": first.id}
            if first.amount is not None:
                body["amount"] = money(first.amount)
            if first.final:
                body["final"] = True
            return f"/v1/transfers/{first.target}/{first.kind}", body
        transfers = [
            {
                "kind": move.kind,
                "id": move.id,
                "debit_account": self.accounts[move.debit or ""],
                "credit_account": self.accounts[move.credit or ""],
                "amount": money(move.amount or 0),
            }
            for move in moves
        ]
        return "/v1/transfers", {"transfers": transfers, "atomic": True}

    def _told(self, moves: tuple[Move, ...], answer: Answer) -> tuple[Told, ...] | None:
        if answer.status in {200, 201}:
            document = answer.json()
            listed = document.get("data")
            return tuple(map(_told, [document] if listed is None else listed))
        if answer.slug in DECIDED:
            document = answer.json()
            reason = DECIDED[answer.slug] or document["reason"]
            return (Told("rejected", None, reason, _minor(document, "available"), _minor(document, "required")),)
        retryable = answer.slug != "" and answer.json()["retryable"]
        assert retryable or answer.status in {429, 502, 503, 504}, f"{moves}: {answer.status} {answer.body!r}"
        self._lost(answer.slug or str(answer.status))
        return None

    def _lost(self, why: str) -> None:
        self.unanswered[why] += 1

    async def read(self, account: str, asked: int | None = None) -> bool:
        path = f"/v1/accounts/{self.accounts[account]}" + ("" if asked is None else f"?sequence={asked}")
        sent = monotonic()
        try:
            answer = await self.api.request("GET", path)
        except (EdgeUnreachable, TokenRefused) as error:
            self._lost(type(error).__name__)
            await asyncio.sleep(0.1)
            return False
        if answer.status != 200:
            assert answer.status >= 429, f"{path}: {answer.status} {answer.body!r}"
            self._lost(answer.slug or str(answer.status))
            return False
        got = monotonic()
        body = answer.json()
        posted, pending, available = (
            int(body["balance"][name]["amount"]) for name in ("posted", "pending", "available")
        )
        self.reads.append(
            Read(account, sent, got, body["as_of"], body["version"], posted, pending, available, asked),
        )
        return True

    # ---- the end ----------------------------------------------------------------------------------------------------

    async def judged(self, questions: int) -> list[Anomaly]:
        """Reads what became of everything, asks some random questions about the past, and judges it all."""
        while not await self.read("bank"):
            await asyncio.sleep(0.2)
        sequence = self.reads[-1].as_of
        for _ in range(questions):
            await self.read(self.rng.choice(list(OWNERS)), self.rng.randint(0, sequence))
        moves = {move.id for attempt in self.attempts for move in attempt.moves}
        found = dict(zip(sorted(moves), await self._found(sorted(moves)), strict=True))
        while not await self.read("bank"):
            await asyncio.sleep(0.2)
        assert self.reads[-1].as_of == sequence, "it was not quiet yet"
        return check(OWNERS, self.attempts, self.reads, Final(sequence, found))

    async def _found(self, transfers: Sequence[str]) -> list[Told | None]:
        async def look(transfer: str) -> Told | None:
            while True:
                try:
                    answer = await self.api.request("GET", f"/v1/transfers/{transfer}")
                except (EdgeUnreachable, TokenRefused):
                    continue
                if answer.status == 200:
                    return _told(answer.json())
                if answer.slug == "transfer-not-found":
                    return None
                assert answer.status >= 429, f"{transfer}: {answer.status} {answer.body!r}"

        found: list[Told | None] = []
        for start in range(0, len(transfers), 32):
            found += await asyncio.gather(*map(look, transfers[start : start + 32]))
        return found


def _told(document: Any) -> Told:
    reason = document.get("reason")
    if reason in {"hold_not_found", "transfer_not_found"}:
        reason = "not_found"
    return Told(
        document["status"],
        document.get("sequence"),
        reason,
        _minor(document, "available"),
        _minor(document, "required"),
        _minor(document, "amount") if reason is None else None,
        _minor(document, "released"),
    )


def _minor(document: Any, name: str) -> int | None:
    return int(document[name]["amount"]) if name in document else None


def _new_id() -> str:
    return ids.transfers.text(ids.transfers.new())
