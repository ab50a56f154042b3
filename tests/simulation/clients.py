"""What clients do: what they want once, however often they say so, and what they are told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar, cast
from uuid import UUID

import msgspec

from tallystick.chassis.idempotency import Digester, Entry, InProgress
from tallystick.contracts.ledger.messages import ReverseTransaction
from tallystick.contracts.ledger.problems import AccountHasHolds, BookQuarantined, TransactionNotFound
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.ids import TransactionId, TransferId
from tallystick.kernel.problem import DeadlineExceeded, Overloaded, Problem, Unavailable, Upstream
from tallystick.services.ledger.api.transactions import undone
from tallystick.services.ledger.model import AccountRow, Command, Header, Result, TransactionRow, Transfer
from tallystick.services.ledger.model.values import CommandKind
from tallystick.services.ledger.service import Answered, Ask, At
from tallystick.services.ledger.service.asks import Propose

if TYPE_CHECKING:
    from tests.simulation.world import Replica, World

T = TypeVar("T")

#: A tenant's book.
Place = tuple[str, str]
#: The share of requests that are about a run's subjects, if it has any.
SUBJECTS: Final = 0.4
#: The status of the answer that a transaction waits for approvals.
PROPOSED: Final = 202
CLIENT, ROUTE = "cli_sim", "POST /v1/transfers"
#: After these the same request, sent again, may be answered.
AGAIN = (Unavailable, Upstream, DeadlineExceeded, Overloaded, InProgress, BookQuarantined)


class Answer(msgspec.Struct, frozen=True):
    """What a client was told of one command. `breached`: the days of which it was told that a limit was broken on them."""

    status: str
    sequence: int
    reason: str | None
    existed: bool = False
    breached: tuple[date, ...] = ()


class Answers(NamedTuple):
    """What a client was told of all commands; when it had sent that request and had its answer, in virtual seconds."""

    sent: float
    got: float
    each: tuple[Answer, ...]


@dataclass
class Intention:
    """What a client wants once, however often it says so. Its number is the transfers' `code`."""

    number: int
    place: Place
    commands: tuple[Command, ...]
    atomic: bool
    key: str | None
    first_sent: float = 0.0
    header: Header | None = None
    answers: list[Answers] = field(default_factory=list)
    bodies: set[bytes] = field(default_factory=set)
    #: How a replica makes a proposal of it, if a rule says that it needs approvals, and the proposals that it was told.
    propose: Callable[[Replica], Propose] | None = None
    proposals: set[bytes] = field(default_factory=set)

    def first_told(self, place: int) -> float:
        """When a client was told first that the command at this place was posted; infinity: nobody was."""
        return min((told.got for told in self.answers if told.each[place].status != "rejected"), default=inf)

    def wholes(self) -> list[range]:
        """The places of commands of which there are all or none: the whole of it, or chains of what is linked to the next."""
        if self.atomic:
            return [range(len(self.commands))]
        ends = [place for place, command in enumerate(self.commands, 1) if not command.linked]
        return [range(first, end) for first, end in pairwise([0, *ends])]


@dataclass
class Seen:
    """A balance that was read: as of now, or by effective time as it was known now."""

    place: Place
    row: AccountRow
    sent: float
    got: float
    effective: datetime | None = None


@dataclass
class Found:
    """A transaction that was asked for; None: it was not there."""

    place: Place
    id: TransactionId
    transfers: tuple[TransactionRow, Sequence[Transfer]] | None
    sent: float
    got: float


class Clients:
    """All that was said, and what became known of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.intentions: list[Intention] = []
        self.seen: list[Seen] = []
        self.found: list[Found] = []

    def somewhere(self, rng: random.Random) -> Place:
        return rng.choice(list(self.world.accounts))

    async def live(self, requests: int) -> None:
        """One client's life."""
        world = self.world
        rng = random.Random(world.rng.random())
        mine: list[Intention] = []
        for _ in range(requests):
            await asyncio.sleep(rng.expovariate(4))
            await self.request(rng, mine)

    async def request(self, rng: random.Random, mine: list[Intention]) -> None:
        world = self.world
        if world.subjects and rng.random() < SUBJECTS:
            await rng.choice(world.subjects).act(rng)
            return
        chance = rng.random()
        if chance < 0.15:
            await self._read(rng)
            return
        if chance < 0.3 and mine:
            intention = rng.choice(mine)
            world.faults.reached["repeated"] += 1
        elif chance < 0.34:
            await self.close(rng)
            return
        else:
            intention = await self._intend(rng)
            mine.append(intention)
        await self.tell(intention, rng)

    async def tell(self, intention: Intention, rng: random.Random) -> None:
        """Says it, from time to time to two replicas at once."""
        if rng.random() < 0.15:
            self.world.faults.reached["duplicated"] += 1
            await asyncio.gather(self.say(intention, rng), self.say(intention, rng))
        else:
            await self.say(intention, rng)

    # ---- what is wanted ---------------------------------------------------------------------------------------------

    async def _intend(self, rng: random.Random) -> Intention:
        world, place = self.world, self.somewhere(rng)
        chance = rng.random()
        unmade = await self._undo(rng, place) if chance < 0.1 else None
        # Nothing is awaited from here on: its number is its own.
        number = len(self.intentions)
        header, commands = unmade or (None, [])
        if unmade is not None:
            commands = [msgspec.structs.replace(one, code=f"{number}-{rng.getrandbits(32)}") for one in commands]
        elif chance < 0.3:
            header = Header(
                id=TransactionId(world.uuid()),
                reference=f"ref-{number}",
                effective_at=world.past(rng) if rng.random() < 0.6 else None,
            )
            kinds = ["post"] if header.effective_at is not None or rng.random() < 0.7 else ["post", "hold"]
            for _ in range(rng.choice([1, 2, 2, 3])):
                commands.append(self.dated(self.move(rng, place, number, rng.choice(kinds)), header))
        else:
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                commands.append(self._command(rng, place, number, commands))
        atomic = header is not None or rng.random() < 0.5
        if not atomic:
            last = len(commands) - 1
            commands = [
                msgspec.structs.replace(one, linked=nth < last and rng.random() < 0.6)
                for nth, one in enumerate(commands)
            ]
        key = f"key-{number}" if rng.random() < 0.5 else None
        return self.want(place, commands, atomic=atomic, key=key, header=header)

    def want(
        self, place: Place, commands: Sequence[Command], *, atomic: bool, key: str | None, header: Header | None = None
    ) -> Intention:
        number = len(self.intentions)
        intention = Intention(number, place, tuple(commands), atomic, key, self.world.loop.now, header)
        self.intentions.append(intention)
        return intention

    async def _undo(self, rng: random.Random, place: Place) -> tuple[Header, list[Command]] | None:
        """The reversal as a whole of a transaction that a client has just looked up; None without one."""
        world = self.world
        made = [one.header for one in self.intentions if one.place == place and one.header is not None]
        if not made:
            return None
        wanted, replica, sent = rng.choice(made[-6:]).id, rng.choice(world.replicas(place)), world.loop.now
        try:
            there = await replica.ask(replica.ledger.transactions.get(*place, wanted), 3)
            if there is None:
                return None
        except AGAIN:
            return None
        except TransactionNotFound:
            there = None
        self.found.append(Found(place, wanted, there, sent, world.loop.now))
        if there is None:
            return None
        asked = ReverseTransaction(
            id=ids.transactions.text(TransactionId(world.uuid())),
            effective_at=rfc3339(world.past(rng)) if rng.random() < 0.3 else None,
        )
        return undone(asked, *there)

    def move(self, rng: random.Random, place: Place, number: int, kind: str) -> Command:
        accounts = self.world.accounts[place]
        debit, credit = rng.sample(accounts, 2)
        if rng.random() < 0.2 and credit != accounts[1]:
            debit = accounts[1]  # from where there is always something
        return Command(
            kind=cast("CommandKind", kind),
            id=TransferId(self.world.uuid()),
            code=f"{number}-{rng.getrandbits(32)}",
            debit=debit,
            credit=credit,
            amount=rng.randint(1, 60),
            currency="EUR",
            expires_in=rng.choice([None, 1, 2]) if kind == "hold" else None,
            balancing=rng.random() < 0.2,
        )

    @staticmethod
    def dated(command: Command, header: Header) -> Command:
        """As a part of this transaction."""
        return msgspec.structs.replace(command, transaction=header.id, effective_at=header.effective_at)

    def _command(self, rng: random.Random, place: Place, number: int, before: list[Command]) -> Command:
        """`before`: those that it comes after, which it may be about too."""
        kind = rng.choice(["post", "hold", "hold", "increase", "capture", "capture", "void", "reverse"])
        own = [c for i in self.intentions[-12:] if i.place == place for c in i.commands] + before
        targets = [c.id for c in own if (c.kind == "hold") == (kind != "reverse")]
        if kind in {"post", "hold"} or not targets:
            return self.move(rng, place, number, "hold" if kind == "hold" else "post")
        amount = None if kind == "void" else rng.randint(1, 40)
        if kind in {"capture", "reverse"} and rng.random() < 0.5:
            amount = None
        return Command(
            kind=cast("CommandKind", kind),
            id=TransferId(self.world.uuid()),
            code=f"{number}-{rng.getrandbits(32)}",
            target=rng.choice(targets),
            amount=amount,
            currency=None if amount is None else "EUR",
            final=kind == "capture" and rng.random() < 0.3,
            expires_in=rng.choice([None, 1, 3]) if kind == "increase" else None,
        )

    # ---- what is said and told --------------------------------------------------------------------------------------

    async def say(self, intention: Intention, rng: random.Random, first: Replica | None = None) -> None:
        """Says it, to `first` and then to any replica, until it is answered; from time to time loses interest."""
        tenant, book = intention.place
        sent = 0.0

        def asked(replica: Replica) -> Awaitable[Answered]:
            nonlocal sent
            sent = self.world.loop.now
            entry = self._entry(intention)
            propose = None if intention.propose is None else intention.propose(replica)
            return replica.ledger.poster.post(
                Ask(
                    tenant, CLIENT, None, intention.commands, intention.atomic, entry, None if entry is None else render, book,
                    intention.header, propose=propose,
                )
            )  # fmt: skip

        answered = await self.until_answered(intention.place, asked, rng, intention.number, first=first)
        if answered is not None:
            self._told(intention, answered, sent)

    async def until_answered(  # noqa: PLR0917 - what to ask, of whom, and what is known of the answer
        self,
        place: Place,
        call: Callable[[Replica], Awaitable[T]],
        rng: random.Random,
        what: object,
        fine: tuple[type[Problem], ...] = (),
        first: Replica | None = None,
    ) -> T | None:
        """What `call` of some replica gives in the end; None: nobody waited so long, or it was a problem that is `fine`. Any other is a finding."""
        world = self.world
        while True:
            replica, first = first or rng.choice(world.replicas(place)), None
            try:
                answered: T | None = await replica.ask(call(replica), rng.uniform(0.5, 6))
            except AGAIN as problem:
                world.note("again", what, type(problem).__name__)
                world.faults.reached[type(problem).__name__] += 1
                answered = None
            except fine as problem:
                world.note("no", what, type(problem).__name__)
                world.faults.reached[type(problem).__name__] += 1
                return None
            except Exception as error:  # noqa: BLE001 - it is a finding
                world.wrong.append(f"error: {type(error).__name__} {error} for {what}")
                return None
            if answered is not None:
                return answered
            if rng.random() < 0.1:
                world.note("gave up", what)
                return None
            await world.rest(rng.uniform(0.05, 1))

    @staticmethod
    def _entry(intention: Intention) -> Entry | None:
        if intention.key is None:
            return None
        digest = Digester(bytes(32)).digest([str(command.id) for command in intention.commands])
        return Entry(intention.place[0], CLIENT, ROUTE, intention.key, digest)

    def _told(self, intention: Intention, answered: Answered, sent: float) -> None:
        world = self.world
        if answered.status == PROPOSED:
            intention.proposals.add(answered.body)
            world.note("proposed", intention.number)
            return
        if intention.key is None:
            found = told(answered.results)
        else:
            intention.bodies.add(answered.body)
            found = _decode(answered.body)
        assert [one for one, _ in found] == [command.id for command in intention.commands]
        answers = tuple(answer for _, answer in found)
        world.note("told", intention.number, answers)
        intention.answers.append(Answers(sent, world.loop.now, answers))

    async def _read(self, rng: random.Random) -> None:
        world, place = self.world, self.somewhere(rng)
        account, replica, sent = rng.choice(world.accounts[place]), rng.choice(world.replicas(place)), world.loop.now
        effective = world.past(rng) if rng.random() < 0.5 else None
        try:
            row = await replica.ask(
                replica.ledger.accounts.get(place[0], account, At(effective=effective), place[1]), 3
            )
        except AGAIN:
            return
        if row is not None:
            self.seen.append(Seen(place, row, sent, world.loop.now, effective))

    async def close(self, rng: random.Random) -> None:
        world, place = self.world, self.somewhere(rng)
        account, replica = rng.choice(world.accounts[place]), rng.choice(world.replicas(place))
        try:
            row = await replica.ask(replica.ledger.accounts.close(place[0], CLIENT, None, account, place[1]), 3)
            if row is not None:
                world.faults.reached["closed"] += 1
        except (*AGAIN, AccountHasHolds):
            return


def told(results: Sequence[Result]) -> list[tuple[UUID, Answer]]:
    return [
        (
            one.id,
            Answer(
                one.status,
                0 if one.transfer is None else one.transfer.sequence,
                None if one.reason is None else one.reason.value,
                one.existed,
                one.breached_on,
            ),
        )
        for one in results
    ]


def render(results: Sequence[Result], _receipt: str | None) -> tuple[int, bytes]:
    return 201, _encode(told(results))


_encode, _decode = msgspec.json.encode, msgspec.json.Decoder(list[tuple[UUID, Answer]]).decode
