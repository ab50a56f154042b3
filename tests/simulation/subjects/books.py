"""Several books of one tenant, posted to at once: flushes touch more than one, under transfer ids that are each book's own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from tallystick.contracts.ledger.messages import MAIN
from tallystick.services.ledger.model import Command
from tests.simulation.clients import CLIENT, Intention, Place
from tests.simulation.subjects.subject import Subject

if TYPE_CHECKING:
    from tests.simulation.world import Replica

#: Opened besides the main one.
FURTHER = ("savings", "trust")


class Books(Subject):
    name = "books"
    kinds = ("flushed_together", "of_another_book")

    async def furnish(self) -> None:
        world = self.world
        for tenant in world.tenants:
            for name in FURTHER:
                await (
                    world.shards[world.home].replicas[0].ledger.books.open((tenant, CLIENT, None), name, None, "strict")
                )
                await world.open_accounts((tenant, name))

    async def act(self, rng: random.Random) -> None:
        """Some replica has requests about two books at a time, another one about the second of them."""
        tenant = rng.choice(self.world.tenants)
        books: list[Place] = [(tenant, name) for name in rng.sample([MAIN, *FURTHER], 2)]
        replicas = self.world.replicas(books[0])
        await asyncio.gather(
            self._post(rng, books, rng.choice(replicas)),
            self._post(rng, books[1:], rng.choice(replicas)),
        )

    async def _post(self, rng: random.Random, books: list[Place], replica: Replica) -> None:
        """Twice, under ids that are the same in each book."""
        clients = self.world.clients
        for _ in range(2):
            kinds = [rng.choice(["post", "post", "post", "hold"]) for _ in range(rng.choice([1, 1, 2]))]
            asked: list[Intention] = []
            for place in books:
                number = len(clients.intentions)
                commands = [clients.move(rng, place, number, kind) for kind in kinds]
                if asked:
                    pairs = zip(commands, asked[0].commands, strict=True)
                    commands = [msgspec.structs.replace(one, id=other.id) for one, other in pairs]
                    if rng.random() < 0.1:
                        commands[0] = self._astray(rng, commands[0], books)
                key = f"key-{number}" if rng.random() < 0.3 else None
                asked.append(clients.want(place, commands, atomic=rng.random() < 0.5, key=key))
            await asyncio.gather(*(clients.say(one, rng, replica) for one in asked))

    def _astray(self, rng: random.Random, command: Command, books: list[Place]) -> Command:
        """Names an account of the other book too."""
        own = self.world.accounts[books[0]], self.world.accounts[books[1]]
        return msgspec.structs.replace(command, debit=rng.choice(own[0]), credit=rng.choice(own[1]))

    def violations(self) -> Iterable[str]:
        """An id is a transfer in each book of those that it was said to, and of nobody's accounts but its own book's."""
        server = self.world.shards[self.world.home].server
        for row in server.tables["transfer"].values():
            for side in ("debit", "credit"):
                if server.tables["account"][row[f"{side}_account"],]["book"] != row["book"]:
                    yield f"books: {row} is about an account of another book"
        for refused in server.tables["rejection"].values():
            if refused["reason"] == "account_not_found":
                self.reached("of_another_book")
