"""Tenants' webhook endpoints: create, list, enable again, delete."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from tallystick.chassis import idempotency
from tallystick.chassis.db import Database, Transaction
from tallystick.chassis.idempotency import Entry, Replay
from tallystick.chassis.keys import Keyring
from tallystick.chassis.outbox import Fact, Outbox
from tallystick.contracts.notify.problems import TooManyEndpoints, WebhookEndpointNotFound
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import EndpointId
from tallystick.services.notify import model
from tallystick.services.notify.model import Endpoint
from tallystick.services.notify.store import ANSWER, SECRET, Store

CREATED = 201


class Actor(msgspec.Struct, frozen=True):
    """Who acts: a client of a tenant, in a request."""

    tenant: str
    client_id: str
    trace: str


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint to create. `entry`: of the client's idempotency key, if it sent one."""

    actor: Actor
    url: str
    events: Sequence[str]
    description: str
    entry: Entry | None = None


class Created(msgspec.Struct, frozen=True):
    """The answer's bytes, as sent to the first request."""

    body: bytes
    status: int
    replayed: bool

    def __repr__(self) -> str:
        return f"Created({self.status})"  # the body holds a secret


#: Encodes a new endpoint and its secret as the answer.
Render = Callable[[Endpoint, str], bytes]


class Endpoints:
    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        keyring: Keyring,
        outbox: Outbox,
        clock: Clock,
        private: bool,
        events: Sequence[str],
        render: Render,
    ) -> None:
        self._database = database
        self._store = store
        self._keyring = keyring
        self._outbox = outbox
        self._clock = clock
        self._private = private
        self._events = events
        self._render = render

    async def create(self, order: Order) -> Created:
        """Create an endpoint with its signing secret, or return the stored answer of the same request.

        The secret is shown in this answer only. The stored copy of the answer, for repeats of the request, is sealed. Raises InvalidUrl,
        UnknownWebhookEvent, TooManyEndpoints, KeyReused, InProgress. After the endpoint is deleted, the stored answer is a
        WebhookEndpointNotFound.
        """
        tenant, id_ = order.actor.tenant, ids.webhook_endpoints.new()
        model.check_events(order.events, self._events)
        secret = model.new_secret()
        endpoint = Endpoint(
            id=id_,
            tenant=tenant,
            url=model.check_url(order.url, private=self._private),
            events=tuple(dict.fromkeys(order.events)),
            description=order.description,
            sealed_secret=await self._keyring.seal(secret.encode(), SECRET.aad(tenant, id_)),
            disabled_reason=None,
            created_at=self._clock.now(),
        )
        body = self._render(endpoint, secret)
        sealed = b"" if order.entry is None else await self._keyring.seal(body, ANSWER.aad(tenant, id_))
        refusal: TooManyEndpoints | None = None
        async with self._database.transaction() as tx:
            replay = await self._claimed(tx, order.entry, id_)
            if replay is None:
                if await self._store.count_endpoints(tx, tenant) >= model.MAX_ENDPOINTS:
                    limit = model.MAX_ENDPOINTS
                    refusal = TooManyEndpoints(f"a tenant has at most {limit} endpoints", limit=limit)
                else:
                    await self._store.insert_endpoint(tx, endpoint)
                    await self.told(tx, "notify.endpoint.created", order.actor, id_)
                if order.entry is not None:
                    status, stored = (
                        (CREATED, sealed)
                        if refusal is None
                        else (refusal.status, msgspec.json.encode(refusal.document(order.actor.trace)))
                    )
                    await idempotency.complete(tx, [idempotency.Answer(order.entry, status, stored)])
        if refusal is not None:
            raise refusal
        if replay is not None:
            return Created(await self._opened(order.actor, replay), replay.status, replayed=True)
        return Created(body, CREATED, replayed=False)

    @staticmethod
    async def _claimed(tx: Transaction, entry: Entry | None, id_: EndpointId) -> Replay | None:
        if entry is None:
            return None
        (outcome,) = await idempotency.claim(tx, [entry], resource=[id_])
        return outcome.raise_or_replay()

    async def _opened(self, actor: Actor, replay: Replay) -> bytes:
        """A stored answer: a refusal unchanged, an answer with a secret unsealed. After a deletion, a WebhookEndpointNotFound for this request."""
        if replay.resource is None or replay.status not in (CREATED, WebhookEndpointNotFound.status):
            return replay.body
        endpoint = EndpointId(replay.resource)
        if replay.status != CREATED:
            return msgspec.json.encode(_unknown(endpoint).document(actor.trace))
        return bytes(await self._keyring.open_sealed(replay.body, ANSWER.aad(actor.tenant, endpoint)))

    async def list(self, tenant: str, after: EndpointId | None, limit: int) -> list[Endpoint]:
        return await self._store.endpoints(self._database, tenant, after, limit)

    async def get(self, tenant: str, endpoint: EndpointId) -> Endpoint:
        """Raises WebhookEndpointNotFound."""
        found = await self._store.endpoint(self._database, tenant, endpoint)
        if found is None:
            raise _unknown(endpoint)
        return found

    async def delete(self, actor: Actor, endpoint: EndpointId) -> None:
        """Delete an endpoint: nothing more is sent to it, and its secret is erased. Raises WebhookEndpointNotFound."""
        async with self._database.transaction() as tx:
            if not await self._store.delete_endpoint(tx, actor.tenant, endpoint, self._clock.now()):
                raise _unknown(endpoint)
            # The stored answer of the request that created it holds the secret.
            await idempotency.withdraw(tx, actor.tenant, [endpoint], _unknown(endpoint))
            await self.told(tx, "notify.endpoint.deleted", actor, endpoint)

    async def enable(self, actor: Actor, endpoint: EndpointId) -> Endpoint:
        """Enable an endpoint that was disabled. Deliveries that failed meanwhile can be replayed. Raises WebhookEndpointNotFound."""
        async with self._database.transaction() as tx:
            if await self._store.enable(tx, actor.tenant, endpoint):
                await self.told(tx, "notify.endpoint.enabled", actor, endpoint)
        return await self.get(actor.tenant, endpoint)

    async def told(
        self, tx: Transaction, type_: str, actor: Actor, endpoint: EndpointId, data: msgspec.Struct | None = None
    ) -> None:
        fact = Fact(
            id=ids.facts.new(),
            type=type_,
            tenant=actor.tenant,
            actor=actor.client_id,
            resource=ids.webhook_endpoints.text(endpoint),
            at=self._clock.now(),
            trace=actor.trace or None,
            data={} if data is None else msgspec.to_builtins(data),
        )
        await self._outbox.append(tx, [fact])


def _unknown(endpoint: EndpointId) -> WebhookEndpointNotFound:
    return WebhookEndpointNotFound(f"there is no endpoint {ids.webhook_endpoints.text(endpoint)}")
