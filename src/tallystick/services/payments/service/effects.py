"""The effects of each step outside this service: ask risk, post to the ledger, talk to the acquirer through the vault.

Each effect goes out under an id derived from the payment's, so that a second attempt finds the effect of the first. A step
either returns the payment as it is afterwards, or raises `Postponed` because its outcome is not known; then the same step is
tried again later. A final refusal is an outcome, not an error.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, Final, Literal, NoReturn

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.db import Database
from tallystick.chassis.deadline import budget
from tallystick.contracts.ledger.client import LedgerClient
from tallystick.contracts.risk.client import Question, RiskClient
from tallystick.contracts.vault.client import ForwardCall, VaultClient
from tallystick.contracts.vault.messages import Forwarded, Outgoing
from tallystick.contracts.vault.problems import TokenDestroyed, TokenNotFound
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import AccountId, PaymentId, RefundId, TransferId
from tallystick.kernel.money import Money, MoneyWire, from_money
from tallystick.kernel.problem import DeadlineExceeded, Problem, Upstream
from tallystick.services.payments import model
from tallystick.services.payments.model import Payment, Refund, RefundStep, Role, Step
from tallystick.services.payments.store import Store


class Postponed(Exception):
    """The step can't be completed now. `cause` is the problem that prevents it."""

    def __init__(self, step: str, cause: Problem) -> None:
        super().__init__(f"{step}: {cause.slug}")
        self.step = step
        self.cause = cause


class _Decision(msgspec.Struct):
    """The acquirer's answer to one of our requests. Any other `status` is not an answer. `amount` is what it is about, if stated."""

    status: Literal["approved", "declined"]
    request_id: str
    code: str = ""
    amount: MoneyWire | None = None

    def is_for(self, asked: Money) -> bool:
        """Whether the decision is for the amount that was asked. An issuer may approve part of it; that does not count."""
        return self.amount is None or self.amount == from_money(asked)


class Dispute(msgspec.Struct):
    """A cardholder's dispute as the acquirer reports it. `position` numbers disputes in order."""

    position: int
    authorization: str
    reason: str
    raised_at: str


class _Disputes(msgspec.Struct):
    data: list[Dispute]


#: The acquirer's refusals as clients see them (code, message), by field 39 of ISO 8583.
DECLINES: Final = {
    "05": ("card_declined", "The card was declined."),
    "14": ("invalid_card", "The card number is not valid."),
    "51": ("insufficient_funds", "The card has insufficient funds."),
    "54": ("expired_card", "The card has expired."),
}

#: Field 39 of a VOID for which the acquirer has no record of the authorization.
NO_RECORD: Final = "25"

#: A request to the acquirer whose outcome is unknown is repeated at once if at least this many seconds are left.
SECOND_TRY_SECONDS: Final = 1.0

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
    """`acquirer` is the destination's id in the vault's allow-list. When risk does not answer, amounts up to `unscored_limit`
    euro (about as much in other currencies) proceed anyway (charter, [calls.risk]).
    """

    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        risk: RiskClient,
        vault: VaultClient,
        ledger: LedgerClient,
        clock: Clock,
        acquirer: str,
        acquirer_timeout_ms: int,
        unscored_limit: int,
    ) -> None:
        self._database = database
        self._store = store
        self._risk = risk
        self._vault = vault
        self._ledger = ledger
        self._clock = clock
        self.acquirer = acquirer
        self._acquirer_timeout_ms = acquirer_timeout_ms
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
        request_id = _request_id(p.id, Role.AUTHORIZE)
        body = {
            "request_id": request_id,
            "amount": from_money(p.money),
            "card": {"number": "{{card.number}}", "exp_month": 0, "exp_year": 0},
            "merchant": ids.accounts.text(p.destination),
        }
        try:
            decision = await self._ask("/authorizations", body, request_id, token, card=p.token)
        except (TokenNotFound, TokenDestroyed):
            # The card is gone now, but an earlier attempt may have reached the acquirer, or be on its way if the process that made it
            # has just died. The vault sends nothing new with this number, so the acquirer's timeout is the longest to wait.
            earlier = await self._earlier_decision("/authorizations", request_id, token)
            if earlier is None and p.version > 0:
                await asyncio.sleep(timedelta(milliseconds=self._acquirer_timeout_ms).total_seconds())
                earlier = await self._earlier_decision("/authorizations", request_id, token)
            if earlier is None:
                return model.card_destroyed(p)
            decision = earlier
        if decision.status != "approved":
            return model.refused_by_issuer(p, *_decline_of(decision))
        if not decision.is_for(p.money):
            telemetry.log.warning("payment.approved.otherwise", payment=ids.payments.text(p.id))
            return model.approved_otherwise(p, request_id, self._clock.now())
        return model.authorized(p, request_id, self._clock.now())

    async def _capture(self, p: Payment, token: str) -> Payment:
        money = Money(p.intent_amount if p.intent == "capture" else p.amount, p.currency)
        request_id = _request_id(p.id, Role.CAPTURE)
        body: dict[str, Any] = {
            "request_id": request_id,
            "authorization": _request_id(p.id, Role.AUTHORIZE),
            "amount": from_money(money),
        }
        if money < p.money:
            body["final"] = True  # a payment is captured once: the acquirer releases the rest, as the ledger does
        decision = await self._ask("/captures", body, request_id, token)
        if decision.status != "approved":
            return model.capture_refused(p, *_decline_of(decision))
        self._check_amount(money, decision, "capture", p.id)
        return model.captured(p)

    async def _void(self, p: Payment, token: str) -> Payment:
        request_id = _request_id(p.id, Role.VOID)
        body = {"request_id": request_id, "authorization": _request_id(p.id, Role.AUTHORIZE)}
        decision = await self._ask("/voids", body, request_id, token)
        if decision.status != "approved" and not await self._nothing_to_void(p, decision, token):
            self._acquirer_disagrees("void", p.id, f"it refuses with {decision.code or 'no code'}")
        return model.voided(p)

    async def _nothing_to_void(self, p: Payment, decision: _Decision, token: str) -> bool:
        """Whether a VOID was refused because nothing was left to void; not so if a capture of ours succeeded and the card was charged."""
        if decision.code != NO_RECORD:
            return False
        capture = await self._earlier_decision("/captures", _request_id(p.id, Role.CAPTURE), token)
        return capture is None or capture.status != "approved"

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
        money = Money(r.amount, r.currency)
        request_id = _request_id(r.id, Role.REFUND)
        body = {
            "request_id": request_id,
            "authorization": _request_id(r.payment, Role.AUTHORIZE),
            "amount": from_money(money),
        }
        decision = await self._ask("/refunds", body, request_id, token)
        if decision.status != "approved":
            return model.refund_refused(r, *_decline_of(decision))
        self._check_amount(money, decision, "refund", r.id)
        return model.refunded(r)

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

    async def _ask(
        self, path: str, body: dict[str, Any], request_id: str, token: str, *, card: str | None = None
    ) -> _Decision:
        """Sends one request to the acquirer. Raises a Problem for anything but a decision: ask again under the same id."""
        text = msgspec.json.encode(body).decode()
        if card is not None:
            text = text.replace(
                '"exp_month":0,"exp_year":0', '"exp_month":{{card.exp_month}},"exp_year":{{card.exp_year}}'
            )
        call = ForwardCall(
            token=token,
            destination=self.acquirer,
            request=Outgoing("POST", path, text),
            request_id=request_id,
            timeout_ms=self._acquirer_timeout_ms,
            card_token=card,
        )
        try:
            answer = await self._vault.forward(call)
        except (Upstream, DeadlineExceeded) as unknown:
            if not unknown.outcome_unknown or budget(SECOND_TRY_SECONDS) < SECOND_TRY_SECONDS:
                raise
            telemetry.log.warning("acquirer.asked.again", effect=request_id, problem=unknown.slug)
            answer = await self._vault.forward(call)
        return _decision_in(answer, request_id)

    async def _earlier_decision(self, path: str, request_id: str, token: str) -> _Decision | None:
        """The acquirer's decision on an earlier request; None if that request never arrived."""
        answer = await self._get(f"{path}/{request_id}", f"look-{request_id}", token)
        return None if answer.status == 404 else _decision_in(answer, request_id)

    async def disputes(self, after: int, limit: int, token: str) -> list[Dispute]:
        """Disputes after a position, oldest first. Raises a Problem."""
        answer = await self._get(f"/disputes?after={after}&limit={limit}", f"disputes-{after}", token)
        if answer.status != 200:
            raise AcquirerNotUnderstood(f"status {answer.status}")
        try:
            return msgspec.json.decode(answer.body, type=_Disputes).data
        except msgspec.DecodeError as error:
            raise AcquirerNotUnderstood("not a list of disputes") from error

    async def _get(self, path: str, request_id: str, token: str) -> Forwarded:
        return await self._vault.forward(
            ForwardCall(
                token=token,
                destination=self.acquirer,
                request=Outgoing("GET", path),
                request_id=request_id,
                timeout_ms=self._acquirer_timeout_ms,
            )
        )

    @staticmethod
    def _must_be_taken(step: str, effect: PaymentId | RefundId, refusal: str | None) -> None:
        """Raises LedgerDisagrees for a refusal of what the ledger should always take. A person has to look; the payment waits."""
        if refusal is not None:
            telemetry.log.error("payment.ledger.disagrees", step=step, effect=str(effect), reason=refusal)
            raise LedgerDisagrees(f"the ledger refuses to {step}: {refusal}")

    def _check_amount(self, asked: Money, decision: _Decision, step: str, effect: PaymentId | RefundId) -> None:
        if not decision.is_for(asked):
            self._acquirer_disagrees(step, effect, "it answers for another amount")

    @staticmethod
    def _acquirer_disagrees(step: str, effect: PaymentId | RefundId, reason: str) -> NoReturn:
        """Raises AcquirerDisagrees: money may have moved there that we don't know of. A person has to look; the payment waits."""
        telemetry.log.error("payment.acquirer.disagrees", step=step, effect=str(effect), reason=reason)
        raise AcquirerDisagrees(f"the acquirer does not {step} as it was asked: {reason}")


class LedgerDisagrees(Problem):
    """Never sent to a client: the payment waits and tries again. The log has `payment.ledger.disagrees` with the ledger's reason,
    which a person has to remove, for example by thawing the payee's account.
    """

    slug, title, status = "ledger-disagrees", "The ledger refuses what payments knows to be due", 500


class AcquirerDisagrees(Problem):
    """Never sent to a client: the payment waits, and the log has `payment.acquirer.disagrees`. Money may have moved at the
    acquirer that we don't know of; a person has to ask there.
    """

    slug, title, status = "acquirer-disagrees", "The acquirer does otherwise than payments knows to be due", 500


class AcquirerNotUnderstood(Problem):
    """Never sent to a client: the payment waits and asks again under the same id."""

    slug, title, status, retryable = "acquirer-not-understood", "The acquirer's answer makes no sense", 502, True


def _decision_in(answer: Forwarded, request_id: str) -> _Decision:
    if answer.status != 200:
        raise AcquirerNotUnderstood(f"status {answer.status}", context={"status": answer.status})
    try:
        decision = msgspec.json.decode(answer.body, type=_Decision)
    except msgspec.DecodeError as error:
        raise AcquirerNotUnderstood("not a decision") from error
    if decision.request_id != request_id:
        raise AcquirerNotUnderstood("a decision on another request")
    return decision


def _decline_of(decision: _Decision) -> tuple[str, str]:
    return DECLINES.get(decision.code, ("card_declined", "The card was declined."))


def _refusal_message(reason: str) -> str:
    return REFUSALS.get(reason, "The ledger refused the transfer.")


def _request_id(parent: PaymentId | RefundId, role: Role) -> str:
    return ids.rail_requests.text(model.request_id(parent, role))


def _required(account: AccountId | None) -> AccountId:
    if account is None:
        msg = "a payment of this kind has this account"
        raise RuntimeError(msg)
    return account
