"""Payments, wired."""

from __future__ import annotations

from tallystick.chassis.app import Runtime, Wiring
from tallystick.chassis.idempotency import Digester
from tallystick.chassis.outbox import Outbox
from tallystick.contracts.ledger.client import LedgerClient
from tallystick.contracts.risk.client import RiskClient
from tallystick.contracts.vault.client import VaultClient
from tallystick.services.payments.api import ENDPOINTS, Api, render, render_refund
from tallystick.services.payments.service import Effects, Journal, Payments
from tallystick.services.payments.service.directory import Directory
from tallystick.services.payments.settings import Settings
from tallystick.services.payments.store import Store
from tallystick.services.payments.worker import SCHEDULES, SUBSCRIPTIONS

SETTINGS = Settings


async def wire(runtime: Runtime) -> Wiring:
    settings = runtime.settings_as(Settings)
    database, clock, store = runtime.database, runtime.clock, Store()
    ledger = LedgerClient(runtime.client("ledger"))
    vault = VaultClient(runtime.client("vault"))
    payments = Payments(
        database=database,
        store=store,
        journal=Journal(database=database, store=store, outbox=Outbox(), render=render, render_refund=render_refund),
        effects=Effects(
            database=database,
            store=store,
            risk=RiskClient(runtime.client("risk")),
            vault=vault,
            ledger=ledger,
            clock=clock,
            acquirer=settings.acquirer,
            acquirer_timeout_ms=settings.acquirer_timeout_ms,
            unscored_limit=settings.unscored_limit,
        ),
        directory=Directory(database=database, store=store, ledger=ledger, vault=vault),
        authenticator=runtime.authenticator,
        clock=clock,
        render=render,
        render_refund=render_refund,
    )
    api = Api(payments, Digester(runtime.keyring.derive("idempotency")))
    return Wiring(
        service=api, endpoints=ENDPOINTS, subscriptions=SUBSCRIPTIONS, schedules=SCHEDULES, close=payments.drain
    )
