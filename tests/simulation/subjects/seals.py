"""Periods that are sealed while others date back into them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import datetime, timedelta

from tallystick.contracts.ledger.problems import PeriodSealed
from tallystick.kernel.ids import TransactionId
from tallystick.kernel.problem import InvalidRequest
from tallystick.services.ledger.model import Header
from tests.simulation.clients import CLIENT, Place
from tests.simulation.subjects.subject import Subject


class Seals(Subject):
    name = "seals"
    kinds = ("sealed", "period_sealed", "dated_after_seal", "PeriodSealed")
    told: list[tuple[Place, datetime]]

    async def furnish(self) -> None:
        self.told = []

    async def act(self, rng: random.Random) -> None:
        if rng.random() < 0.4:
            await self._seal(rng)
        else:
            await self._date_back(rng)

    async def _seal(self, rng: random.Random) -> None:
        world, clients = self.world, self.world.clients
        place = clients.somewhere(rng)
        ago = timedelta(days=rng.choice([0, 0, 0, 1, 2]), seconds=rng.choice([0.0, rng.uniform(0, 3)]))
        until = world.now() - ago
        row = await clients.until_answered(
            place,
            lambda replica: replica.ledger.books.seal((place[0], CLIENT, None), place[1], until),
            rng,
            f"seal {place[1]}",
            (PeriodSealed, InvalidRequest),
        )
        if row is not None and row.sealed_until is not None:
            self.told.append((place, row.sealed_until))

    async def _date_back(self, rng: random.Random) -> None:
        """To about where it may be sealed."""
        world, clients = self.world, self.world.clients
        place = clients.somewhere(rng)
        sealed = world.tables(place)["book"][world.number(place),]["sealed_until"]
        near = (
            world.past(rng) if sealed is None else sealed + timedelta(microseconds=rng.choice([-1, 0, 1, 2, 500_000]))
        )
        header = Header(id=TransactionId(world.uuid()), effective_at=min(near, world.now() - timedelta(seconds=1)))
        number = len(clients.intentions)
        command = clients.dated(clients.move(rng, place, number, "post"), header)
        await clients.tell(clients.want(place, [command], atomic=True, key=None, header=header), rng)

    def violations(self) -> Iterable[str]:
        """Nothing that was stored after a seal is effective within what it sealed; seals only grow, and are what was told."""
        world = self.world
        for place, book, transfers, changes in world.books():
            last: datetime | None = None
            for change in changes:
                if change.kind != "sealed":
                    continue
                self.reached("sealed")
                if last is not None and change.said <= last:
                    yield f"seal: {change} takes back {last}"
                last = change.said
                for row in transfers[change.sequence :]:
                    if (row["effective_at"] or row["recorded_at"]) <= change.said:
                        yield f"seal: {row} is in what was sealed at {change.sequence}"
                    self.reached("dated_after_seal" if row["effective_at"] else "recorded_after_seal")
            if book["sealed_until"] != last:
                yield f"seal: {book} is sealed until {last}"
            for where, until in self.told:
                if where == place and (last is None or last < until):
                    yield f"seal: {until} was told of {place}, and it is {last}"
            self.world.faults.reached["period_sealed"] += sum(
                row["reason"] == "period_sealed" and row["book"] == book["id"]
                for row in world.tables(place)["rejection"].values()
            )
