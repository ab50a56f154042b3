"""Accounts that are frozen, thawed and closed while money moves on them. That nothing does is replayed (`invariants.py`)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable

import msgspec

from tallystick.contracts.ledger.problems import AccountClosed
from tallystick.kernel.ids import AccountId
from tests.simulation.clients import CLIENT, Place
from tests.simulation.subjects.subject import Subject


class Freezing(Subject):
    name = "freezing"
    kinds = ("frozen", "thawed", "account_frozen", "AccountClosed")
    told: list[tuple[Place, AccountId, bool, int]]

    async def furnish(self) -> None:
        self.told = []

    async def act(self, rng: random.Random) -> None:
        clients = self.world.clients
        if rng.random() < 0.15:
            await clients.close(rng)
            return
        place = clients.somewhere(rng)
        account, frozen = rng.choice(self.world.accounts[place]), True
        stiff = [one for one in self.world.accounts[place] if self._is_frozen(place, one)]
        if stiff and rng.random() < 0.6:
            account, frozen = rng.choice(stiff), rng.random() < 0.2
        if rng.random() < 0.5:
            # Together with somebody who moves something on it.
            move = clients.move(rng, place, len(clients.intentions), "post")
            if account != move.credit:
                move = msgspec.structs.replace(move, debit=account)
            want = clients.want(place, [move], atomic=False, key=None)
            await asyncio.gather(clients.say(want, rng), self._freeze(rng, place, account, frozen=frozen))
        else:
            await self._freeze(rng, place, account, frozen=frozen)

    def _is_frozen(self, place: Place, account: AccountId) -> bool:
        return self.world.tables(place)["account"][account,]["frozen_at"] is not None

    async def _freeze(self, rng: random.Random, place: Place, account: AccountId, *, frozen: bool) -> None:
        row = await self.world.clients.until_answered(
            place,
            lambda replica: replica.ledger.accounts.freeze(
                (place[0], CLIENT, None), account, frozen=frozen, book=place[1]
            ),
            rng,
            f"freeze {frozen}",
            (AccountClosed,),
        )
        if row is not None:
            self.told.append((place, account, frozen, row.as_of))

    def violations(self) -> Iterable[str]:
        """Each that was told is so from that number on: the last that was said of it up to there."""
        for place, book, _, changes in self.world.books():
            said = [change for change in changes if change.kind == "frozen"]
            for change in said:
                self.reached("frozen" if change.said[1] else "thawed")
            for where, account, frozen, as_of in self.told:
                if where != place:
                    continue
                states = [change.said[1] for change in said if change.said[0] == account and change.sequence <= as_of]
                if frozen not in {*states, False}:
                    yield f"frozen: {account} was told to be {frozen} at {as_of}, and it was {states}"
            self.world.faults.reached["account_frozen"] += sum(
                row["reason"] == "account_frozen" and row["book"] == book["id"]
                for row in self.world.tables(place)["rejection"].values()
            )
