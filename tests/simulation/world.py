"""One run: several ledgers, each the real service, on one simulated PostgreSQL, with clients that repeat themselves and a fate that follows from a seed.

report = simulate(seed)     # report.violations is empty, or says what is wrong
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, cast
from uuid import UUID

import msgspec

from tallystick.chassis.db import CommitUnknown, Contended, Database, DatabaseUnavailable
from tallystick.chassis.idempotency import Digester, Entry, InProgress
from tallystick.chassis.outbox import Outbox
from tallystick.contracts.ledger.messages import MAIN, ReverseTransaction
from tallystick.contracts.ledger.problems import AccountHasHolds, TransactionNotFound
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.ids import AccountId, TransactionId, TransferId
from tallystick.kernel.problem import Overloaded
from tallystick.services.ledger.api.transactions import undone
from tallystick.services.ledger.model import (
    AccountRow,
    Command,
    Header,
    NewAccount,
    Result,
    TransactionRow,
    Transfer,
)
from tallystick.services.ledger.model.values import CommandKind
from tallystick.services.ledger.service import Answered, Ask, At, Ledger
from tallystick.services.ledger.store import Store
from tests.services.ledger.support import START
from tests.simulation.loop import VirtualLoop, run
from tests.simulation.server import Faults, Server, SimDatabase

REPLICAS, CLIENTS, REQUESTS = 3, 5, 7
TENANTS = ("acme", "beta")
#: After these the same request, sent again, may be answered.
AGAIN = (Contended, DatabaseUnavailable, CommitUnknown, Overloaded, InProgress)
#: Virtual seconds within which everything must be answered once nothing breaks any more.
QUIET_S = 120.0

_encode, _decode = msgspec.json.encode, msgspec.json.Decoder(list[tuple[UUID, str, int, str | None, bool]]).decode
MakeLedger = Callable[..., Ledger]


class Answer(msgspec.Struct, frozen=True):
    """What a client was told of one command. `at`: virtual seconds of sending and of the answer."""

    status: str
    sequence: int
    reason: str | None


@dataclass
class Intention:
    """What a client wants once, however often it says so. Its number is the transfers' `code`."""

    number: int
    tenant: str
    commands: tuple[Command, ...]
    atomic: bool
    key: str | None
    first_sent: float = 0.0
    header: Header | None = None
    first_answer: float = float("inf")
    answers: list[tuple[Answer, ...]] = field(default_factory=list)
    bodies: set[bytes] = field(default_factory=set)

    def wholes(self) -> list[range]:
        """The places of commands of which there are all or none: the whole of it, or chains of what is linked to the next."""
        if self.atomic:
            return [range(len(self.commands))]
        ends = [place for place, command in enumerate(self.commands, 1) if not command.linked]
        return [range(first, end) for first, end in pairwise([0, *ends])]


@dataclass
class Seen:
    """A balance that was read: as of now, or by effective time as it was known now."""

    tenant: str
    row: AccountRow
    sent: float
    got: float
    effective: datetime | None = None


@dataclass
class Found:
    """A transaction that was asked for; None: it was not there."""

    tenant: str
    id: TransactionId
    transfers: tuple[TransactionRow, Sequence[Transfer]] | None
    sent: float
    got: float


class SimClock:
    """A replica's clock, which is off by `skew`."""

    def __init__(self, world: World, skew: timedelta) -> None:
        self.world, self.skew = world, skew

    def now(self) -> datetime:
        return self.world.now() + self.skew


class Replica:
    """A process with a ledger in it, that dies and is started again."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.deaths = 0
        self.start()

    def start(self) -> None:
        world = self.world
        self.database = SimDatabase(world.server)
        self.died: asyncio.Future[None] = world.loop.create_future()
        skew = timedelta(milliseconds=world.rng.choice([0, 0, 0, -300, 400]))
        self.clock = SimClock(world, skew)
        self.ledger = world.make_ledger(
            database=cast("Database", self.database),
            store=Store(),
            outbox=Outbox(),
            clock=self.clock,
            digester=Digester(bytes(32)),
        )
        if world.seed % 7 > 4:
            # Each request is a flush of its own, as large ones are: one is decided and two are stored at a time.
            self.ledger.poster._small = self.ledger.poster._large
        self.sweeping = world.loop.create_task(self._sweep())

    def kill(self) -> None:
        self.deaths += 1
        self.world.note("kill", self.number)
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
        pace = self.world.rng.choice([1, 3])
        while True:
            await asyncio.sleep(pace)
            try:
                await self.ledger.sweep()
            except AGAIN:
                self.world.faults.reached["sweep_failed"] += 1


class World:
    def __init__(self, seed: int, loop: VirtualLoop, make_ledger: MakeLedger) -> None:
        self.seed, self.loop, self.make_ledger = seed, loop, make_ledger
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
        )
        self.server = Server(self.faults)
        self.trace: list[str] = []
        self.intentions: list[Intention] = []
        self.seen: list[Seen] = []
        self.found: list[Found] = []
        self.closed: list[tuple[str, AccountId, int]] = []
        self.wrong: list[str] = []
        self.accounts: dict[str, list[AccountId]] = {}
        self.replicas = [Replica(self, number) for number in range(rng.randint(1, REPLICAS))]

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

    # ---- the run ----------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        await self._open_accounts()
        trouble = asyncio.create_task(self._trouble())
        clients = [asyncio.create_task(self._client(number)) for number in range(CLIENTS)]
        await asyncio.sleep(self.rng.uniform(2, 5))
        trouble.cancel()
        self.faults.heal()
        for replica in self.replicas:
            if replica.died.done():
                replica.start()
        try:
            async with asyncio.timeout(QUIET_S):
                await asyncio.gather(*clients)
        except TimeoutError:
            self.wrong.append("liveness: somebody was not answered long after all was well again")
        # What clients no longer waited for comes to its end as well.
        await asyncio.sleep(12)
        self.wrong += [f"late: {task}" for task in self.server.late]

    async def _open_accounts(self) -> None:
        """Some with a floor, in each book; the first is the one that everybody wants."""
        faults, self.faults.rng = self.faults.rng, random.Random(0)
        saved = {name: getattr(self.faults, name) for name in ("lost_before", "lost_after", "commit_lost", "commit_unanswered", "commit_late", "no_lock", "slow")}  # fmt: skip
        self.faults.heal()
        ledger = self.replicas[0].ledger
        for tenant in TENANTS[: self.rng.randint(1, 2)]:
            shape = [("credit", 0), ("debit", None), ("credit", -30), ("debit", 0)]
            for side, floor in shape:
                account = AccountId(self.uuid())
                new = NewAccount(
                    id=account,
                    name="an account",
                    currency="EUR",
                    normal_side=side,
                    floor=floor,
                    code=None,
                    metadata=None,
                )
                await ledger.accounts.open(tenant, "cli_sim", None, new)
                self.accounts.setdefault(tenant, []).append(account)
        self.faults.rng = faults
        for name, value in saved.items():
            setattr(self.faults, name, value)

    async def _trouble(self) -> None:
        """Replicas die at any moment and come back."""
        often = self.rng.choice([0, 0.3, 1.5])
        while often:
            await asyncio.sleep(self.rng.expovariate(often))
            replica = self.rng.choice(self.replicas)
            if not replica.died.done():
                replica.kill()
                self.faults.reached["killed"] += 1
                await asyncio.sleep(self.rng.uniform(0, 0.5))
                replica.start()

    async def _client(self, number: int) -> None:
        rng = random.Random(self.rng.random())
        mine: list[Intention] = []
        for _ in range(REQUESTS):
            await asyncio.sleep(rng.expovariate(4))
            chance = rng.random()
            if chance < 0.15:
                await self._read(rng)
                continue
            if chance < 0.3 and mine:
                intention = rng.choice(mine)
                self.faults.reached["repeated"] += 1
            elif chance < 0.34:
                await self._close(rng)
                continue
            else:
                intention = await self._intend(rng)
                mine.append(intention)
            if rng.random() < 0.15:
                self.faults.reached["duplicated"] += 1
                await asyncio.gather(self._say(intention, rng), self._say(intention, rng))
            else:
                await self._say(intention, rng)

    async def _intend(self, rng: random.Random) -> Intention:
        tenant = rng.choice(list(self.accounts))
        chance = rng.random()
        unmade = await self._undo(rng, tenant) if chance < 0.1 else None
        # Nothing is awaited from here on: its number is its own.
        number = len(self.intentions)
        header, commands = unmade or (None, [])
        if unmade is not None:
            commands = [msgspec.structs.replace(one, code=f"{number}-{rng.getrandbits(32)}") for one in commands]
        elif chance < 0.3:
            header = Header(
                id=TransactionId(self.uuid()),
                reference=f"ref-{number}",
                effective_at=self.past(rng) if rng.random() < 0.6 else None,
            )
            kinds = ["post"] if header.effective_at is not None or rng.random() < 0.7 else ["post", "hold"]
            for _ in range(rng.choice([1, 2, 2, 3])):
                made = self._move(rng, tenant, number, rng.choice(kinds))
                commands.append(msgspec.structs.replace(made, transaction=header.id, effective_at=header.effective_at))
        else:
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                commands.append(self._command(rng, tenant, number, commands))
        atomic = header is not None or rng.random() < 0.5
        if not atomic:
            last = len(commands) - 1
            commands = [
                msgspec.structs.replace(one, linked=nth < last and rng.random() < 0.6)
                for nth, one in enumerate(commands)
            ]
        key = f"key-{number}" if rng.random() < 0.5 else None
        intention = Intention(number, tenant, tuple(commands), atomic, key, self.loop.now, header)
        self.intentions.append(intention)
        return intention

    async def _undo(self, rng: random.Random, tenant: str) -> tuple[Header, list[Command]] | None:
        """The reversal as a whole of a transaction that a client has just looked up; None without one."""
        made = [one.header for one in self.intentions if one.tenant == tenant and one.header is not None]
        if not made:
            return None
        wanted, replica, sent = rng.choice(made[-6:]).id, rng.choice(self.replicas), self.loop.now
        try:
            there = await replica.ask(replica.ledger.transactions.get(tenant, MAIN, wanted), 3)
            if there is None:
                return None
        except AGAIN:
            return None
        except TransactionNotFound:
            there = None
        self.found.append(Found(tenant, wanted, there, sent, self.loop.now))
        if there is None:
            return None
        asked = ReverseTransaction(
            id=ids.transactions.text(TransactionId(self.uuid())),
            effective_at=rfc3339(self.past(rng)) if rng.random() < 0.3 else None,
        )
        return undone(asked, *there)

    def _move(self, rng: random.Random, tenant: str, number: int, kind: str) -> Command:
        debit, credit = rng.sample(self.accounts[tenant], 2)
        if rng.random() < 0.2 and credit != self.accounts[tenant][1]:
            debit = self.accounts[tenant][1]  # from where there is always something
        return Command(
            kind=cast("CommandKind", kind),
            id=TransferId(self.uuid()),
            code=f"{number}-{rng.getrandbits(32)}",
            debit=debit,
            credit=credit,
            amount=rng.randint(1, 60),
            currency="EUR",
            expires_in=rng.choice([None, 1, 2]) if kind == "hold" else None,
            balancing=rng.random() < 0.2,
        )

    def _command(self, rng: random.Random, tenant: str, number: int, before: list[Command]) -> Command:
        """`before`: those that it comes after, which it may be about too."""
        kind = rng.choice(["post", "hold", "hold", "increase", "capture", "capture", "void", "reverse"])
        own = [c for i in self.intentions[-12:] if i.tenant == tenant for c in i.commands] + before
        targets = [c.id for c in own if (c.kind == "hold") == (kind != "reverse")]
        if kind in {"post", "hold"} or not targets:
            return self._move(rng, tenant, number, "hold" if kind == "hold" else "post")
        amount = None if kind == "void" else rng.randint(1, 40)
        if kind in {"capture", "reverse"} and rng.random() < 0.5:
            amount = None
        return Command(
            kind=cast("CommandKind", kind),
            id=TransferId(self.uuid()),
            code=f"{number}-{rng.getrandbits(32)}",
            target=rng.choice(targets),
            amount=amount,
            currency=None if amount is None else "EUR",
            final=kind == "capture" and rng.random() < 0.3,
            expires_in=rng.choice([None, 1, 3]) if kind == "increase" else None,
        )

    async def _say(self, intention: Intention, rng: random.Random) -> None:
        """Says it until it is answered; from time to time loses interest."""
        while True:
            replica = rng.choice(self.replicas)
            entry = self._entry(intention)
            ask = Ask(
                intention.tenant, "cli_sim", None, intention.commands, intention.atomic, entry, None if entry is None else render,
                header=intention.header,
            )  # fmt: skip
            try:
                answered = await replica.ask(replica.ledger.poster.post(ask), rng.uniform(0.5, 6))
            except AGAIN as problem:
                self.note("again", intention.number, type(problem).__name__)
                self.faults.reached[type(problem).__name__] += 1
                answered = None
            except Exception as error:  # noqa: BLE001 - it is a finding
                self.wrong.append(f"error: {type(error).__name__} {error} for {intention.number}")
                return
            if answered is not None:
                self._told(intention, answered)
                return
            if rng.random() < 0.1:
                self.note("gave up", intention.number)
                return
            await asyncio.sleep(rng.uniform(0.05, 1))

    def _entry(self, intention: Intention) -> Entry | None:
        if intention.key is None:
            return None
        digest = Digester(bytes(32)).digest([str(command.id) for command in intention.commands])
        return Entry(intention.tenant, "cli_sim", "POST /v1/transfers", intention.key, digest)

    def _told(self, intention: Intention, answered: Answered) -> None:
        if intention.key is None:
            found = told(answered.results)
        else:
            intention.bodies.add(answered.body)
            found = [
                (one, status, number, reason, existed)
                for one, status, number, reason, existed in _decode(answered.body)
            ]
        assert [one[0] for one in found] == [command.id for command in intention.commands]
        answers = tuple(Answer(status, number, reason) for _, status, number, reason, _ in found)
        self.note("told", intention.number, answers)
        intention.answers.append(answers)
        intention.first_answer = min(intention.first_answer, self.loop.now)

    async def _read(self, rng: random.Random) -> None:
        tenant = rng.choice(list(self.accounts))
        account, replica, sent = rng.choice(self.accounts[tenant]), rng.choice(self.replicas), self.loop.now
        effective = self.past(rng) if rng.random() < 0.5 else None
        try:
            row = await replica.ask(replica.ledger.accounts.get(tenant, account, At(effective=effective)), 3)
        except AGAIN:
            return
        if row is not None:
            self.seen.append(Seen(tenant, row, sent, self.loop.now, effective))

    async def _close(self, rng: random.Random) -> None:
        tenant = rng.choice(list(self.accounts))
        account, replica = rng.choice(self.accounts[tenant]), rng.choice(self.replicas)
        try:
            row = await replica.ask(replica.ledger.accounts.close(tenant, "cli_sim", None, account), 3)
            if row is not None:
                self.closed.append((tenant, account, row.as_of))
                self.faults.reached["closed"] += 1
        except (*AGAIN, AccountHasHolds):
            return


def told(results: Sequence[Result]) -> list[tuple[UUID, str, int, str | None, bool]]:
    return [
        (
            one.id,
            one.status,
            0 if one.transfer is None else one.transfer.sequence,
            None if one.reason is None else one.reason.value,
            one.existed,
        )
        for one in results
    ]


def render(results: Sequence[Result], _receipt: str | None) -> tuple[int, bytes]:
    return 201, _encode(told(results))


@dataclass(frozen=True)
class Report:
    """What a run came to. `trace` is the same, line by line, whenever the seed is."""

    seed: int
    violations: list[str]
    reached: Counter[str]
    transfers: int
    trace: list[str]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


def drawn(world: World) -> Counter[str]:
    """What was posted, by its kind."""
    tables = world.server.tables
    found = Counter(row["kind"] for row in tables["transfer"].values())
    for row in tables["transfer"].values():
        found["balancing"] += row["asked"] is not None
        found["balancing_less"] += row["asked"] is not None and row["asked"] > row["amount"]
        found["dated"] += row["effective_at"] is not None
    found["transactions"] = len(tables["transaction"])
    found["undone"] = len(tables["reversed"])
    for one in world.intentions:
        if not one.atomic:
            chains = [[one.commands[place].id for place in whole] for whole in one.wholes() if len(whole) > 1]
            there = {row["id"] for row in tables["transfer"].values()}
            found["chains"] += sum(all(each in there for each in chain) for chain in chains)
            found["chains_refused"] += sum(not any(each in there for each in chain) for chain in chains)
    return +found


def simulate(seed: int, make_ledger: MakeLedger = Ledger) -> Report:
    """`make_ledger` is for ledgers with a bug in them."""
    from tests.simulation.invariants import violations

    made: list[World] = []

    async def main() -> World:
        made.append(World(seed, cast("VirtualLoop", asyncio.get_running_loop()), make_ledger))
        await made[0].live()
        return made[0]

    def over() -> None:
        made[0].server.over = True

    def wrong(what: str) -> None:
        made[0].wrong.append(what)

    world = run(main(), over, wrong)
    return Report(
        seed,
        world.wrong + violations(world),
        world.faults.reached + drawn(world),
        len(world.server.tables["transfer"]),
        world.trace,
    )
