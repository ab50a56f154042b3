"""Books that are put in quarantine and released while money moves."""

from __future__ import annotations

import random
from collections.abc import Iterable

from tests.simulation.clients import Place
from tests.simulation.subjects.subject import Subject


class Quarantine(Subject):
    name = "quarantine"
    kinds = ("quarantined", "released", "BookQuarantined")

    async def act(self, rng: random.Random) -> None:
        """As the check does that found something, and an operator some time later."""
        clients = self.world.clients
        if rng.random() < 0.5:
            return
        place = clients.somewhere(rng)
        number = self.world.number(place)

        async def shut(replica: object) -> bool:
            await replica.ledger.quarantine._shut(number, ["something is planted"])  # type: ignore[attr-defined]
            return True

        await clients.until_answered(place, shut, rng, f"shut {place[1]}")
        await self.world.rest(rng.choice([0.0, 0.3, 2.0]))
        await self._release(place, rng)

    async def _release(self, place: Place, rng: random.Random) -> None:
        number = self.world.number(place)
        await self.world.clients.until_answered(
            place,
            lambda replica: replica.ledger.quarantine.release(number, None, checked=True),
            rng,
            f"release {place[1]}",
        )

    async def calm(self) -> None:
        rng = random.Random(0)
        for place, book, _, _ in list(self.world.books()):
            while self.world.tables(place)["book"][book["id"],]["quarantined_at"] is not None:
                await self._release(place, rng)

    def violations(self) -> Iterable[str]:
        """Between the two nothing is written, whatever of. Only an account may be there that was being opened when it began: that takes no lock
        of the book's which others have to wait for, and moves nothing.
        """
        for place, _, _, changes in self.world.books():
            since: int | None = None
            for change in changes:
                if change.kind == "quarantined":
                    self.reached("quarantined" if change.said else "released")
                    if since is not None and change.sequence != since:
                        yield f"quarantine: {place} went from {since} to {change.sequence} in it"
                    since = change.sequence if change.said else None
                elif since is not None and change.kind != "opened":
                    yield f"quarantine: {change} in it"
            if since is not None:
                yield f"quarantine: {place} was never released"
