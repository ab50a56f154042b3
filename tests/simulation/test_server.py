"""The simulated server is what PostgreSQL is: each statement of a run is asked of both, and both say the same.

The run is one of the simulation's, of all subjects, with its requests one after another and nothing that breaks. What an answer or an error is made
of is compared, column by column; and in the end each account, each transfer and each proposal, as it is read.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest

from tallystick.chassis.db import Database, DatabaseError, Query, Signal
from tallystick.chassis.idempotency import Digester
from tallystick.chassis.outbox import Outbox
from tallystick.chassis.telemetry import logs
from tallystick.contracts.ledger.messages import AccountRecord, ImportLine, NewImport
from tallystick.contracts.ledger.problems import AccountHasHolds, AccountLimitBroken, AccountPathTaken
from tallystick.kernel import ids
from tallystick.kernel.clock import ManualClock
from tallystick.kernel.ids import ProposalId
from tallystick.services.ledger.model import (
    LONGEST,
    MICROSECOND,
    ApprovalRule,
    BookAccount,
    Crossing,
    Header,
    departure,
    transit_account,
)
from tallystick.services.ledger.service import Ask, Ledger, Plan
from tallystick.services.ledger.service.asks import GuardRefused
from tallystick.services.ledger.store import FIRST, Store
from tests.conftest import DatabaseFor
from tests.services.ledger.support import START, Books, ledger_on, move
from tests.simulation.clients import CLIENT
from tests.simulation.loop import VirtualLoop
from tests.simulation.server import STATEMENTS, Faults, Server, SimDatabase
from tests.simulation.server.engine import Asked
from tests.simulation.subjects import SUBJECTS
from tests.simulation.test_planted import ForgetsCeilings, unaware_of, with_store
from tests.simulation.world import Replica, Shape, World

#: Runs and requests of each, so many that every statement is asked.
SEEDS, REQUESTS = (1, 2, 3), 130
#: Names that PostgreSQL makes up.
_NAMELESS = {"?column?", "bool", "int8", "sequence_at"}
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
_in_a_request: ContextVar[bool] = ContextVar("_in_a_request", default=False)


@pytest.fixture(autouse=True)
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs._process, "threshold", 100)


def plain(value: Any) -> Any:
    """JSON as what it says: PostgreSQL writes it with other spaces, and instants otherwise."""
    if isinstance(value, str) and value[:1] in {"[", "{"}:
        return plain(json.loads(value))
    if isinstance(value, str) and _INSTANT.match(value):
        return datetime.fromisoformat(value)
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


class Both(Asked):
    """A database or a transaction of each, asked the same."""

    def __init__(self, real: Any, simulated: Any, asked: set[tuple[str, str]]) -> None:
        """`asked` are files and names of the queries that were."""
        self.real, self.simulated, self.asked = real, simulated, asked
        self.appended, self.dead = Signal(), False

    async def alive(self) -> None:
        """For ever."""

    async def close(self) -> None:
        """Others use it too."""

    @asynccontextmanager
    async def transaction(self, *, snapshot: bool = False) -> AsyncIterator[Both]:
        async with (
            self.real.transaction(snapshot=snapshot) as real,
            self.simulated.transaction(snapshot=snapshot) as simulated,
        ):
            yield Both(real, simulated, self.asked)

    def on_commit(self, call: Callable[[], None]) -> None:
        self.real.on_commit(call)

    async def fetch(self, query: Query, *args: Any) -> list[Any]:
        self.asked.add((PurePath(query.place.rpartition(":")[0]).stem, query.name))
        said: list[Any] = []
        rows: list[list[Any]] = []
        errors: list[DatabaseError] = []
        for one in (self.real, self.simulated):
            try:
                rows.append(await one.fetch(query, *args))
                said.append(self._compared(query, rows[-1]))
            except DatabaseError as error:
                errors.append(error)
                said.append((type(error), error.sqlstate, error.constraint))
        assert said[0] == said[1], f"{query}: PostgreSQL says\n{said[0]}, and simulated it is\n{said[1]}"
        if errors:
            raise errors[0]
        names = [[name for name, _ in found[0].items()] for found in rows if found]
        for real, simulated in zip(*names, strict=True) if names else ():
            assert real == simulated or real in _NAMELESS, f"{query}: {names}"
        return rows[0]

    @staticmethod
    def _compared(query: Query, rows: Sequence[Any]) -> list[Any]:
        found = [plain(list(row)) for row in rows]
        return found if "ORDER BY" in query.sql else sorted(found, key=repr)


class Stepped:
    """A loop's clock that is moved by hand."""

    now = 0.0

    @staticmethod
    def create_future() -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    @staticmethod
    def create_task(call: Any) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(call)


class Orderly(World):
    """One request after another, and the schedules when they are told to."""

    one_at_a_time: asyncio.Lock

    async def rest(self, seconds: float) -> None:
        self.loop.now += seconds

    async def all_of_it(self) -> None:
        rng = self.rng
        self.faults.heal()
        replicas = [replica for shard in self.shards.values() for replica in shard.replicas]
        for replica in replicas:
            replica.sweeping.cancel()
        await self._furnish()
        mine: list[Any] = []
        for _ in range(REQUESTS):
            self.loop.now += rng.expovariate(4)
            await self.clients.request(rng, mine)
            if rng.random() < 0.2:
                replica = rng.choice(replicas)
                await replica.ledger.sweep()
                for subject in self.subjects:
                    await subject.turn(replica)
        for subject in self.subjects:
            await subject.calm()
        await self._put_off()
        await self._look_at_all()

    async def _put_off(self) -> None:
        """An import that waits, which none does as long as nothing breaks."""
        (tenant, book), *_ = self.accounts
        ledger = self.replicas((tenant, book))[0].ledger
        new = NewImport(rows=1, sha256="0" * 64, book=book)
        row, _ = await ledger.imports.announce((tenant, CLIENT, None), new)
        record = AccountRecord(name="late", currency="EUR", normal_side="credit", id="late")
        line = ImportLine(line=1, record=record)
        await ledger.imports.stage(tenant, row.id, [line], [msgspec.json.encode(record).decode()])
        await ledger.imports.start(tenant, row.id)
        for _ in range(2):
            await ledger.importer._wait(row, "It is planted")
            await ledger.importer.turn()
            assert (await ledger.imports.get(tenant, row.id)).waits_for == "It is planted"
        self.loop.now += LONGEST.total_seconds()
        await ledger.importer.turn()
        assert (await ledger.imports.get(tenant, row.id)).state == "done"
        for other in list(self.tables((tenant, book))["import"].values()):
            await ledger.imports.refusals(other["tenant"], other["id"], 0, 10)

    async def _look_at_all(self) -> None:
        for place, book, _, _ in list(self.books()):
            replica, tables = self.replicas(place)[0], self.tables(place)
            store, database = replica.ledger._store, replica.ledger._database
            for row in list(tables["account"].values()):
                if row["book"] == book["id"]:
                    await store.account(database, place[0], row["id"], replica.clock.now())
            for name in ("transfer", "rejection"):
                for number, own in list(tables[name]):
                    if number == book["id"]:
                        await store.transfer(database, number, own)
            for row in list(tables["proposal"].values()):
                await store.proposal(database, place[0], row["id"])
            await store.heads(database, [book["id"]])
            await store.free_books(database, [book["id"]])
            await store.book_named(database, *place)
            for path in ("capped", "nobody"):
                await store.account_at_path(database, *place, path, replica.clock.now())


async def one_after_another(self: Replica, call: Any, _patience: float) -> Any:
    """In place of `Replica.ask`. What a request asks of another shard is a part of it."""
    if _in_a_request.get():
        return await call
    async with self.world.one_at_a_time:  # type: ignore[attr-defined]
        token = _in_a_request.set(True)
        try:
            return await call
        finally:
            _in_a_request.reset(token)


async def compare(seed: int, databases: Sequence[Database], asked: set[tuple[str, str]]) -> None:
    servers: dict[int, Database] = {}

    def both(server: Server) -> Both:
        real = servers.setdefault(id(server), databases[len(servers) % 2])
        return Both(real, SimDatabase(server), asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.simulation.world.SimDatabase", both)
        patch.setattr("tests.simulation.world.Replica.ask", one_after_another)
        world = Orderly(seed, cast("VirtualLoop", Stepped()), Ledger, Shape(replicas=2, subjects=tuple(SUBJECTS)))
        world.one_at_a_time = asyncio.Lock()
        await world.all_of_it()
        assert world.wrong == []
        for shard in world.shards.values():
            for replica in shard.replicas:
                with suppress(asyncio.CancelledError):
                    await replica.sweeping
                await replica.ledger.close()


async def test_each_statement_is_what_it_is_to_postgresql(database_for: DatabaseFor) -> None:
    asked: set[tuple[str, str]] = set()
    for seed in SEEDS:
        databases = [await (await database_for("tallystick.services.ledger")).open() for _ in range(2)]
        await compare(seed, databases, asked)
    assert set(STATEMENTS) <= asked, f"nothing compares {set(STATEMENTS) - asked}"


async def test_edges_and_guards_are_what_they_are_to_postgresql(database_for: DatabaseFor) -> None:
    """What no run comes to: instants that are the same to the microsecond, and what the rules never let through to the schema."""
    real = await (await database_for("tallystick.services.ledger")).open()
    both = cast("Database", Both(real, SimDatabase(Server(Faults(random.Random(0)))), set()))
    clock, who = ManualClock(START), ("acme", "cli_test", None)
    books = Books(ledger_on(both, clock), clock, both)
    ledger, store = books.ledger, Store()
    bank, anna, capped = (
        await books.open(side="debit"),
        await books.open(floor=0),
        await books.open(ceiling=10, path="c"),
    )
    with pytest.raises(AccountPathTaken):
        await books.open(path="c")
    await books.post(move("post", bank, anna, 100))
    hold = move("hold", anna, bank, 30, expires_in=5)
    await books.post(hold)
    with pytest.raises(AccountHasHolds):
        await ledger.accounts.close(*who, anna)
    with pytest.raises(AccountLimitBroken):
        await ledger.accounts.change(who, anna, lambda row: msgspec.structs.replace(row, ceiling=50))
    # Expired to the microsecond, in a book that takes nothing, then in one that does.
    held = (await store.transfer(both, 1, hold.id)).holds[1, hold.id]
    assert held.expires_at is not None
    await ledger.quarantine._shut(1, ["planted"])
    for instant, due in ((held.expires_at - MICROSECOND, 0), (held.expires_at, 0)):
        assert len(await store.due_holds(both, instant, 10)) == due
    await ledger.quarantine.release(1, None, checked=True)
    for instant, due in ((held.expires_at - MICROSECOND, 0), (held.expires_at, 1)):
        assert len(await store.due_holds(both, instant, 10)) == due
        await store.account(both, "acme", anna, instant)
    # What is dated back, at that instant and beside it.
    clock.advance(timedelta(days=2))
    dated = START + timedelta(hours=3)
    header = Header(id=ids.transactions.new(), effective_at=dated)
    command = move("post", bank, anna, 7, transaction=header.id, effective_at=dated)
    await ledger.poster.post(Ask(*who, [command], atomic=True, header=header))
    async with both.transaction(snapshot=True) as tx:
        for instant in (dated - MICROSECOND, dated, dated + MICROSECOND, clock.now()):
            await store.adjusted_at(tx, anna, instant)
            await store.sequence_at(tx, 1, instant)
    # On its way to another book, and a proposal.
    transit = transit_account("acme", "main", "out", "other", "EUR")
    await ledger.accounts.open(*who, transit, reserved=True)
    places = BookAccount("main", ids.accounts.text(anna)), BookAccount("other", "wallet")
    crossing = Crossing(id=ids.transfers.new(), source=places[0], destination=places[1], amount=1, currency="EUR", client="cli_test")  # fmt: skip
    left = await ledger.poster.post(Ask(*who, [departure(crossing, transit.id)], atomic=True, crossing=True))
    made = left.results[0].transfer
    assert made is not None
    for instant, many in ((made.recorded_at, 0), (made.recorded_at + MICROSECOND, 1)):
        assert len(await store.in_flight(both, FIRST, instant, 10)) == many
    rule = ApprovalRule("EUR", 1, 1, ("cli_checker",), 60)
    plan = Plan(header, (command,))
    proposed = ledger.approvals.draft(who, "main", plan, lambda: b"{}", "cli_test", lambda _: b"")(1, [rule]).row
    async with both.transaction() as tx:
        await store.insert_proposals(tx, [proposed])
    for instant, many in ((proposed.expires_at - MICROSECOND, 0), (proposed.expires_at, 1)):
        assert len(await store.open_proposals(both, instant, (START, ProposalId(UUID(int=0))), 10)) == many
    assert await store.open_proposals(both, instant, (proposed.expires_at, proposed.id), 10) == []
    # The rules do not look, and the schema does.
    await ledger.books.seal(who, "main", START + timedelta(days=1))
    again = msgspec.structs.replace(header, id=ids.transactions.new())
    sealed = msgspec.structs.replace(command, id=ids.transfers.new(), transaction=again.id)
    for careless, ask in (
        (unaware_of(sealed_until=None), Ask(*who, [sealed], atomic=True, header=again)),
        (with_store(ForgetsCeilings), Ask(*who, [move("post", bank, capped, 11)], atomic=True)),
    ):
        blind = careless(database=both, outbox=Outbox(), clock=clock, digester=Digester(bytes(32)))
        with pytest.raises(GuardRefused):
            await blind.poster.post(ask)
        await blind.close()
    await ledger.close()
