"""Endpoints and deliveries in PostgreSQL. Rows in, model types out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from tallystick.chassis.db import Database, Queries, Row, Transaction
from tallystick.kernel.ids import DeliveryId, EndpointId
from tallystick.services.notify.model import Delivery, Endpoint

queries = Queries.load("tallystick.services.notify")


class Listener(msgspec.Struct, frozen=True):
    """An enabled endpoint, as far as events need to know it."""

    id: EndpointId
    tenant: str
    events: tuple[str, ...]


class Store:
    async def insert_endpoint(self, tx: Transaction, e: Endpoint) -> None:
        await tx.execute(
            queries.insert_endpoint, e.id, e.tenant, e.url, list(e.events), e.description, e.sealed_secret, e.created_at
        )

    async def count_endpoints(self, tx: Transaction, tenant: str) -> int:
        return int(await tx.fetchval(queries.count_endpoints, tenant))

    async def endpoints(self, database: Database, tenant: str, after: EndpointId | None, limit: int) -> list[Endpoint]:
        return [_endpoint(row) for row in await database.fetch(queries.endpoints, tenant, after, limit)]

    async def endpoint(self, database: Database, tenant: str, endpoint: EndpointId) -> Endpoint | None:
        row = await database.fetchrow(queries.endpoint, endpoint, tenant)
        return None if row is None else _endpoint(row)

    async def endpoint_by_id(self, database: Database, endpoint: EndpointId) -> Endpoint | None:
        row = await database.fetchrow(queries.endpoint_by_id, endpoint)
        return None if row is None else _endpoint(row)

    async def listening(self, tx: Transaction, tenants: Sequence[str]) -> list[Listener]:
        rows = await tx.fetch(queries.listening, list(tenants))
        return [Listener(row["id"], row["tenant"], tuple(row["events"])) for row in rows]

    async def delete_endpoint(self, tx: Transaction, tenant: str, endpoint: EndpointId) -> bool:
        return await tx.fetchval(queries.delete_endpoint, endpoint, tenant) is not None

    async def set_disabled(self, tx: Transaction, endpoint: EndpointId, reason: str | None) -> Endpoint | None:
        row = await tx.fetchrow(queries.set_disabled, endpoint, reason)
        if reason is not None:
            await tx.execute(queries.drop_pending, endpoint)
        return None if row is None else _endpoint(row)

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

    async def take_due(self, database: Database, now: datetime, until: datetime, limit: int) -> list[Delivery]:
        return [_delivery(row) for row in await database.fetch(queries.take_due, now, until, limit)]

    async def save_delivery(self, tx: Transaction, d: Delivery) -> None:
        await tx.execute(
            queries.save_delivery, d.id, d.status, d.attempts, d.next_at, d.delivered_at, d.last_status, d.last_error
        )

    async def deliveries(
        self, database: Database, tenant: str, endpoint: EndpointId, after: DeliveryId | None, limit: int
    ) -> list[Delivery]:
        return [_delivery(row) for row in await database.fetch(queries.deliveries, endpoint, tenant, after, limit)]

    async def replay(
        self, database: Database, tenant: str, endpoint: EndpointId, delivery: DeliveryId, now: datetime
    ) -> Delivery | None:
        row = await database.fetchrow(queries.replay_delivery, delivery, endpoint, tenant, now)
        return None if row is None else _delivery(row)

    async def purge(self, database: Database, before: datetime, limit: int) -> None:
        await database.execute(queries.purge_deliveries, before, limit)


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
