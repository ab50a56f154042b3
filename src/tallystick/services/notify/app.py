"""Notify, wired."""

from __future__ import annotations

from tallystick.chassis import charter
from tallystick.chassis.app import Runtime, Wiring
from tallystick.chassis.db import Database
from tallystick.chassis.idempotency import Digester
from tallystick.chassis.keys import Keyring
from tallystick.chassis.outbox import Outbox
from tallystick.kernel.clock import Clock
from tallystick.services.notify import model
from tallystick.services.notify.api import ENDPOINTS, render
from tallystick.services.notify.service import Deliveries, Endpoints, Notify, Sender
from tallystick.services.notify.settings import Settings
from tallystick.services.notify.store import SEALED, Store
from tallystick.services.notify.worker import SCHEDULES, SUBSCRIPTIONS

SETTINGS = Settings


async def wire(runtime: Runtime) -> Wiring:
    private = runtime.settings_as(Settings).private_webhooks
    sender = Sender(private=private)
    service = assemble(runtime.database, runtime.keyring, runtime.clock, sender, private=private)
    return Wiring(
        service=service,
        endpoints=ENDPOINTS,
        subscriptions=SUBSCRIPTIONS,
        schedules=SCHEDULES,
        sealed=SEALED,
        tasks=(service.deliveries.run,),
        close=sender.close,
    )


def assemble(database: Database, keyring: Keyring, clock: Clock, sender: Sender, *, private: bool) -> Notify:
    store = Store()
    events = sorted(map(model.event_type, charter.heard("notify")))
    endpoints = Endpoints(
        database=database,
        store=store,
        keyring=keyring,
        outbox=Outbox(),
        clock=clock,
        private=private,
        events=events,
        render=render,
    )
    deliveries = Deliveries(
        database=database, store=store, keyring=keyring, endpoints=endpoints, sender=sender, clock=clock
    )
    return Notify(endpoints, deliveries, Digester(keyring.derive("idempotency")))
