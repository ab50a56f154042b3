"""`tallystick verify`: re-derives everything that the platform promises about its books, from the stored rows alone.

It reads every database as the operator of this machine, through none of the services: what a service says about itself proves nothing. The
platform may be in use meanwhile; what is told, moved or signed while it looks is not a fault. Checks within one database are in each
service's `sql/verify.sql`; checks between databases are in this package.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

import asyncpg
import msgspec

from tallystick.chassis.db import Queries
from tallystick.kernel.deployment import service_of
from tallystick.kernel.problem import InvalidRequest
from tallystick.kernel.words import counted
from tallystick.local.deployments import deployments
from tallystick.local.layout import Layout
from tallystick.local.provision import pinned_log_key
from tallystick.local.verify import agreement, log, numbers, shards
from tallystick.local.verify.source import Source, Unreadable
from tallystick.local.verify.things import TOLD
from tallystick.local.verify.told import as_told

__all__ = ["Check", "Unreadable", "verify"]

#: Seconds that facts on their way get to arrive before they count as missing.
DRAIN_SECONDS = 30.0
SHOWN = 20
LEDGER = "ledger"
PAYMENTS = "payments"


class Check(msgspec.Struct, frozen=True):
    """The check of one promise: what was examined, and the faults found (none, if the promise holds)."""

    name: str
    promise: str
    faults: list[str]
    looked_at: str
    seconds: float

    @property
    def holds(self) -> bool:
        return not self.faults


async def verify(layout: Layout) -> AsyncIterator[Check]:
    """Every check, one after the other. Raises Unreadable if a database can't be opened or goes away."""
    services = list(deployments(layout))
    ledgers = [name for name in services if service_of(name) == LEDGER]
    pinned = pinned_log_key(layout)
    async with Source.of(layout, services) as source:
        look = partial(_timed, source)
        yield await look("drained", log.DRAINED, partial(_begun, source, ledgers))
        for service in services:
            for name in ("tallystick.chassis", f"tallystick.services.{service_of(service)}"):
                for query in Queries.load(name, "verify"):
                    yield await look(
                        f"{service}.{query.name}",
                        _first_line(query.doc),
                        partial(source.faults, service, query),
                    )
        yield await look("payments = ledger", agreement.PAYMENTS, lambda: agreement.payments(source))
        yield await look("refunds = ledger", agreement.REFUNDS, lambda: agreement.refunds(source))
        for ledger in ledgers:
            yield await look(f"{ledger} = its facts", agreement.FACTS, partial(agreement.facts, source, ledger))
        for service in services:
            if service_of(service) in TOLD:
                promise, things = TOLD[service_of(service)]
                yield await look(f"{service} as told", promise, partial(as_told, source, service, things))
        if len(ledgers) > 1:
            yield await look("books = directory", shards.DIRECTORY, lambda: shards.directory(source, ledgers))
            yield await look("shards = each other", shards.TRANSIT, lambda: shards.transit(source, ledgers))
        yield await look("outboxes = log", log.RECORDS, lambda: log.records(source))
        yield await look("log's tree", log.TREE, lambda: log.tree(source, pinned))
        yield await look("no card numbers", numbers.PROMISE, lambda: numbers.search(source, layout))


async def _begun(source: Source, ledgers: Sequence[str]) -> tuple[list[str], str]:
    """Fix the moment at which each database is read. Payments describe what has happened in the ledger, so theirs is first. The log holds what
    all the others have told, so its moment is last.
    """
    late = await log.drained(source, DRAIN_SECONDS)
    others = [service for service in source.services if service not in {PAYMENTS, *ledgers, log.AUDIT}]
    await source.begin([PAYMENTS, *others, *ledgers])
    late = late or await log.followed(source, DRAIN_SECONDS)
    await source.begin([log.AUDIT])
    return late, counted(len(source.services), "service")


#: What a check raises when it meets damaged data: a statement fails, a row is missing, a text is not a fact or an id.
_DAMAGE = (asyncpg.PostgresError, msgspec.MsgspecError, InvalidRequest, LookupError, TypeError, ValueError)


async def _timed(
    source: Source,
    name: str,
    promise: str,
    work: Callable[[], Awaitable[list[str]] | Awaitable[tuple[list[str], str]]],
) -> Check:
    started = time.perf_counter()
    found: list[str] | tuple[list[str], str]
    try:
        async with source.together():
            found = await work()
    except (*_DAMAGE, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        if lost := source.lost:
            raise Unreadable(f"the connection to the database of {', '.join(lost)} was lost") from error
        if not isinstance(error, _DAMAGE):
            raise
        found = [f"the data to check is damaged ({type(error).__name__}: {error})"]
    faults, looked_at = found if isinstance(found, tuple) else (found, "")
    return Check(name, promise, faults[:SHOWN], looked_at, round(time.perf_counter() - started, 3))


def _first_line(doc: str) -> str:
    return doc.strip().splitlines()[0] if doc.strip() else ""
