"""Notify's intentions: know where to tell, queue what happened, send it until it is heard."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp
from yarl import URL

from tallystick.chassis import telemetry
from tallystick.chassis.db import Database, Transaction
from tallystick.chassis.egress import AddressRefused, CheckedResolver, Resolve, blocked, literal, system_resolve
from tallystick.chassis.keys import Aad, Keyring, KeyringError
from tallystick.chassis.outbox import Fact, Outbox
from tallystick.contracts.notify.problems import DeliveryNotFound, TooManyEndpoints, WebhookEndpointNotFound
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import DeliveryId, EndpointId
from tallystick.services.notify import model
from tallystick.services.notify.model import Answer, Delivery, Endpoint
from tallystick.services.notify.store import Store

#: One attempt, from connecting to the last byte that we look at.
ATTEMPT_SECONDS: Final = 15.0
CONNECT_SECONDS: Final = 5.0
#: How long a taken delivery is left alone: longer than an attempt can take.
LEASE: Final = timedelta(seconds=60)
BATCH: Final = 64
IN_FLIGHT: Final = 32
MAX_ANSWER: Final = 4096
RETENTION: Final = timedelta(days=90)


class Sender:
    """Sends one webhook. The address that was checked is the one connected to; redirects are answers, not directions."""

    def __init__(self, *, private: bool, resolve: Resolve = system_resolve) -> None:
        self._private = private
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=IN_FLIGHT,
                resolver=CheckedResolver(resolve, private=private),
                use_dns_cache=False,
                force_close=True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=ATTEMPT_SECONDS, sock_connect=CONNECT_SECONDS),
            headers={"User-Agent": "Tallystick-Webhooks/1", "Accept-Encoding": "identity"},
            max_line_size=8190,
            max_field_size=8190,
        )

    async def send(self, url: str, body: bytes, headers: dict[str, str], now: datetime) -> Answer:
        host = URL(url).host or ""
        if not self._private and literal(host) and blocked(host):
            return Answer(None, "the address is not a public one")
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                await answer.content.read(MAX_ANSWER)
                error = None if answer.status < 300 else f"answered {answer.status}"
                return Answer(answer.status, error, _retry_after(answer.headers.get("Retry-After"), now))
        except AddressRefused:
            return Answer(None, "the address is not a public one")
        except TimeoutError:
            return Answer(None, f"no answer within {ATTEMPT_SECONDS:.0f} s")
        except aiohttp.ClientConnectorError as error:
            refused = isinstance(error.os_error, AddressRefused)
            return Answer(None, "the address is not a public one" if refused else "could not connect")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(None, f"the exchange broke: {type(error).__name__}")

    async def close(self) -> None:
        await self._session.close()


def _retry_after(text: str | None, now: datetime) -> timedelta | None:
    """Seconds or a date (RFC 9110 section 10.2.3); None for anything else."""
    if text is None:
        return None
    if text.isascii() and text.isdigit() and len(text) <= 6:
        return timedelta(seconds=int(text))
    try:
        return max(parsedate_to_datetime(text) - now, timedelta(0))
    except (ValueError, TypeError):
        return None


class Notify:
    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        keyring: Keyring,
        outbox: Outbox,
        sender: Sender,
        clock: Clock,
        private: bool,
    ) -> None:
        self._database = database
        self._store = store
        self._keyring = keyring
        self._outbox = outbox
        self._sender = sender
        self._clock = clock
        self._private = private
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    # ---- endpoints

    async def create_endpoint(
        self, tenant: str, client_id: str, url: str, events: Sequence[str], description: str
    ) -> tuple[Endpoint, str]:
        """A new endpoint and its signing secret, which is shown this once. Raises InvalidUrl, TooManyEndpoints."""
        checked = model.check_url(url, private=self._private)
        secret = model.new_secret()
        id_ = ids.webhook_endpoints.new()
        endpoint = Endpoint(
            id=id_,
            tenant=tenant,
            url=checked,
            events=tuple(dict.fromkeys(events)),
            description=description,
            sealed_secret=await self._keyring.seal(secret.encode(), _aad(tenant, id_)),
            disabled_reason=None,
            created_at=self._clock.now(),
        )
        async with self._database.transaction() as tx:
            if await self._store.count_endpoints(tx, tenant) >= model.MAX_ENDPOINTS:
                raise TooManyEndpoints(
                    f"a tenant has at most {model.MAX_ENDPOINTS} endpoints", limit=model.MAX_ENDPOINTS
                )
            await self._store.insert_endpoint(tx, endpoint)
            await self._told(tx, "notify.endpoint.created", tenant, client_id, id_)
        return endpoint, secret

    async def endpoints(self, tenant: str, after: EndpointId | None, limit: int) -> list[Endpoint]:
        return await self._store.endpoints(self._database, tenant, after, limit)

    async def endpoint(self, tenant: str, endpoint: EndpointId) -> Endpoint:
        found = await self._store.endpoint(self._database, tenant, endpoint)
        if found is None:
            raise WebhookEndpointNotFound(f"there is no endpoint {ids.webhook_endpoints.text(endpoint)}")
        return found

    async def delete_endpoint(self, tenant: str, client_id: str, endpoint: EndpointId) -> None:
        async with self._database.transaction() as tx:
            if not await self._store.delete_endpoint(tx, tenant, endpoint):
                raise WebhookEndpointNotFound(f"there is no endpoint {ids.webhook_endpoints.text(endpoint)}")
            await self._told(tx, "notify.endpoint.deleted", tenant, client_id, endpoint)

    async def enable_endpoint(self, tenant: str, client_id: str, endpoint: EndpointId) -> Endpoint:
        """Sends to it again, after it was disabled. What has failed meanwhile can be replayed."""
        await self.endpoint(tenant, endpoint)
        async with self._database.transaction() as tx:
            enabled = await self._store.set_disabled(tx, endpoint, None)
            if enabled is None:
                raise WebhookEndpointNotFound(f"there is no endpoint {ids.webhook_endpoints.text(endpoint)}")
            await self._told(tx, "notify.endpoint.enabled", tenant, client_id, endpoint)
        return enabled

    async def deliveries(
        self, tenant: str, endpoint: EndpointId, after: DeliveryId | None, limit: int
    ) -> list[Delivery]:
        await self.endpoint(tenant, endpoint)
        return await self._store.deliveries(self._database, tenant, endpoint, after, limit)

    async def replay(self, tenant: str, endpoint: EndpointId, delivery: DeliveryId) -> Delivery:
        """Sends a delivery again, whatever became of it, under the same `webhook-id`."""
        await self.endpoint(tenant, endpoint)
        found = await self._store.replay(self._database, tenant, endpoint, delivery, self._clock.now())
        if found is None:
            raise DeliveryNotFound(f"there is no delivery {ids.deliveries.text(delivery)} to this endpoint")
        return found

    async def _told(self, tx: Transaction, type_: str, tenant: str, actor: str, endpoint: EndpointId) -> None:
        fact = Fact(
            id=ids.facts.new(),
            type=type_,
            tenant=tenant,
            actor=actor,
            resource=ids.webhook_endpoints.text(endpoint),
            at=self._clock.now(),
        )
        await self._outbox.append(tx, [fact])

    # ---- events

    async def queue(self, tx: Transaction, facts: Sequence[Fact]) -> None:
        """One delivery for each fact and endpoint that listens to it, in the transaction that moves the inbox."""
        listeners = await self._store.listening(tx, sorted({fact.tenant for fact in facts}))
        if not listeners:
            return
        now = self._clock.now()
        deliveries = []
        for fact in facts:
            event = model.event_type(fact.type)
            body: bytes | None = None
            for listener in listeners:
                if listener.tenant == fact.tenant and model.wants(listener.events, event):
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

    async def send_due(self) -> int:
        """Sends what is due; how many that were. Replicas share the work: each takes what no other has."""
        now = self._clock.now()
        due = await self._store.take_due(self._database, now, now + LEASE, BATCH)
        async with asyncio.TaskGroup() as group:
            for delivery in due:
                group.create_task(self._send(delivery))
        return len(due)

    async def _send(self, delivery: Delivery) -> None:
        async with self._slots:
            endpoint = await self._store.endpoint_by_id(self._database, delivery.endpoint)
            if endpoint is None or endpoint.disabled_reason is not None:
                return
            try:
                secret = (
                    await self._keyring.open_sealed(endpoint.sealed_secret, _aad(endpoint.tenant, endpoint.id))
                ).decode()
            except KeyringError as error:
                telemetry.log.error("webhook.secret.unreadable", error=type(error).__name__)
                return
            now = self._clock.now()
            answer = await self._sender.send(endpoint.url, delivery.body, model.headers(secret, delivery, now), now)
            after, disabled = model.after(delivery, answer, self._clock.now(), random.random())  # noqa: S311  # jitter
            async with self._database.transaction() as tx:
                await self._store.save_delivery(tx, after)
                if disabled is not None:
                    await self._store.set_disabled(tx, endpoint.id, disabled)
                    await self._told(tx, "notify.endpoint.disabled", endpoint.tenant, "notify", endpoint.id)
            if after.status == "failed":
                telemetry.log.warning(
                    "webhook.failed", delivery=ids.deliveries.text(delivery.id), attempts=after.attempts
                )

    async def purge(self) -> None:
        await self._store.purge(self._database, self._clock.now() - RETENTION, 10_000)


def _aad(tenant: str, endpoint: EndpointId) -> Aad:
    return Aad(tenant=tenant, table="endpoint", column="sealed_secret", row=ids.webhook_endpoints.text(endpoint))
