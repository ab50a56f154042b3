"""What payments asks of the acquirer, through the vault, which fills in the card's number: the four requests that move money, what
became of an earlier one, and disputes.

A request has an id derived from its payment's or refund's, and a repeat is recognized by it. So whatever is not a decision raises a
Problem, and the same request is sent again until there is one.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, NoReturn

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.deadline import budget
from tallystick.contracts.vault.client import ForwardCall, VaultClient
from tallystick.contracts.vault.messages import Forwarded, Outgoing
from tallystick.contracts.vault.problems import TokenDestroyed, TokenNotFound
from tallystick.kernel import ids
from tallystick.kernel.ids import PaymentId, RefundId
from tallystick.kernel.money import Money, MoneyWire, from_money
from tallystick.kernel.problem import DeadlineExceeded, Problem, Upstream
from tallystick.services.payments import model
from tallystick.services.payments.model import Payment, Refund, Role

#: The acquirer's refusals as clients see them (code, message), by field 39 of ISO 8583.
DECLINES: Final = {
    "05": ("card_declined", "The card was declined."),
    "14": ("invalid_card", "The card number is not valid."),
    "51": ("insufficient_funds", "The card has insufficient funds."),
    "54": ("expired_card", "The card has expired."),
}
#: Field 39 of a VOID for which the acquirer has no record of the authorization.
NO_RECORD: Final = "25"
#: A request whose outcome is unknown is repeated at once if at least this many seconds are left.
SECOND_TRY_SECONDS: Final = 1.0


class Decision(msgspec.Struct):
    """The acquirer's answer to one of our requests. Any other `status` is not an answer. `amount` is what it is about, if stated."""

    status: Literal["approved", "declined"]
    request_id: str
    code: str = ""
    amount: MoneyWire | None = None

    def is_for(self, asked: Money) -> bool:
        """Whether the decision is for the amount that was asked. An issuer may approve part of it; that does not count."""
        return self.amount is None or self.amount == from_money(asked)

    def decline(self) -> tuple[str, str]:
        """Code and message of a refusal, as clients see them."""
        return DECLINES.get(self.code, ("card_declined", "The card was declined."))


class Dispute(msgspec.Struct):
    """A cardholder's dispute as the acquirer reports it. `position` numbers disputes in order."""

    position: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
    authorization: str
    reason: str
    raised_at: str


class _Disputes(msgspec.Struct):
    data: list[Dispute]


class Acquirer:
    """`name` is the destination's id in the vault's allow-list. A request may take `timeout_ms` before its outcome counts as unknown."""

    def __init__(self, vault: VaultClient, name: str, timeout_ms: int) -> None:
        self.name = name
        self._vault = vault
        self._timeout_ms = timeout_ms

    async def authorize(self, p: Payment, token: str) -> Decision | None:
        """The decision on the payment's full amount; its `request_id` names the authorization. None if the card was destroyed and
        the acquirer was not asked before. Raises a Problem.
        """
        request_id = _request_id(p.id, Role.AUTHORIZE)
        body = {
            "request_id": request_id,
            "amount": from_money(p.money),
            "card": {"number": "{{card.number}}", "exp_month": 0, "exp_year": 0},
            "merchant": ids.accounts.text(p.destination),
        }
        try:
            return await self._ask("/authorizations", body, request_id, token, card=p.token)
        except (TokenNotFound, TokenDestroyed):
            # The card is gone now, but an earlier attempt may have reached the acquirer, or be on its way if the process that made it
            # has just died. The vault sends nothing new with this number, so the acquirer's timeout is the longest to wait.
            earlier = await self._earlier_decision("/authorizations", request_id, token)
            if earlier is None and p.version > 0:
                await asyncio.sleep(timedelta(milliseconds=self._timeout_ms).total_seconds())
                earlier = await self._earlier_decision("/authorizations", request_id, token)
            return earlier

    async def capture(self, p: Payment, token: str) -> Decision:
        """The decision on the amount that is to be captured. Raises AcquirerDisagrees if another one was; a Problem."""
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
        _check_amount(money, decision, "capture", p.id)
        return decision

    async def void(self, p: Payment, token: str) -> None:
        """Returns once the acquirer has no authorization of the payment. Raises AcquirerDisagrees if it refuses; a Problem."""
        request_id = _request_id(p.id, Role.VOID)
        body = {"request_id": request_id, "authorization": _request_id(p.id, Role.AUTHORIZE)}
        decision = await self._ask("/voids", body, request_id, token)
        if decision.status != "approved" and not await self._nothing_to_void(p, decision, token):
            _disagrees("void", p.id, f"it refuses with {decision.code[:8] or 'no code'}")

    async def _nothing_to_void(self, p: Payment, decision: Decision, token: str) -> bool:
        """Whether a VOID was refused because nothing was left to void; not so if a capture of ours succeeded and the card was charged."""
        if decision.code != NO_RECORD:
            return False
        capture = await self._earlier_decision("/captures", _request_id(p.id, Role.CAPTURE), token)
        return capture is None or capture.status != "approved"

    async def refund(self, r: Refund, token: str) -> Decision:
        """The decision on the refund's amount. Raises AcquirerDisagrees if another one was refunded; a Problem."""
        money = Money(r.amount, r.currency)
        request_id = _request_id(r.id, Role.REFUND)
        body = {
            "request_id": request_id,
            "authorization": _request_id(r.payment, Role.AUTHORIZE),
            "amount": from_money(money),
        }
        decision = await self._ask("/refunds", body, request_id, token)
        _check_amount(money, decision, "refund", r.id)
        return decision

    async def disputes(self, after: int, limit: int, token: str) -> list[Dispute]:
        """Disputes after a position, oldest first; none only if there is none. Raises a Problem.

        So the last position of a page is always beyond `after`, whatever the acquirer answers: reading page after page comes to an end.
        """
        answer = await self._get(f"/disputes?after={after}&limit={limit}", token)
        if answer.status != 200:
            raise AcquirerNotUnderstood(f"status {answer.status}")
        try:
            found = msgspec.json.decode(answer.body, type=_Disputes).data
        except msgspec.DecodeError as error:
            raise AcquirerNotUnderstood("not a list of disputes") from error
        new = sorted((each for each in found if each.position > after), key=lambda each: each.position)
        if found and not new:
            raise AcquirerNotUnderstood(f"only disputes up to {after}, which were read")
        return new

    async def _ask(
        self, path: str, body: dict[str, Any], request_id: str, token: str, *, card: str | None = None
    ) -> Decision:
        """Sends one request to the acquirer. Raises a Problem for anything but a decision: ask again under the same id."""
        text = msgspec.json.encode(body).decode()
        if card is not None:
            text = text.replace(
                '"exp_month":0,"exp_year":0', '"exp_month":{{card.exp_month}},"exp_year":{{card.exp_year}}'
            )
        call = ForwardCall(
            token=token,
            destination=self.name,
            request=Outgoing("POST", path, text),
            request_id=request_id,
            timeout_ms=self._timeout_ms,
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

    async def _earlier_decision(self, path: str, request_id: str, token: str) -> Decision | None:
        """The acquirer's decision on an earlier request; None if that request never arrived."""
        answer = await self._get(f"{path}/{request_id}", token)
        return None if answer.status == 404 else _decision_in(answer, request_id)

    async def _get(self, path: str, token: str) -> Forwarded:
        """What the acquirer says now. Each look has an id of its own: under an earlier one's, the vault would give that one's answer,
        which it keeps until somebody asks for it.
        """
        return await self._vault.forward(
            ForwardCall(
                token=token,
                destination=self.name,
                request=Outgoing("GET", path),
                request_id=ids.secret_id("look", 128),
                timeout_ms=self._timeout_ms,
            )
        )


class AcquirerDisagrees(Problem):
    """Never sent to a client: the payment waits, and the log has `payment.acquirer.disagrees`. Money may have moved at the
    acquirer that we don't know of; a person has to ask there.
    """

    slug, title, status = "acquirer-disagrees", "The acquirer's response contradicts the payment", 500


class AcquirerNotUnderstood(Problem):
    """Never sent to a client: the payment waits and asks again under the same id. Disputes are read again at the next time."""

    slug, title, status, retryable = "acquirer-not-understood", "The acquirer's response was not understood", 502, True


def _decision_in(answer: Forwarded, request_id: str) -> Decision:
    if answer.status != 200:
        raise AcquirerNotUnderstood(f"status {answer.status}", context={"status": answer.status})
    try:
        decision = msgspec.json.decode(answer.body, type=Decision)
    except msgspec.DecodeError as error:
        raise AcquirerNotUnderstood("not a decision") from error
    if decision.request_id != request_id:
        raise AcquirerNotUnderstood("a decision on another request")
    return decision


def _check_amount(asked: Money, decision: Decision, step: str, effect: PaymentId | RefundId) -> None:
    if decision.status == "approved" and not decision.is_for(asked):
        _disagrees(step, effect, "it answers for another amount")


def _disagrees(step: str, effect: PaymentId | RefundId, reason: str) -> NoReturn:
    """Raises AcquirerDisagrees: money may have moved there that we don't know of. A person has to look; the payment waits."""
    telemetry.log.error("payment.acquirer.disagrees", step=step, effect=str(effect), reason=reason)
    raise AcquirerDisagrees(f"the acquirer does not {step} as it was asked: {reason}")


def _request_id(parent: PaymentId | RefundId, role: Role) -> str:
    return ids.rail_requests.text(model.request_id(parent, role))
