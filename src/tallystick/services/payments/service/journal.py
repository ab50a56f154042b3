"""What payments stores: intent before effect, effect before answer. Waiting requests are stored together.

T1 (`open`): the idempotency claim, the payment as `received`, the fact. T2 (`close`): the payment at rest, the answer to the
waiting request, the fact. Each is a single statement for all payments of a batch, and its own transaction: one round trip,
one commit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from tallystick.chassis import idempotency
from tallystick.chassis.batching import WORK_PACE, Batcher
from tallystick.chassis.db import Database, Transaction
from tallystick.chassis.idempotency import Answer, Claim, Entry, Outcome
from tallystick.chassis.outbox import Fact, Outbox
from tallystick.contracts.payments import messages as wire
from tallystick.contracts.payments.messages import DisputeFact, PaymentFact, RefundFact, RefundStatus, Status
from tallystick.kernel import ids
from tallystick.kernel.ids import TransferId
from tallystick.kernel.money import MoneyWire
from tallystick.kernel.problem import Problem
from tallystick.services.payments import model
from tallystick.services.payments.model import Payment, Refund, Waiting
from tallystick.services.payments.store import Saving, Store

#: New payments are admitted in groups at least this many seconds apart; after a quiet time the first is admitted at once. A group
#: stays together on its way: asking risk and the ledger and writing the outcome cost about the same for forty payments as for ten.
GROUP_PACE: Final = 0.03

#: Turns a payment or a refund into the body of its answer.
Render = Callable[[Payment], bytes]
RenderRefund = Callable[[Refund], bytes]

CREATED = 201


class Opening(msgspec.Struct, frozen=True):
    entry: Entry
    payment: Payment


class Journal:
    def __init__(
        self, *, database: Database, store: Store, outbox: Outbox, render: Render, render_refund: RenderRefund
    ) -> None:
        self._database = database
        self._store = store
        self._outbox = outbox
        self._render = render
        self._render_refund = render_refund
        self._open: Batcher[Opening, Outcome] = Batcher(
            self._flush_open, max_batch=128, pace=GROUP_PACE, name="payments.open"
        )
        self._close: Batcher[Saving, bool] = Batcher(
            self._flush_close, max_batch=128, pace=WORK_PACE, name="payments.close"
        )

    async def open(self, entry: Entry, payment: Payment) -> Outcome:
        """T1. The payment is stored only if the outcome is `Fresh`."""
        return await self._open.submit(Opening(entry, payment))

    async def close(self, payment: Payment, *, resting: bool) -> tuple[Payment, bytes] | None:
        """T2. Returns the payment as stored and its representation, or None when somebody else changed it meanwhile. Unless
        `resting`, only the payment is stored: no answer and no fact.
        """
        waiting = payment.waiting
        answer, fact, stored = None, None, payment
        if resting:
            fact = payment_fact(payment)
            stored = msgspec.structs.replace(payment, receipt=fact.id, waiting=None)
        after = msgspec.structs.replace(stored, version=stored.version + 1)
        body = self._render(after)
        if resting and waiting is not None:
            answer = _answer(payment.tenant, waiting, CREATED if waiting.route == CREATE_ROUTE else 200, body)
        saved = await self._close.submit(Saving(stored, answer, fact))
        return (after, body) if saved else None

    async def _flush_open(self, openings: list[Opening]) -> list[Outcome | Exception]:
        claim = Claim([o.entry for o in openings], [o.payment.id for o in openings])
        opened = [(p, payment_fact(p, p.receipt)) for p in (openings[index].payment for index in claim.leaders)]
        places = await self._store.open(self._database, claim, opened)
        try:
            return list(await claim.outcomes(places, self._database))
        except Problem as problem:
            # The keys that were claimed are stored with their payments, even if looking up the others' holders failed.
            fresh = {claim.leaders[place - 1] for place in places}
            return [idempotency.Fresh() if index in fresh else problem for index in range(len(openings))]

    async def _flush_close(self, savings: list[Saving]) -> list[bool | Exception]:
        saved = await self._store.save(self._database, savings)
        return [index in saved for index in range(len(savings))]

    async def intend(self, tx: Transaction, payment: Payment) -> Payment:
        """Stores a payment's new intent. The transaction holds the lock of its row."""
        await self._store.save(tx, [Saving(payment)])
        return msgspec.structs.replace(payment, version=payment.version + 1)

    async def tell(self, tx: Transaction, fact: Fact) -> None:
        await self._outbox.append(tx, [fact])

    async def close_refund(self, refund: Refund, *, resting: bool) -> tuple[Refund, bytes] | None:
        """T2 of a refund: the refund, its effect on the payment, the answer to the waiting request, the fact. Returns as `close`."""
        waiting = refund.waiting
        fact = refund_fact(refund) if resting else None
        if fact is not None:
            refund = msgspec.structs.replace(refund, receipt=fact.id)
        stored = msgspec.structs.replace(refund, waiting=None) if resting else refund
        after = msgspec.structs.replace(stored, version=stored.version + 1)
        body = self._render_refund(after)
        async with self._database.transaction() as tx:
            if not await self._store.save_refund(tx, stored):
                return None
            if fact is not None:
                await self._store.settle_refund(tx, stored)
                await self._outbox.append(tx, [fact])
                if waiting is not None:
                    await idempotency.complete(tx, [_answer(refund.tenant, waiting, CREATED, body)])
        return after, body


#: The idempotency route of a new payment, whose answer is 201.
CREATE_ROUTE = "POST /v1/payments"


def _answer(tenant: str, waiting: Waiting, status: int, body: bytes) -> Answer:
    return Answer(Entry(tenant, waiting.client_id, waiting.route, waiting.key, None), status, body)


#: The fact type for a payment that was created or came to rest. `captured` is missing because no payment rests there.
_PAYMENT: Final[dict[Status, str]] = {
    "received": "payments.payment.received",
    "authorized": "payments.payment.authorized",
    "settled": "payments.payment.settled",
    "declined": "payments.payment.declined",
    "canceled": "payments.payment.canceled",
    "failed": "payments.payment.failed",
    "expired": "payments.payment.expired",
}
_REFUND: Final[dict[RefundStatus, str]] = {
    "pending": "payments.refund.created",
    "succeeded": "payments.refund.succeeded",
    "failed": "payments.refund.failed",
}


def payment_fact(p: Payment, fact: ids.FactId | None = None) -> Fact:
    """The fact about a payment: ids, amounts and states, but no text that a payer wrote."""
    return _fact(p, fact, _PAYMENT[p.status], p.asked_by or "payments", _as_told(p))


def disputed_fact(p: Payment, reason: str, raised_at: str) -> Fact:
    """A cardholder denies the payment: `reason` and `raised_at` as the acquirer gave them."""
    dispute = DisputeFact(
        **msgspec.structs.asdict(_as_told(p)), dispute=wire.Dispute(reason=reason[:100], raised_at=raised_at[:40])
    )
    return _fact(p, None, "payments.payment.disputed", "payments", dispute)


def _fact(p: Payment, fact: ids.FactId | None, type_: str, actor: str, said: PaymentFact) -> Fact:
    return Fact(
        id=fact or ids.facts.new(),
        type=type_,
        tenant=p.tenant,
        actor=actor,
        resource=ids.payments.text(p.id),
        at=p.updated_at,
        trace=p.trace or None,
        data=msgspec.to_builtins(said),
    )


def refund_fact(r: Refund, fact: ids.FactId | None = None) -> Fact:
    return Fact(
        id=fact or ids.facts.new(),
        type=_REFUND[r.status],
        tenant=r.tenant,
        actor=r.client_id,
        resource=ids.refunds.text(r.id),
        at=r.updated_at,
        trace=r.trace or None,
        data=msgspec.to_builtins(
            RefundFact(
                id=ids.refunds.text(r.id),
                payment=ids.payments.text(r.payment),
                status=r.status,
                amount=_money(r.amount, r.currency),
                currency=r.currency,
                failure=r.failure.code if r.failure else None,
                transfers=_transfers(model.refund_transfers(r)),
            )
        ),
    )


def _as_told(p: Payment) -> PaymentFact:
    return PaymentFact(
        id=ids.payments.text(p.id),
        status=p.status,
        amount=_money(p.amount, p.currency),
        captured=_money(p.captured, p.currency),
        refunded=_money(p.refunded, p.currency),
        currency=p.currency,
        token=p.token,
        source=ids.accounts.text(p.source) if p.source else None,
        destination=ids.accounts.text(p.destination),
        card=p.card.fingerprint if p.card else None,
        risk=(p.risk.decision, p.risk.score, list(p.risk.reasons)) if p.risk else None,
        decline=p.decline.code if p.decline else None,
        declined_by=p.decline.by if p.decline else None,
        disputed=p.disputed,
        transfers=_transfers(model.transfers(p)),
    )


def _money(minor: int, currency: str) -> MoneyWire:
    return MoneyWire(str(minor), currency)


def _transfers(found: list[TransferId]) -> list[str]:
    return [ids.transfers.text(t) for t in found]
