"""Audit's subscriptions (every service's facts) and schedules (signing, thinning)."""

from __future__ import annotations

from datetime import timedelta

from tallystick.chassis.app import Schedule
from tallystick.chassis.bus import Delivered, Subscription
from tallystick.chassis.db import Transaction
from tallystick.chassis.fact import tells
from tallystick.services.audit.service import Log

#: The services whose facts are recorded: all of them. A test compares this with the charter.
SOURCES = ("identity", "ledger", "notify", "payments", "risk", "vault")


class NotItsOwn(ValueError):
    """A service told a fact of a type that belongs to another service. It becomes a dead letter, so no receipt attributes it to that service."""


async def record(log: Log, tx: Transaction, facts: list[Delivered]) -> None:
    for fact in facts:
        if not tells(fact.service, fact.head.type):
            raise NotItsOwn(fact.service)
    await log.record(tx, facts[0].service, [(f.id, f.tenant, f.seq, f.raw) for f in facts])


async def sign(log: Log) -> None:
    await log.sign()


async def thin(log: Log) -> None:
    await log.thin()


#: `complete`: a log with a gap proves nothing, so it does not start if a source's first facts are gone.
SUBSCRIPTIONS = tuple(Subscription(source=source, types=("*",), handle=record, complete=True) for source in SOURCES)

SCHEDULES = (
    Schedule(name="audit.sign", every=timedelta(milliseconds=100), run=sign),
    Schedule(name="audit.thin", every=timedelta(minutes=10), run=thin),
)
