"""One run: several ledgers, each the real service, on simulated PostgreSQL servers, with clients that repeat themselves and a fate that follows from a
seed.

report = simulate(seed)     # report.violations is empty, or says what is wrong
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from itertools import count
from typing import Any, cast
from uuid import UUID

from tallystick.chassis.db import Bounds, Database
from tallystick.chassis.idempotency import Digester
from tallystick.chassis.outbox import Outbox
from tallystick.contracts.ledger.messages import MAIN
from tallystick.kernel.deployment import HOME
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import NewAccount
from tallystick.services.ledger.service import Ledger
from tallystick.services.ledger.service.asks import Answered, Work
from tallystick.services.ledger.service.poster import Poster
from tallystick.services.ledger.store import Store
from tests.services.ledger.support import START
from tests.simulation.clients import AGAIN, CLIENT, Clients, Place
from tests.simulation.loop import VirtualLoop, run
from tests.simulation.server import Change, Faults, Server, SimDatabase
from tests.simulation.subjects import SUBJECTS, Subject, subjects_of
from tests.simulation.subjects.interbook import ELSEWHERE, FAR, Interbook, Way

TENANTS = ("acme", "beta")
#: Virtual seconds within which everything must be answered once nothing breaks any more.
QUIET_S = 120.0
#: And those after which what nobody waits for has come to its end as well.
LATER_S = 12.0

MakeLedger = Callable[..., Ledger]
Values = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """How much there is in a run; smaller ones are for looking at what a seed has found. `subjects` None: those of the seed."""

    clients: int = 5
    requests: int = 7
    replicas: int = 3
    subjects: tuple[str, ...] | None = None


USUAL = Shape()


class SimClock:
    """A replica's clock, which is off by `skew`."""

    def __init__(self, world: World, skew: timedelta) -> None:
        self.world, self.skew = world, skew

    def now(self) -> datetime:
        return self.world.now() + self.skew


class Replica:
    """A process with a ledger in it, that dies and is started again."""

    def __init__(self, world: World, shard: Shard, number: int) -> None:
        self.world, self.shard, self.number = world, shard, number
        self.start()

    def start(self) -> None:
        world = self.world
        self.database = SimDatabase(self.shard.server)
        self.died: asyncio.Future[None] = world.loop.create_future()
        skew = timedelta(milliseconds=world.rng.choice([0, 0, 0, -300, 400]))
        self.clock = SimClock(world, skew)
        self.ledger = world.make_ledger(
            database=cast("Database", self.database),
            store=Store(),
            outbox=Outbox(),
            clock=self.clock,
            digester=Digester(bytes(32)),
            shard=self.shard.name,
            others={name: Way(world, self, name) for name in world.shards if name != self.shard.name},
        )
        # A whole import has the same connection as all else, and parts are small, so that an import has some.
        setattr(self.database, "bounds", Bounds())  # noqa: B010 - asked for by the importer alone
        self.ledger.importer._patient = self.ledger._database
        self.ledger.importer.part = 3
        if world.seed % 7 > 4:
            # Each request is a flush of its own, as large ones are: one is decided and two are stored at a time, and replicas take turns.
            self.ledger.poster._small = self.ledger.poster._large
            self._count_turns(self.ledger.poster)
        self.sweeping = world.loop.create_task(self._sweep())

    def _count_turns(self, poster: Poster) -> None:
        plain = poster._in_turn

        async def in_turn(asks: list[Work], books: set[int]) -> list[Answered | Exception]:
            self.world.faults.reached["turns"] += 1
            return await plain(asks, books)

        setattr(poster, "_in_turn", in_turn)  # noqa: B010 - a method of one replica

    def kill(self) -> None:
        self.world.note("kill", *([] if self.shard.name == self.world.home else [self.shard.name]), self.number)
        self.database.kill()
        self.died.set_result(None)

    async def ask(self, call: Any, patience: float) -> Any:
        """The answer, or None: the process died, or the client went away. The call itself goes on."""
        task = asyncio.ensure_future(call)
        await asyncio.wait({task, self.died}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if self.died.done() or not task.done():
            # Nobody will look at what becomes of it.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            return None
        return task.result()

    async def _sweep(self) -> None:
        """The schedules: those of the subjects every other time."""
        pace = self.world.rng.choice([1, 3])
        for nth in count():
            await asyncio.sleep(pace)
            await self._turn(self.ledger.sweep())
            for subject in self.world.subjects if nth % 2 else ():
                await self._turn(subject.turn(self))
            self._look_into_the_head()

    def _look_into_the_head(self) -> None:
        """A replica remembers of single transfers those that its last flushes were about, and no others: those would stay until all is forgotten."""
        head = self.ledger.poster._head
        about = set[Any]().union(*(keys for keys, _ in head._recent))
        state = head.state
        for known in (state.transfers, state.rejections, state.holds, state.reversals, state.transactions):
            if not known.keys() <= about:
                self.world.wrong.append(f"head: {sorted(known.keys() - about)} stay in memory")

    async def _turn(self, turn: Coroutine[Any, Any, Any]) -> None:
        try:
            await turn
        except AGAIN:
            self.world.faults.reached["sweep_failed"] += 1


class Shard:
    """A PostgreSQL server and the replicas that use it."""

    def __init__(self, name: str, faults: Faults) -> None:
        self.name, self.server = name, Server(faults)
        self.replicas: list[Replica] = []


class World:
    def __init__(self, seed: int, loop: VirtualLoop, make_ledger: MakeLedger, shape: Shape = USUAL) -> None:
        self.seed, self.loop, self.make_ledger, self.shape = seed, loop, make_ledger, shape
        self.rng = random.Random(seed)
        rng = self.rng
        # In most runs a day ends.
        self.began = START - timedelta(seconds=rng.uniform(0, 6))
        harsh = rng.choice([0, 0.3, 1.0, 2.0])
        self.faults = Faults(
            random.Random(rng.random()),
            lost_before=0.02 * harsh,
            lost_after=0.02 * harsh,
            no_lock=0.02 * harsh,
            commit_lost=0.05 * harsh,
            commit_unanswered=0.05 * harsh,
            commit_late=0.05 * harsh,
            slow=rng.choice([0, 0.01, 0.05]),
            request_lost=0.1 * harsh,
            answer_lost=0.25 * harsh,
        )
        self.trace: list[str] = []
        self.wrong: list[str] = []
        self.tenants: list[str] = []
        #: Those that are in the currency of most, by book.
        self.accounts: dict[Place, list[AccountId]] = {}
        self.clients = Clients(self)
        names = subjects_of(seed) if shape.subjects is None else shape.subjects
        self.subjects: list[Subject] = [SUBJECTS[name](self) for name in names]
        self.home = HOME
        self.shards = {HOME: Shard(HOME, self.faults)}
        if any(isinstance(subject, Interbook) for subject in self.subjects):
            self.shards[ELSEWHERE] = Shard(ELSEWHERE, self.faults)
        for shard in self.shards.values():
            shard.replicas += [Replica(self, shard, number) for number in range(rng.randint(1, shape.replicas))]

    def note(self, *what: Any) -> None:
        self.trace.append(f"{self.loop.now:.6f} {' '.join(map(str, what))}")

    def now(self) -> datetime:
        """By a clock that is right."""
        return self.began + timedelta(seconds=self.loop.now)

    def past(self, rng: random.Random) -> datetime:
        """So long ago that it is past by every clock: some seconds, or days."""
        return self.now() - timedelta(days=rng.choice([0, 0, 1, 2, 3]), seconds=rng.uniform(1, 4))

    def uuid(self) -> UUID:
        return UUID(int=self.rng.getrandbits(128), version=4)

    def shard(self, place: Place) -> Shard:
        return self.shards[ELSEWHERE if place[1] == FAR else HOME]

    def replicas(self, place: Place) -> list[Replica]:
        return self.shard(place).replicas

    def tables(self, place: Place) -> dict[str, dict[Any, Any]]:
        return self.shard(place).server.tables

    def number(self, place: Place) -> int:
        """The number of a book on its server; 0 as long as there is none."""
        books = self.tables(place)["book"].values()
        return next((row["id"] for row in books if (row["tenant"], row["name"]) == place), 0)

    def books(self) -> Iterator[tuple[Place, Values, list[Values], list[Change]]]:
        """Each book where it is kept: its row, its transfers in their order, and what was said of it and of its accounts."""
        for shard in self.shards.values():
            server = shard.server
            for book in list(server.tables["book"].values()):
                if book["shard"] == shard.name:
                    transfers = [row for row in server.tables["transfer"].values() if row["book"] == book["id"]]
                    transfers.sort(key=lambda row: row["sequence"])
                    changes = [change for change in server.changes if change.book == book["id"]]
                    yield (book["tenant"], book["name"]), book, transfers, changes

    async def rest(self, seconds: float) -> None:
        """Lets so much time pass for whoever asks."""
        await asyncio.sleep(seconds)

    @staticmethod
    async def gather(*calls: Coroutine[Any, Any, None]) -> None:
        await asyncio.gather(*calls)

    # ---- the run ----------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        await self._furnish()
        trouble = asyncio.create_task(self._trouble())
        clients = [
            asyncio.create_task(self.clients.live(self.shape.requests), name=f"client {number}")
            for number in range(self.shape.clients)
        ]
        await asyncio.sleep(self.rng.uniform(2, 5))
        trouble.cancel()
        self.faults.heal()
        for shard in self.shards.values():
            for replica in shard.replicas:
                if replica.died.done():
                    replica.start()
        calming = [asyncio.create_task(subject.calm()) for subject in self.subjects]
        try:
            async with asyncio.timeout(QUIET_S):
                await asyncio.gather(*clients, *calming)
        except TimeoutError:
            self.wrong.append("liveness: somebody was not answered long after all was well again")
        for subject in self.subjects:
            await subject.calm()
        # What clients no longer waited for comes to its end as well.
        await asyncio.sleep(LATER_S)
        for shard in self.shards.values():
            self.wrong += [f"late: {task}" for task in shard.server.late]

    async def _furnish(self) -> None:
        """Some accounts with a floor, in each book; the first is the one that everybody wants. Nothing breaks meanwhile."""
        faults, self.faults.rng = self.faults.rng, random.Random(0)
        saved = {one.name: getattr(self.faults, one.name) for one in fields(Faults) if one.type == "float"}
        self.faults.heal()
        for tenant in TENANTS[: self.rng.randint(1, 2)]:
            self.tenants.append(tenant)
            await self.open_accounts((tenant, MAIN))
        for subject in self.subjects:
            await subject.furnish()
        self.faults.rng = faults
        for name, value in saved.items():
            setattr(self.faults, name, value)

    async def open_accounts(self, place: Place) -> None:
        for side, floor in [("credit", 0), ("debit", None), ("credit", -30), ("debit", 0)]:
            self.accounts.setdefault(place, []).append(await self.open_account(place, side, floor))

    async def open_account(self, place: Place, side: str, floor: int | None, **more: Any) -> AccountId:
        new = NewAccount(
            id=AccountId(self.uuid()),
            name="an account",
            currency=more.pop("currency", "EUR"),
            normal_side=side,
            floor=floor,
            code=None,
            metadata=None,
            **more,
        )
        await self.replicas(place)[0].ledger.accounts.open(place[0], CLIENT, None, new, book=place[1])
        return new.id

    async def _trouble(self) -> None:
        """Replicas die at any moment and come back."""
        often = self.rng.choice([0, 0.3, 1.5])
        while often:
            await asyncio.sleep(self.rng.expovariate(often))
            replica = self.rng.choice([one for shard in self.shards.values() for one in shard.replicas])
            if not replica.died.done():
                replica.kill()
                self.faults.reached["killed"] += 1
                await asyncio.sleep(self.rng.uniform(0, 0.5))
                replica.start()


@dataclass(frozen=True)
class Report:
    """What a run came to. `trace` is the same, line by line, whenever the seed is."""

    seed: int
    subjects: tuple[str, ...]
    violations: list[str]
    reached: Counter[str]
    transfers: int
    trace: list[str]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


def drawn(world: World) -> Counter[str]:
    """What was posted, by its kind."""
    found = Counter[str]()
    for shard in world.shards.values():
        tables = shard.server.tables
        for row in tables["transfer"].values():
            found[row["kind"]] += 1
            found["balancing"] += row["asked"] is not None
            found["balancing_less"] += row["asked"] is not None and row["asked"] > row["amount"]
            found["dated"] += row["effective_at"] is not None
        found["transactions"] += len(tables["transaction"])
        found["undone"] += len(tables["reversed"])
    for one in world.clients.intentions:
        if not one.atomic:
            there = {row["id"] for row in world.tables(one.place)["transfer"].values()}
            chains = [[one.commands[place].id for place in whole] for whole in one.wholes() if len(whole) > 1]
            found["chains"] += sum(all(each in there for each in chain) for chain in chains)
            found["chains_refused"] += sum(not any(each in there for each in chain) for chain in chains)
    return +found


def simulate(seed: int, make_ledger: MakeLedger = Ledger, shape: Shape = USUAL) -> Report:
    """`make_ledger` is for ledgers with a bug in them."""
    from tests.simulation.invariants import violations

    made: list[World] = []

    async def main() -> World:
        made.append(World(seed, cast("VirtualLoop", asyncio.get_running_loop()), make_ledger, shape))
        await made[0].live()
        return made[0]

    def over() -> None:
        for shard in made[0].shards.values():
            shard.server.over = True

    def wrong(what: str) -> None:
        made[0].wrong.append(what)

    world = run(main(), over, wrong)
    found = world.wrong + violations(world)
    for subject in world.subjects:
        found += subject.violations()
    return Report(
        seed,
        tuple(subject.name for subject in world.subjects),
        found,
        world.faults.reached + drawn(world),
        sum(len(shard.server.tables["transfer"]) for shard in world.shards.values()),
        world.trace,
    )
