"""Handlers of approval rules, proposals and decisions, with their wire forms."""

from __future__ import annotations

from typing import Literal

import msgspec

from tallystick.chassis.web import Page, Reply, Request, page, read_cursor
from tallystick.contracts.ledger import messages as wire
from tallystick.contracts.ledger.messages import MAIN
from tallystick.contracts.ledger.problems import InvalidApprovalRule
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.money import currency
from tallystick.services.ledger.api.books import named
from tallystick.services.ledger.api.common import who
from tallystick.services.ledger.api.handlers import EntriesQuery
from tallystick.services.ledger.model import EVERYTHING, ApprovalRule, ProposalRow
from tallystick.services.ledger.service import Ledger

_content = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ProposalsQuery(EntriesQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    status: wire.ProposalStatus | None = None


async def get_rules(ledger: Ledger, request: Request) -> Reply[wire.ApprovalRules]:
    name = named(request)
    found = await ledger.approvals.rules(request.subject.tenant, name)
    return Reply(wire.ApprovalRules(book=name, rules=[_rule(rule) for rule in found]))


async def set_rules(ledger: Ledger, request: Request[wire.SetApprovalRules]) -> Reply[wire.ApprovalRules]:
    name = named(request)
    rules = [_model(place, rule) for place, rule in enumerate(request.body.rules)]
    await ledger.approvals.set_rules(who(request), name, rules)
    return Reply(wire.ApprovalRules(book=name, rules=request.body.rules))


async def list_proposals(ledger: Ledger, request: Request[None, ProposalsQuery]) -> Reply[Page[wire.Proposal]]:
    query = request.query
    key = read_cursor(query.after, str)
    rows = await ledger.approvals.page(
        request.subject.tenant,
        query.book or MAIN,
        None if key is None else ids.proposals.parse(str(key[0])),
        query.status,
        query.limit + 1,
    )
    found = page(rows, query.limit, lambda row: (ids.proposals.text(row.id),))
    return Reply(Page(data=[proposal(row) for row in found.data], has_more=found.has_more, next=found.next))


async def get_proposal(ledger: Ledger, request: Request) -> Reply[wire.Proposal]:
    return Reply(proposal(await ledger.approvals.get(request.subject.tenant, ids.proposals.parse(request.path["id"]))))


async def approve(ledger: Ledger, request: Request[wire.SignedDecision]) -> Reply[wire.Proposal]:
    return await _decide(ledger, request, "approve")


async def reject(ledger: Ledger, request: Request[wire.SignedDecision]) -> Reply[wire.Proposal]:
    return await _decide(ledger, request, "reject")


async def _decide(
    ledger: Ledger, request: Request[wire.SignedDecision], decision: Literal["approve", "reject"]
) -> Reply[wire.Proposal]:
    own = ids.proposals.parse(request.path["id"])
    row = await ledger.approvals.decide(request.subject, request.trace_id, own, decision, request.body.signature)
    return Reply(proposal(row))


def proposal(row: ProposalRow) -> wire.Proposal:
    return wire.Proposal(
        id=ids.proposals.text(row.id),
        book=row.book_name,
        status=row.status,
        proposer=row.proposer,
        transaction=_content(row.content),
        plan=row.plan,
        digest=row.digest,
        rules=[_rule(rule) for rule in row.rules],
        missing=row.missing,
        decisions=[
            wire.Decision(approver=one.approver, decision=one.decision, at=rfc3339(one.at), signature=one.signature)
            for one in row.decisions
        ],
        created_at=rfc3339(row.created_at),
        expires_at=rfc3339(row.expires_at),
        reason=row.reason,
        account=row.account,
        breached_on=[day.isoformat() for day in row.breached_on],
    )


def _rule(rule: ApprovalRule) -> wire.ApprovalRule:
    return wire.ApprovalRule(
        currency=rule.currency,
        above=str(rule.above),
        approvals=rule.approvals,
        approvers=list(rule.approvers),
        expires_in=rule.expires_in,
        pattern=None if rule.pattern == EVERYTHING else rule.pattern,
    )


def _model(place: int, rule: wire.ApprovalRule) -> ApprovalRule:
    """The rule at `place` of the request. Raises UnknownCurrency, InvalidApprovalRule."""
    currency(rule.currency)
    approvers = tuple(dict.fromkeys(rule.approvers))
    if rule.approvals > len(approvers):
        raise InvalidApprovalRule(
            "it needs more approvals than it has approvers",
            errors=[{"pointer": f"/rules/{place}/approvals", "detail": "more than there are approvers"}],
        )
    return ApprovalRule(
        currency=rule.currency,
        above=int(rule.above),
        approvals=rule.approvals,
        approvers=approvers,
        expires_in=rule.expires_in,
        pattern=rule.pattern or EVERYTHING,
    )
