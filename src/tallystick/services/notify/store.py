"""Endpoints and deliveries in PostgreSQL. Rows in, model types out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

import msgspec

from tallystick.chassis.db import Database, Queries, Row, Transaction
from tallystick.chassis.keys import TenantKeyColumn
from tallystick.kernel import ids
from tallystick.kernel.ids import DeliveryId, EndpointId
from tallystick.services.notify.model import DISABLED, Delivery, Endpoint, first_id

queries = Queries.load("tallystick.services.notify")

#: The signing secrets of endpoints.
SECRET: Final = TenantKeyColumn(
    table="endpoint",
    name="sealed_secret",
    under=queries.secrets_under,
    left=queries.count_secrets_under,
    save=queries.save_secrets,
    text=ids.webhook_endpoints.text,
)
#: The stored answers of requests that created an endpoint: they contain its secret.
ANSWER: Final = TenantKeyColumn(
    table="idempotency",
    name="body",
    under=queries.answers_under,
    left=queries.count_answers_under,
    save=queries.save_answers,
    text=ids.webhook_endpoints.text,
)
SEALED: Final = (SECRET, ANSWER)


class Listener(msgspec.Struct, frozen=True):
    """What queueing needs to know of an enabled endpoint."""

    id: EndpointId
    tenant: str
    events: tuple[str, ...]


class Store:
    async def insert_endpoint(self, tx: Transaction, e: Endpoint) -> None:
        await tx.execute(
            queries.insert_endpoint, e.id, e.tenant, e.url, list(e.events), e.description, e.sealed_secret, e.created_at
        )

    async def count_endpoints(self, tx: Transaction, tenant: str) -> int:
        """The tenant's number of endpoints. Nobody else can add one until the transaction ends."""
        await tx.execute(queries.tenant_turn, tenant)
        return int(await tx.fetchval(queries.count_endpoints, tenant))

    async def endpoints(self, database: Database, tenant: str, after: EndpointId | None, limit: int) -> list[Endpoint]:
        return [_endpoint(row) for row in await database.fetch(queries.endpoints, tenant, after, limit)]

    async def endpoint(self, database: Database, tenant: str, endpoint: EndpointId) -> Endpoint | None:
        row = await database.fetchrow(queries.endpoint, endpoint, tenant)
        return None if row is None else _endpoint(row)

    async def endpoints_by_id(
        self, database: Database, endpoints: Collection[EndpointId]
    ) -> dict[EndpointId, Endpoint]:
        """Disabled ones too; deleted ones are not there."""
        return {row["id"]: _endpoint(row) for row in await database.fetch(queries.endpoints_by_id, list(endpoints))}

    async def listening(self, tx: Transaction, tenants: Sequence[str]) -> list[Listener]:
        rows = await tx.fetch(queries.listening, list(tenants))
        return [Listener(row["id"], row["tenant"], tuple(row["events"])) for row in rows]

    async def delete_endpoint(self, tx: Transaction, tenant: str, endpoint: EndpointId, now: datetime) -> bool:
        return await tx.fetchval(queries.delete_endpoint, endpoint, tenant, now) is not None

    async def disabling_turn(self, tx: Transaction, endpoint: EndpointId) -> None:
        """Lock the endpoint before saving the delivery that disables it. Otherwise several such transactions would deadlock on each other's
        deliveries.
        """
        await tx.execute(queries.disabling_turn, endpoint)

    async def disable(self, tx: Transaction, tenant: str, endpoint: EndpointId, reason: str) -> None:
        """Disable an endpoint; its pending deliveries fail."""
        await tx.execute(queries.disable, endpoint, tenant, reason)
        await tx.execute(queries.drop_pending, endpoint, DISABLED)

    async def enable(self, tx: Transaction, tenant: str, endpoint: EndpointId) -> bool:
        """Whether this enabled it: False if it was not disabled, or does not exist."""
        return await tx.execute(queries.enable, endpoint, tenant) > 0

    async def insert_deliveries(self, tx: Transaction, deliveries: Sequence[Delivery], now: datetime) -> None:
        await tx.execute(
            queries.insert_deliveries,
            [d.id for d in deliveries],
            [d.tenant for d in deliveries],
            [d.endpoint for d in deliveries],
            [d.fact for d in deliveries],
            [d.type for d in deliveries],
            [d.body for d in deliveries],
            now,
        )

    async def take_due(
        self,
        database: Database,
        now: datetime,
        until: datetime,
        *,
        limit: int,
        per_endpoint: int,
        per_tenant: int,
        busy_endpoints: Sequence[EndpointId],
        busy_tenants: Sequence[str],
    ) -> list[Delivery]:
        """Take due deliveries, leased until `until`, which becomes their `next_at`."""
        rows = await database.fetch(
            queries.take_due, now, until, limit, per_endpoint, per_tenant, list(busy_endpoints), list(busy_tenants)
        )
        return [_delivery(row) for row in rows]

    async def save_delivery(self, tx: Transaction, d: Delivery, *, lease: datetime | None) -> bool:
        """Whether it was saved: not if the delivery is no longer under this lease."""
        saved = await tx.execute(
            queries.save_delivery,
            d.id,
            d.status,
            d.attempts,
            d.next_at,
            d.delivered_at,
            d.last_status,
            d.last_error,
            lease,
        )
        return saved > 0

    async def save_dropped(self, tx: Transaction, d: Delivery) -> bool:
        """Save a delivery that failed when its endpoint was disabled, as its attempt has left it. Whether it was: not if somebody else has
        changed it since.
        """
        saved = await tx.execute(
            queries.save_dropped, d.id, d.status, d.attempts, d.delivered_at, d.last_status, d.last_error, DISABLED
        )
        return saved > 0

    async def deliveries(
        self,
        database: Database,
        tenant: str,
        endpoint: EndpointId,
        *,
        after: DeliveryId | None,
        status: str | None,
        limit: int,
    ) -> list[Delivery]:
        if status == "failed":
            rows = await database.fetch(queries.failed_deliveries, endpoint, tenant, after, limit)
        else:
            rows = await database.fetch(queries.deliveries, endpoint, tenant, after, status, limit)
        return [_delivery(row) for row in rows]

    async def replay(
        self, tx: Transaction, tenant: str, endpoint: EndpointId, delivery: DeliveryId, now: datetime
    ) -> Delivery | None:
        row = await tx.fetchrow(queries.replay_delivery, delivery, endpoint, tenant, now)
        return None if row is None else _delivery(row)

    async def purge_old(self, database: Database, before: datetime, limit: int) -> int:
        return await database.execute(queries.purge_old, before, first_id(before), limit)

    async def purge_deleted(self, database: Database, limit: int) -> int:
        return await database.execute(queries.purge_deleted, limit)

    async def purge_endpoints(self, database: Database) -> None:
        await database.execute(queries.purge_endpoints)


def _endpoint(row: Row) -> Endpoint:
    return Endpoint(
        id=row["id"],
        tenant=row["tenant"],
        url=row["url"],
        events=tuple(row["events"]),
        description=row["description"],
        sealed_secret=row["sealed_secret"],
        disabled_reason=row["disabled_reason"],
        created_at=row["created_at"],
    )


def _delivery(row: Row) -> Delivery:
    return Delivery(
        id=row["id"],
        tenant=row["tenant"],
        endpoint=row["endpoint"],
        fact=row["fact"],
        type=row["type"],
        body=row["body"],
        status=row["status"],
        attempts=row["attempts"],
        created_at=row["created_at"],
        next_at=row["next_at"],
        delivered_at=row["delivered_at"],
        last_status=row["last_status"],
        last_error=row["last_error"],
    )
