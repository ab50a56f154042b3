"""Refunds. First the ledger reverses, at most what it posted; then the acquirer refunds."""

from __future__ import annotations

import msgspec

from tallystick.chassis import idempotency, telemetry
from tallystick.chassis.auth import Authenticator, Subject
from tallystick.chassis.db import CommitUnknown, Database, Life
from tallystick.chassis.idempotency import Entry, Fresh
from tallystick.contracts.payments.problems import PaymentNotFound, RefundNotFound
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import PaymentId, RefundId
from tallystick.kernel.money import Money
from tallystick.kernel.problem import Problem
from tallystick.services.payments import model
from tallystick.services.payments.model import Refund
from tallystick.services.payments.service.answers import Made, pinned, replayed, waiting
from tallystick.services.payments.service.effects import Effects, Postponed
from tallystick.services.payments.service.journal import Journal, RenderRefund, refund_fact
from tallystick.services.payments.service.work import Work, new_lease, persistently
from tallystick.services.payments.store import Store


class Refunds:
    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        journal: Journal,
        effects: Effects,
        authenticator: Authenticator,
        clock: Clock,
        work: Work,
        life: Life,
        render: RenderRefund,
    ) -> None:
        self._database = database
        self._store = store
        self._journal = journal
        self._effects = effects
        self._authenticator = authenticator
        self._clock = clock
        self._work = work
        self._life = life
        self._render = render

    async def create(
        self,
        subject: Subject,
        payment: PaymentId,
        amount: Money | None,
        *,
        reason: str | None,
        entry: Entry,
        trace: str,
    ) -> Made:
        """Refunds what was captured, all or part of it. The sum of refunds can't exceed what was captured: the payment's row is
        locked, a CHECK enforces it, and the ledger reverses no more than it posted.
        """
        token = await self._authenticator.exchange(subject)
        refund = ids.refunds.new()
        lease = new_lease()
        claimed: Refund | None = None
        try:
            async with self._database.transaction() as tx:
                (outcome,) = await idempotency.claim(tx, [entry], resource=[refund])
                if not isinstance(outcome, Fresh):
                    return replayed(outcome)
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
                        waiting=waiting(entry),
                        receipt=ids.facts.new(),
                        trace=trace,
                        worker=self._life.number,
                        now=self._clock.now(),
                    )
                except Problem as refusal:
                    return await pinned(tx, entry, refusal)
                await self._journal.intend(tx, changed)
                await self._store.insert_refund(tx, made)
                await self._journal.tell(tx, refund_fact(made, made.receipt))
                claimed = made
        except CommitUnknown as unknown:
            if claimed is None:
                raise  # a refusal, stored or not: there is no work to go on with
            made = claimed
            await self._work.find_out(unknown, lease, lambda: self._is_made(made), lambda: self.advance(made, token))
        done = await self._work.in_time(self.advance(made, token), lease)
        if done is None:
            return Made(202, self._render(made))
        after, body = done
        return Made(201 if after.status != "pending" else 202, body)

    async def _is_made(self, made: Refund) -> bool:
        """Whether the refund was stored, and nobody has taken it over. The lock of its payment waits for a COMMIT under way."""
        async with self._database.transaction() as tx:
            await self._store.payment_for_update(tx, made.tenant, made.payment)
            return await self._store.refund(tx, made.tenant, made.id) == made

    async def advance(self, refund: Refund, token: str) -> tuple[Refund, bytes]:
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
            left = model.refund_postponed(r, self._clock.now())
            closed = await persistently(lambda: self._journal.close_refund(left, resting=False))
        else:
            rested = msgspec.structs.replace(model.refund_resting(r, self._clock.now()), waiting=r.waiting)
            closed = await persistently(lambda: self._journal.close_refund(rested, resting=True))
        if closed is not None:
            return closed
        current = await self._store.refund(self._database, refund.tenant, refund.id)
        if current is None:
            msg = f"refund {ids.refunds.text(refund.id)} is gone"
            raise RuntimeError(msg)
        return current, self._render(current)

    async def get(self, subject: Subject, refund: RefundId) -> Refund:
        found = await self._store.refund(self._database, subject.tenant, refund)
        if found is None:
            raise RefundNotFound(f"there is no refund {ids.refunds.text(refund)}")
        return found
