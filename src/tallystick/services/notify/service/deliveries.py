"""Delivers events to endpoints: each is queued once, and sent until it is received or given up."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from tallystick.chassis import telemetry
from tallystick.chassis.db import Database, Signal, Transaction
from tallystick.chassis.fact import Delivered
from tallystick.chassis.keys import Keyring, KeyringError
from tallystick.contracts.notify.messages import DeliveryReplayed
from tallystick.contracts.notify.problems import DeliveryNotFound, WebhookEndpointDisabled
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import DeliveryId, EndpointId
from tallystick.kernel.problem import Problem
from tallystick.services.notify import model
from tallystick.services.notify.model import Answer, Delivery, Endpoint
from tallystick.services.notify.service.endpoints import Actor, Endpoints
from tallystick.services.notify.service.sender import Sender
from tallystick.services.notify.store import SECRET, Listener, Store, queries

#: How long other replicas leave a taken delivery alone: much longer than an attempt can take.
LEASE: Final = timedelta(seconds=60)
IN_FLIGHT: Final = 128
#: Limits, so that a slow endpoint, or a tenant with many of them, leaves room for the others.
PER_TENANT: Final = 32
PER_ENDPOINT: Final = 8
#: How often to look for due deliveries while others are under way.
POLL_SECONDS: Final = 0.25
#: How often to look for due deliveries when idle: retries, ended leases, and those queued by other replicas. Those queued here are sent at once.
IDLE_SECONDS: Final = 1.0
#: The pause after a failure of the database.
PAUSE_SECONDS: Final = 1.0
#: How long to wait at shutdown for answers to what was sent. Without an answer, another replica sends it again.
GRACE_SECONDS: Final = 3.0
RETENTION: Final = timedelta(days=90)
PURGE_PAGE: Final = 2000

#: The statement that moves the inbox past facts of tenants without endpoints (`Subscription.unheard`).
UNHEARD: Final = queries.unheard

_ATTEMPTS = telemetry.counter("webhook_attempts", "Webhooks sent, by what came of it", ["result"])


class Deliveries:
    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        keyring: Keyring,
        endpoints: Endpoints,
        sender: Sender,
        clock: Clock,
    ) -> None:
        self._database = database
        self._store = store
        self._keyring = keyring
        self._endpoints = endpoints
        self._sender = sender
        self._clock = clock
        self._due = Signal()
        self._running: dict[asyncio.Task[None], Delivery] = {}

    # ---- for tenants

    async def list(
        self, tenant: str, endpoint: EndpointId, *, after: DeliveryId | None, status: str | None, limit: int
    ) -> list[Delivery]:
        """Deliveries of one status or all, newest first. Raises WebhookEndpointNotFound."""
        await self._endpoints.get(tenant, endpoint)
        return await self._store.deliveries(self._database, tenant, endpoint, after=after, status=status, limit=limit)

    async def replay(self, actor: Actor, endpoint: EndpointId, delivery: DeliveryId) -> Delivery:
        """Send a delivery again, whatever its status, with the same `webhook-id`.

        Raises WebhookEndpointNotFound, WebhookEndpointDisabled, DeliveryNotFound.
        """
        if (await self._endpoints.get(actor.tenant, endpoint)).disabled_reason is not None:
            raise WebhookEndpointDisabled
        async with self._database.transaction() as tx:
            found = await self._store.replay(tx, actor.tenant, endpoint, delivery, self._clock.now())
            if found is None:
                raise DeliveryNotFound(f"there is no delivery {ids.deliveries.text(delivery)} to this endpoint")
            said = DeliveryReplayed(ids.deliveries.text(delivery))
            await self._endpoints.told(tx, "notify.delivery.replayed", actor, endpoint, said)
            tx.on_commit(self._due.send)
        return found

    # ---- events

    async def queue(self, tx: Transaction, facts: Sequence[Delivered]) -> None:
        """Queue one delivery for each fact and endpoint that wants it, in the transaction that moves the inbox."""
        listeners: dict[str, list[Listener]] = {}
        for listener in await self._store.listening(tx, sorted({fact.tenant for fact in facts})):
            listeners.setdefault(listener.tenant, []).append(listener)
        now = self._clock.now()
        deliveries = []
        for each in facts:
            event = model.event_type(each.head.type)
            body: bytes | None = None
            for listener in listeners.get(each.tenant, ()):
                if model.wants(listener.events, event):
                    fact = each.fact
                    body = body or model.body(fact.id, event, fact.at, fact.data)
                    deliveries.append(
                        Delivery(
                            id=ids.deliveries.new(),
                            tenant=fact.tenant,
                            endpoint=listener.id,
                            fact=fact.id,
                            type=event,
                            body=body,
                            created_at=now,
                            next_at=now,
                        )
                    )
        if deliveries:
            await self._store.insert_deliveries(tx, deliveries, now)
            tx.on_commit(self._due.send)

    # ---- sending

    async def run(self) -> None:
        """Send what is due, as long as the process lives. Replicas share the work: each takes deliveries that no other has taken."""
        try:
            while True:
                try:
                    await self.send_due()
                except Exception as error:  # noqa: BLE001  # this loop must not end; the next round tries again
                    level = telemetry.log.warning if isinstance(error, Problem) else telemetry.log.error
                    level("webhook.not_taken", error=error)
                    await asyncio.sleep(PAUSE_SECONDS)
                await self._due.wait(IDLE_SECONDS)
        finally:
            if self._running:
                _, late = await asyncio.wait(self._running, timeout=GRACE_SECONDS)
                for task in late:
                    task.cancel()
                await asyncio.gather(*late, return_exceptions=True)

    async def send_due(self) -> None:
        """Send until nothing is due and nothing is under way. Raises what the database raises; attempts under way go on."""
        while True:
            # Attempts under way may have kept others from being taken (by the limits), even if they have ended since.
            held_back = bool(self._running)
            if not await self._take() and not held_back:
                return
            if self._running:
                await asyncio.wait(self._running, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)

    async def _take(self) -> int:
        """Start as many attempts as there is room for; returns how many."""
        free = IN_FLIGHT - len(self._running)
        if free <= 0:
            return 0
        now = self._clock.now()
        endpoints = Counter(each.endpoint for each in self._running.values())
        tenants = Counter(each.tenant for each in self._running.values())
        due = await self._store.take_due(
            self._database,
            now,
            now + LEASE,
            limit=free,
            per_endpoint=PER_ENDPOINT,
            per_tenant=PER_TENANT,
            busy_endpoints=[each for each, count in endpoints.items() if count >= PER_ENDPOINT],
            busy_tenants=[each for each, count in tenants.items() if count >= PER_TENANT],
        )
        if not due:
            return 0
        targets = await self._store.endpoints_by_id(self._database, {each.endpoint for each in due})
        for delivery in due:
            task = asyncio.create_task(self._send(delivery, targets.get(delivery.endpoint)))
            self._running[task] = delivery
            task.add_done_callback(self._ended)
        return len(due)

    def _ended(self, task: asyncio.Task[None]) -> None:
        delivery = self._running.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # When its lease ends, it is sent again.
            _ATTEMPTS.labels("broken").inc()
            telemetry.log.error("webhook.attempt_broken", delivery=ids.deliveries.text(delivery.id), error=error)

    async def _send(self, delivery: Delivery, endpoint: Endpoint | None) -> None:
        if endpoint is None or endpoint.disabled_reason is not None:
            reason = "the endpoint was deleted" if endpoint is None else model.DISABLED
            await self._save(delivery, model.given_up(delivery, reason), endpoint, None)
            return
        answer = await self._attempt(delivery, endpoint)
        after, disabled = model.after(delivery, answer, self._clock.now(), random.random())  # noqa: S311  # jitter
        _ATTEMPTS.labels("none" if answer.status is None else f"{answer.status // 100}xx").inc()
        await self._save(delivery, after, endpoint, disabled)
        if after.status == "failed":
            telemetry.log.warning("webhook.failed", delivery=ids.deliveries.text(delivery.id), attempts=after.attempts)

    async def _attempt(self, delivery: Delivery, endpoint: Endpoint) -> Answer:
        aad = SECRET.aad(endpoint.tenant, endpoint.id)
        try:
            secret = (await self._keyring.open_sealed(endpoint.sealed_secret, aad)).decode()
        except KeyringError as error:
            telemetry.log.error("webhook.secret_unreadable", resource=aad.row, error=error)
            return Answer(None, "the signing secret can't be read")
        now = self._clock.now()
        return await self._sender.send(endpoint.url, delivery.body, model.headers(secret, delivery, now), now)

    async def _save(self, taken: Delivery, after: Delivery, endpoint: Endpoint | None, disabled: str | None) -> None:
        """Store an attempt's outcome, but only while the lease is ours: after a pause of this replica, another replica's attempt or a replay must
        not be overwritten. If the endpoint was disabled during the attempt, what came of it is stored all the same.
        """
        async with self._database.transaction() as tx:
            if disabled is not None and endpoint is not None:
                await self._store.disabling_turn(tx, endpoint.id)
            if not await self._store.save_delivery(tx, after, lease=taken.next_at):
                if after.attempts > taken.attempts and await self._store.save_dropped(tx, model.dropped(after)):
                    return
                telemetry.log.info("webhook.lease_lost", delivery=ids.deliveries.text(taken.id))
                return
            if disabled is not None and endpoint is not None:
                await self._store.disable(tx, endpoint.tenant, endpoint.id, disabled)
                actor = Actor(endpoint.tenant, "notify", "")
                await self._endpoints.told(tx, "notify.endpoint.disabled", actor, endpoint.id)

    async def purge(self) -> None:
        """Delete deliveries that ended long ago, and those of deleted endpoints."""
        before = self._clock.now() - RETENTION
        while await self._store.purge_old(self._database, before, PURGE_PAGE) == PURGE_PAGE:
            pass
        while await self._store.purge_deleted(self._database, PURGE_PAGE) == PURGE_PAGE:
            pass
        await self._store.purge_endpoints(self._database)
