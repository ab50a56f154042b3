"""Compares services on money: payments and refunds with the ledger, and the ledger with its facts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from tallystick.contracts.ledger.messages import PAYMENT_CODE, canonical_line
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.words import counted
from tallystick.local.verify.source import Source
from tallystick.services.payments.model import Role, derived

PAYMENTS = (
    "Every payment agrees with the ledger: settled money moved once, held money is held, other payments moved nothing, and nobody else "
    "captured, voided or reversed a payment's transfers."
)
REFUNDS = "Every refund that succeeded took its amount back in the ledger, once; no other refund did."
FACTS = "Every transfer is as its fact told it: the fact's hash is that of the transfers in the book, its time that of the first of them."

SHOWN = 20

_PAYMENT = "SELECT id, tenant, status, amount, currency, captured, source, destination, clearing, held, capture, intent FROM payment"


async def payments(source: Source) -> tuple[list[str], str]:
    """Payments are read before the ledger. A payment that seems to be behind the ledger is read again: it may have advanced meanwhile."""
    faults: list[str] = []
    seen = 0
    async for rows in source.pages("payments", f"{_PAYMENT} ORDER BY id"):
        found = await _transfers(source, rows, (Role.HOLD, Role.SETTLE, Role.RELEASE))
        if suspect := [row["id"] for row in rows if any(_payment_faults(row, found))]:
            now = await (await source.live("payments")).fetch(
                f"{_PAYMENT} WHERE id = ANY($1::uuid[]) ORDER BY id", suspect
            )
            faults += [fault for row in now for fault in _payment_faults(row, found)]
        faults += await _foreign(source, [row["id"] for row in rows], found)
        seen += len(rows)
    return faults[:SHOWN], counted(seen, "payment")


def _payment_faults(row: Any, found: dict[UUID, Any]) -> Iterable[str]:
    name = ids.payments.text(row["id"])
    settle = found.get(derived(row["id"], Role.SETTLE))
    hold = found.get(derived(row["id"], Role.HOLD))
    release = found.get(derived(row["id"], Role.RELEASE))
    if row["status"] == "settled":
        payer = row["source"] or row["clearing"]
        if settle is None:
            yield f"{name} is settled, but the ledger has no transfer of it"
        elif (settle["amount"], settle["currency"], settle["debit_account"], settle["credit_account"], settle["tenant"]) != (
            row["captured"], row["currency"], payer, row["destination"], row["tenant"],
        ):  # fmt: skip
            yield f"{name}: what the ledger moved is not what was captured"
    elif settle is not None and not _under_way(row):
        yield f"{name} is {row['status']}, but the ledger moved money for it"
    elif settle is not None and settle["target"] != (hold["id"] if row["source"] is None and hold else None):
        yield f"{name}: another transfer has the id of its settlement"
    if row["status"] in ("declined", "canceled", "expired", "failed") and hold is not None and release is None:
        yield f"{name} is {row['status']}, but its money is still held"
    if row["held"] and hold is None:
        yield f"{name} says that money is held, but the ledger has no hold of it"
    if row["status"] == "authorized" and hold is not None and hold["state"] != "held" and not (settle or release):
        yield f"{name} is authorized, but its money is no longer held: the hold is {hold['state']}"


async def _foreign(source: Source, payments: list[UUID], found: dict[UUID, Any]) -> Iterable[str]:
    """Captures, voids and reversals of these payments' transfers by somebody else. `found`: the transfers that are the payments' own."""
    made = [derived(payment, role) for payment in payments for role in (Role.HOLD, Role.SETTLE)]
    drawn = await source.rows(
        "ledger",
        "SELECT d.id, d.kind, d.target, d.code FROM unnest($1::integer[], $2::uuid[]) AS t (book, id) "
        "JOIN transfer AS d ON d.book = t.book AND d.target = t.id",
        [found[each]["book"] for each in made if each in found],
        [each for each in made if each in found],
    )
    # Transfers from before payments had a code are recognised by their ids.
    others = [row for row in drawn if row["code"] != PAYMENT_CODE and row["id"] not in found]
    if not others:
        return []
    refunds = await source.rows("payments", "SELECT id FROM refund WHERE payment = ANY($1::uuid[])", payments)
    own = {derived(row["id"], Role.REVERSE) for row in refunds}
    return [
        f"the {row['kind']} {ids.transfers.text(row['id'])} of a payment's transfer {ids.transfers.text(row['target'])} is not the payment's"
        for row in others
        if row["id"] not in own
    ]


def _under_way(row: Any) -> bool:
    """Whether the money may have moved before the payment says so: the ledger comes first."""
    if row["status"] == "authorized":
        return bool(row["intent"] == "capture" or row["capture"] == "automatic")
    return bool(row["status"] in ("received", "captured"))


async def refunds(source: Source) -> tuple[list[str], str]:
    faults: list[str] = []
    seen = 0
    statement = (
        "SELECT r.id, r.status, r.amount, r.currency, r.payment, p.destination, coalesce(p.source, p.clearing) AS payer "
        "FROM refund AS r JOIN payment AS p ON p.id = r.payment ORDER BY r.id"
    )
    async for rows in source.pages("payments", statement):
        found = await _transfers(source, rows, (Role.REVERSE, Role.RETURN, Role.RESTORE, Role.SUSPEND))
        for row in rows:
            name = ids.refunds.text(row["id"])
            reverse, return_, *back = (
                found.get(derived(row["id"], role)) for role in (Role.REVERSE, Role.RETURN, Role.RESTORE, Role.SUSPEND)
            )
            taken = [one for one in (reverse, return_) if one is not None]
            restored = sum(one is not None for one in back)
            if row["status"] == "succeeded" and (
                restored or [_as_taken(one) for one in taken] != [_to_take(row, return_)]
            ):
                faults.append(f"{name} succeeded, but the ledger has no matching reversal")
            if row["status"] == "failed" and restored != len(taken):
                faults.append(f"{name} failed, but its money was reversed and not restored exactly once")
        seen += len(rows)
    return faults[:SHOWN], counted(seen, "refund")


def _as_taken(transfer: Any) -> tuple[Any, ...]:
    return tuple(transfer[each] for each in ("amount", "currency", "target", "debit_account", "credit_account"))


def _to_take(row: Any, return_: Any) -> tuple[Any, ...]:
    """What a refund must take: by a reversal of the settlement or, if that was reversed before and restored, by a transfer of its own."""
    target = None if return_ is not None else derived(row["payment"], Role.SETTLE)
    return (row["amount"], row["currency"], target, row["destination"], row["payer"])


async def _transfers(source: Source, rows: Sequence[Any], roles: Sequence[Role]) -> dict[UUID, Any]:
    """The ledger's transfers of these payments or refunds, in the book of the destination account. Ids are unique within a book only: a book
    restored from an export, or a client that chose such an id, has the same one in another book.
    """
    wanted = [(row["destination"], derived(row["id"], role)) for row in rows for role in roles]
    transfers = await source.rows(
        "ledger",
        "SELECT t.book, t.id, t.kind, t.target, t.debit_account, t.credit_account, t.amount, t.currency, b.tenant, h.state "
        "FROM unnest($1::uuid[], $2::uuid[]) AS w (account, id) JOIN account AS a ON a.id = w.account "
        "JOIN transfer AS t ON t.book = a.book AND t.id = w.id JOIN book AS b ON b.id = a.book "
        "LEFT JOIN hold AS h ON h.book = t.book AND h.id = t.id",
        [account for account, _ in wanted],
        [own for _, own in wanted],
    )
    return {row["id"]: row for row in transfers}


async def facts(source: Source, ledger: str = "ledger") -> tuple[list[str], str]:
    """Walk through the transfers of each book in order, and compare them with the facts that told them."""
    faults: list[str] = []
    told: dict[tuple[int, int], tuple[int, str, str]] = {}
    async for rows in source.pages(ledger, "SELECT fact FROM outbox WHERE type = 'ledger.transfers.posted'"):
        for row in rows:
            fact = msgspec.json.decode(row["fact"])
            data = fact["data"]
            told[data["book"], data["first"]] = (data["last"], data["sha256"], fact["at"])
    seen = 0
    run: list[str] = []
    ends: tuple[int, int, str] | None = None
    statement = (
        "SELECT book, sequence, id, kind, target, debit_account, credit_account, amount, released, currency, "
        "effective_at, recorded_at FROM transfer ORDER BY book, sequence"
    )
    first_told: dict[int, int] = {}
    for book, first in told:
        first_told[book] = min(first, first_told.get(book, first))
    async for rows in source.pages(ledger, statement):
        for row in rows:
            seen += 1
            book, sequence = row["book"], row["sequence"]
            if sequence < first_told.get(book, 2**63):
                if told and book not in first_told:
                    faults.append(f"book {book}, transfer {sequence}: no fact tells of it")
                continue  # told longer ago than facts are kept
            if ends is None:
                found = told.get((book, sequence))
                if found is None:
                    faults.append(f"book {book}, transfer {sequence}: no fact tells of it")
                    continue
                last, digest, at = found
                ends, run = (book, last, digest), []
                # The hash covers no times. Those of a transaction follow its first, and a book's never decrease.
                if (now := rfc3339(row["recorded_at"])) != at:
                    faults.append(f"book {book}, transfer {sequence}: its fact says {at}, but the book {now}")
            run.append(_line(row))
            if (book, sequence) == ends[:2]:
                if hashlib.sha256("".join(run).encode()).hexdigest() != ends[2]:
                    faults.append(f"book {book}: the transfers up to {sequence} differ from their fact")
                ends = None
        if len(faults) > SHOWN:
            break
    if ends is not None:
        faults.append(f"book {ends[0]}: a fact tells of transfers up to {ends[1]}, but some of them are missing")
    return faults[:SHOWN], f"{counted(seen, 'transfer')}, {counted(len(told), 'fact')}"


def _line(row: Any) -> str:
    return canonical_line(
        row["sequence"],
        row["id"].hex,
        row["kind"],
        _hex(row["target"]),
        _hex(row["debit_account"]),
        _hex(row["credit_account"]),
        row["amount"],
        row["released"],
        row["currency"],
        "" if row["effective_at"] is None else rfc3339(row["effective_at"]),
    )


def _hex(found: UUID | None) -> str:
    """Also for an account that is missing: the hash then differs from the one told."""
    return "" if found is None else found.hex
