"""The chassis' tables that the ledger writes to: idempotency keys and facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.simulation.server.engine import Row, Transaction, of_file

statement = of_file("idempotency")
outbox = of_file("outbox")


@statement
async def claim(tx: Transaction, *columns: Sequence[Any]) -> list[Row]:
    wanted = sorted(enumerate(zip(*columns, strict=True), 1), key=lambda one: one[1][:4])
    taken_ = []
    for place, (*key, digest, fields, resource) in wanted:
        row = {"digest": digest, "fields": fields, "resource": resource, "status": None, "body": None}
        if await tx.insert("idempotency", tuple(key), row):
            taken_.append(Row(place=place))
    return taken_


@statement
async def claimed(tx: Transaction, *columns: Sequence[Any]) -> list[Row]:
    return [
        Row(place=place, **row)
        for place, key in enumerate(zip(*columns, strict=True), 1)
        if (row := tx.get("idempotency", key)) is not None
    ]


@statement
async def complete(tx: Transaction, *columns: Sequence[Any]) -> list[Row]:
    done = []
    for place, (*key, status, body) in enumerate(zip(*columns, strict=True), 1):
        row = tx.get("idempotency", tuple(key))
        if row is not None and row["status"] is None:
            await tx.update("idempotency", tuple(key), status=status, body=body)
            done.append(Row(place=place))
    return done


@outbox
async def append(tx: Transaction, ids: Sequence[Any], types: Sequence[str], facts: Sequence[bytes]) -> list[Row]:
    for one, kind, fact in zip(ids, types, facts, strict=True):
        await tx.insert("outbox", (one,), {"type": kind, "fact": fact})
    return []
