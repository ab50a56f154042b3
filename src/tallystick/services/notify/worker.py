"""All else that arrives at notify: what happened elsewhere, and the clock."""

from __future__ import annotations

from datetime import timedelta

from tallystick.chassis.app import Schedule
from tallystick.chassis.bus import Delivered, Subscription
from tallystick.chassis.db import Transaction
from tallystick.services.notify.service import UNHEARD, Notify


async def queue(notify: Notify, tx: Transaction, facts: list[Delivered]) -> None:
    await notify.deliveries.queue(tx, facts)


async def purge(notify: Notify) -> None:
    await notify.deliveries.purge()


SUBSCRIPTIONS = (
    Subscription(source="payments", types=("payments.*",), handle=queue, unheard=UNHEARD),
    Subscription(source="ledger", types=("ledger.*",), handle=queue, unheard=UNHEARD),
)

SCHEDULES = (Schedule(name="notify.purge", every=timedelta(hours=1), run=purge),)
