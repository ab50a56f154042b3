"""All else that arrives at notify: what happened elsewhere, and the clock that sends."""

from __future__ import annotations

from datetime import timedelta

from tallystick.chassis.app import Schedule
from tallystick.chassis.bus import Delivered, Subscription
from tallystick.chassis.db import Transaction
from tallystick.services.notify.service import BATCH, Notify


async def queue(notify: Notify, tx: Transaction, facts: list[Delivered]) -> None:
    await notify.queue(tx, [each.fact for each in facts])


async def send(notify: Notify) -> None:
    """Until nothing is due."""
    while await notify.send_due() == BATCH:
        pass


async def purge(notify: Notify) -> None:
    await notify.purge()


SUBSCRIPTIONS = (
    Subscription(source="payments", types=("payments.*",), handle=queue),
    Subscription(source="ledger", types=("ledger.*",), handle=queue),
)

SCHEDULES = (
    Schedule(name="notify.send", every=timedelta(milliseconds=250), run=send, exclusive=False),
    Schedule(name="notify.purge", every=timedelta(hours=1), run=purge),
)
