"""Notify, wired."""

from __future__ import annotations

from tallystick.chassis.app import Runtime, Wiring
from tallystick.chassis.outbox import Outbox
from tallystick.services.notify.api import ENDPOINTS
from tallystick.services.notify.service import Notify, Sender
from tallystick.services.notify.settings import Settings
from tallystick.services.notify.store import Store
from tallystick.services.notify.worker import SCHEDULES, SUBSCRIPTIONS

SETTINGS = Settings


async def wire(runtime: Runtime) -> Wiring:
    private = runtime.settings_as(Settings).private_webhooks
    sender = Sender(private=private)
    service = Notify(
        database=runtime.database,
        store=Store(),
        keyring=runtime.keyring,
        outbox=Outbox(),
        sender=sender,
        clock=runtime.clock,
        private=private,
    )
    return Wiring(
        service=service, endpoints=ENDPOINTS, subscriptions=SUBSCRIPTIONS, schedules=SCHEDULES, close=sender.close
    )
