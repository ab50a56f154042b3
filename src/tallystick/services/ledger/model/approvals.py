"""Maker-checker: which transactions need approvals, from whom, and when they have them. Pure.

A book's rules say above which amount a transaction needs how many approvals from which clients. The amounts that a rule concerns are summed over a
transaction, so that splitting a large amount does not evade it. If several rules apply, a transaction needs the approvals of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import Final, Literal

import msgspec

from tallystick.kernel import ids
from tallystick.kernel.ids import ProposalId
from tallystick.services.ledger.model.paths import pattern

#: A rule without a pattern concerns every account of the book.
EVERYTHING: Final = "**"
#: Seconds that a signed decision may be old, or ahead of our clock.
FRESH_S: Final = 600

ProposalStatus = Literal["pending", "approved", "posted", "refused", "rejected", "expired"]


class ApprovalRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """Concerns transfers in `currency` on accounts that match `pattern`. If one transaction moves more than `above` minor units of these,
    `approvals` of the clients `approvers` have to agree, within `expires_in` seconds.
    """

    currency: str
    above: int
    approvals: int
    approvers: tuple[str, ...]
    expires_in: int
    pattern: str = EVERYTHING

    def concerns(self, path: str | None) -> bool:
        return self.pattern == EVERYTHING or (path is not None and pattern(self.pattern).fits(path))


class Movement(msgspec.Struct, frozen=True):
    """An amount between two accounts as a rule sees it: with the accounts' paths, if they have any."""

    debit_path: str | None
    credit_path: str | None
    amount: int
    currency: str


class Signed(msgspec.Struct, frozen=True):
    """A signed decision. `approver` is a client's id, `signature` the compact JWS."""

    approver: str
    decision: Literal["approve", "reject"]
    at: datetime
    signature: str


class ProposalRow(msgspec.Struct, frozen=True, kw_only=True):
    """A proposal. `content` is the request, word for word; `plan` is what it would post; `digest` covers both. `account` is the one at fault when it
    was refused, as in `Rejection`. `breached_on` are the past days on which it broke limits when it was posted, or would have.
    """

    id: ProposalId
    book: int
    tenant: str
    book_name: str
    proposer: str
    content: str
    plan: str
    digest: str
    rules: tuple[ApprovalRule, ...]
    status: ProposalStatus
    reason: str | None
    trace: str | None
    created_at: datetime
    expires_at: datetime
    decisions: tuple[Signed, ...]
    account: str | None = None
    breached_on: tuple[date, ...] = ()

    def at(self, now: datetime) -> ProposalRow:
        """The proposal as of `now`: it counts as expired even before the schedule has stored that."""
        if self.status == "pending" and self.expires_at <= now:
            return msgspec.structs.replace(self, status="expired")
        return self

    @property
    def missing(self) -> int:
        return missing(self.rules, self.decisions)


class Statement(msgspec.Struct, frozen=True):
    """What an approver signs, as JSON: this decision on the proposal with this digest."""

    proposal: str
    digest: str
    decision: Literal["approve", "reject"]
    iat: int


def needed(rules: Sequence[ApprovalRule], movements: Iterable[Movement]) -> tuple[ApprovalRule, ...]:
    """The rules whose approvals the movements together need; empty if they need none."""
    if not rules:
        return ()
    moves = tuple(movements)
    found = []
    for rule in rules:
        concerned = sum(
            move.amount
            for move in moves
            if move.currency == rule.currency and (rule.concerns(move.debit_path) or rule.concerns(move.credit_path))
        )
        if concerned > rule.above:
            found.append(rule)
    return tuple(found)


def missing(rules: Sequence[ApprovalRule], decisions: Iterable[Signed]) -> int:
    """How many approvals are missing for the rule that lacks most; 0 or less: none. An approver counts once."""
    agreed = {signed.approver for signed in decisions if signed.decision == "approve"}
    return max((rule.approvals - len(agreed.intersection(rule.approvers)) for rule in rules), default=0)


def may_approve(rules: Sequence[ApprovalRule], approver: str, proposer: str) -> bool:
    """Whether the client may decide about a proposal: it is named by a rule, and is not the proposer."""
    return approver != proposer and any(approver in rule.approvers for rule in rules)


def digest(proposal: str, book: str, content: str, plan: str) -> str:
    """SHA-256, in hex, over what approvers sign: the proposal's id, its book, the request, and what it would post."""
    said = {"proposal": proposal, "book": book, "transaction": msgspec.Raw(content.encode()), "plan": plan}
    return hashlib.sha256(msgspec.json.encode(said, order="sorted")).hexdigest()


def agreed(payload: bytes, row: ProposalRow, decision: str, now: datetime) -> bool:
    """Whether a signed statement is this decision on this proposal, signed within FRESH_S of `now`."""
    try:
        said = _statement.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    own = ids.proposals.text(row.id)
    # Compared instead of converted to a time: `iat` may be any integer.
    fresh = said.iat - FRESH_S <= now.timestamp() <= said.iat + FRESH_S
    return fresh and (said.proposal, said.digest, said.decision) == (own, row.digest, decision)


_statement = msgspec.json.Decoder(Statement)
