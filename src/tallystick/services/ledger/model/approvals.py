"""Maker-checker: which transactions need approvals, whose, and when they have them. Pure.

A book's rules say above which amount transactions need how many approvals by which clients. What concerns a rule is summed over a transaction,
so that a large amount in small transfers is a large amount. A transaction that several rules concern needs the approvals of each.
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

#: A rule without a pattern is about every account of the book.
EVERYTHING: Final = "**"
#: Seconds that a signed decision may be old, or ahead of our clock.
FRESH_S: Final = 600

ProposalStatus = Literal["pending", "approved", "posted", "refused", "rejected", "expired"]


class ApprovalRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """Transfers of `currency` on accounts at `pattern`: above `above` minor units in one transaction `approvals` of the clients `approvers`
    have to agree, within `expires_in` seconds.
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
    """An amount between two accounts as a rule looks at it: their paths, if they have any."""

    debit_path: str | None
    credit_path: str | None
    amount: int
    currency: str


class Signed(msgspec.Struct, frozen=True):
    """Who decided what, and when. `approver` is a client's id, `signature` the compact JWS that says so."""

    approver: str
    decision: Literal["approve", "reject"]
    at: datetime
    signature: str


class ProposalRow(msgspec.Struct, frozen=True, kw_only=True):
    """`content` is what was asked for, word for word, `plan` what it would post; `digest` is over both. `account`: the one at fault when it
    was refused, as in `Rejection`. `breached_on`: the past days whose limits it broke when it was posted, or would have.
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
        """As it is at `now`: what has expired is so before anybody has noted it."""
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
    """The rules whose approvals the movements need together; none if they may be posted as they are."""
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
    """How many approvals are still to come, for the rule that lacks most; 0: it may be posted. An approver counts once."""
    agreed = {signed.approver for signed in decisions if signed.decision == "approve"}
    return max((rule.approvals - len(agreed.intersection(rule.approvers)) for rule in rules), default=0)


def may_approve(rules: Sequence[ApprovalRule], approver: str, proposer: str) -> bool:
    """Who proposed does not approve: four eyes are two people's."""
    return approver != proposer and any(approver in rule.approvers for rule in rules)


def digest(proposal: str, book: str, content: str, plan: str) -> str:
    """SHA-256, in hex, over what approvers sign: which proposal it is, for which book, what was asked for and what it would post."""
    said = {"proposal": proposal, "book": book, "transaction": msgspec.Raw(content.encode()), "plan": plan}
    return hashlib.sha256(msgspec.json.encode(said, order="sorted")).hexdigest()


def agreed(payload: bytes, row: ProposalRow, decision: str, now: datetime) -> bool:
    """Whether a signed statement is this decision on this proposal, and was signed about now."""
    try:
        said = _statement.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    own = ids.proposals.text(row.id)
    # Compared and not subtracted: it may be any integer.
    fresh = said.iat - FRESH_S <= now.timestamp() <= said.iat + FRESH_S
    return fresh and (said.proposal, said.digest, said.decision) == (own, row.digest, decision)


_statement = msgspec.json.Decoder(Statement)
