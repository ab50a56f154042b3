"""All else that arrives at notify: what happened elsewhere, and the clock."""

from __future__ import annotations

from datetime import timedelta

from tallystick.chassis.app import Schedule
from tallystick.chassis.bus import Delivered, Subscription
from tallystick.chassis.db import Transaction
from tallystick.services.notify.service import Notify


async def queue(notify: Notify, tx: Transaction, facts: list[Delivered]) -> None:
    await notify.deliveries.queue(tx, [each.fact for each in facts])


async def purge(notify: Notify) -> None:
    await notify.deliveries.purge()


SUBSCRIPTIONS = (
    Subscription(source="payments", types=("payments.*",), handle=queue),
    Subscription(source="ledger", types=("ledger.*",), handle=queue),
)

SCHEDULES = (Schedule(name="notify.purge", every=timedelta(hours=1), run=purge),)
