"""Money between books: what is in flight, how it ended, what went through."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from tests.simulation.server.engine import Row, Transaction, Values, of_file

statement = of_file("interbook")


def _transit(tx: Transaction, way: str = "") -> list[Values]:
    return [row for row in tx.rows("account") if (row["path"] or "").startswith(f"transit:{way}")]


@statement
async def in_flight(tx: Transaction, account: UUID, hold: UUID, before: datetime, limit: int) -> list[Row]:
    found = []
    accounts = {row["id"]: row["book"] for row in _transit(tx, "out:")}
    for one in tx.rows("hold"):
        at = one["credit_account"]
        if at not in accounts or one["remaining"] == 0 or one["expires_at"] is not None:
            continue
        made, book = tx.get("transfer", (one["book"], one["id"])), tx.get("book", (accounts[at],))
        if made is not None and book is not None and made["recorded_at"] < before and (at, one["id"]) > (account, hold):
            found.append((at, one["id"], one["book"], book))
    found.sort(key=lambda each: each[:2])
    return [
        Row(tenant=book["tenant"], name=book["name"], book=number, id=own, transit=at)
        for at, own, number, book in found[:limit]
    ]


@statement
async def endings(tx: Transaction, book: int, hold: Any) -> list[Row]:
    drawn = (row for row in tx.rows("transfer") if (row["book"], row["target"]) == (book, hold))
    return [
        Row(kind=row["kind"], code=row["code"], metadata=row["metadata"])
        for row in sorted(drawn, key=lambda row: row["sequence"])
    ]
