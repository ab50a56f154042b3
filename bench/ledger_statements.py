"""What a page of a statement costs, as recorded and by effective time, on an account with many entries.

    .venv/bin/python -m bench.ledger_statements [--transfers 300000] [--repeats 30]

One account takes part in every transfer of its book, a year of them. `scattered`: a tenth was dated back, by up to 90 days. `imported`: a third was dated
back at one moment in the middle of the year, to whole days of the half year before. Each line is the median of pages in milliseconds, at the service (no HTTP),
with the server's buffers warm: the first page of the whole year, which counts all entries; a page in the middle of it; the page that goes over the middle of the
year; and a page in the middle, as of the sequence of the middle. Figures recorded with the machine are in bench/results/.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import asyncpg

from bench.ledger_write_path import PATIENT, fresh, own_server
from tallystick.chassis.db import Database, Dsn
from tallystick.chassis.idempotency import Digester
from tallystick.chassis.outbox import Outbox
from tallystick.kernel import ids
from tallystick.kernel.clock import ManualClock
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import Command, Header, NewAccount, Span
from tallystick.services.ledger.service import Ask, Asked, Ledger, Place
from tallystick.services.ledger.store import Store

BEGIN, YEAR = datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=365)
BATCH, PAGES = 1000, (100, 1000)


async def year(ledger: Ledger, clock: ManualClock, transfers: int, *, scattered: bool, imported: bool) -> AccountId:
    """A year of transfers of one account with a hundred others."""
    bank, *others = [
        NewAccount(
            id=ids.accounts.new(), name="an account", currency="EUR", normal_side=side, floor=None, code=None, metadata=None
        )
        for side in ("debit", *["credit"] * 100)
    ]  # fmt: skip
    for account in (bank, *others):
        await ledger.accounts.open("default", "bench", None, account)
    batches = transfers // BATCH

    async def post(effective: datetime | None) -> None:
        own = ids.transactions.new() if effective else None
        commands = []
        for _ in range(BATCH):
            debit, credit = random.sample([bank.id, random.choice(others).id], 2)
            commands.append(
                Command(
                    kind="post", id=ids.transfers.new(), debit=debit, credit=credit, amount=random.randint(1, 1000), currency="EUR",
                    transaction=own, effective_at=effective,
                )
            )  # fmt: skip
        header = Header(id=own, effective_at=effective) if own else None
        results = await ledger.poster.post(
            Ask("default", "bench", None, commands, atomic=own is not None, header=header)
        )
        if any(result.status == "rejected" for result in results.results):
            raise RuntimeError(f"rejected: {results.results[0]}")

    for nth in range(batches):
        if imported and nth == batches // 2:
            for _ in range(batches // 3):
                await post(BEGIN + timedelta(days=random.randrange(180)))
        if imported and nth >= batches - batches // 3:
            break
        clock.advance(YEAR / batches)
        back = scattered and nth % 10 == 9
        await post(clock.now() - timedelta(seconds=random.randrange(90 * 86400)) if back else None)
    clock.advance(BEGIN + YEAR - clock.now())
    return bank.id


async def timed(repeats: int, act: Callable[[], Awaitable[object]]) -> float:
    """Median, in milliseconds."""
    await act()
    took = []
    for _ in range(repeats):
        started = time.perf_counter()
        await act()
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e3


async def measured(  # noqa: PLR0917 - what is asked
    ledger: Ledger, bank: AccountId, asked: Asked, sequences: tuple[int, int, int], limit: int, repeats: int
) -> list[float]:
    """The four pages of a line."""
    first, middle, last = sequences

    def after(instant: datetime, sequence: int, upto: int) -> Place:
        return Place(bank, asked.effective, Span(BEGIN, BEGIN + YEAR, first, upto), (instant, sequence), 2, 0, 0)

    quarter, turn = (BEGIN + YEAR / 4, last // 4), (BEGIN + YEAR / 2 - timedelta(minutes=1), middle)
    places = (after(*quarter, last), after(*turn, last), after(*quarter, middle))
    read = ledger.statements.statement
    begins = await timed(repeats // 5, lambda: read("default", bank, asked, None, limit))
    return [begins, *[await timed(repeats, partial(read, "default", bank, asked, place, limit)) for place in places]]


async def case(dsn: Dsn, name: str, given: argparse.Namespace, *, scattered: bool, imported: bool) -> None:
    database = await Database.open(dsn, bounds=PATIENT)
    clock = ManualClock(BEGIN)
    ledger = Ledger(database=database, store=Store(), outbox=Outbox(), clock=clock, digester=Digester(bytes(32)))
    bank = await year(ledger, clock, given.transfers, scattered=scattered, imported=imported)
    owner = await asyncpg.connect(
        host=dsn.host, user="postgres", password=dsn.password.reveal(), database=dsn.database, timeout=10
    )
    await owner.execute("VACUUM ANALYZE")
    row = (await ledger.accounts.page("default", after=None, currency=None, code=None, limit=1))[0]
    last = row.as_of
    middle = await owner.fetchval("SELECT max(sequence) FROM transfer WHERE recorded_at < $1", BEGIN + YEAR / 2)
    for effective in (False, True):
        for limit in PAGES:
            first = 0 if effective else row.created_sequence
            figures = await measured(
                ledger, bank, Asked(BEGIN, None, effective), (first, middle, last), limit, given.repeats
            )
            order = "by effective time" if effective else "as recorded"
            print(f"{name:10} {order:18} page of {limit:4}", *(f"{figure:8.1f}" for figure in figures), flush=True)
    sizes = await owner.fetch(
        "SELECT relname, pg_relation_size(oid) AS bytes FROM pg_class WHERE relname LIKE 'adjustment%' AND relkind IN ('r', 'i') ORDER BY 1"
    )
    back = await owner.fetchval("SELECT count(*) FROM transfer WHERE effective_at IS NOT NULL")
    for one in sizes if back else ():
        print(f"{name:10} {one['relname']:24} {one['bytes'] / back:8.1f} bytes for each that was dated back ({back})")
    await owner.close()
    await database.close()


async def main(given: argparse.Namespace) -> None:
    async with own_server() as (_, _, superuser):
        print(f"{'':46} first   middle  turn    as of the middle [ms]")
        for name in given.case:
            dsn = await fresh(superuser, name)
            await case(dsn, name, given, scattered=name == "scattered", imported=name == "imported")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transfers", type=int, default=300_000)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--case", action="append", choices=["plain", "scattered", "imported"])
    given = parser.parse_args()
    given.case = given.case or ["plain", "scattered", "imported"]
    asyncio.run(main(given))
