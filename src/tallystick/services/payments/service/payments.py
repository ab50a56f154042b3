"""The use cases. Each request is stored, carried out step by step, stored again with its outcome, and answered.

The work goes on when the caller disconnects, and in the background worker when this process dies. `advance` is the only way
a payment moves, whoever starts it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from tallystick.chassis import idempotency, telemetry
from tallystick.chassis.auth import Authenticator, Subject
from tallystick.chassis.db import CommitUnknown, Database, Life
from tallystick.chassis.deadline import Deadline
from tallystick.chassis.idempotency import Entry, Fresh
from tallystick.contracts.payments.problems import (
    AccountNotFound,
    AccountReserved,
    PaymentCurrencyMismatch,
    PaymentNotFound,
    SameAccount,
    TokenNotFound,
)
from tallystick.contracts.vault import problems as vault_problems
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import AccountId, PaymentId
from tallystick.kernel.money import Money
from tallystick.kernel.problem import Problem
from tallystick.services.payments import model
from tallystick.services.payments.model import LEASE, Payment, Waiting
from tallystick.services.payments.service.answers import Made, pinned, replayed, waiting
from tallystick.services.payments.service.directory import Directory
from tallystick.services.payments.service.effects import Effects, Postponed
from tallystick.services.payments.service.journal import Journal, Render
from tallystick.services.payments.service.work import Work, new_lease, persistently
from tallystick.services.payments.store import Store


class NewPayment(msgspec.Struct, frozen=True, kw_only=True):
    amount: Money
    token: str | None
    source: AccountId | None
    destination: AccountId
    capture: str
    description: str | None
    reference: str | None
    metadata: dict[str, str]


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
        work: Work,
        life: Life,
        render: Render,
    ) -> None:
        self._database = database
        self._store = store
        self._journal = journal
        self._effects = effects
        self._directory = directory
        self._authenticator = authenticator
        self._clock = clock
        self._work = work
        self._life = life
        self._render = render

    async def create(self, subject: Subject, new: NewPayment, entry: Entry, trace: str) -> Made:
        """Creates a payment. Raises a Problem if the request itself is wrong. A refused payment is `declined`, not an error."""
        token = await self._authenticator.exchange(subject)
        lease = new_lease()
        try:
            payment = await self._new_payment(subject, new, entry, trace, token)
        except Problem:
            # A key that was answered keeps its answer, even if the same request would be refused by now.
            if (known := await idempotency.look(self._database, entry)) is not None:
                return replayed(known)
            raise
        try:
            outcome = await self._journal.open(entry, payment)
        except CommitUnknown as unknown:
            await self._work.find_out(
                unknown, lease, lambda: self._is_opened(entry, payment), lambda: self.advance(payment, token)
            )
            outcome = Fresh()
        if not isinstance(outcome, Fresh):
            return replayed(outcome)
        return await self._answer_in_time(self.advance(payment, token), payment, lease)

    async def _is_opened(self, entry: Entry, payment: Payment) -> bool:
        """Whether the payment was stored by T1, whose COMMIT may still be under way, and nobody has taken it over."""
        await idempotency.until_known(self._database, entry)
        return await self._store.payment_by_id(self._database, payment.id) == payment

    async def _new_payment(self, subject: Subject, new: NewPayment, entry: Entry, trace: str, token: str) -> Payment:
        if new.source == new.destination:
            raise SameAccount("money can't be paid from an account to itself")
        card = clearing = None
        needed = [new.destination] if new.source is None else [new.destination, new.source]
        for account in needed:
            seen = await self._directory.account(subject.tenant, account, token)
            if seen is None:
                name = ids.accounts.text(account)
                raise AccountNotFound(f"there is no account {name} in the book main: payments move money there only")
            if seen.own:
                raise AccountReserved(f"nothing is paid from or to {ids.accounts.text(account)}")
            if seen.currency != new.amount.currency:
                raise PaymentCurrencyMismatch(
                    f"{ids.accounts.text(account)} is in {seen.currency}, the amount in {new.amount.currency}",
                    currency=seen.currency,
                )
        if new.token is not None:
            try:
                card = await self._directory.card(subject.tenant, new.token, token)
            except (vault_problems.TokenNotFound, vault_problems.TokenDestroyed) as gone:
                raise TokenNotFound(f"there is no card behind {new.token:.40}") from gone
            clearing = await self._directory.clearing(subject.tenant, subject.client_id, new.amount.currency, token)
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
            waiting=waiting(entry),
            receipt=ids.facts.new(),
            trace=trace,
            created_at=now,
            updated_at=now,
            resume_at=now + LEASE,
            worker=self._life.number,
        )

    async def capture(self, subject: Subject, payment: PaymentId, amount: Money | None, entry: Entry) -> Made:
        """Captures an authorized payment, all or part of it, once. The rest is released."""
        return await self._intend(
            subject,
            payment,
            entry,
            lambda p, owed: model.with_capture(p, amount, owed, self._life.number, self._clock.now()),
        )

    async def cancel(self, subject: Subject, payment: PaymentId, entry: Entry) -> Made:
        """Cancels an authorized payment: the acquirer voids the authorization, the ledger releases the hold."""
        return await self._intend(
            subject, payment, entry, lambda p, owed: model.with_cancel(p, owed, self._life.number, self._clock.now())
        )

    async def _intend(
        self, subject: Subject, payment: PaymentId, entry: Entry, decide: Callable[[Payment, Waiting], Payment]
    ) -> Made:
        token = await self._authenticator.exchange(subject)
        lease = new_lease()
        claimed: Payment | None = None
        try:
            async with self._database.transaction() as tx:
                (outcome,) = await idempotency.claim(tx, [entry], resource=[payment])
                if not isinstance(outcome, Fresh):
                    return replayed(outcome)
                found = await self._store.payment_for_update(tx, subject.tenant, payment)
                if found is None:
                    raise PaymentNotFound(f"there is no payment {ids.payments.text(payment)}")
                try:
                    wanted = decide(found, waiting(entry))
                except Problem as refusal:
                    return await pinned(tx, entry, refusal)
                intended = claimed = await self._journal.intend(tx, wanted)
        except CommitUnknown as unknown:
            if claimed is None:
                raise  # a refusal, stored or not: there is no work to go on with
            intended = claimed
            await self._work.find_out(
                unknown, lease, lambda: self._is_intended(intended), lambda: self.advance(intended, token)
            )
        return await self._answer_in_time(self.advance(intended, token), intended, lease)

    async def _is_intended(self, intended: Payment) -> bool:
        """Whether the intent was stored, and nobody has taken the payment over. The lock waits for a COMMIT that is still under way.
        An equal row is of this very request: another one of this process has a later time, another process another `worker`.
        """
        async with self._database.transaction() as tx:
            return await self._store.payment_for_update(tx, intended.tenant, intended.id) == intended

    async def advance(self, payment: Payment, token: str) -> tuple[Payment, bytes]:
        """Performs steps until the payment rests or a step is postponed. Returns the payment as stored, and as it is rendered."""
        stored = p = payment
        closed: tuple[Payment, bytes] | None
        try:
            while (step := model.next_step(p)) is not None:
                if model.decisive(stored, p, step):
                    closed = await self._close(p, resting=False)
                    if closed is None:
                        return await self._current(payment)
                    stored = p = closed[0]
                p = await self._effects.perform(step, p, token)
        except Postponed as postponed:
            telemetry.log.warning(
                "payment.postponed",
                payment=ids.payments.text(p.id),
                step=postponed.step,
                problem=postponed.cause.slug,
                attempts=p.attempts,
            )
            closed = await self._close(model.postponed(p, self._clock.now()), resting=False)
        else:
            rested = msgspec.structs.replace(model.resting(p, self._clock.now()), waiting=p.waiting)
            closed = await self._close(rested, resting=True)
        return closed if closed is not None else await self._current(payment)

    async def _close(self, p: Payment, *, resting: bool) -> tuple[Payment, bytes] | None:
        return await persistently(lambda: self._journal.close(p, resting=resting))

    async def _current(self, payment: Payment) -> tuple[Payment, bytes]:
        """The payment as stored by somebody else, who took it over."""
        current = await self._store.payment_by_id(self._database, payment.id)
        if current is None:
            msg = f"payment {ids.payments.text(payment.id)} is gone"
            raise RuntimeError(msg)
        return current, self._render(current)

    async def _answer_in_time(
        self, work: Coroutine[Any, Any, tuple[Payment, bytes]], payment: Payment, lease: Deadline
    ) -> Made:
        """The final answer if the work ends in time. Otherwise 202 with what is known so far, while the work goes on."""
        done = await self._work.in_time(work, lease)
        if done is None:
            return Made(202, self._render(payment))
        after, body = done
        if model.next_step(after) is not None or after.waiting is not None:
            return Made(202, body)
        return Made(200 if payment.intent else 201, body)

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
