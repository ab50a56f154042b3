"""Accounts: opened, changed, frozen, closed, read."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tallystick.chassis.db import UniqueViolation
from tests.simulation.server.books import named, revise
from tests.simulation.server.engine import Row, Transaction, Values, of_file
from tests.simulation.server.posting import TOTALS, check_limits

statement = of_file("queries")
#: The view `account_state`, and what is due.
_STATE = (
    "id", "tenant", "book", "book_name", "name", "path", "kind", "currency", "normal_side", "floor", "ceiling", "code", "metadata", "closed",
    "frozen", "created_at", "created_sequence", "version", "as_of", *TOTALS[1:], "due_debits", "due_credits",
)  # fmt: skip


@statement
async def insert_account(tx: Transaction, *values: Any) -> list[Row]:
    names = (
        "id", "book", "name", "path", "kind", "currency", "normal_side", "floor", "ceiling", "code", "metadata", "created_at",
    )  # fmt: skip
    row = dict(zip(names, values, strict=True))
    book = tx.get("book", (row["book"],))
    if book is None:
        return []
    tx.server.numbered.append(row["id"])
    row |= fresh(tx, book)
    if not await tx.insert("account", (row["id"],), row):
        return []
    path = {"id": row["id"]}
    if row["path"] is not None and not await tx.insert("path", (row["book"], row["path"]), path):
        raise UniqueViolation("insert_account", "23505", "account_path", "")
    await is_opened(tx, row)
    return [Row(id=row["id"])]


def fresh(tx: Transaction, book: Values) -> Values:
    """What an account begins with, beside what is said of it. Its number is the last one that was drawn."""
    return {
        "number": len(tx.server.numbered),
        "created_sequence": book["sequence"],
        "closed_at": None,
        "frozen_at": None,
        "sequence": 0,
        **dict.fromkeys(TOTALS, 0),
    }


async def is_opened(tx: Transaction, row: Values) -> None:
    """As the foreign key: whoever has locked the whole book is waited for."""
    await tx.lock("opening", (row["book"],), shared=True)
    tx.noted.append((row["book"], "opened", row))


async def _said(tx: Transaction, account: Any, book: int, kind: str, said: Any, **changes: Any) -> None:
    await tx.update("account", (account,), **changes)
    await revise(tx, book)
    tx.noted.append((book, kind, said))


@statement
async def close_account(tx: Transaction, account: Any, book: int, now: datetime) -> list[Row]:
    await tx.lock("account", (account,))
    row = tx.get("account", (account,))
    if row is None or row["book"] != book or row["closed_at"] is not None:
        return []
    if row["debits_pending"] or row["credits_pending"]:
        return []
    await _said(tx, account, book, "closed", (account, True), closed_at=now)
    return [Row(id=account)]


@statement
async def change_account(tx: Transaction, account: Any, book: int, *said: Any) -> list[Row]:
    names = ("name", "metadata", "floor", "ceiling")
    changes = dict(zip(names, said, strict=True))
    await tx.lock("account", (account,))
    row = tx.get("account", (account,))
    if row is None or row["book"] != book:
        return []
    check_limits(row | changes)
    await _said(tx, account, book, "limits", (account, *said[2:], row["floor"], row["ceiling"]), **changes)
    return []


@statement
async def freeze_account(tx: Transaction, account: Any, book: int, since: datetime | None) -> list[Row]:
    await tx.lock("account", (account,))
    row = tx.get("account", (account,))
    if row is None or row["book"] != book or row["closed_at"] is not None:
        return []
    if (row["frozen_at"] is None) != (since is not None):
        return []
    await _said(tx, account, book, "frozen", (account, since is not None), frozen_at=since)
    return [Row(id=account)]


@statement
async def account_at_path(tx: Transaction, tenant: str, book: str, path: str, now: datetime) -> list[Row]:
    found = named(tx, tenant, book)
    at = None if found is None else tx.get("path", (found["id"], path))
    return [] if at is None else _state(tx, tenant, at["id"], now)


@statement
async def account(tx: Transaction, tenant: str, wanted: Any, now: datetime) -> list[Row]:
    return _state(tx, tenant, wanted, now)


def _state(tx: Transaction, tenant: str, wanted: Any, now: datetime) -> list[Row]:
    row = tx.get("account", (wanted,))
    book = None if row is None else tx.get("book", (row["book"],))
    if row is None or book is None or book["tenant"] != tenant:
        return []
    due = [
        hold
        for hold in tx.rows("hold")
        if hold["remaining"] > 0 and hold["expires_at"] is not None and hold["expires_at"] <= now
    ]
    taken_off = {
        side: sum(hold["remaining"] for hold in due if hold[f"{side}_account"] == wanted)
        for side in ("debit", "credit")
    }
    said = {
        **row,
        "tenant": tenant,
        "book_name": book["name"],
        "closed": row["closed_at"] is not None,
        "frozen": row["frozen_at"] is not None,
        "as_of": book["sequence"],
        "due_debits": taken_off["debit"],
        "due_credits": taken_off["credit"],
    }
    return [Row(**{name: said[name] for name in _STATE})]
