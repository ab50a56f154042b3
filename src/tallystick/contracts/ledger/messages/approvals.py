"""Maker-checker: which transactions need approvals, proposals, and what an approver signs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tallystick.contracts.ledger.messages.words import Message, PathPattern
from tallystick.kernel.clock import DayWire, InstantWire
from tallystick.kernel.ids import ClientIdWire, ProposalIdWire
from tallystick.kernel.money import CurrencyCode
from tallystick.kernel.numbers import NUMBER_BELONGS

MAX_APPROVAL_RULES = 50
MAX_APPROVERS = 20
#: `typ` of the JWS that an approver signs.
STATEMENT_TYPE = "tallystick-approval+jwt"

Above = Annotated[
    str,
    Meta(
        pattern=r"^(0|[1-9][0-9]{0,18})$(?!\n)",
        max_length=19,
        description="minor units of the rule's currency, zero or more",
        extra=NUMBER_BELONGS,
    ),
]
ClientId = Annotated[
    str, Meta(pattern=r"^cli_[0-9a-z]{26}$(?!\n)", max_length=30, description="a client's id (cli_...)")
]
ProposalStatus = Literal["pending", "approved", "posted", "refused", "rejected", "expired"]


class ApprovalRule(Message, frozen=True):
    """A transaction that moves more than `above` of `currency` on accounts whose path matches `pattern` (left out: any account) needs
    `approvals` approvals by clients among `approvers`, within `expires_in` seconds. The proposer's own does not count.
    """

    currency: CurrencyCode
    above: Above
    approvals: Annotated[int, Meta(ge=1, le=MAX_APPROVERS)]
    approvers: Annotated[list[ClientId], Meta(min_length=1, max_length=MAX_APPROVERS)]
    expires_in: Annotated[int, Meta(ge=60, le=90 * 24 * 3600)] = 24 * 3600
    pattern: PathPattern | None = None


class SetApprovalRules(Message, frozen=True):
    rules: Annotated[list[ApprovalRule], Meta(max_length=MAX_APPROVAL_RULES)]


class ApprovalRules(msgspec.Struct, frozen=True, kw_only=True):
    book: str
    rules: list[ApprovalRule]


class SignedDecision(Message, frozen=True):
    """A compact JWS, signed by the key that the client's token is bound to. Its header has `typ` `tallystick-approval+jwt` and the public
    key as `jwk`; its payload is `{"proposal", "digest", "decision": "approve" or "reject", "iat"}`.
    """

    signature: Annotated[str, Meta(min_length=1, max_length=4096)]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A decision: by whom, and the signed statement that proves it to others."""

    approver: ClientIdWire
    decision: Literal["approve", "reject"]
    at: InstantWire
    signature: str


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction that waits for approvals.

    `transaction` is the request, `plan` exactly what it would post: JSON with `header` and `commands`, with accounts as the request
    named them and amounts in minor units. Approvers sign the `digest`: SHA-256, in hex, over the JSON object of `book`, `plan`,
    `proposal` (the id) and `transaction`, in this order and without spaces. `missing` is the number of approvals that are still needed.

    If it was refused when it was posted, `reason` says why, and `account` which account is at fault (its id, or what the plan calls
    an account that does not exist). `breached_on` are the past days (UTC) on which posting it broke a limit, or would have.
    """

    id: ProposalIdWire
    book: str
    status: ProposalStatus
    proposer: ClientIdWire
    transaction: dict[str, Any]
    plan: str
    digest: str
    rules: list[ApprovalRule]
    missing: int
    decisions: list[Decision]
    created_at: InstantWire
    expires_at: InstantWire
    reason: str | None
    account: str | None = None
    breached_on: list[DayWire] = []
