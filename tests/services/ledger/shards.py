"""Two ledgers on two PostgreSQL servers, each the other's other shard, and a way between them that fails when told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tallystick.kernel import ids
from tallystick.kernel.clock import ManualClock
from tallystick.kernel.ids import AccountId, TransferId
from tallystick.kernel.problem import Upstream
from tallystick.services.ledger.model import (
    BookAccount,
    Crossing,
    InTransit,
    NewAccount,
    Outcome,
    Told,
    balance,
    disagreements,
)
from tallystick.services.ledger.service import At, Ledger
from tests.services.ledger.support import START, ledger_on, move
from tests.support.parts import ServiceDatabase

TENANT = "acme"
HERE, THERE = "default", "eu"


@dataclass
class Way:
    """To the other ledger, by value as over a wire. `lost` requests do not arrive, of `unheard` ones the answer is lost, `broken` are errors of
    the caller's own process before and after the call.
    """

    to: Callable[[], Ledger]
    lost: int = 0
    unheard: int = 0
    broken: list[str] = field(default_factory=list)
    asked: int = 0

    async def has_book(self, tenant: str, book: str, client: str) -> None:
        await self.to().interbook.has_book(tenant, book, client)

    async def arrive(self, tenant: str, crossing: Crossing) -> Outcome:
        self.asked += 1
        if self.lost:
            self.lost -= 1
            raise Upstream("the request was lost", outcome_unknown=True)
        if "before" in self.broken:
            self.broken.remove("before")
            raise asyncio.CancelledError
        sent = msgspec.json.decode(msgspec.json.encode(crossing), type=Crossing)
        outcome = await self.to().interbook.arrive(tenant, sent)
        if self.unheard:
            self.unheard -= 1
            raise Upstream("the answer was lost", outcome_unknown=True)
        if "after" in self.broken:
            self.broken.remove("after")
            raise asyncio.CancelledError
        return outcome


@dataclass
class Shards:
    """`here` keeps `main` and knows where `eu` is; `there` keeps `eu`. Each has a bank without a floor and a wallet."""

    databases: dict[str, ServiceDatabase]
    clock: ManualClock
    ledgers: dict[str, Ledger] = field(default_factory=dict)
    ways: dict[str, Way] = field(default_factory=dict)
    accounts: dict[str, AccountId] = field(default_factory=dict)

    @property
    def here(self) -> Ledger:
        return self.ledgers[HERE]

    @property
    def there(self) -> Ledger:
        return self.ledgers[THERE]

    async def start(self, name: str, dsn: Any = None) -> Ledger:
        """A fresh process of this shard, with nothing in memory."""
        from dataclasses import replace

        service = self.databases[name]
        database = await (service if dsn is None else replace(service, dsn=dsn, opened=service.opened)).open()
        other = THERE if name == HERE else HERE
        self.ways.setdefault(other, Way(lambda: self.ledgers[other]))
        ledger = ledger_on(database, self.clock, shard=name, others={other: self.ways[other]})
        self.ledgers[name] = ledger
        return ledger

    async def open(self, ledger: Ledger, book: str, name: str, side: str = "credit", **more: Any) -> AccountId:
        account = NewAccount(
            id=ids.accounts.new(),
            name=name,
            currency=more.pop("currency", "EUR"),
            normal_side=side,
            floor=more.pop("floor", None),
            code=None,
            metadata=None,
            **more,
        )
        await ledger.accounts.open(TENANT, "cli_test", None, account, book=book)
        self.accounts[f"{book}/{name}"] = account.id
        return account.id

    async def furnish(self, funds: int = 1000) -> None:
        for ledger in (self.here, self.there):
            await ledger.books.open((TENANT, "cli_test", None), "eu", None, "strict", THERE)
        for ledger, book in ((self.here, "main"), (self.there, "eu")):
            bank = await self.open(ledger, book, "bank", "debit")
            wallet = await self.open(ledger, book, "wallet", floor=0, path="wallet")
            await self.post(ledger, book, move("post", bank, wallet, funds))

    async def post(self, ledger: Ledger, book: str, *commands: Any) -> list[str | None]:
        from tallystick.services.ledger.service import Ask

        answered = await ledger.poster.post(Ask(TENANT, "cli_test", None, commands, atomic=False, book=book))
        return [None if result.reason is None else str(result.reason) for result in answered.results]

    def crossing(self, amount: int = 100, *, back: bool = False, **more: Any) -> Crossing:
        places = [BookAccount("main", "wallet"), BookAccount("eu", "wallet")]
        source, destination = reversed(places) if back else places
        return Crossing(
            id=more.pop("id", None) or ids.transfers.new(),
            source=more.pop("source", source),
            destination=more.pop("destination", destination),
            amount=amount,
            currency="EUR",
            client="cli_test",
            **more,
        )

    async def send(self, crossing: Crossing) -> Told:
        ledger = self.there if crossing.source.book == "eu" else self.here
        return await ledger.interbook.transfer(TENANT, "cli_test", None, crossing)

    async def state(self, crossing: TransferId, book: str = "main") -> Told:
        return await (self.there if book == "eu" else self.here).interbook.get(TENANT, crossing, book)

    async def funds(self, book: str = "main", name: str = "wallet") -> tuple[int, int]:
        """Posted and available of a wallet."""
        ledger = self.there if book == "eu" else self.here
        row = await ledger.accounts.get(TENANT, self.accounts[f"{book}/{name}"], At())
        found = balance(
            row.normal_side == "debit", row.debits_pending, row.debits_posted, row.credits_pending, row.credits_posted
        )
        return found.posted, found.available

    async def resume(self) -> int:
        """Both schedules, once, some time later."""
        from datetime import timedelta

        self.clock.advance(timedelta(seconds=10))
        return await self.here.interbook.resume() + await self.there.interbook.resume()

    async def reconcile(self, *, settled: bool = True) -> None:
        """Each ledger is sound, and they agree; if `settled` to the unit."""
        assert await self.here.faults() == []
        assert await self.there.faults() == []
        assert await self.disagreements() == []
        assert not settled or all(row.pending == 0 for row in await self._in_transit())

    async def _in_transit(self) -> list[InTransit]:
        return await self.here.interbook.in_transit() + await self.there.interbook.in_transit()

    async def disagreements(self) -> list[str]:
        return disagreements(*[await self._in_transit() for _ in range(3)])


async def shards_on(here: ServiceDatabase, there: ServiceDatabase) -> Shards:
    made = Shards({HERE: here, THERE: there}, ManualClock(START))
    for name in (HERE, THERE):
        await made.start(name)
    await made.furnish()
    return made
