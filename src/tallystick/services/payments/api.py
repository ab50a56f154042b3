"""The HTTP API of payments: endpoints, and the wire form of payments and refunds."""

from __future__ import annotations

from typing import Any

import msgspec

from tallystick.chassis.idempotency import Digester, Entry
from tallystick.chassis.web import Endpoint, Further, Page, Reply, Request, invalid
from tallystick.contracts.payments import messages as wire
from tallystick.contracts.payments.problems import (
    AccountNotFound,
    AccountReserved,
    CancelNotPossible,
    CaptureNotPossible,
    CaptureTooLarge,
    PaymentCurrencyMismatch,
    PaymentNotFound,
    RefundNotFound,
    RefundNotPossible,
    RefundTooLarge,
    SameAccount,
    TokenNotFound,
)
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.money import InvalidAmount, MoneyWire, UnknownCurrency, to_money
from tallystick.services.payments import model
from tallystick.services.payments.service import Background, Made, NewPayment, Payments, Refunds


class Api:
    """The use cases, and the digester that lets the edge compare request bodies without storing them."""

    def __init__(self, payments: Payments, refunds: Refunds, background: Background, digester: Digester) -> None:
        self.payments = payments
        self.refunds = refunds
        self.background = background
        self._digester = digester

    def entry(self, request: Request[Any]) -> Entry:
        """The idempotency entry of a request. The ids in the path are part of its route, so a key belongs to one payment."""
        subject = request.subject
        key = request.idempotency_key
        if key is None:
            msg = f"{request.route} must demand an Idempotency-Key"
            raise RuntimeError(msg)
        route = request.route
        for name, value in request.path.items():
            route = route.replace("{" + name + "}", value)
        return Entry(subject.tenant, subject.client_id, route, key, self._digester.digest(request.body))


async def create(api: Api, request: Request[wire.CreatePayment]) -> Reply[wire.Payment]:
    body = request.body
    source = body.source
    if isinstance(source, wire.AccountSource) and body.capture == "manual":
        raise invalid("/capture", "a book transfer settles at once: only a card payment can be captured later")
    new = NewPayment(
        amount=to_money(body.amount),
        token=_card_token(source.token) if isinstance(source, wire.CardSource) else None,
        source=ids.accounts.parse(source.account) if isinstance(source, wire.AccountSource) else None,
        destination=ids.accounts.parse(body.destination.account),
        capture=body.capture,
        description=body.description,
        reference=body.reference,
        metadata=body.metadata,
    )
    return _reply(await api.payments.create(request.subject, new, api.entry(request), request.trace_id))


def _card_token(text: str) -> str:
    """A valid token id, nothing else. A card number sent in its place would otherwise be stored and repeated in the answer."""
    return ids.tokens.text(ids.tokens.parse(text))


async def get(api: Api, request: Request) -> Reply[wire.Payment]:
    return Reply(payment_view(await api.payments.get(request.subject, ids.payments.parse(request.path["id"]))))


async def list_(api: Api, request: Request[None, wire.PaymentsQuery]) -> Reply[Page[wire.Payment]]:
    query = request.query
    found = await api.payments.list(
        request.subject,
        after=None if query.after is None else ids.payments.parse(query.after),
        status=query.status,
        reference=query.reference,
        limit=query.limit + 1,
    )
    page = [payment_view(p) for p in found[: query.limit]]
    more = len(found) > query.limit
    return Reply(Page(data=page, has_more=more, next=page[-1].id if more else None))


async def capture(api: Api, request: Request[wire.CapturePayment]) -> Reply[wire.Payment]:
    amount = None if request.body.amount is None else to_money(request.body.amount)
    payment = ids.payments.parse(request.path["id"])
    return _reply(await api.payments.capture(request.subject, payment, amount, api.entry(request)))


async def cancel(api: Api, request: Request[wire.CancelPayment]) -> Reply[wire.Payment]:
    payment = ids.payments.parse(request.path["id"])
    return _reply(await api.payments.cancel(request.subject, payment, api.entry(request)))


async def refund(api: Api, request: Request[wire.CreateRefund]) -> Reply[wire.Refund]:
    body = request.body
    made = await api.refunds.create(
        request.subject,
        ids.payments.parse(body.payment),
        None if body.amount is None else to_money(body.amount),
        reason=body.reason,
        entry=api.entry(request),
        trace=request.trace_id,
    )
    return _reply(made)


async def get_refund(api: Api, request: Request) -> Reply[wire.Refund]:
    return Reply(refund_view(await api.refunds.get(request.subject, ids.refunds.parse(request.path["id"]))))


def _reply(made: Made) -> Reply[Any]:
    headers = None
    if made.status == 202:
        headers = {"Retry-After": "2"}
    elif made.status >= 400:
        headers = {"Content-Type": "application/problem+json"}
    return Reply.raw(made.body, made.status, headers, replayed=made.replayed)


def payment_view(p: model.Payment) -> wire.Payment:
    return wire.Payment(
        id=ids.payments.text(p.id),
        status=p.status,
        amount=MoneyWire(str(p.amount), p.currency),
        captured=MoneyWire(str(p.captured), p.currency),
        refunded=MoneyWire(str(p.refunded), p.currency),
        source=wire.CardSource(p.token) if p.token is not None else wire.AccountSource(_account(p.source)),
        destination=wire.Destination(_account(p.destination)),
        capture=p.capture,
        card=wire.CardView(p.card.brand, p.card.last4, p.card.fingerprint) if p.card else None,
        description=p.description,
        reference=p.reference,
        metadata=p.metadata,
        risk=wire.RiskView(p.risk.decision, p.risk.score, list(p.risk.reasons)) if p.risk else None,
        ledger=wire.LedgerView([ids.transfers.text(t) for t in model.transfers(p)]),
        decline=wire.Decline(p.decline.code, p.decline.message) if p.decline else None,
        disputed=p.disputed,
        receipt=ids.facts.text(p.receipt),
        created_at=rfc3339(p.created_at),
        updated_at=rfc3339(p.updated_at),
        version=p.version,
    )


def refund_view(r: model.Refund) -> wire.Refund:
    return wire.Refund(
        id=ids.refunds.text(r.id),
        payment=ids.payments.text(r.payment),
        status=r.status,
        amount=MoneyWire(str(r.amount), r.currency),
        reason=r.reason,
        ledger=wire.LedgerView([ids.transfers.text(t) for t in model.refund_transfers(r)]),
        failure=wire.Decline(r.failure.code, r.failure.message) if r.failure else None,
        suspense=ids.accounts.text(model.suspense(r.tenant, r.currency).id) if r.suspended else None,
        receipt=ids.facts.text(r.receipt),
        created_at=rfc3339(r.created_at),
        updated_at=rfc3339(r.updated_at),
        version=r.version,
    )


_encoder = msgspec.json.Encoder()


def render(p: model.Payment) -> bytes:
    return _encoder.encode(payment_view(p))


def render_refund(r: model.Refund) -> bytes:
    return _encoder.encode(refund_view(r))


def _account(account: ids.AccountId | None) -> str:
    return "" if account is None else ids.accounts.text(account)


_AMOUNT = (InvalidAmount, UnknownCurrency, ids.InvalidId)

_ON_ITS_WAY = {202: Further("Taken: this is what is known so far, and the work goes on")}

ENDPOINTS = (
    Endpoint(
        "POST", "/v1/payments", create, scope="payments:write", action="createPayment", resource="Payment",
        body=wire.CreatePayment, answer=wire.Payment, status=201, idempotency="required", further=_ON_ITS_WAY, rate="money", timeout=15.0,
        problems=(*_AMOUNT, AccountNotFound, AccountReserved, TokenNotFound, SameAccount, PaymentCurrencyMismatch),
        summary="Take a payment from a card or an account",
    ),
    Endpoint(
        "GET", "/v1/payments", list_, scope="payments:read", action="listPayments", resource="Payment",
        query=wire.PaymentsQuery, answer=Page[wire.Payment], rate="read", problems=(ids.InvalidId,),
        summary="Payments, newest first",
    ),
    Endpoint(
        "GET", "/v1/payments/{id}", get, scope="payments:read", action="readPayment", resource="Payment",
        answer=wire.Payment, rate="read", problems=(PaymentNotFound, ids.InvalidId), segments={"id": ids.PaymentIdWire}, summary="One payment",
    ),
    Endpoint(
        "POST", "/v1/payments/{id}/capture", capture, scope="payments:write", action="capturePayment",
        resource="Payment", body=wire.CapturePayment, answer=wire.Payment, idempotency="required", further=_ON_ITS_WAY, rate="money",
        timeout=15.0,
        problems=(*_AMOUNT, PaymentNotFound, CaptureNotPossible, CaptureTooLarge, PaymentCurrencyMismatch),
        segments={"id": ids.PaymentIdWire}, summary="Capture an authorized payment, all or part of it, once",
    ),
    Endpoint(
        "POST", "/v1/payments/{id}/cancel", cancel, scope="payments:write", action="cancelPayment", resource="Payment",
        body=wire.CancelPayment, answer=wire.Payment, idempotency="required", further=_ON_ITS_WAY, rate="money", timeout=15.0,
        problems=(PaymentNotFound, CancelNotPossible, ids.InvalidId), segments={"id": ids.PaymentIdWire}, summary="Cancel an authorized payment",
    ),
    Endpoint(
        "POST", "/v1/refunds", refund, scope="refunds:write", action="createRefund", resource="Refund",
        body=wire.CreateRefund, answer=wire.Refund, status=201, idempotency="required", further=_ON_ITS_WAY, rate="money", timeout=15.0,
        problems=(*_AMOUNT, PaymentNotFound, RefundNotPossible, RefundTooLarge, PaymentCurrencyMismatch),
        summary="Give back what was captured, all or part of it",
    ),
    Endpoint(
        "GET", "/v1/refunds/{id}", get_refund, scope="payments:read", action="readRefund", resource="Refund",
        answer=wire.Refund, rate="read", problems=(RefundNotFound, ids.InvalidId), segments={"id": ids.RefundIdWire}, summary="One refund",
    ),
)  # fmt: skip
