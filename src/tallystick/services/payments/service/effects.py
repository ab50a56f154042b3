"""The effects of each step outside this service: ask risk, post to the ledger, ask the acquirer (`acquirer.py`).

Each effect goes out under an id derived from the payment's, so that a second attempt finds the effect of the first. A step
either returns the payment as it is afterwards, or raises `Postponed` because its outcome is not known; then the same step is
tried again later. A final refusal is an outcome, not an error.
"""

from __future__ import annotations

from typing import Final

from tallystick.chassis import telemetry
from tallystick.chassis.db import Database
from tallystick.contracts.ledger.client import LedgerClient
from tallystick.contracts.risk.client import Question, RiskClient
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import AccountId, PaymentId, RefundId, TransferId
from tallystick.kernel.money import Money
from tallystick.kernel.problem import Problem
from tallystick.services.payments import model
from tallystick.services.payments.model import Payment, Refund, RefundStep, Role, Step
from tallystick.services.payments.service.acquirer import Acquirer
from tallystick.services.payments.store import Store


class Postponed(Exception):
    """The step can't be completed now. `cause` is the problem that prevents it."""

    def __init__(self, step: str, cause: Problem) -> None:
        super().__init__(f"{step}: {cause.slug}")
        self.step = step
        self.cause = cause


#: The ledger's refusals as clients see them, by its reasons.
REFUSALS: Final = {
    "insufficient_funds": "The account does not hold enough.",
    "account_closed": "An account that the payment names is closed.",
    "account_not_found": "An account that the payment names does not exist.",
    "currency_mismatch": "The payment is not in the account's currency.",
}


#: The ledger's refusal of a reversal that exceeds what is left to reverse.
EXCEEDS: Final = "exceeds_reversible"

#: Final refusals by which the payee's account can't take back what a refund took. A frozen account takes it back now, but
#: `account_frozen` may have been pinned to the transfer's id before that was so.
NOT_TAKEN: Final = frozenset({"account_closed", "account_frozen", "ceiling_exceeded", "amount_overflow"})


class Effects:
    """When risk does not answer, amounts up to `unscored_limit` euro (about as much in other currencies) proceed anyway (charter,
    [calls.risk]).
    """

    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        risk: RiskClient,
        ledger: LedgerClient,
        acquirer: Acquirer,
        clock: Clock,
        unscored_limit: int,
    ) -> None:
        self._database = database
        self._store = store
        self._risk = risk
        self._ledger = ledger
        self._acquirer = acquirer
        self._clock = clock
        self._unscored_limit = unscored_limit

    async def perform(self, step: Step, p: Payment, token: str) -> Payment:
        """The payment after `step`. Raises Postponed."""
        try:
            with telemetry.span(f"payments.{step.value}"):
                return await self._PERFORM[step](self, p, token)
        except Problem as cause:
            raise Postponed(step.value, cause) from cause

    async def _score(self, p: Payment, token: str) -> Payment:
        question = Question(
            token=token,
            id=ids.decisions.text(model.decision_id(p)),
            payment=ids.payments.text(p.id),
            amount=p.money,
            card=p.card.fingerprint if p.card else None,
            account=ids.accounts.text(p.source) if p.source else None,
        )
        try:
            decision = await self._risk.decide(question)
        except Problem as problem:
            if not problem.retryable or not model.may_go_unscored(p):
                raise
            telemetry.log.warning("payment.unscored", payment=question.payment, problem=problem.slug)
            return model.unscored(p, self._unscored_limit)
        return model.scored(p, model.Risk(decision.decision, decision.score, tuple(decision.reasons)))

    async def _post(self, p: Payment, token: str) -> Payment:
        source = _required(p.source)
        refusal = await self._ledger.post(model.transfer_id(p.id, Role.SETTLE), source, p.destination, p.money, token)
        return model.posted(p) if refusal is None else model.refused_by_ledger(p, refusal, _refusal_message(refusal))

    async def _hold(self, p: Payment, token: str) -> Payment:
        clearing = _required(p.clearing)
        refusal = await self._ledger.hold(model.transfer_id(p.id, Role.HOLD), clearing, p.destination, p.money, token)
        return model.held(p) if refusal is None else model.refused_by_ledger(p, refusal, _refusal_message(refusal))

    async def _settle(self, p: Payment, token: str) -> Payment:
        refusal = await self._ledger.capture(
            model.transfer_id(p.id, Role.SETTLE),
            model.transfer_id(p.id, Role.HOLD),
            Money(p.captured, p.currency),
            token,
        )
        self._must_be_taken("settle", p.id, refusal)
        return model.settled(p)

    async def _release(self, p: Payment, token: str) -> Payment:
        refusal = await self._ledger.void(
            model.transfer_id(p.id, Role.RELEASE), model.transfer_id(p.id, Role.HOLD), token
        )
        self._must_be_taken("release", p.id, refusal)
        return model.released(p)

    async def _authorize(self, p: Payment, token: str) -> Payment:
        decision = await self._acquirer.authorize(p, token)
        if decision is None:
            return model.card_destroyed(p)
        if decision.status != "approved":
            return model.refused_by_issuer(p, *decision.decline())
        if not decision.is_for(p.money):
            telemetry.log.warning("payment.approved.otherwise", payment=ids.payments.text(p.id))
            return model.approved_otherwise(p, decision.request_id, self._clock.now())
        return model.authorized(p, decision.request_id, self._clock.now())

    async def _capture(self, p: Payment, token: str) -> Payment:
        decision = await self._acquirer.capture(p, token)
        return model.captured(p) if decision.status == "approved" else model.capture_refused(p, *decision.decline())

    async def _void(self, p: Payment, token: str) -> Payment:
        await self._acquirer.void(p, token)
        return model.voided(p)

    _PERFORM: Final = {
        Step.SCORE: _score,
        Step.POST: _post,
        Step.HOLD: _hold,
        Step.AUTHORIZE: _authorize,
        Step.CAPTURE: _capture,
        Step.SETTLE: _settle,
        Step.VOID: _void,
        Step.RELEASE: _release,
    }

    async def perform_refund(self, step: RefundStep, r: Refund, token: str) -> Refund:
        """The refund after `step`. Raises Postponed."""
        try:
            with telemetry.span(f"payments.refund.{step.value}"):
                if step is RefundStep.REVERSE:
                    return await self._reverse(r, token)
                if step is RefundStep.REFUND:
                    return await self._refund(r, token)
                return await self._restore(r, token)
        except Problem as cause:
            raise Postponed(step.value, cause) from cause

    async def _reverse(self, r: Refund, token: str) -> Refund:
        refusal = await self._ledger.reverse(
            model.transfer_id(r.id, Role.REVERSE),
            TransferId(model.derived(r.payment, Role.SETTLE)),
            Money(r.amount, r.currency),
            token,
        )
        if refusal == EXCEEDS and (p := await self._store.restored_payment(self._database, r.payment)) is not None:
            # The ledger goes on counting a reversal whose amount was posted back, so its bound is too low here; the payment's
            # own row has the right bound. The refusal is pinned to the reversal's id, so every attempt takes this branch.
            refusal = await self._ledger.post(
                model.transfer_id(r.id, Role.RETURN),
                p.destination,
                _required(p.clearing),
                Money(r.amount, r.currency),
                token,
            )
            if refusal is None:
                return model.returned(r)
        return model.reversed_(r) if refusal is None else model.reversal_refused(r, refusal, _refusal_message(refusal))

    async def _refund(self, r: Refund, token: str) -> Refund:
        decision = await self._acquirer.refund(r, token)
        return model.refunded(r) if decision.status == "approved" else model.refund_refused(r, *decision.decline())

    async def _restore(self, r: Refund, token: str) -> Refund:
        """Posts the reversed amount back from the acquirer's account to the payee's, even if it was frozen meanwhile; or to suspense
        if the payee's account can't take it. That refusal is pinned to the first transfer's id, so every attempt does the same.
        """
        p = await self._store.payment_by_id(self._database, r.payment)
        if p is None or p.clearing is None:
            msg = f"refund {ids.refunds.text(r.id)} has no card payment"
            raise RuntimeError(msg)
        amount = Money(r.amount, r.currency)
        refusal = await self._ledger.post(
            model.transfer_id(r.id, Role.RESTORE), p.clearing, p.destination, amount, token, due=True
        )
        if refusal is None:
            return model.restored(r)
        if refusal not in NOT_TAKEN:
            self._must_be_taken("restore", r.id, refusal)
        own = model.suspense(r.tenant, r.currency)
        await self._ledger.open_account(
            own.id,
            name=own.name,
            currency=own.currency,
            normal_side=own.normal_side,
            floor=own.floor,
            path=own.path,
            token=token,
        )
        suspend = model.transfer_id(r.id, Role.SUSPEND)
        self._must_be_taken(
            "restore", r.id, await self._ledger.post(suspend, p.clearing, own.id, amount, token, due=True)
        )
        telemetry.log.error("refund.suspended", refund=ids.refunds.text(r.id), reason=refusal)
        return model.suspended(r)

    @staticmethod
    def _must_be_taken(step: str, effect: PaymentId | RefundId, refusal: str | None) -> None:
        """Raises LedgerDisagrees for a refusal of what the ledger should always take. A person has to look; the payment waits."""
        if refusal is not None:
            telemetry.log.error("payment.ledger.disagrees", step=step, effect=str(effect), reason=refusal)
            raise LedgerDisagrees(f"the ledger refuses to {step}: {refusal}")


class LedgerDisagrees(Problem):
    """Never sent to a client: the payment waits and tries again. The log has `payment.ledger.disagrees` with the ledger's reason,
    which a person has to remove, for example by thawing the payee's account.
    """

    slug, title, status = "ledger-disagrees", "The ledger refused a posting that is due", 500


def _refusal_message(reason: str) -> str:
    return REFUSALS.get(reason, "The ledger refused the transfer.")


def _required(account: AccountId | None) -> AccountId:
    if account is None:
        msg = "a payment of this kind has this account"
        raise RuntimeError(msg)
    return account
