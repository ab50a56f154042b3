"""The wiring of payments."""

from __future__ import annotations

from tallystick.chassis.app import Runtime, Wiring
from tallystick.chassis.auth import Authenticator
from tallystick.chassis.db import Database, Life
from tallystick.chassis.idempotency import Digester
from tallystick.chassis.outbox import Outbox
from tallystick.contracts.ledger.client import LedgerClient
from tallystick.contracts.risk.client import RiskClient
from tallystick.contracts.vault.client import VaultClient
from tallystick.kernel.clock import Clock
from tallystick.services.payments.api import ENDPOINTS, Api, render, render_refund
from tallystick.services.payments.service import (
    Acquirer,
    Background,
    Directory,
    Effects,
    Journal,
    Payments,
    Refunds,
    Work,
)
from tallystick.services.payments.settings import Settings
from tallystick.services.payments.store import Store
from tallystick.services.payments.worker import SCHEDULES, SUBSCRIPTIONS

SETTINGS = Settings


async def wire(runtime: Runtime) -> Wiring:
    settings = runtime.settings_as(Settings)
    database, clock, store = runtime.database, runtime.clock, Store()
    ledger = LedgerClient(runtime.client("ledger"))
    vault = VaultClient(runtime.client("vault"))
    acquirer = Acquirer(vault, settings.acquirer, settings.acquirer_timeout_ms)
    effects = Effects(
        database=database,
        store=store,
        risk=RiskClient(runtime.client("risk")),
        ledger=ledger,
        acquirer=acquirer,
        clock=clock,
        unscored_limit=runtime.charter.calls["risk"].degrade_up_to_euro,
    )
    directory = Directory(database=database, store=store, ledger=ledger, vault=vault)
    digester = Digester(runtime.keyring.derive("idempotency"))
    work, life = Work(), await Life.begin(database)

    async def close() -> None:
        await work.drain()
        await life.end()

    api = assemble(
        database=database,
        effects=effects,
        acquirer=acquirer,
        directory=directory,
        authenticator=runtime.authenticator,
        clock=clock,
        work=work,
        life=life,
        digester=digester,
    )
    return Wiring(
        service=api,
        endpoints=ENDPOINTS,
        subscriptions=SUBSCRIPTIONS,
        schedules=SCHEDULES,
        tasks=(life.keep,),
        close=close,
    )


def assemble(
    *,
    database: Database,
    effects: Effects,
    acquirer: Acquirer,
    directory: Directory,
    authenticator: Authenticator,
    clock: Clock,
    work: Work,
    life: Life,
    digester: Digester,
) -> Api:
    """Builds the use cases from their dependencies, which tests replace."""
    store = Store()
    journal = Journal(database=database, store=store, outbox=Outbox(), render=render, render_refund=render_refund)
    payments = Payments(
        database=database,
        store=store,
        journal=journal,
        effects=effects,
        directory=directory,
        authenticator=authenticator,
        clock=clock,
        work=work,
        life=life,
        render=render,
    )
    refunds = Refunds(
        database=database,
        store=store,
        journal=journal,
        effects=effects,
        authenticator=authenticator,
        clock=clock,
        work=work,
        life=life,
        render=render_refund,
    )
    background = Background(
        database=database,
        store=store,
        journal=journal,
        acquirer=acquirer,
        payments=payments,
        refunds=refunds,
        authenticator=authenticator,
        clock=clock,
        work=work,
        life=life,
    )
    return Api(payments, refunds, background, digester)
