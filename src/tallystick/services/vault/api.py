"""All that arrives at the vault by HTTP: tokens at the edge, forwarding and descriptions from payments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tallystick.chassis.auth import Subject
from tallystick.chassis.idempotency import Entry
from tallystick.chassis.web import Endpoint, Reply, Request, subject_at
from tallystick.contracts.vault.messages import (
    CreateBankAccountToken,
    CreateCardToken,
    CreateToken,
    DescribeAnswer,
    DescribeBatch,
    Described,
    ForwardAnswer,
    ForwardBatch,
    ForwardItem,
    Reveal,
    Revealed,
    Token,
)
from tallystick.contracts.vault.problems import (
    CardExpired,
    InvalidCardNumber,
    InvalidIban,
    RevealNotRecorded,
    TokenDestroyed,
    TokenNotFound,
    TooManyAlike,
)
from tallystick.kernel import ids
from tallystick.kernel.ids import InvalidId
from tallystick.kernel.problem import Problem
from tallystick.services.vault.model import CheckedCard, CheckedIban, check_card, check_expiry, check_iban
from tallystick.services.vault.service import Order, Send, Vault


async def create(service: Vault, request: Request[CreateToken]) -> Reply[Any]:
    body = request.body
    entry = None
    if request.idempotency_key is not None:
        subject = request.subject
        digest = service.digester.digest(_without_cvc(body))
        entry = Entry(subject.tenant, subject.client_id, request.route, request.idempotency_key, digest)
    order = Order(subject=request.subject, number=_checked(body), entry=entry, trace=request.trace_id)
    try:
        if isinstance(order.number, CheckedCard):
            check_expiry(order.number, service.clock.now())
    except CardExpired:
        # A key that was answered keeps its answer, also when the card has expired since.
        if (known := await service.tokens.known(order)) is None:
            raise
        made = known
    else:
        made = await service.tokens.create(order)
    return Reply.raw(made.body, made.status, replayed=made.replayed)


def _checked(body: CreateToken) -> CheckedCard | CheckedIban:
    if isinstance(body, CreateCardToken):
        card = body.card
        return check_card(card.number, card.exp_month, card.exp_year)
    return check_iban(body.bank_account.iban)


def _without_cvc(body: CreateToken) -> CreateToken:
    """The verification code goes no further than this function, not even into a keyed hash (PCI DSS 3.3.1)."""
    if isinstance(body, CreateBankAccountToken) or body.card.cvc is None:
        return body
    return CreateCardToken(msgspec.structs.replace(body.card, cvc=None))


async def get(service: Vault, request: Request) -> Reply[Token]:
    return Reply(await service.tokens.get(request.subject.tenant, ids.tokens.parse(request.path["id"])))


async def destroy(service: Vault, request: Request) -> Reply[None]:
    await service.tokens.destroy(request.subject, ids.tokens.parse(request.path["id"]), request.trace_id)
    return Reply(None, status=204)


async def reveal(service: Vault, request: Request[Reveal]) -> Reply[Revealed]:
    id_ = ids.tokens.parse(request.path["id"])
    return Reply(
        await service.tokens.reveal(request.subject, id_, request.body.purpose, request.trace_id, request.deadline)
    )


async def forward(service: Vault, request: Request[ForwardBatch]) -> Reply[ForwardAnswer]:
    subjects = await request.judge(request.body.tokens)
    sends = [_send(item, subjects, request.trace_id) for item in request.body.items]
    return Reply(ForwardAnswer(await service.forwarding.forward(sends)))


def _send(item: ForwardItem, subjects: Sequence[Subject | Problem], trace: str) -> Send | Problem:
    try:
        return Send(
            subject=subject_at(subjects, item.token),
            destination=item.destination,
            request=item.request,
            request_id=item.request_id,
            timeout=item.timeout_ms / 1000,
            token=None if item.card_token is None else ids.tokens.parse(item.card_token),
            trace=trace,
            wait=item.wait,
        )
    except InvalidId:
        return TokenNotFound()
    except Problem as problem:
        return problem


async def describe(service: Vault, request: Request[DescribeBatch]) -> Reply[DescribeAnswer]:
    subjects = await request.judge(request.body.tokens)
    answers: list[Described | None] = []
    wanted = []
    for item in request.body.items:
        try:
            wanted.append((subject_at(subjects, item.token).tenant, ids.tokens.parse(item.id)))
            answers.append(None)
        except InvalidId:
            answers.append(Described(problem=TokenNotFound().document()))
        except Problem as problem:
            answers.append(Described(problem=problem.document()))
    described = iter(await service.tokens.describe(wanted) if wanted else [])
    return Reply(DescribeAnswer([each or _described(next(described)) for each in answers]))


def _described(found: Token | Problem) -> Described:
    return Described(problem=found.document()) if isinstance(found, Problem) else Described(token=found)


ENDPOINTS = (
    Endpoint(
        "POST", "/v1/tokens", create, scope="tokens:write", action="createToken", resource="Token",
        body=CreateToken, answer=Token, status=201, idempotency="optional", rate="write",
        problems=(InvalidCardNumber, CardExpired, InvalidIban, TokenDestroyed, TooManyAlike),
        summary="Turn a card or a bank account into a token",
    ),
    Endpoint(
        "GET", "/v1/tokens/{id}", get, scope="tokens:read", action="readToken", resource="Token", answer=Token,
        rate="read", problems=(InvalidId, TokenNotFound, TokenDestroyed), segments={"id": ids.TokenIdWire}, summary="What may be seen of a token",
    ),
    Endpoint(
        "DELETE", "/v1/tokens/{id}", destroy, scope="tokens:write", action="destroyToken", resource="Token",
        status=204, rate="write", problems=(InvalidId, TokenNotFound), segments={"id": ids.TokenIdWire}, summary="Destroy a token and the number behind it",
    ),
    Endpoint(
        "POST", "/v1/tokens/{id}/reveal", reveal, scope="tokens:reveal", action="revealToken", resource="Token",
        body=Reveal, answer=Revealed, rate="reveal",
        problems=(InvalidId, TokenNotFound, TokenDestroyed, RevealNotRecorded),
        segments={"id": ids.TokenIdWire}, summary="The number in clear, once the log proves that this was recorded",
    ),
    Endpoint(
        "POST", "/internal/forward", forward, mesh=("payments",), action="forwardRequests", resource="Token",
        body=ForwardBatch, answer=ForwardAnswer, timeout=65.0,
        summary="Send requests to acquirers with the numbers filled in",
    ),
    Endpoint(
        "POST", "/internal/describe", describe, mesh=("payments",), action="describeTokens", resource="Token",
        body=DescribeBatch, answer=DescribeAnswer, summary="What may be seen of a batch of tokens",
    ),
)  # fmt: skip
