"""All that arrives at risk by HTTP: decisions for payments, lists for the operator."""

from __future__ import annotations

from collections.abc import Sequence

from tallystick.chassis.auth import Subject
from tallystick.chassis.web import Endpoint, Reply, Request, subject_at
from tallystick.contracts.risk.messages import (
    DecideAnswer,
    DecideBatch,
    Decided,
    Decision,
    DecisionRequest,
    ListEntries,
    ListEntry,
    ListQuery,
    ListValue,
)
from tallystick.contracts.risk.problems import InvalidListValue, NotListed
from tallystick.kernel import ids
from tallystick.kernel.money import to_money
from tallystick.kernel.problem import InvalidRequest, Problem
from tallystick.services.risk import model
from tallystick.services.risk.service import Case, Risk


async def decide(service: Risk, request: Request[DecideBatch]) -> Reply[DecideAnswer]:
    subjects = await request.judge(request.body.tokens)
    answers: list[Decided | None] = []
    cases = []
    for item in request.body.items:
        try:
            cases.append(_case(item, subjects))
            answers.append(None)
        except Problem as problem:
            answers.append(Decided(problem=problem.document()))
    decided = iter(await service.decide(cases))
    return Reply(DecideAnswer([each or _answer(next(decided)) for each in answers]))


def _case(item: DecisionRequest, subjects: Sequence[Subject | Problem]) -> Case:
    subject = subject_at(subjects, item.token)
    return Case(
        id=ids.decisions.parse(item.id),
        tenant=subject.tenant,
        client_id=subject.client_id,
        payment=item.payment,
        amount=to_money(item.amount),
        card=item.card,
        account=item.account,
    )


def _answer(decided: model.Decided | Problem) -> Decided:
    if isinstance(decided, Problem):
        return Decided(problem=decided.document())
    verdict = decided.verdict
    return Decided(
        decision=Decision(ids.decisions.text(decided.id), verdict.decision, verdict.score, list(verdict.reasons))
    )


async def list_entries(service: Risk, request: Request[None, ListQuery]) -> Reply[ListEntries]:
    return Reply(ListEntries(await service.lists(request.query.tenant)))


async def put_list_entry(service: Risk, request: Request[ListEntry]) -> Reply[ListEntry]:
    await service.put_list_entry(request.body)
    return Reply(request.body)


async def delete_list_entry(service: Risk, request: Request) -> Reply[None]:
    path = request.path
    await service.delete_list_entry(path["tenant"], path["kind"], path["value"])
    return Reply(None, status=204)


ENDPOINTS = (
    Endpoint(
        "POST", "/internal/decisions", decide, mesh=("payments",), action="decidePayments", resource="Decision",
        body=DecideBatch, answer=DecideAnswer, problems=(InvalidRequest,),
        summary="Decide on a batch of payments",
    ),
    Endpoint(
        "GET", "/internal/lists", list_entries, mesh=("operator",), action="readLists", resource="List",
        query=ListQuery, answer=ListEntries, summary="A tenant's deny and allow lists",
    ),
    Endpoint(
        "PUT", "/internal/lists", put_list_entry, mesh=("operator",), action="writeLists", resource="List",
        body=ListEntry, answer=ListEntry, problems=(InvalidListValue,),
        summary="Deny or allow a card, a paying account or a client",
    ),
    Endpoint(
        "DELETE", "/internal/lists/{tenant}/{kind}/{value}", delete_list_entry, mesh=("operator",),
        action="writeLists", resource="List", status=204, problems=(NotListed,),
        segments={"tenant": ids.TenantName, "kind": str, "value": ListValue}, summary="Take a value off the lists",
    ),
)  # fmt: skip
