"""Approval rules, proposals and decisions about them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from tallystick.chassis.db import UniqueViolation
from tests.simulation.server.books import revise
from tests.simulation.server.engine import Row, Transaction, Values, of_file

statement = of_file("approvals")
_SAID = (
    "id", "book", "tenant", "book_name", "proposer", "content", "plan", "digest", "rules", "status", "reason", "account", "breached_on", "trace", "created_at", "expires_at",
    "decisions",
)  # fmt: skip
_COLUMNS = ("id", "book", "proposer", "content", "plan", "digest", "rules", "trace", "created_at", "expires_at")


@statement
async def set_rules(tx: Transaction, number: int, rules: str | None) -> list[Row]:
    await revise(tx, number, approvals=rules)
    tx.noted.append((number, "rules", rules))
    return []


@statement
async def insert(tx: Transaction, *columns: Sequence[Any]) -> list[Row]:
    for values in zip(*columns, strict=True):
        row = dict(zip(_COLUMNS, values, strict=True)) | {
            "status": "pending",
            "reason": None,
            "account": None,
            "breached_on": [],
        }
        if not await tx.insert("proposal", (row["id"],), row):
            raise UniqueViolation("insert", "23505", "proposal_pkey", "")
    return []


@statement
async def lock(tx: Transaction, proposal: Any) -> list[Row]:
    if tx.get("proposal", (proposal,)) is None:
        return []
    await tx.lock("proposal", (proposal,))
    return [Row(id=proposal)]


@statement
async def get(tx: Transaction, proposal: Any, tenant: str) -> list[Row]:
    row = tx.get("proposal", (proposal,))
    book: Values = {} if row is None else tx.get("book", (row["book"],)) or {}
    if row is None or book["tenant"] != tenant:
        return []
    decided = sorted(
        (one for one in tx.rows("decision") if one["proposal"] == proposal),
        key=lambda one: (one["at"], one["approver"]),
    )
    names = ("approver", "decision", "at", "signature")
    decisions = msgspec.json.encode([{name: one[name] for name in names} for one in decided]).decode()
    said = {**row, "tenant": tenant, "book_name": book["name"], "decisions": decisions}
    return [Row(**{name: said[name] for name in _SAID})]


@statement
async def decide(tx: Transaction, *values: Any) -> list[Row]:
    row = dict(zip(("proposal", "approver", "decision", "at", "signature"), values, strict=True))
    new = await tx.insert("decision", (row["proposal"], row["approver"]), row)
    return [Row(approver=row["approver"])] if new else []


@statement
async def become(  # noqa: PLR0917 - the query's arguments
    tx: Transaction,
    proposal: Any,
    was: str,
    now_is: str,
    reason: str | None,
    account: str | None,
    breached_on: Sequence[Any],
) -> list[Row]:
    await tx.lock("proposal", (proposal,))
    row = tx.get("proposal", (proposal,))
    if row is None or row["status"] != was:
        return []
    await tx.update(
        "proposal", (proposal,), status=now_is, reason=reason, account=account, breached_on=list(breached_on)
    )
    return [Row(id=proposal)]


@statement
async def open_(tx: Transaction, now: datetime, since: datetime, after: Any, limit: int) -> list[Row]:
    found = sorted(
        (
            row
            for row in tx.rows("proposal")
            if (row["status"] == "approved" or (row["status"] == "pending" and row["expires_at"] <= now))
            and (row["expires_at"], row["id"]) > (since, after)
        ),
        key=lambda row: (row["expires_at"], row["id"]),
    )
    return [
        Row(
            id=row["id"],
            tenant=(tx.get("book", (row["book"],)) or {})["tenant"],
            status=row["status"],
            expires_at=row["expires_at"],
        )
        for row in found[:limit]
    ]
