"""The write path: books, accounts and what is known, then all that a flush stores, with the guards of the schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import msgspec

from tallystick.chassis.db import CheckViolation, Contended, UniqueViolation
from tallystick.services.ledger.model import TransactionRow, Transfer
from tallystick.services.ledger.store.posting import DECIDED, NUMBERS
from tests.simulation.server.chassis import append
from tests.simulation.server.engine import Row, Transaction, Values, of_file

statement = of_file("queries")

_TRANSFER = [field.name for field in msgspec.structs.fields(Transfer)]
_TRANSACTION = [field.name for field in msgspec.structs.fields(TransactionRow)]
#: Kinds that move what is posted.
_POSTED = ("post", "capture", "reverse")
#: An account's totals, as a transfer has them too.
TOTALS = ("version", "debits_pending", "debits_posted", "credits_pending", "credits_posted")


def _book(row: Values) -> Row:
    return Row(
        id=row["id"],
        sequence=row["sequence"],
        recorded_at=row["recorded_at"],
        revision=row["revision"],
        quarantined=row["quarantined_at"] is not None,
        strict=row["backdating"] == "strict",
        sealed_until=row["sealed_until"],
        flush=row["flush"],
        approvals=row["approvals"],
    )


@statement
async def lock_books(tx: Transaction, books: Sequence[int]) -> list[Row]:
    if tx.server.faults.chance("no_lock"):
        raise Contended("the row is locked by others")
    found = []
    for book in sorted(books):
        await tx.lock("book", (book,))
        if (row := tx.get("book", (book,))) is not None:
            found.append(_book(row))
    return found


@statement
async def free_books(tx: Transaction, books: Sequence[int]) -> list[Row]:
    locks = tx.server.locks
    return [
        Row(id=book)
        for book in sorted(books)
        if tx.get("book", (book,)) is not None and locks.get(("book", (book,)), tx) is tx
    ]


@statement
async def heads(tx: Transaction, wanted: Sequence[int]) -> list[Row]:
    return [_book(row) for book in wanted if (row := tx.get("book", (book,))) is not None]


@statement
async def known(tx: Transaction, books_: Sequence[int], ids: Sequence[Any]) -> list[Row]:
    found = []
    for key in zip(books_, ids, strict=True):
        transfer, refusal = tx.get("transfer", key), tx.get("rejection", key)
        if transfer is None and refusal is None:
            continue
        hold = tx.get("hold", key) if transfer is not None and transfer["kind"] == "hold" else None
        drawn = tx.get("reversal", key) if transfer is not None and transfer["kind"] in {"post", "capture"} else None
        no = refusal or {}
        found.append(
            Row(
                **(transfer or dict.fromkeys(_TRANSFER)),
                digest=no.get("digest"),
                reason=no.get("reason"),
                available=no.get("available"),
                required=no.get("required"),
                refused_currency=no.get("currency"),
                refused_crossing=no.get("crossing"),
                refused_account=no.get("account"),
                refused_breached_on=no.get("breached_on"),
                refused=no.get("id"),
                in_book=key[0],
                hold_amount=None if hold is None else hold["amount"],
                captured=None if hold is None else hold["captured"],
                remaining=None if hold is None else hold["remaining"],
                state=None if hold is None else hold["state"],
                hold_expires_at=None if hold is None else hold["expires_at"],
                reversed=None if drawn is None else drawn["reversed"],
            )
        )
    return found


def _account(row: Values) -> Values:
    return {
        "id": row["id"],
        "book": row["book"],
        "currency": row["currency"],
        "debit_normal": row["normal_side"] == "debit",
        "floor": row["floor"],
        "closed": row["closed_at"] is not None,
        **{name: row[name] for name in TOTALS},
        "ceiling": row["ceiling"],
        "frozen": row["frozen_at"] is not None,
        "transit": (row["path"] or "").startswith("transit:"),
        "path": row["path"],
        "number": row["number"],
    }


@statement
async def accounts_for_posting(tx: Transaction, ids: Sequence[Any]) -> list[Row]:
    return [Row(**_account(row)) for account in ids if (row := tx.get("account", (account,))) is not None]


@statement
async def accounts_at_paths_for_posting(tx: Transaction, books_: Sequence[int], paths: Sequence[str]) -> list[Row]:
    found = []
    for key in zip(books_, paths, strict=True):
        at = tx.get("path", key)
        if at is not None:
            row = _account(tx.get("account", (at["id"],)) or {})
            # The query gives the path twice, the second time under the same name.
            found.append(Row.of([("path", key[1]), *row.items()]))
    return found


def _failed(constraint: str) -> CheckViolation:
    return CheckViolation("save", "23514", constraint, "")


@statement
async def save(tx: Transaction, *args: Any) -> list[Row]:
    """As the `.sql`, part by part: the books as they were known, ids and keys that nobody has, then all the rest."""
    if not any(was is None for was in args[1]) and tx.server.faults.chance("no_lock"):
        raise Contended("the row is locked by others")
    before = {}
    # What it looks up it sees as it was when it began, before it waited for a lock.
    refusals, transfers = dict(tx.tables["rejection"]), dict(tx.tables["transfer"])
    for number, was, revision, last, sequence, instant, flush in zip(*args[:7], strict=True):
        await tx.lock("book", (number,))
        row = tx.get("book", (number,)) or {}
        if was is not None and (row["sequence"], row["revision"], row["flush"]) != (was, revision, last):
            raise _failed("book_moved")
        before[number] = row["sequence"]
        await tx.update(
            "book",
            (number,),
            sequence=sequence,
            recorded_at=instant,
            flush=flush,
        )
    if any(key in transfers for key in zip(*args[8:10], strict=True)):
        raise _failed("id_taken")
    for *key, digest, fields, resource, status, body in sorted(zip(*args[19:28], strict=True), key=lambda one: one[:4]):
        row = {"digest": digest, "fields": fields, "resource": resource, "status": status, "body": body}
        if not await tx.insert("idempotency", tuple(key), row):
            raise _failed("key_taken")
    names = ("book", "id", "digest", "reason", "available", "required", "currency", "crossing", "account")
    for *values, days in zip(*args[8:18], strict=True):
        row = dict(zip(names, values, strict=True)) | {"after": before[values[0]]}
        row["breached_on"] = None if days is None else [date.fromisoformat(day) for day in days.strip("{}").split(",")]
        if not await tx.insert("rejection", (row["book"], row["id"]), row):
            raise UniqueViolation("save", "23505", "rejection_pkey", "")
    posted = _transfers(tx, args[7])
    await _insert(tx, posted, refusals)
    await _post(tx, posted)
    tx.server.faults.reached["flushed_together"] += len({transfer["book"] for transfer in posted}) > 1
    await append(tx, *args[28:31])
    return [Row(ours=True)]


def refused_before(refusals: Mapping[Any, Values], key: tuple[int, Any]) -> bool:
    """Whether a transfer has an id that answers for a refusal."""
    return key in refusals


def _transfers(tx: Transaction, rows: Sequence[Any]) -> list[Values]:
    """With the accounts of their numbers."""
    found = []
    for values in rows:
        row = dict(zip(DECIDED, values, strict=True))
        row |= {account: tx.server.account(row[number]) for account, number in NUMBERS.items()}
        found.append({name: row[name] for name in _TRANSFER})
    return found


async def _insert(tx: Transaction, rows: Sequence[Values], refusals: Mapping[Any, Values]) -> None:
    """One after another: whether it was refused before is asked of each as soon as it is there."""
    for transfer in rows:
        book, number = transfer["book"], transfer["sequence"]
        if not await tx.insert("number", (book, number), {"id": transfer["id"]}):
            raise UniqueViolation("save", "23505", "transfer_sequence", "")
        if not await tx.insert("transfer", (book, transfer["id"]), transfer):
            raise UniqueViolation("save", "23505", "transfer_pkey", "")
        if refused_before(refusals, (book, transfer["id"])):
            raise _failed("id_taken")


async def _post(tx: Transaction, rows: Sequence[Values]) -> None:
    """Totals move by sums made here, running totals come from the model, and both guards look at the whole write."""
    firsts: dict[int, int] = {}
    touched: dict[Any, tuple[Values, str]] = {}
    for transfer in rows:
        book, number = transfer["book"], transfer["sequence"]
        firsts.setdefault(book, number)
        check_sealed(tx.get("book", (book,)) or {}, transfer)
        amount, kind = transfer["amount"], transfer["kind"]
        pending = amount if kind == "hold" else -transfer["released"]
        posted = amount if kind in _POSTED else 0
        for side, name in (("debit_account", "debits"), ("credit_account", "credits")):
            key = (transfer[side],)
            await tx.lock("account", key)
            row = tx.get("account", key)
            if row is None:
                raise _failed("transfer_running_totals")
            changes = {
                "version": row["version"] + 1,
                "sequence": number,
                f"{name}_pending": row[f"{name}_pending"] + pending,
                f"{name}_posted": row[f"{name}_posted"] + posted,
            }
            await tx.update("account", key, **changes)
            touched[transfer[side]] = (transfer, side[:2].replace("de", "dr"))
    for account, (transfer, side) in touched.items():
        row = tx.get("account", (account,)) or {}
        if any(row[name] != transfer[f"{side}_{name}"] for name in TOTALS):
            raise _failed("transfer_running_totals")
        check_limits(row)
    for book, first in firsts.items():
        if first > 1 and tx.get("number", (book, first - 1)) is None:
            raise _failed("transfer_sequence_gap")


def check_sealed(book: Values, transfer: Values) -> None:
    """The trigger's look at periods that are sealed."""
    sealed = book["sealed_until"]
    if sealed is not None and (transfer["effective_at"] or transfer["recorded_at"]) <= sealed:
        raise _failed("transfer_sealed")


def check_limits(row: Values) -> None:
    """The CHECKs of an account: of its floor, what is there and not held; of its ceiling, what is there and what holds may bring in."""
    dp, d, cp, c = (row[name] for name in TOTALS[1:])
    debit = row["normal_side"] == "debit"
    if row["floor"] is not None and (d - c - cp if debit else c - d - dp) < row["floor"]:
        raise _failed("account_floor")
    if row["ceiling"] is not None and (d + dp - c if debit else c + cp - d) > row["ceiling"]:
        raise _failed("account_ceiling")


@statement
async def insert_holds(tx: Transaction, *columns: Sequence[Any]) -> list[Row]:
    names = ("book", "id", "debit_account", "credit_account", "amount", "expires_at")
    for values in zip(*columns, strict=True):
        row = dict(zip(names, values, strict=True))
        row |= {"captured": 0, "remaining": row["amount"], "state": "held"}
        if not await tx.insert("hold", (row["book"], row["id"]), row):
            raise UniqueViolation("insert_holds", "23505", "hold_pkey", "")
    return []


@statement
async def draw_holds(tx: Transaction, *columns: Sequence[Any]) -> list[Row]:
    ends = {"capture": "captured", "void": "voided", "expire": "expired"}
    for book, target, kind, amount, released, expires_at in zip(*columns, strict=True):
        await tx.lock("hold", (book, target))
        row = tx.get("hold", (book, target))
        if row is None:
            continue
        left = row["remaining"] - released
        captured = row["captured"] + (amount if kind == "capture" else 0)
        whole = row["amount"] + (amount if kind == "increase" else 0)
        if left < 0 or captured > whole - left:
            raise CheckViolation("draw_holds", "23514", "hold_not_overdrawn", "")
        state = "held" if left else ends[kind]
        await tx.update(
            "hold",
            (book, target),
            amount=whole,
            captured=captured,
            remaining=left,
            state=state,
            expires_at=expires_at or row["expires_at"],
        )
    return []


@statement
async def insert_transactions(tx: Transaction, *columns: Sequence[Any]) -> list[Row]:
    for values in zip(*columns, strict=True):
        row = dict(zip(_TRANSACTION, values, strict=True))
        if not await tx.insert("transaction", (row["book"], row["id"]), row):
            raise UniqueViolation("insert_transactions", "23505", "transaction_pkey", "")
        undone = row["reverses"]
        if undone is not None and not await tx.insert("reversed", (row["book"], undone), row):
            raise UniqueViolation("insert_transactions", "23505", "transaction_reverses", "")
    return []


@statement
async def transactions_of(tx: Transaction, books_: Sequence[int], ids: Sequence[Any]) -> list[Row]:
    keys = zip(books_, ids, strict=True)
    return [Row(**row) for key in keys if (row := tx.get("transaction", key)) is not None]


@statement
async def draw_reversals(tx: Transaction, *columns: Sequence[Any]) -> list[Row]:
    for book, target, whole, amount in zip(*columns, strict=True):
        await tx.lock("reversal", (book, target))
        before = tx.get("reversal", (book, target))
        undone = amount + (0 if before is None else before["reversed"])
        if undone > whole:
            raise CheckViolation("draw_reversals", "23514", "reversal_not_exceeded", "")
        row = {"book": book, "id": target, "amount": whole, "reversed": undone}
        tx.writes["reversal", (book, target)] = row
    return []


def _due(tx: Transaction, now: datetime, limit: int, accounts: Sequence[Any] | None) -> list[Row]:
    books = {book["id"]: book for book in tx.rows("book")}
    found = [
        hold
        for hold in tx.rows("hold")
        if hold["remaining"] > 0
        and hold["expires_at"] is not None
        and hold["expires_at"] <= now
        and (
            books[hold["book"]]["quarantined_at"] is None
            if accounts is None
            else hold["debit_account"] in accounts or hold["credit_account"] in accounts
        )
    ]
    found.sort(key=lambda hold: (hold["expires_at"], hold["id"]))
    return [Row(tenant=books[one["book"]]["tenant"], book=one["book"], id=one["id"]) for one in found[:limit]]


@statement
async def due_holds(tx: Transaction, now: datetime, limit: int) -> list[Row]:
    return _due(tx, now, limit, None)


@statement
async def due_holds_of(tx: Transaction, now: datetime, limit: int, accounts: Sequence[Any]) -> list[Row]:
    return _due(tx, now, limit, accounts)
