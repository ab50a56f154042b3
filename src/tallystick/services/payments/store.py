"""Payments and refunds in PostgreSQL. Rows in, model types out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from tallystick.chassis import outbox
from tallystick.chassis.db import Database, Queries, Row, Transaction
from tallystick.chassis.idempotency import Answer, Claim
from tallystick.chassis.outbox import Fact
from tallystick.kernel.ids import AccountId, PaymentId, RefundId
from tallystick.services.payments.model import Card, Decline, Payment, Refund, Risk, Waiting

queries = Queries.load("tallystick.services.payments")

_encode = msgspec.json.Encoder().encode
_card = msgspec.json.Decoder(Card).decode
_metadata = msgspec.json.Decoder(dict[str, str]).decode


class Saving(msgspec.Struct, frozen=True):
    """A payment to store, with the answer and the fact to be stored if it is."""

    payment: Payment
    answer: Answer | None = None
    fact: Fact | None = None


class Lease(msgspec.Struct, frozen=True):
    """Payments and refunds taken up at `now` belong to the process `worker` until `until`."""

    now: datetime
    until: datetime
    worker: int


class Store:
    async def open(self, database: Database, claim: Claim, opened: Sequence[tuple[Payment, Fact]]) -> list[int]:
        """T1: claims the keys of `claim`'s leaders; `opened` are their payments and facts, in the same order. Returns the places
        (1..n) of those whose keys were free. Raises CommitUnknown besides what a statement raises.
        """
        payments = [payment for payment, _ in opened]
        tenants, clients, routes, keys, digests, fields, resources = claim.columns()
        rows = await database.fetch(
            queries.open_payments,
            tenants, clients, routes, keys, digests, fields, resources,
            [p.amount for p in payments],
            [p.currency for p in payments],
            [p.token for p in payments],
            [p.source for p in payments],
            [p.destination for p in payments],
            [p.clearing for p in payments],
            [p.capture for p in payments],
            [None if p.card is None else _encode(p.card).decode() for p in payments],
            [p.description for p in payments],
            [p.reference for p in payments],
            [_encode(p.metadata).decode() if p.metadata else "{}" for p in payments],
            [p.trace for p in payments],
            [p.created_at for p in payments],
            [p.resume_at for p in payments],
            [p.worker for p in payments],
            *outbox.columns([fact for _, fact in opened]),
        )  # fmt: skip
        return [row["place"] for row in rows]

    async def save(self, at: Database | Transaction, savings: Sequence[Saving]) -> set[int]:
        """Saves payments that nobody changed since they were read, with their answers and facts. Returns the indexes of the saved."""
        payments = [s.payment for s in savings]
        answers = [s.answer for s in savings]
        rows = await at.fetch(
            queries.save_payments,
            [p.id for p in payments],
            [p.version for p in payments],
            [p.status for p in payments],
            [p.captured for p in payments],
            [p.refunded for p in payments],
            [p.refunding for p in payments],
            [p.risk.decision if p.risk else None for p in payments],
            [p.risk.score if p.risk else None for p in payments],
            [" ".join(p.risk.reasons) if p.risk else None for p in payments],
            [p.held for p in payments],
            [p.released for p in payments],
            [p.authorization for p in payments],
            [p.intent for p in payments],
            [p.intent_amount for p in payments],
            [p.decline.code if p.decline else None for p in payments],
            [p.decline.message if p.decline else None for p in payments],
            [p.decline.by if p.decline else None for p in payments],
            [p.disputed for p in payments],
            [p.waiting.route if p.waiting else None for p in payments],
            [p.waiting.key if p.waiting else None for p in payments],
            [p.waiting.client_id if p.waiting else None for p in payments],
            [p.receipt for p in payments],
            [p.updated_at for p in payments],
            [p.expires_at for p in payments],
            [p.resume_at for p in payments],
            [p.worker for p in payments],
            [p.attempts for p in payments],
            [a.entry.tenant if a else None for a in answers],
            [a.entry.client_id if a else None for a in answers],
            [a.entry.route if a else None for a in answers],
            [a.entry.key if a else None for a in answers],
            [a.status if a else None for a in answers],
            [a.body if a else None for a in answers],
            *outbox.columns([s.fact for s in savings]),
        )
        return {row["place"] - 1 for row in rows}

    async def payment(self, database: Database, tenant: str, payment: PaymentId) -> Payment | None:
        return _payment(await database.fetchrow(queries.payment, payment, tenant))

    async def payment_for_update(self, tx: Transaction, tenant: str, payment: PaymentId) -> Payment | None:
        return _payment(await tx.fetchrow(queries.payment_for_update, payment, tenant))

    async def payment_by_id(self, database: Database, payment: PaymentId) -> Payment | None:
        return _payment(await database.fetchrow(queries.payment_by_id, payment))

    async def payments(
        self,
        database: Database,
        tenant: str,
        *,
        after: PaymentId | None,
        status: str | None,
        reference: str | None,
        limit: int,
    ) -> list[Payment]:
        if reference is None:
            rows = await database.fetch(queries.payments, tenant, after, status, limit)
        else:
            rows = await database.fetch(queries.payments_by_reference, tenant, after, status, limit, reference)
        return [_existing_payment(row) for row in rows]

    async def workers(self, database: Database, lease: Lease) -> list[int]:
        """The processes that hold leases on payments or refunds."""
        return [row["worker"] for row in await database.fetch(queries.workers, lease.now, lease.until)]

    async def take_up(self, tx: Transaction, lease: Lease, dead: Sequence[int], limit: int) -> list[Payment]:
        rows = await tx.fetch(queries.take_up_payments, lease.now, lease.until, limit, lease.worker, dead)
        return [_existing_payment(row) for row in rows]

    async def insert_refund(self, tx: Transaction, r: Refund) -> None:
        await tx.execute(
            queries.insert_refund,
            r.id, r.payment, r.tenant, r.client_id, r.amount, r.currency, r.reason, r.by_card,
            r.waiting.route if r.waiting else None, r.waiting.key if r.waiting else None,
            r.waiting.client_id if r.waiting else None, r.receipt, r.trace, r.created_at, r.resume_at, r.worker,
        )  # fmt: skip

    async def save_refund(self, tx: Transaction, r: Refund) -> bool:
        failure = r.failure
        saved = await tx.fetchval(
            queries.save_refund,
            r.id, r.version, r.status, r.reversed, r.restored,
            failure.code if failure else None, failure.message if failure else None, failure.by if failure else None,
            r.waiting.route if r.waiting else None, r.waiting.key if r.waiting else None,
            r.waiting.client_id if r.waiting else None, r.receipt, r.updated_at, r.resume_at, r.worker,
            r.attempts, r.suspended, r.returned,
        )  # fmt: skip
        return saved is not None

    async def settle_refund(self, tx: Transaction, r: Refund) -> None:
        await tx.fetchval(queries.settle_refund, r.payment, r.amount, r.status == "succeeded", r.updated_at)

    async def refund(self, at: Database | Transaction, tenant: str, refund: RefundId) -> Refund | None:
        row = await at.fetchrow(queries.refund, refund, tenant)
        return None if row is None else _refund(row)

    async def restored_payment(self, database: Database, payment: PaymentId) -> Payment | None:
        """The payment, if the amount of a refused refund of it was posted back. Otherwise None."""
        return _payment(await database.fetchrow(queries.restored_payment, payment))

    async def take_up_refunds(self, tx: Transaction, lease: Lease, dead: Sequence[int], limit: int) -> list[Refund]:
        rows = await tx.fetch(queries.take_up_refunds, lease.now, lease.until, limit, lease.worker, dead)
        return [_refund(row) for row in rows]

    async def is_clearing(self, database: Database, account: AccountId) -> bool:
        """Whether the account is stored as one that represents the acquirer."""
        found: bool = await database.fetchval(queries.is_clearing, account)
        return found

    async def insert_clearing(
        self, tx: Transaction, tenant: str, currency: str, account: AccountId, client_id: str
    ) -> None:
        await tx.execute(queries.insert_clearing, tenant, currency, account, client_id)

    async def any_card_client(self, database: Database) -> tuple[str, str] | None:
        """Tenant and client of one that takes card payments, if there is any."""
        row = await database.fetchrow(queries.any_card_client)
        return None if row is None else (row["tenant"], row["client_id"])

    async def disputes_read(self, database: Database, acquirer: str) -> int:
        """The position up to which the acquirer's disputes have been read."""
        return int(await database.fetchval(queries.dispute_cursor, acquirer) or 0)

    async def move_dispute_cursor(self, tx: Transaction, acquirer: str, position: int) -> None:
        await tx.execute(queries.move_dispute_cursor, acquirer, position)

    async def is_worked_on(self, tx: Transaction, payment: PaymentId, now: datetime) -> bool:
        """Whether somebody works on the payment. Its outcome could not be written if the row changed meanwhile. If False, nobody
        can start to until this transaction ends, because it locks the row.
        """
        return bool(await tx.fetchval(queries.is_worked_on, payment, now))

    async def dispute(self, tx: Transaction, dispute: str, payment: PaymentId, now: datetime) -> Payment | None:
        """Marks the payment as disputed. None if this dispute is already known, or there is no such payment."""
        if await tx.fetchval(queries.insert_dispute, dispute, payment, now) is None:
            return None
        return _payment(await tx.fetchrow(queries.mark_disputed, payment, now))


def _payment(row: Row | None) -> Payment | None:
    return None if row is None else _existing_payment(row)


def _existing_payment(row: Row) -> Payment:
    risk = row["risk_decision"]
    return Payment(
        id=row["id"],
        tenant=row["tenant"],
        client_id=row["client_id"],
        status=row["status"],
        amount=row["amount"],
        currency=row["currency"],
        captured=row["captured"],
        refunded=row["refunded"],
        refunding=row["refunding"],
        token=row["token"],
        source=row["source"],
        destination=row["destination"],
        clearing=row["clearing"],
        capture=row["capture"],
        card=None if row["card"] is None else _card(row["card"]),
        description=row["description"],
        reference=row["reference"],
        metadata=_metadata(row["metadata"]),
        risk=None if risk is None else Risk(risk, row["risk_score"], tuple((row["risk_reasons"] or "").split())),
        held=row["held"],
        released=row["released"],
        authorization=row["acquirer_id"],
        intent=row["intent"],
        intent_amount=row["intent_amount"],
        decline=_decline(row["decline_code"], row["decline_text"], row["declined_by"]),
        disputed=row["disputed"],
        waiting=_waiting(row),
        receipt=row["receipt"],
        trace=row["trace"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        expires_at=row["expires_at"],
        resume_at=row["resume_at"],
        worker=row["worker"],
        attempts=row["attempts"],
        version=row["version"],
    )


def _refund(row: Row) -> Refund:
    return Refund(
        id=row["id"],
        payment=row["payment"],
        tenant=row["tenant"],
        client_id=row["client_id"],
        status=row["status"],
        amount=row["amount"],
        currency=row["currency"],
        reason=row["reason"],
        by_card=row["by_card"],
        reversed=row["reversed"],
        restored=row["restored"],
        suspended=row["suspended"],
        returned=row["returned"],
        failure=_decline(row["failure_code"], row["failure_text"], row["failed_by"]),
        waiting=_waiting(row),
        receipt=row["receipt"],
        trace=row["trace"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        resume_at=row["resume_at"],
        worker=row["worker"],
        attempts=row["attempts"],
        version=row["version"],
    )


def _decline(code: Any, message: Any, by: Any) -> Decline | None:
    return None if code is None else Decline(code, message, by)


def _waiting(row: Row) -> Waiting | None:
    route = row["waiting_route"]
    return None if route is None else Waiting(route, row["waiting_key"], row["waiting_client"])
