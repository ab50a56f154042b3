"""Risk's messages. A card is only ever identified by its keyed fingerprint."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tallystick.kernel.ids import TenantName
from tallystick.kernel.money import MoneyWire

MAX_ITEMS = 512

Text64 = Annotated[str, Meta(max_length=64)]
#: The fingerprint of a card (`fp_...`), or the id of an account or a client. Everything else is refused with `InvalidListValue`.
ListValue = Annotated[
    str,
    Meta(pattern=r"^[a-z]{2,4}_[0-9a-z]{26}$", max_length=64, description="an id, or a card's fingerprint (fp_...)"),
]


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class DecisionRequest(_Message, frozen=True):
    """One payment to decide about.

    `token` is the index of its transaction token in the batch; `id` (`dec_...`) is made by the caller beforehand, so
    that asking again returns the stored decision. A card payment has the card's fingerprint, a book transfer the
    account that pays.
    """

    token: Annotated[int, Meta(ge=0, lt=MAX_ITEMS)]
    id: Text64
    payment: Text64
    amount: MoneyWire
    card: Text64 | None = None
    account: Text64 | None = None


class DecideBatch(_Message, frozen=True):
    tokens: Annotated[list[str], Meta(min_length=1, max_length=MAX_ITEMS)]
    items: Annotated[list[DecisionRequest], Meta(min_length=1, max_length=MAX_ITEMS)]


class Decision(_Message, frozen=True):
    """`score` is 0 if nothing speaks against the payment, and from 100 on the decision is `deny`. `reasons` are names of rules."""

    id: Text64
    decision: Literal["allow", "deny"]
    score: int
    reasons: list[str]


class Decided(_Message, frozen=True):
    """The answer to one item: a decision or a problem document. So a bad token of one request does not affect the others."""

    decision: Decision | None = None
    problem: dict[str, Any] | None = None


class DecideAnswer(_Message, frozen=True):
    """Answers in the order of the items."""

    items: list[Decided]


class ListEntry(_Message, frozen=True):
    """`value` of a `kind` is always denied or always allowed, for one tenant. An account is the one that pays."""

    tenant: TenantName
    outcome: Literal["deny", "allow"]
    kind: Literal["card", "account", "client"]
    value: ListValue
    note: Annotated[str, Meta(max_length=200)] = ""


class ListEntries(_Message, frozen=True):
    data: list[ListEntry]


class ListQuery(_Message, frozen=True):
    tenant: TenantName


# ---- what risk tells -----------------------------------------------------------------------------------------------


#: Its id, the payment, what was decided, score and reasons.
DecisionMade = tuple[Text64, Text64, Literal["allow", "deny"], int, list[str]]


class DecisionsMade(_Message, frozen=True):
    decisions: list[DecisionMade]
    """Of each, in this order: its id, the payment, what was decided, score and reasons. At most a hundred."""


class ListChanged(_Message, frozen=True):
    kind: str
    value: str
    outcome: Literal["deny", "allow", "removed"]
