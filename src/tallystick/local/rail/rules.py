"""What the rail is asked, what its card numbers mean, and what it decides. No I/O."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from tallystick.kernel.luhn import luhn
from tallystick.kernel.money import Money, MoneyWire

Behaviour = Literal["approve", "decline", "insufficient", "slow", "lose", "dispute"]
Kind = Literal["authorizations", "captures", "voids", "refunds"]

BEHAVIOURS: Final[dict[str, Behaviour]] = {
    "4242424242424242": "approve",
    "4000000000000002": "decline",
    "4000000000009995": "insufficient",
    "4000000000000119": "slow",
    "4000000000000341": "lose",
    "4000000000000259": "dispute",
}

RequestId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+$", min_length=1, max_length=64)]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class RailCard(Request, frozen=True):
    number: Annotated[str, Meta(pattern=r"^[0-9]*$", min_length=12, max_length=19)]
    exp_month: Annotated[int, Meta(ge=1, le=12)]
    exp_year: Annotated[int, Meta(ge=2000, le=2199)]

    def __repr__(self) -> str:
        return "Card(****)"


class Authorize(Request, frozen=True):
    request_id: RequestId
    amount: MoneyWire
    card: RailCard
    merchant: Annotated[str, Meta(max_length=200)] = ""


class Move(Request, frozen=True):
    """A refund, and what a capture has of one."""

    request_id: RequestId
    authorization: RequestId
    amount: MoneyWire


class Capture(Move, frozen=True, omit_defaults=True):
    """`final`: no other capture will follow, what is left of the authorization is given back."""

    final: bool = False


class Void(Request, frozen=True):
    request_id: RequestId
    authorization: RequestId


class Authorization(msgspec.Struct, frozen=True, kw_only=True):
    """One authorisation's totals in minor units; what `decide` rules on."""

    currency: str
    authorized: int
    captured: int = 0
    voided: int = 0
    refunded: int = 0
    behaviour: Behaviour = "approve"


class Decision(msgspec.Struct, frozen=True):
    approved: bool
    code: str
    message: str


APPROVED: Final = Decision(True, "00", "Approved")


def decide_authorization(card: RailCard, now: datetime) -> Decision:
    behaviour = BEHAVIOURS.get(card.number, "approve")
    if not luhn(card.number):
        return Decision(False, "14", "Invalid card number")
    if (card.exp_year, card.exp_month) < (now.year, now.month):
        return Decision(False, "54", "Expired card")
    if behaviour == "decline":
        return Decision(False, "05", "Do not honor")
    if behaviour == "insufficient":
        return Decision(False, "51", "Insufficient funds")
    return APPROVED


def decide_move(
    kind: Kind, amount: Money | None, found: Authorization | None, *, final: bool = False
) -> tuple[Decision, Authorization | None]:
    """What a capture, void or refund does to its authorisation: the decision and the new totals."""
    if found is None or not found.authorized:
        return Decision(False, "25", "No such authorization"), None
    if kind == "voids":
        remaining = found.authorized - found.captured - found.voided
        if not remaining:
            # Who was charged and who was not are not told alike.
            refusal = ("12", "It was captured") if found.captured else ("25", "Nothing is left to void")
            return Decision(False, *refusal), None
        return APPROVED, msgspec.structs.replace(found, voided=found.voided + remaining)
    if amount is None or amount.currency != found.currency:
        return Decision(False, "12", "Another currency than that of the authorization"), None
    if kind == "captures":
        if found.captured + found.voided + amount.minor > found.authorized:
            return Decision(False, "61", "More than was authorized"), None
        captured = found.captured + amount.minor
        return APPROVED, msgspec.structs.replace(
            found, captured=captured, voided=found.authorized - captured if final else found.voided
        )
    if found.refunded + amount.minor > found.captured:
        return Decision(False, "61", "More than was captured"), None
    return APPROVED, msgspec.structs.replace(found, refunded=found.refunded + amount.minor)
