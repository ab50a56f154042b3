"""Floors and ceilings that change, and books that become strict about past days or only report them, while money moves."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from datetime import timedelta

import msgspec

from tallystick.contracts.ledger.problems import AccountClosed, AccountLimitBroken
from tallystick.kernel.ids import TransactionId
from tallystick.services.ledger.model import AccountRow, Header
from tests.simulation.clients import CLIENT, Place
from tests.simulation.replay import Rules, breached
from tests.simulation.subjects.subject import Subject


class Limits(Subject):
    name = "limits"
    kinds = ("ceiling_exceeded", "past_limit_broken", "breach_told", "AccountLimitBroken", "limits", "reporting")

    async def furnish(self) -> None:
        """Two more accounts in each book, which take so much and no more."""
        for place in list(self.world.accounts):
            for side, floor, ceiling in (("credit", 0, 60), ("debit", None, 80)):
                account = await self.world.open_account(place, side, floor, ceiling=ceiling)
                self.world.accounts[place].append(account)

    async def act(self, rng: random.Random) -> None:
        clients = self.world.clients
        place = clients.somewhere(rng)
        tenant, book = place
        who = (tenant, CLIENT, None)
        chance = rng.random()
        if chance < 0.25:
            await self._date_back(rng, place)
            return
        if chance < 0.5:
            backdating = rng.choice(["strict", "report", "report"])
            await clients.until_answered(
                place,
                lambda replica: replica.ledger.books.change(
                    who, book, lambda row: msgspec.structs.replace(row, backdating=backdating)
                ),
                rng,
                f"backdating {book} {backdating}",
            )
            return
        account = rng.choice(self.world.accounts[place])
        change = self._change(rng)
        await clients.until_answered(
            place,
            lambda replica: replica.ledger.accounts.change(who, account, change, book),
            rng,
            f"limits {book}",
            (AccountLimitBroken, AccountClosed),
        )

    async def _date_back(self, rng: random.Random, place: Place) -> None:
        """To a day that is over: takes what there is now from whoever may not have had it then."""
        world, clients = self.world, self.world.clients
        header = Header(id=TransactionId(world.uuid()), effective_at=world.past(rng) - timedelta(days=1))
        move = clients.dated(clients.move(rng, place, len(clients.intentions), "post"), header)
        rows = [world.tables(place)["account"][account,] for account in world.accounts[place]]
        rich = [
            row
            for row in rows
            if row["normal_side"] == "credit"
            and row["credits_posted"] > row["debits_posted"]
            and row["id"] != move.credit
        ]
        if rich:
            row = rng.choice(rich)
            there = row["credits_posted"] - row["debits_posted"]
            move = msgspec.structs.replace(move, debit=row["id"], amount=rng.randint(1, there))
        await clients.tell(clients.want(place, [move], atomic=True, key=None, header=header), rng)

    @staticmethod
    def _change(rng: random.Random) -> Callable[[AccountRow], AccountRow]:
        floor, ceiling, both = rng.choice([None, 0, 0, -30]), rng.choice([None, 30, 60, 100]), rng.random() < 0.5
        if both:
            return lambda row: msgspec.structs.replace(row, floor=floor, ceiling=ceiling)
        return lambda row: msgspec.structs.replace(row, ceiling=ceiling)

    def violations(self) -> Iterable[str]:
        """Whoever dated something back into a book that only reports was told of all days on which that broke a limit. The rest is replayed."""
        world = self.world
        for place, book, transfers, changes in world.books():
            accounts = {row["id"]: row for row in world.tables(place)["account"].values() if row["book"] == book["id"]}
            rules = Rules(book, accounts, changes)
            self.world.faults.reached["limits"] += sum(change.kind == "limits" for change in changes)
            self.world.faults.reached["reporting"] += sum(change.said == "report" for change in changes)
            for row in world.tables(place)["rejection"].values():
                if row["book"] == book["id"] and row["reason"] in self.kinds:
                    self.reached(str(row["reason"]))
            for one in world.clients.intentions:
                for answers in one.answers if one.place == place else ():
                    for answer in answers.each:
                        if answer.status == "rejected" or answer.existed:
                            continue
                        row = transfers[answer.sequence - 1]
                        right = set() if row["effective_at"] is None else breached(rules, transfers, row)
                        if set(answer.breached) != right:
                            yield f"breach: {one.number} was told {answer.breached}, and it is {right}"
                        if right:
                            self.reached("breach_told")
