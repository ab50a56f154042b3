"""Risk's subscriptions (issuers' refusals) and schedules (reloading the lists)."""

from __future__ import annotations

from datetime import timedelta

from tallystick.chassis.app import Schedule
from tallystick.chassis.bus import Delivered, Subscription
from tallystick.chassis.db import Transaction
from tallystick.services.risk.service import Declined, Risk


async def payment_declined(service: Risk, tx: Transaction, facts: list[Delivered]) -> None:
    del tx  # the counters are in Valkey; this transaction only moves the inbox
    refused = []
    for each in facts:
        data = each.fact.data
        card, by = data.get("card"), data.get("declined_by")
        if isinstance(card, str) and by == "issuer":
            refused.append(Declined(each.fact.id, each.fact.tenant, card, str(data["currency"])))
    await service.learn(refused)


async def refresh_lists(service: Risk) -> None:
    await service.refresh_lists()


SUBSCRIPTIONS = (Subscription(source="payments", types=("payments.payment.declined",), handle=payment_declined),)

SCHEDULES = (Schedule(name="risk.lists", every=timedelta(seconds=1), run=refresh_lists, exclusive=False),)
