"""Money from one book to another, of this shard and of another with a PostgreSQL of its own: a hold here, a post there, the hold's end here, and
processes that die, requests and answers that get lost in between.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from tallystick.chassis.idempotency import Digester, Entry
from tallystick.contracts.ledger.messages import MAIN
from tallystick.contracts.ledger.problems import LEDGER_PROBLEMS, TransferRefused
from tallystick.kernel import ids
from tallystick.kernel.ids import TransferId
from tallystick.kernel.problem import Problem, Unavailable, Upstream, decode
from tallystick.services.ledger.model import BookAccount, Crossing, Outcome, Told
from tallystick.services.ledger.service.interbook import GRACE
from tests.simulation.clients import CLIENT, Place
from tests.simulation.subjects.subject import Subject

if TYPE_CHECKING:
    from tests.simulation.world import Replica, World

#: The shard that has the book `FAR`; `NEAR` is on the same as the main one.
ELSEWHERE, FAR, NEAR = "eu", "far", "near"
Values = dict[str, Any]


class Way:
    """From one replica to some replica of another shard, by value as over a wire."""

    def __init__(self, world: World, replica: Replica, to: str) -> None:
        self.world, self.replica, self.to = world, replica, to

    async def has_book(self, tenant: str, book: str, client: str) -> None:
        await self._ask(lambda there: there.ledger.interbook.has_book(tenant, book, client))

    async def arrive(self, tenant: str, crossing: Crossing) -> Outcome:
        sent = msgspec.json.decode(msgspec.json.encode(crossing), type=Crossing)
        outcome: Outcome = await self._ask(lambda there: there.ledger.interbook.arrive(tenant, sent))
        return outcome

    async def _ask(self, call: Any) -> Any:
        world, faults = self.world, self.world.faults
        await self.replica.database.alive()
        await faults.pause()
        there = faults.rng.choice(world.shards[self.to].replicas)
        if there.died.done():
            raise Unavailable("nobody is there")
        if faults.chance("request_lost"):
            raise Upstream("the request was lost", outcome_unknown=True)

        async def answered() -> tuple[Any]:
            return (await call(there),)

        try:
            answer = await there.ask(answered(), 3.0)
        except Problem as problem:
            answer = problem
        await faults.pause()
        await self.replica.database.alive()
        if answer is None or faults.chance("answer_lost"):
            raise Upstream("the answer was lost", outcome_unknown=True)
        if isinstance(answer, Problem):
            raise decode(answer.document(), LEDGER_PROBLEMS)
        return answer[0]


@dataclass
class Wish:
    """Money that a client wants to go from one book to another, once."""

    number: int
    source: Place
    crossing: Crossing
    key: str | None
    told: list[Told] = field(default_factory=list)


class Interbook(Subject):
    name = "interbook"
    kinds = (
        "crossed", "crossed_near", "crossed_far", "crossing_refused", "crossing_refused_there", "resumed", "request_lost", "answer_lost",
    )  # fmt: skip

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.wishes: list[Wish] = []
        self.capped: dict[Place, str] = {}

    async def furnish(self) -> None:
        """In each book besides what there is an account that takes 40 at most. The far book is named here first, then opened there."""
        world = self.world
        for tenant in list(world.tenants):
            here, there = (world.shards[name].replicas[0].ledger for name in (world.home, ELSEWHERE))
            who = (tenant, CLIENT, None)
            await here.books.open(who, FAR, None, "strict", ELSEWHERE)
            await there.books.open(who, FAR, None, "strict")
            await here.books.open(who, NEAR, None, "strict")
            for book in (MAIN, NEAR, FAR):
                place = (tenant, book)
                if book != MAIN:
                    await world.open_accounts(place)
                capped = await world.open_account(place, "credit", 0, path="capped", ceiling=40)
                self.capped[place] = ids.accounts.text(capped) if book == MAIN else "capped"

    async def act(self, rng: random.Random) -> None:
        world = self.world
        if self.wishes and rng.random() < 0.3:
            wish = rng.choice(self.wishes)
            self.reached("repeated")
        else:
            wish = self._wish(rng)
        if rng.random() < 0.15:
            await world.gather(self._say(wish, rng), self._say(wish, rng))
        else:
            await self._say(wish, rng)

    def _wish(self, rng: random.Random) -> Wish:
        world, number = self.world, len(self.wishes)
        tenant = rng.choice(world.tenants)
        books = rng.sample([MAIN, FAR, FAR, NEAR], 2)
        while books[0] == books[1]:
            books = rng.sample([MAIN, FAR, FAR, NEAR], 2)
        source, destination = ((tenant, book) for book in books)
        takes, gets = (ids.accounts.text(rng.choice(world.accounts[place])) for place in (source, destination))
        if rng.random() < 0.4:
            takes = ids.accounts.text(world.accounts[source][1])  # from where there is always something
        chance = rng.random()
        if chance < 0.15:
            gets = self.capped[destination]
        elif chance < 0.2:
            gets = "nobody"
        elif chance < 0.25:
            gets = f"transit:out:{books[0]}:EUR"  # the ledger's own: it never comes there
        crossing = Crossing(
            id=TransferId(world.uuid()),
            source=BookAccount(books[0], takes),
            destination=BookAccount(books[1], gets),
            amount=rng.randint(1, 50),
            currency="EUR",
            client=CLIENT,
            reference=f"wish-{number}",
        )
        wish = Wish(number, source, crossing, f"wish-{number}" if rng.random() < 0.5 else None)
        self.wishes.append(wish)
        return wish

    async def _say(self, wish: Wish, rng: random.Random) -> None:
        tenant, crossing = wish.source[0], wish.crossing
        entry = None
        if wish.key is not None:
            digest = Digester(bytes(32)).digest([str(crossing.id)])
            entry = Entry(tenant, CLIENT, "POST /v1/interbook_transfers", wish.key, digest)
        told = await self.world.clients.until_answered(
            wish.source,
            lambda replica: replica.ledger.interbook.transfer(tenant, CLIENT, None, crossing, entry),
            rng,
            f"wish {wish.number}",
            (TransferRefused,),
        )
        if told is not None:
            self.world.note("wish", wish.number, told.state, told.reason)
            wish.told.append(told)

    async def turn(self, replica: Replica) -> None:
        tables, before = replica.shard.server.tables, replica.clock.now() - GRACE
        for row in tables["hold"].values():
            if row["remaining"] and tables["account"][row["credit_account"],]["path"] is not None:
                made = tables["transfer"][row["book"], row["id"]]
                self.world.faults.reached["resumed"] += made["recorded_at"] < before
        await replica.ledger.interbook.resume()

    # ---- what must be true ------------------------------------------------------------------------------------------

    def violations(self) -> Iterable[str]:
        for wish in self.wishes:
            yield from self._one(wish)
        yield from self._between()

    def _one(self, wish: Wish) -> Iterator[str]:
        """It has left one book and come to the other, both or neither; and it is over."""
        crossing, destination = wish.crossing, (wish.source[0], wish.crossing.destination.book)
        here, there = self.world.tables(wish.source), self.world.tables(destination)
        key = (self.world.number(wish.source), crossing.id)
        hold = here["hold"].get(key)
        came = there["transfer"].get((self.world.number(destination), crossing.id))
        state = "never" if hold is None else hold["state"]
        if state == "held":
            yield f"interbook ended: {wish} is still in flight"
        if (state == "captured") != (came is not None):
            yield f"interbook money: {wish} is {state} where it was, and {came} where it was to go"
        if hold is not None and (hold["amount"], state == "captured") != (crossing.amount, hold["captured"] > 0):
            yield f"interbook money: {wish} was {hold}"
        if came is not None:
            right = self._account(destination, crossing.destination.account)
            if (came["kind"], came["amount"], came["credit_account"]) != ("post", crossing.amount, right):
                yield f"interbook money: {wish} came as {came}"
        ends = {"posted": {"captured"}, "rejected": {"voided", "never"}, "in_flight": {"captured", "voided"}}
        for told in wish.told:
            if state not in ends[told.state]:
                yield f"interbook told: {wish} was told {told.state} and is {state}"
        if state == "captured":
            self.reached("crossed")
            self.reached("crossed_far" if FAR in {wish.source[1], destination[1]} else "crossed_near")
        elif state == "voided":
            self.reached("crossing_refused_there")
        elif key in here["rejection"]:
            self.reached("crossing_refused")

    def _account(self, place: Place, named: str) -> Any:
        if not named.startswith("acc_"):
            at = self.world.tables(place)["path"].get((self.world.number(place), named))
            return None if at is None else at["id"]
        return ids.accounts.parse(named)

    def _between(self) -> Iterator[str]:
        """By pair of books, what went out came in: from the transit accounts alone, to the unit."""
        out, came = Counter[tuple[str, str, str]](), Counter[tuple[str, str, str]]()
        for shard in self.world.shards.values():
            tables = shard.server.tables
            for row in tables["account"].values():
                if (row["path"] or "").startswith("transit:"):
                    book = tables["book"][row["book"],]
                    _, way, other, _ = row["path"].split(":")
                    moved = row["credits_posted"] - row["debits_posted"]
                    if row["debits_pending"] or row["credits_pending"]:
                        yield f"interbook ended: something is held on {row}"
                    if way == "out":
                        out[book["tenant"], book["name"], other] += moved
                    else:
                        came[book["tenant"], other, book["name"]] -= moved
        if +out != +came:
            yield f"interbook money: {out} went out, {came} came in"
