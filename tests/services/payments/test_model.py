"""A payment's life: whatever happens in whatever order, amounts stay within bounds and every life ends."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import get_args
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tallystick.chassis import charter
from tallystick.contracts.payments.messages import Status
from tallystick.contracts.payments.problems import (
    CancelNotPossible,
    CaptureNotPossible,
    CaptureTooLarge,
    PaymentCurrencyMismatch,
    RefundNotPossible,
    RefundTooLarge,
)
from tallystick.kernel import ids
from tallystick.kernel.money import Money
from tallystick.kernel.problem import Problem
from tallystick.services.payments import model
from tallystick.services.payments.model import Payment, Refund, RefundStep, Risk, Role, Step, Waiting
from tallystick.services.payments.service.journal import disputed_fact, payment_fact
from tests.services.payments.support import FINAL

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WAITING = Waiting("POST /v1/payments", "key", "cli_x")
WORKER = 7
ALLOW = Risk("allow", 0, ())
DENY = Risk("deny", 100, ("amount-over-10000",))


def payment(*, card: bool = True, capture: str = "automatic", amount: int = 1000) -> Payment:
    return Payment(
        id=ids.payments.new(),
        tenant="default",
        client_id="cli_x",
        status="received",
        amount=amount,
        currency="EUR",
        token="tok_x" if card else None,
        source=None if card else ids.accounts.new(),
        destination=ids.accounts.new(),
        clearing=ids.accounts.new() if card else None,
        capture="manual" if capture == "manual" else "automatic",
        waiting=WAITING,
        receipt=ids.facts.new(),
        created_at=NOW,
        updated_at=NOW,
    )


def settled(amount: int = 1000, *, card: bool = True) -> Payment:
    p = model.scored(payment(card=card, amount=amount), ALLOW)
    if not card:
        return model.posted(p)
    p = model.authorized(model.held(p), "req_a", NOW)
    return model.settled(model.captured(p))


def refund_of(p: Payment, amount: int | None) -> tuple[Payment, Refund]:
    return model.with_refund(
        p,
        ids.refunds.new(),
        None if amount is None else Money(amount, p.currency),
        client_id="cli_x",
        reason=None,
        waiting=WAITING,
        receipt=ids.facts.new(),
        trace="",
        worker=WORKER,
        now=NOW,
    )


class Life(RuleBasedStateMachine):
    """One payment, moved by its own table of steps with any outcome, and by clients at any moment."""

    @initialize(card=st.booleans(), capture=st.sampled_from(["automatic", "manual"]), amount=st.integers(1, 10**6))
    def start(self, card: bool, capture: str, amount: int) -> None:
        self.p = payment(card=card, capture=capture, amount=amount)
        self.refunds: list[Refund] = []
        self.steps = 0

    @rule(good=st.booleans(), odd=st.booleans())
    def step(self, good: bool, odd: bool) -> None:
        before = self.p
        step = model.next_step(before)
        match step:
            case None:
                return
            case Step.SCORE:
                self.p = model.scored(before, ALLOW if good else DENY)
            case Step.POST:
                self.p = model.posted(before) if good else model.refused_by_ledger(before, "insufficient_funds", "")
            case Step.HOLD:
                self.p = model.held(before) if good else model.refused_by_ledger(before, "account_closed", "")
            case Step.AUTHORIZE if odd:
                self.p = model.approved_otherwise(before, "a", NOW) if good else model.card_destroyed(before)
            case Step.AUTHORIZE:
                self.p = (
                    model.authorized(before, "a", NOW) if good else model.refused_by_issuer(before, "card_declined", "")
                )
            case Step.CAPTURE:
                self.p = model.captured(before) if good else model.capture_refused(before, "card_declined", "")
            case Step.SETTLE:
                self.p = model.settled(before)
            case Step.VOID:
                self.p = model.voided(before)
            case Step.RELEASE:
                self.p = model.released(before)
        self.steps += 1
        assert self.p != before

    @rule(amount=st.none() | st.integers(1, 2 * 10**6))
    def capture(self, amount: int | None) -> None:
        self._try(
            lambda: model.with_capture(self.p, None if amount is None else Money(amount, "EUR"), WAITING, WORKER, NOW)
        )

    @rule()
    def cancel(self) -> None:
        self._try(lambda: model.with_cancel(self.p, WAITING, WORKER, NOW))

    @rule(later=st.timedeltas(timedelta(0), timedelta(days=10)))
    def take_up(self, later: timedelta) -> None:
        self.p = model.taken_up(self.p, NOW + later)

    def _try(self, change: object) -> None:
        try:
            self.p = change()  # type: ignore[operator]
        except Problem as problem:
            assert problem.status in (409, 422)

    @rule(amount=st.none() | st.integers(1, 10**6))
    def refund(self, amount: int | None) -> None:
        try:
            self.p, made = refund_of(self.p, amount)
        except Problem as problem:
            assert problem.status in (409, 422)
        else:
            self.refunds.append(made)

    @precondition(lambda self: any(r.status == "pending" for r in self.refunds))
    @rule(good=st.booleans())
    def refund_step(self, good: bool) -> None:
        i = next(i for i, r in enumerate(self.refunds) if r.status == "pending")
        r = self.refunds[i]
        match model.next_refund_step(r):
            case RefundStep.REVERSE:
                r = model.reversed_(r) if good else model.reversal_refused(r, "insufficient_funds", "")
            case RefundStep.REFUND:
                r = model.refunded(r) if good else model.refund_refused(r, "card_declined", "")
            case RefundStep.RESTORE:
                r = model.restored(r)
            case None:
                raise AssertionError("a pending refund has a next step")
        self.refunds[i] = r
        if r.status != "pending":
            won = r.amount if r.status == "succeeded" else 0
            self.p = msgspec.structs.replace(
                self.p, refunding=self.p.refunding - r.amount, refunded=self.p.refunded + won
            )

    @invariant()
    def bounds(self) -> None:
        p = getattr(self, "p", None)
        if p is None:
            return
        assert 0 <= p.refunded + p.refunding <= p.captured <= p.amount
        assert sum(r.amount for r in self.refunds if r.status == "succeeded") == p.refunded
        if p.status in FINAL:
            assert model.next_step(p) is None
            assert (p.status in ("declined", "failed")) == (p.decline is not None)
            if p.held and p.status != "settled":
                assert p.released, "a hold outlives its payment"
        assert self.steps <= 8, "a payment's life has an end"


TestLife = Life.TestCase


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_derived_ids_differ_by_role_and_parent(one: int, other: int) -> None:
    mine = {model.derived(UUID(int=one), role) for role in Role}
    assert len(mine) == len(Role)
    if one >> 4 != other >> 4:
        assert mine.isdisjoint({model.derived(UUID(int=other), role) for role in Role})


def test_a_manual_payment_waits_until_it_is_captured_or_expires() -> None:
    p = model.authorized(model.held(model.scored(payment(capture="manual"), ALLOW)), "a", NOW)
    assert model.next_step(p) is None
    assert model.resting(p, NOW).resume_at == NOW + model.AUTHORIZATION_LIFE
    assert model.next_step(model.with_capture(p, Money(400, "EUR"), WAITING, WORKER, NOW)) is Step.CAPTURE
    expired = model.taken_up(p, NOW + model.AUTHORIZATION_LIFE)
    assert model.next_step(expired) is Step.VOID
    gone = model.released(model.voided(expired))
    assert (gone.status, gone.released) == ("expired", True)


def test_what_is_told_is_what_rests() -> None:
    """Of each state in which nothing is left to be done something is told, of no other but `received`; and the charter says so."""
    told = set()
    manual, automatic = (payment(capture=capture) for capture in ("manual", "automatic"))
    for p in (manual, automatic):
        for status in get_args(Status):
            here = msgspec.structs.replace(p, status=status, risk=ALLOW)
            if model.next_step(here) is None:
                assert payment_fact(here).type == f"payments.payment.{status}"
                told.add(status)
    assert "captured" not in told
    assert told == FINAL | {"authorized"}
    said = {
        happened.partition(".")[2] for happened in charter.load("payments").tells if happened.startswith("payment.")
    }
    assert said == told | {"received", "disputed"}


def test_a_dispute_is_told_of_a_payment_in_any_state() -> None:
    for status in get_args(Status):
        p = msgspec.structs.replace(payment(), status=status)
        fact = disputed_fact(p, "fraud", "2026-01-01T00:00:00Z")
        assert (fact.type, fact.data["status"]) == ("payments.payment.disputed", status)


def test_a_second_capture_or_cancel_is_refused_while_one_is_carried_out() -> None:
    p = model.authorized(model.held(model.scored(payment(capture="manual"), ALLOW)), "a", NOW)
    taken = model.with_capture(p, None, WAITING, WORKER, NOW)
    with pytest.raises(CaptureNotPossible):
        model.with_capture(taken, None, WAITING, WORKER, NOW)
    with pytest.raises(CancelNotPossible):
        model.with_cancel(taken, WAITING, WORKER, NOW)


def test_captures_are_bounded_in_amount_and_currency() -> None:
    p = model.authorized(model.held(model.scored(payment(capture="manual"), ALLOW)), "a", NOW)
    with pytest.raises(CaptureTooLarge) as caught:
        model.with_capture(p, Money(1001, "EUR"), WAITING, WORKER, NOW)
    assert caught.value.extensions == {
        "authorized": {"amount": "1000", "currency": "EUR"},
        "requested": {"amount": "1001", "currency": "EUR"},
    }
    with pytest.raises(PaymentCurrencyMismatch) as other:
        model.with_capture(p, Money(1, "USD"), WAITING, WORKER, NOW)
    assert other.value.extensions == {"currency": "EUR"}


def test_refunds_are_bounded_together() -> None:
    p, _ = refund_of(settled(), 600)
    with pytest.raises(RefundTooLarge) as caught:
        refund_of(p, 401)
    assert caught.value.extensions["refundable"] == {"amount": "400", "currency": "EUR"}
    p, rest = refund_of(p, None)
    assert rest.amount == 400
    with pytest.raises(RefundTooLarge):
        refund_of(p, None)


def test_what_was_refunded_before_is_refunded_no_more() -> None:
    p = msgspec.structs.replace(settled(), refunded=600, refunding=100)
    with pytest.raises(RefundTooLarge) as caught:
        refund_of(p, 301)
    assert caught.value.extensions["refundable"] == {"amount": "300", "currency": "EUR"}
    assert caught.value.extensions["requested"] == {"amount": "301", "currency": "EUR"}
    after, made = refund_of(p, 300)
    assert (made.amount, after.refunding, after.refunded) == (300, 400, 600)


def test_a_refund_is_what_was_asked_for_and_who_asked() -> None:
    p, later = settled(), NOW + timedelta(1)
    own, receipt, waiting = ids.refunds.new(), ids.facts.new(), Waiting("POST /v1/refunds", "other", "cli_y")
    after, made = model.with_refund(
        p, own, Money(5, "EUR"), client_id="cli_y", reason="broken", waiting=waiting, receipt=receipt, trace="t", worker=8, now=later
    )  # fmt: skip
    assert made == Refund(
        id=own, payment=p.id, tenant="default", client_id="cli_y", amount=5, currency="EUR", reason="broken", by_card=True, waiting=waiting,
        receipt=receipt, trace="t", created_at=later, updated_at=later, resume_at=later + model.LEASE, worker=8,
    )  # fmt: skip
    assert after == msgspec.structs.replace(p, refunding=5, updated_at=later)


def test_a_refund_is_the_ledgers_first_and_then_the_acquirers() -> None:
    _, made = refund_of(settled(), 5)
    back = model.reversed_(made)
    refused = model.refund_refused(back, "card_declined", "")
    assert [model.next_refund_step(r) for r in (made, back, refused)] == list(RefundStep)
    assert [r.status for r in (made, back, refused)] == ["pending"] * 3
    failed = model.reversal_refused(made, "insufficient_funds", "")
    _, book = refund_of(settled(card=False), 5)
    assert model.next_refund_step(book) is RefundStep.REVERSE
    ends = [failed, model.refunded(back), model.restored(refused), model.suspended(refused), model.reversed_(book)]
    assert [r.status for r in ends] == ["failed", "succeeded", "failed", "failed", "succeeded"]
    assert [model.next_refund_step(r) for r in ends] == [None] * 5


def test_only_what_was_settled_is_refunded() -> None:
    with pytest.raises(RefundNotPossible, match="on its way"):
        refund_of(payment(), 1)
    p = model.authorized(model.held(model.scored(payment(capture="manual"), ALLOW)), "a", NOW)
    with pytest.raises(RefundNotPossible, match="rests until it is captured"):
        refund_of(p, 1)
    with pytest.raises(RefundNotPossible, match="another request to cancel"):
        refund_of(model.with_cancel(p, WAITING, WORKER, NOW), 1)
    with pytest.raises(RefundNotPossible, match="has expired"):
        refund_of(model.taken_up(p, NOW + model.AUTHORIZATION_LIFE), 1)
    with pytest.raises(RefundNotPossible, match="a payment that is declined"):
        refund_of(model.scored(payment(), DENY), 1)


@pytest.mark.parametrize(("code", "limit"), [("EUR", 5000), ("JPY", 10_000), ("IDR", 100_000_000), ("KWD", 25_000)])
def test_small_payments_go_on_without_risk_and_large_ones_do_not(code: str, limit: int) -> None:
    small, large = (msgspec.structs.replace(payment(amount=minor), currency=code) for minor in (limit, limit + 1))
    assert model.next_step(model.unscored(small, 50)) is Step.HOLD
    refused = model.unscored(large, 50)
    assert (refused.status, refused.decline and refused.decline.code) == ("declined", "risk_unavailable")


def test_pauses_grow_and_stay_bounded() -> None:
    p = payment()
    pauses = []
    for _ in range(12):
        p = model.postponed(p, NOW)
        assert p.resume_at is not None
        pauses.append(p.resume_at - NOW)
    assert pauses == sorted(pauses)
    assert pauses[-1] == model.BACKOFF[-1]


# ---- to the letter -------------------------------------------------------------------------------------------------------

NUMBERED = ids.payments.parse("pay_01m84rq733eys854s4f27ccyyd")


def test_ids_that_follow_from_others_never_change() -> None:
    """They are in the ledger and with the acquirer: other ones for the same payment would be its effects for a second time."""
    assert {role.name: role.value for role in Role} == {
        "DECISION": 1, "HOLD": 2, "SETTLE": 3, "RELEASE": 4, "AUTHORIZE": 5, "CAPTURE": 6, "VOID": 7, "REVERSE": 8, "REFUND": 9, "RESTORE": 10,
        "SUSPEND": 11, "RETURN": 12,
    }  # fmt: skip
    assert [model.derived(UUID(int=0b1010), role).int for role in (Role.DECISION, Role.REVERSE)] == [0b1011, 0b0010]
    assert model.authorized_by(model.request_id(NUMBERED, Role.AUTHORIZE)) == NUMBERED
    clearing, suspense = model.clearing("acme", "EUR"), model.suspense("acme", "EUR")
    assert (clearing.path, clearing.normal_side, clearing.floor) == ("tallystick:card-clearing:EUR", "debit", None)
    assert (suspense.path, suspense.normal_side, suspense.floor) == ("tallystick:suspense:EUR", "credit", 0)
    assert [str(one.id) for one in (clearing, suspense)] == [
        "d64146e8-6571-8368-b89b-46b6aa5573bf",
        "9347178e-dcde-83f8-906b-08b2f2fdf8e8",
    ]
    assert model.own_accounts("acme", "EUR") == {clearing.id, suspense.id}


def test_each_way_that_a_payment_can_go() -> None:
    approved: dict[Step, Callable[[Payment], Payment]] = {
        Step.SCORE: lambda p: model.scored(p, ALLOW),
        Step.POST: model.posted,
        Step.HOLD: model.held,
        Step.AUTHORIZE: lambda p: model.authorized(p, "a", NOW),
        Step.CAPTURE: model.captured,
        Step.SETTLE: model.settled,
        Step.VOID: model.voided,
        Step.RELEASE: model.released,
    }

    def way(p: Payment, **instead: Callable[[Payment], Payment]) -> str:
        """The steps in order, and where they end."""
        steps = []
        while (step := model.next_step(p)) is not None:
            p = instead.pop(step.value, approved[step])(p)
            steps.append(step.value)
        return " ".join([*steps, "->", p.status])

    def said_no(p: Payment) -> Payment:
        return model.refused_by_issuer(p, "card_declined", "")

    def capture_refused(p: Payment) -> Payment:
        return model.capture_refused(p, "card_declined", "")

    card, manual, book = payment(), payment(capture="manual"), payment(card=False)
    assert way(book) == "score post -> settled"
    assert way(card) == "score hold authorize capture settle -> settled"
    assert way(manual) == "score hold authorize -> authorized"
    for p in (book, card, manual):
        assert way(p, score=lambda p: model.scored(p, DENY)) == "score -> declined"
        assert way(p, score=lambda p: model.unscored(p, 1)) == "score -> declined"
    assert way(book, post=lambda p: model.refused_by_ledger(p, "account_closed", "")) == "score post -> declined"
    for p in (card, manual):
        assert way(p, hold=lambda p: model.refused_by_ledger(p, "account_closed", "")) == "score hold -> declined"
        assert way(p, authorize=said_no) == "score hold authorize release -> declined"
        assert way(p, authorize=model.card_destroyed) == "score hold authorize release -> declined"
        otherwise = way(p, authorize=lambda p: model.approved_otherwise(p, "a", NOW))
        assert otherwise == "score hold authorize void release -> failed"
    assert way(card, capture=capture_refused) == "score hold authorize capture void release -> failed"
    rests = model.authorized(model.held(model.scored(manual, ALLOW)), "a", NOW)
    asked = model.with_capture(rests, Money(1, "EUR"), WAITING, WORKER, NOW)
    assert way(asked) == "capture settle -> settled"
    assert way(asked, capture=capture_refused) == "capture void release -> failed"
    assert way(model.with_cancel(rests, WAITING, WORKER, NOW)) == "void release -> canceled"
    assert way(model.taken_up(rests, NOW + model.AUTHORIZATION_LIFE)) == "void release -> expired"


def test_what_is_on_its_way_takes_no_other() -> None:
    p = model.authorized(model.held(model.scored(payment(), ALLOW)), "a", NOW)
    for passes in (payment(), p, model.captured(p)):
        with pytest.raises(CaptureNotPossible, match=r"on its way and can't be captured$") as capture:
            model.with_capture(passes, None, WAITING, WORKER, NOW)
        with pytest.raises(CancelNotPossible, match=r"on its way and can't be canceled$") as cancel:
            model.with_cancel(passes, WAITING, WORKER, NOW)
        with pytest.raises(RefundNotPossible, match=r"on its way and can't be refunded$") as refund:
            refund_of(passes, 1)
        for no in (capture, cancel, refund):
            assert no.value.extensions == {"payment_status": passes.status}


def test_a_new_payment_has_done_nothing_yet() -> None:
    p = payment()
    assert (p.captured, p.refunded, p.refunding, p.intent_amount, p.attempts, p.version) == (0, 0, 0, 0, 0, 0)
    assert (p.held, p.released, p.disputed, p.capture, p.trace) == (False, False, False, "automatic", "")
    assert model.transfers(p) == []
    _, r = refund_of(settled(), 1)
    assert (r.status, r.reversed, r.restored, r.suspended, r.returned, r.attempts, r.version) == ("pending", False, False, False, False, 0, 0)  # fmt: skip
    assert model.refund_transfers(r) == []


def test_the_transfers_of_a_payment_are_those_that_it_has_made_by_now() -> None:
    def roles(p: Payment) -> list[Role]:
        return [Role(one.int ^ p.id.int) for one in model.transfers(p)]

    assert roles(settled(card=False)) == [Role.SETTLE]
    held = model.held(model.scored(payment(), ALLOW))
    assert roles(held) == [Role.HOLD]
    assert roles(model.captured(model.authorized(held, "a", NOW))) == [Role.HOLD]
    assert roles(settled()) == [Role.HOLD, Role.SETTLE]
    assert roles(model.released(model.refused_by_issuer(held, "card_declined", ""))) == [Role.HOLD, Role.RELEASE]


def test_the_transfers_of_a_refund_are_those_that_it_has_made_by_now() -> None:
    def roles(r: Refund) -> list[Role]:
        return [Role(one.int ^ r.id.int) for one in model.refund_transfers(r)]

    _, made = refund_of(settled(), 5)
    back = model.reversed_(made)
    refused = model.refund_refused(back, "card_declined", "")
    again = model.returned(made)
    assert (again.reversed, again.status, model.next_refund_step(again)) == (True, "pending", RefundStep.REFUND)
    assert [
        roles(r) for r in (again, back, model.refunded(back), model.restored(refused), model.suspended(refused))
    ] == [
        [Role.RETURN],
        [Role.REVERSE],
        [Role.REVERSE],
        [Role.REVERSE, Role.RESTORE],
        [Role.REVERSE, Role.SUSPEND],
    ]


def test_what_takes_back_what_another_try_builds_on_is_written_before() -> None:
    """And that risk was not asked, as it may say no when it is."""
    stored = payment()
    held = model.held(model.scored(stored, ALLOW))
    declined = model.refused_by_issuer(held, "card_declined", "")
    canceled = model.with_cancel(model.authorized(msgspec.structs.replace(held, capture="manual"), "a", NOW), WAITING, WORKER, NOW)  # fmt: skip
    for step in (Step.VOID, Step.RELEASE):
        assert model.decisive(held, declined, step)
        assert model.decisive(held, canceled, step)
        assert not model.decisive(declined, declined, step)
    unscored = model.unscored(stored, 50)
    for step in (Step.POST, Step.HOLD, Step.AUTHORIZE):
        assert not model.decisive(stored, stored, step)
        assert not model.decisive(stored, held, step)
        assert not model.decisive(held, declined, step)
        assert model.decisive(stored, unscored, step)
        assert not model.decisive(unscored, model.held(unscored), step)
    assert model.may_go_unscored(stored)
    assert not model.may_go_unscored(msgspec.structs.replace(stored, version=1))


def test_who_said_no_and_why_is_told() -> None:
    p = payment()
    held = model.held(model.scored(p, ALLOW))
    large = msgspec.structs.replace(p, amount=5001)
    back = model.reversed_(refund_of(settled(), 5)[1])
    said = [
        model.scored(p, DENY).decline,
        model.unscored(large, 50).decline,
        model.refused_by_ledger(p, "account_closed", "").decline,
        model.refused_by_issuer(held, "card_declined", "").decline,
        model.card_destroyed(held).decline,
        model.approved_otherwise(held, "a", NOW).decline,
        model.capture_refused(model.authorized(held, "a", NOW), "card_declined", "").decline,
        model.reversal_refused(refund_of(settled(), 5)[1], "insufficient_funds", "").failure,
        model.refund_refused(back, "card_declined", "").failure,
    ]
    assert [(one.code, one.by) for one in said if one is not None] == [
        ("risk_denied", "risk"),
        ("risk_unavailable", "risk"),
        ("account_closed", "ledger"),
        ("card_declined", "issuer"),
        ("token_destroyed", "platform"),
        ("amount_not_approved", "platform"),
        ("card_declined", "issuer"),
        ("insufficient_funds", "ledger"),
        ("card_declined", "issuer"),
    ]
    assert model.scored(p, DENY).risk == DENY
    for small in (p, large):
        assert model.unscored(small, 50).risk == Risk("unscored", None, ("risk-unavailable",))


def test_a_capture_is_of_what_was_asked_and_only_once() -> None:
    p = model.authorized(model.held(model.scored(payment(capture="manual"), ALLOW)), "a", NOW)
    assert p.expires_at == NOW + timedelta(days=7)
    p = model.resting(p, NOW)
    assert p.waiting is None
    for asked, captured in ((Money(400, "EUR"), 400), (Money(1000, "EUR"), 1000), (None, 1000)):
        taken = model.with_capture(p, asked, WAITING, WORKER, NOW + timedelta(1))
        assert (taken.intent, taken.intent_amount, taken.waiting, taken.worker) == ("capture", captured, WAITING, WORKER)  # fmt: skip
        assert (taken.resume_at, taken.updated_at) == (NOW + timedelta(1) + model.LEASE, NOW + timedelta(1))
        done = model.captured(taken)
        assert (done.status, done.captured, done.intent, done.intent_amount) == ("captured", captured, None, 0)
        refused = model.capture_refused(taken, "card_declined", "")
        assert (refused.intent, refused.intent_amount, model.next_step(refused)) == (None, 0, Step.VOID)
        failed = model.released(model.voided(refused))
        assert (failed.status, failed.released, failed.authorization) == ("failed", True, None)
    canceled = model.with_cancel(p, WAITING, WORKER, NOW + timedelta(1))
    assert (canceled.resume_at, canceled.updated_at) == (NOW + timedelta(1) + model.LEASE, NOW + timedelta(1))
    assert (canceled.worker, canceled.waiting) == (WORKER, WAITING)
    assert model.released(model.voided(canceled)).status == "canceled"
    assert model.released(model.voided(canceled)).intent is None


def test_an_authorization_expires_at_its_time_and_only_where_it_waits() -> None:
    p = model.authorized(model.held(model.scored(payment(capture="manual"), ALLOW)), "a", NOW)
    at = NOW + model.AUTHORIZATION_LIFE
    assert model.taken_up(p, at - timedelta(microseconds=1)) == p
    assert model.taken_up(p, at).intent == "expire"
    for other in (
        msgspec.structs.replace(p, capture="automatic"),
        msgspec.structs.replace(p, expires_at=None),
        model.with_capture(p, None, WAITING, WORKER, NOW),
        model.approved_otherwise(p, "a", NOW),
        msgspec.structs.replace(p, status="captured"),
    ):
        assert model.taken_up(other, at) == other


def test_what_rests_is_nobodys_and_what_is_put_off_comes_again() -> None:
    later = NOW + timedelta(1)
    busy = msgspec.structs.replace(payment(), worker=WORKER, attempts=3, resume_at=NOW, expires_at=later)
    assert busy.asked_by == "cli_x"
    rests = model.resting(busy, later)
    assert rests == msgspec.structs.replace(busy, resume_at=None, worker=None, attempts=0, waiting=None, updated_at=later)  # fmt: skip
    assert rests.asked_by is None
    again = msgspec.structs.replace(busy, attempts=4, worker=None, resume_at=later + model.BACKOFF[3], updated_at=later)
    assert model.postponed(busy, later) == again
    _, made = refund_of(settled(), 5)
    assert (made.resume_at, made.worker, made.waiting, made.by_card) == (NOW + model.LEASE, WORKER, WAITING, True)
    tried = msgspec.structs.replace(made, attempts=3)
    put_off = model.refund_postponed(tried, later)
    assert (put_off.resume_at, put_off.worker, put_off.attempts) == (later + model.BACKOFF[3], None, 4)
    assert put_off.updated_at == later
    assert model.refund_postponed(msgspec.structs.replace(made, attempts=99), later).resume_at == later + model.BACKOFF[-1]  # fmt: skip
    done = model.refund_resting(tried, later)
    assert (done.resume_at, done.worker, done.attempts, done.waiting, done.updated_at) == (None, None, 0, None, later)
