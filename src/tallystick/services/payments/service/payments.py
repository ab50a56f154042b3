"""The use cases. Each request is written down, carried out step by step, written down again, and answered.

The work goes on when the caller goes away, and in the worker when this process does: `advance` is the one way in which a
payment moves, whoever starts it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec

from tallystick.chassis import idempotency, telemetry
from tallystick.chassis.auth import Authenticator, Subject
from tallystick.chassis.db import Database
from tallystick.chassis.deadline import Deadline
from tallystick.chassis.idempotency import Answer, Entry, Fresh, Outcome
from tallystick.contracts.payments.problems import (
    AccountNotFound,
    PaymentCurrencyMismatch,
    PaymentNotFound,
    RefundNotFound,
    SameAccount,
    TokenNotFound,
)
from tallystick.contracts.vault import problems as vault_problems
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import AccountId, PaymentId, RefundId
from tallystick.kernel.money import Money
from tallystick.kernel.problem import Problem
from tallystick.services.payments import model
from tallystick.services.payments.model import LEASE, Payment, Refund, Waiting
from tallystick.services.payments.service.directory import Directory
from tallystick.services.payments.service.effects import Effects, Postponed
from tallystick.services.payments.service.journal import Journal, payment_fact, refund_fact
from tallystick.services.payments.store import Store

T = TypeVar("T")

#: How long a caller without a deadline waits for an answer.
LONGEST_WAIT = 15.0
#: Kept back from a request's deadline for writing the answer.
RESERVE_SECONDS = 0.5
#: Payments (and refunds) that one turn of the worker takes up.
RESUME_BATCH = 64


class NewPayment(msgspec.Struct, frozen=True, kw_only=True):
    amount: Money
    token: str | None
    source: AccountId | None
    destination: AccountId
    capture: str
    description: str | None
    reference: str | None
    metadata: dict[str, str]


class Made(msgspec.Struct, frozen=True):
    """An answer: its bytes, and whether it is an earlier request's. `status` 202 means that the work goes on."""

    status: int
    body: bytes
    replayed: bool = False


class Payments:
    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        journal: Journal,
        effects: Effects,
        directory: Directory,
        authenticator: Authenticator,
        clock: Clock,
        render: Any,
        render_refund: Any,
    ) -> None:
        self._database = database
        self._store = store
        self._journal = journal
        self._effects = effects
        self._directory = directory
        self._authenticator = authenticator
        self._clock = clock
        self._render = render
        self._render_refund = render_refund
        self._running: set[asyncio.Task[Any]] = set()

    # ---- payments

    async def create(self, subject: Subject, new: NewPayment, entry: Entry, trace: str) -> Made:
        """Takes a payment. Raises what is wrong with the request itself; a refused payment is `declined`, not an error."""
        token = await self._authenticator.exchange(subject)
        payment = await self._received(subject, new, entry, trace, token)
        outcome = await self._journal.open(entry, payment)
        if not isinstance(outcome, Fresh):
            return _replayed(outcome)
        return await self._answered(self.advance(payment, token), payment)

    async def _received(self, subject: Subject, new: NewPayment, entry: Entry, trace: str, token: str) -> Payment:
        if new.source == new.destination:
            raise SameAccount("money can't be paid from an account to itself")
        card = clearing = None
        needed = [new.destination] if new.source is None else [new.destination, new.source]
        for account in needed:
            currency = await self._directory.currency(subject.tenant, account, token)
            if currency is None:
                raise AccountNotFound(f"there is no account {ids.accounts.text(account)}")
            if currency != new.amount.currency:
                raise PaymentCurrencyMismatch(
                    f"{ids.accounts.text(account)} is in {currency}, the amount in {new.amount.currency}",
                    currency=currency,
                )
        if new.token is not None:
            try:
                card = await self._directory.card(subject.tenant, new.token, token)
            except (vault_problems.TokenNotFound, vault_problems.TokenDestroyed) as gone:
                raise TokenNotFound(f"there is no card behind {new.token:.40}") from gone
            clearing = await self._directory.clearing(subject.tenant, new.amount.currency, token)
        now = self._clock.now()
        return Payment(
            id=ids.payments.new(),
            tenant=subject.tenant,
            client_id=subject.client_id,
            status="received",
            amount=new.amount.minor,
            currency=new.amount.currency,
            token=new.token,
            source=new.source,
            destination=new.destination,
            clearing=clearing,
            capture="manual" if new.capture == "manual" else "automatic",
            card=card,
            description=new.description,
            reference=new.reference,
            metadata=new.metadata,
            waiting=Waiting(entry.route, entry.key),
            receipt=ids.facts.new(),
            trace=trace,
            created_at=now,
            updated_at=now,
            resume_at=now + LEASE,
        )

    async def capture(self, subject: Subject, payment: PaymentId, amount: Money | None, entry: Entry) -> Made:
        """Captures an authorized payment, all or part of it, once. What is left is released."""
        return await self._intend(
            subject, payment, entry, lambda p, waiting: model.with_capture(p, amount, waiting, self._clock.now())
        )

    async def cancel(self, subject: Subject, payment: PaymentId, entry: Entry) -> Made:
        """Cancels an authorized payment: the acquirer gives the authorization back, the hold is released."""
        return await self._intend(
            subject, payment, entry, lambda p, waiting: model.with_cancel(p, waiting, self._clock.now())
        )

    async def _intend(self, subject: Subject, payment: PaymentId, entry: Entry, decide: Any) -> Made:
        token = await self._authenticator.exchange(subject)
        async with self._database.transaction() as tx:
            (outcome,) = await idempotency.claim(tx, [entry], resource=[payment])
            if not isinstance(outcome, Fresh):
                return _replayed(outcome)
            found = await self._store.payment_for_update(tx, subject.tenant, payment)
            if found is None:
                raise PaymentNotFound(f"there is no payment {ids.payments.text(payment)}")
            try:
                wanted: Payment = decide(found, Waiting(entry.route, entry.key))
            except Problem as refusal:
                return await self._pinned(tx, entry, refusal)
            intended = await self._journal.intend(tx, wanted)
        return await self._answered(self.advance(intended, token), intended)

    @staticmethod
    async def _pinned(tx: Any, entry: Entry, refusal: Problem) -> Made:
        """A refusal is an answer too: the same key gets the same one, whatever happens in between."""
        body = msgspec.json.encode(refusal.document(telemetry.trace_id()))
        await idempotency.complete(tx, [Answer(entry, refusal.status, body)])
        return Made(refusal.status, body)

    async def advance(self, payment: Payment, token: str) -> tuple[Payment, bytes]:
        """Carries out steps until the payment rests or a step can't be done now; the payment as stored, and its bytes."""
        p = payment
        try:
            while (step := model.next_step(p)) is not None:
                p = await self._effects.perform(step, p, token)
        except Postponed as postponed:
            telemetry.log.warning(
                "payment.postponed",
                payment=ids.payments.text(p.id),
                step=postponed.step,
                problem=postponed.cause.slug,
                attempts=p.attempts,
            )
            closed = await self._journal.close(model.postponed(p, self._clock.now()), resting=False)
        else:
            now = self._clock.now()
            rested = msgspec.structs.replace(model.resting(p, now), waiting=p.waiting)
            closed = await self._journal.close(rested, resting=True)
        if closed is not None:
            return closed
        current = await self._store.payment_by_id(self._database, payment.id)
        if current is None:
            msg = f"payment {ids.payments.text(payment.id)} is gone"
            raise RuntimeError(msg)
        return current, self._render(current)

    async def _answered(self, work: Coroutine[Any, Any, tuple[Payment, bytes]], payment: Payment) -> Made:
        """The answer, if there is one in time; otherwise 202 with what is known, and the work goes on."""
        done = await self._in_time(work)
        if done is None:
            return Made(202, self._render(payment))
        after, body = done
        if model.next_step(after) is not None or after.waiting is not None:
            return Made(202, body)
        return Made(200 if payment.intent else 201, body)

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T | None:
        # The work has a budget of its own, as long as its lease: it doesn't end with the request's.
        context = contextvars.copy_context()
        context.run(Deadline.after(LEASE.total_seconds()).enter)
        task = asyncio.create_task(work, context=context)
        self._running.add(task)
        task.add_done_callback(self._ended)
        deadline = Deadline.current()
        seconds = LONGEST_WAIT if deadline is None else max(deadline.remaining() - RESERVE_SECONDS, 0.1)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(task)
        except TimeoutError:
            if task.done():
                raise
            return None

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, Problem):
            telemetry.log.error("payment.advance.failed", error=type(error).__name__)

    async def drain(self) -> None:
        """Waits for the work in flight; what is not done by then is resumed from the store."""
        if self._running:
            await asyncio.wait(self._running, timeout=10)

    async def get(self, subject: Subject, payment: PaymentId) -> Payment:
        found = await self._store.payment(self._database, subject.tenant, payment)
        if found is None:
            raise PaymentNotFound(f"there is no payment {ids.payments.text(payment)}")
        return found

    async def list(
        self, subject: Subject, *, after: PaymentId | None, status: str | None, reference: str | None, limit: int
    ) -> list[Payment]:
        return await self._store.payments(
            self._database, subject.tenant, after=after, status=status, reference=reference, limit=limit
        )

    # ---- refunds

    async def refund(
        self,
        subject: Subject,
        payment: PaymentId,
        amount: Money | None,
        *,
        reason: str | None,
        entry: Entry,
        trace: str,
    ) -> Made:
        """Gives back what was captured, all or part of it. The sum can't pass what was captured: the payment's row is
        locked, its CHECK says the same, and the ledger reverses no more than was posted.
        """
        token = await self._authenticator.exchange(subject)
        refund = ids.refunds.new()
        async with self._database.transaction() as tx:
            (outcome,) = await idempotency.claim(tx, [entry], resource=[refund])
            if not isinstance(outcome, Fresh):
                return _replayed(outcome)
            found = await self._store.payment_for_update(tx, subject.tenant, payment)
            if found is None:
                raise PaymentNotFound(f"there is no payment {ids.payments.text(payment)}")
            try:
                changed, made = model.with_refund(
                    found,
                    refund,
                    amount,
                    client_id=subject.client_id,
                    reason=reason,
                    waiting=Waiting(entry.route, entry.key),
                    receipt=ids.facts.new(),
                    trace=trace,
                    now=self._clock.now(),
                )
            except Problem as refusal:
                return await self._pinned(tx, entry, refusal)
            await self._journal.intend(tx, changed)
            await self._store.insert_refund(tx, made)
            await self._journal.tell(tx, refund_fact(made, made.receipt))
        done = await self._in_time(self.advance_refund(made, token))
        if done is None:
            return Made(202, self._render_refund(made))
        after, body = done
        return Made(201 if after.status != "pending" else 202, body)

    async def advance_refund(self, refund: Refund, token: str) -> tuple[Refund, bytes]:
        r = refund
        try:
            while (step := model.next_refund_step(r)) is not None:
                r = await self._effects.perform_refund(step, r, token)
        except Postponed as postponed:
            telemetry.log.warning(
                "refund.postponed",
                refund=ids.refunds.text(r.id),
                step=postponed.step,
                problem=postponed.cause.slug,
                attempts=r.attempts,
            )
            closed = await self._journal.close_refund(model.refund_postponed(r, self._clock.now()), resting=False)
        else:
            rested = msgspec.structs.replace(model.refund_resting(r, self._clock.now()), waiting=r.waiting)
            closed = await self._journal.close_refund(rested, resting=True)
        if closed is not None:
            return closed
        current = await self._store.refund(self._database, refund.tenant, refund.id)
        if current is None:
            msg = f"refund {ids.refunds.text(refund.id)} is gone"
            raise RuntimeError(msg)
        return current, self._render_refund(current)

    async def get_refund(self, subject: Subject, refund: RefundId) -> Refund:
        found = await self._store.refund(self._database, subject.tenant, refund)
        if found is None:
            raise RefundNotFound(f"there is no refund {ids.refunds.text(refund)}")
        return found

    # ---- the worker's

    async def resume(self) -> int:
        """Goes on with payments and refunds that are due; how many it took up. Authorizations expire here."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            payments = await self._store.take_up(tx, now, now + LEASE, RESUME_BATCH)
            refunds = await self._store.take_up_refunds(tx, now, now + LEASE, RESUME_BATCH)
        async with asyncio.TaskGroup() as group:
            for p in payments:
                group.create_task(self._resumed(p.tenant, p.client_id, p, self._resume_payment))
            for r in refunds:
                group.create_task(self._resumed(r.tenant, r.client_id, r, self._resume_refund))
        return len(payments) + len(refunds)

    async def _resumed(self, tenant: str, client_id: str, thing: T, go_on: Any) -> None:
        try:
            token = await self._authenticator.service_token(tenant, client_id, "payments.resume")
            await go_on(thing, token)
        except Problem as problem:
            telemetry.log.warning("payment.resume.failed", problem=problem.slug)

    async def _resume_payment(self, p: Payment, token: str) -> None:
        after, _ = await self.advance(model.taken_up(p, self._clock.now()), token)
        telemetry.log.info("payment.resumed", payment=ids.payments.text(p.id), status=after.status)

    async def _resume_refund(self, r: Refund, token: str) -> None:
        after, _ = await self.advance_refund(r, token)
        telemetry.log.info("refund.resumed", refund=ids.refunds.text(r.id), status=after.status)

    async def disputed(self, dispute: str, payment: PaymentId) -> None:
        """The acquirer tells of a dispute: told once, to whoever listens."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            marked = await self._store.dispute(tx, dispute, payment, now)
            if marked is not None:
                fact = payment_fact(marked)
                await self._journal.tell(tx, msgspec.structs.replace(fact, type="payments.payment.disputed"))


def _replayed(outcome: Outcome) -> Made:
    """The stored answer; raises the problem when there is none to give."""
    stored = outcome.raise_or_replay()
    if stored is None:
        msg = "a fresh key has no answer to give again"
        raise RuntimeError(msg)
    return Made(stored.status, stored.body, replayed=True)
