"""Books, their settings and their quarantine."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from tallystick.services.ledger.model import MICROSECOND
from tests.simulation.server.engine import Row, Transaction, Values, of_file

statement = of_file("books")
of_check = of_file("check")
_SETTINGS = (
    "id", "tenant", "name", "description", "backdating", "sealed_until", "quarantined_at", "quarantine_reason", "shard", "sequence", "revision",
    "created_at",
)  # fmt: skip


async def revise(tx: Transaction, book: int, **changes: Any) -> None:
    """As the triggers: whatever else the rules read of a book moves its revision."""
    await tx.lock("book", (book,))
    await tx.update("book", (book,), **changes, revision=(tx.get("book", (book,)) or {})["revision"] + 1)


def named(tx: Transaction, tenant: str, name: str) -> Values | None:
    return next((book for book in tx.rows("book") if (book["tenant"], book["name"]) == (tenant, name)), None)


async def _opened(tx: Transaction, tenant: str, name: str, now: datetime, **settings: Any) -> int | None:
    """The number of the new book; None where there is one. A number that is not used is gone."""
    await tx.lock("tenant", (tenant, name))
    tx.server.books += 1
    number = tx.server.books
    if named(tx, tenant, name) is not None:
        return None
    row = {
        "id": number,
        "tenant": tenant,
        "name": name,
        "description": None,
        "backdating": "strict",
        "shard": "default",
        "sequence": 0,
        "recorded_at": now - MICROSECOND,
        "created_at": now,
        "revision": 0,
        "flush": 0,
        "sealed_until": None,
        "quarantined_at": None,
        "quarantine_reason": None,
        "approvals": None,
    }
    await tx.insert("book", (number,), row | settings)
    return number


@statement
async def open_main(tx: Transaction, tenant: str, now: datetime) -> list[Row]:
    new = await _opened(tx, tenant, "main", now)
    if new is not None:
        return [Row(id=new)]
    there = (named(tx, tenant, "main") or {})["id"]
    await tx.update("book", (there,))
    return [Row(id=there)]


@statement
async def insert_book(  # noqa: PLR0917 - the query's arguments
    tx: Transaction, tenant: str, name: str, description: str | None, backdating: str, shard: str, now: datetime
) -> list[Row]:
    new = await _opened(tx, tenant, name, now, description=description, backdating=backdating, shard=shard)
    return [] if new is None else [Row(id=new)]


@statement
async def book_named(tx: Transaction, tenant: str, name: str) -> list[Row]:
    book = named(tx, tenant, name)
    return [] if book is None else [Row(id=book["id"], sequence=book["sequence"])]


@statement
async def book(tx: Transaction, tenant: str, name: str) -> list[Row]:
    found = named(tx, tenant, name)
    return [] if found is None else [Row(**{name: found[name] for name in _SETTINGS})]


@statement
async def lock_whole_book(tx: Transaction, number: int) -> list[Row]:
    await tx.lock("book", (number,))
    await tx.lock("opening", (number,))
    return [] if tx.get("book", (number,)) is None else [Row(id=number)]


@statement
async def chart(tx: Transaction, number: int, version: int | None) -> list[Row]:
    found = [row for row in tx.rows("chart") if row["book"] == number and version in {None, row["version"]}]
    last = max(found, key=lambda row: row["version"], default=None)
    return [] if last is None else [Row(**{name: last[name] for name in ("version", "mode", "rules", "created_at")})]


@statement
async def insert_chart(  # noqa: PLR0917 - the query's arguments
    tx: Transaction, number: int, version: int, mode: str, rules: str, now: datetime
) -> list[Row]:
    row = {"book": number, "version": version, "mode": mode, "rules": rules, "created_at": now}
    await tx.insert("chart", (number, version), row)
    await revise(tx, number)
    tx.noted.append((number, "chart", row))
    return []


_CHARTED = ("id", "path", "kind", "normal_side", "currency", "floor", "ceiling")


def _accounts(tx: Transaction, number: int) -> list[Values]:
    return [row for row in tx.rows("account") if row["book"] == number]


@statement
async def charted(tx: Transaction, number: int, after: UUID, limit: int) -> list[Row]:
    found = [row for row in _accounts(tx, number) if row["id"] > after and row["closed_at"] is None]
    found.sort(key=lambda row: row["id"])
    return [Row(**{name: row[name] for name in _CHARTED}) for row in found[:limit]]


@statement
async def extent_of_accounts(tx: Transaction, number: int) -> list[Row]:
    found = _accounts(tx, number)
    return [Row(count=len(found), coalesce=max((row["number"] for row in found), default=0))]


@statement
async def charted_after(tx: Transaction, number: int, last: int, limit: int) -> list[Row]:
    found = sorted(
        (row for row in _accounts(tx, number) if row["number"] > last),
        key=lambda row: row["number"],
    )
    return [
        Row.of([*((name, row[name]) for name in _CHARTED), ("?column?", row["closed_at"] is not None)])
        for row in found[:limit]
    ]


@statement
async def count_accounts(tx: Transaction, number: int) -> list[Row]:
    return [Row(count=len(_accounts(tx, number)))]


@statement
async def set_book(tx: Transaction, number: int, description: str | None, backdating: str) -> list[Row]:
    await revise(tx, number, description=description, backdating=backdating)
    tx.noted.append((number, "backdating", backdating))
    return []


@statement
async def seal_book(tx: Transaction, number: int, until: datetime) -> list[Row]:
    await tx.lock("book", (number,))
    sealed = (tx.get("book", (number,)) or {})["sealed_until"]
    if sealed is not None and sealed >= until:
        return []
    await revise(tx, number, sealed_until=until)
    tx.noted.append((number, "sealed", until))
    return [Row(id=number)]


# ---- quarantine -----------------------------------------------------------------------------------------------------


@of_check
async def books(tx: Transaction, quarantined: bool | None, after: int, limit: int) -> list[Row]:
    found = sorted(
        (
            row
            for row in tx.rows("book")
            if row["id"] > after and quarantined in {None, row["quarantined_at"] is not None}
        ),
        key=lambda row: row["id"],
    )
    return [_checked(tx, row) for row in found[:limit]]


def _checked(tx: Transaction, row: Values) -> Row:
    return Row(
        id=row["id"],
        tenant=row["tenant"],
        name=row["name"],
        sequence=row["sequence"],
        quarantined=row["quarantined_at"] is not None,
        accounts=sum(one["book"] == row["id"] for one in tx.rows("account")),
        holds=sum(one["book"] == row["id"] for one in tx.rows("hold")),
    )


@of_check
async def quarantine(tx: Transaction, number: int, reason: str, now: datetime) -> list[Row]:
    await tx.lock("book", (number,))
    row = tx.get("book", (number,))
    if row is None or row["quarantined_at"] is not None:
        return []
    await revise(tx, number, quarantined_at=now, quarantine_reason=reason[:500])
    tx.noted.append((number, "quarantined", True))
    kept = {name: row[name] for name in ("id", "tenant", "name", "sequence")}
    return [Row(**kept, quarantined=True, accounts=0, holds=0)]


@of_check
async def release(tx: Transaction, number: int) -> list[Row]:
    await tx.lock("book", (number,))
    row = tx.get("book", (number,))
    if row is None or row["quarantined_at"] is None:
        return []
    await revise(tx, number, quarantined_at=None, quarantine_reason=None)
    tx.noted.append((number, "quarantined", False))
    return [Row(id=number)]


@statement
async def categories(_tx: Transaction, _book: int) -> list[Row]:
    """Nobody sets one."""
    return []
