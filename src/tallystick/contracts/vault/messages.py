"""The vault's messages. A number goes in once; what comes out is only what may be seen.

The `repr` of structs that hold a number does not show it, so that no traceback and no log line can.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tallystick.kernel.clock import InstantWire
from tallystick.kernel.ids import ClientIdWire, FactIdWire, TokenIdWire
from tallystick.kernel.numbers import NUMBER_BELONGS

#: The most items of one inner batch.
MAX_ITEMS = 128
#: The largest body that is forwarded, and the largest answer that is accepted, in bytes.
MAX_FORWARD_BYTES = 16 * 1024

Text64 = Annotated[str, Meta(max_length=64)]
TokenText = Annotated[str, Meta(max_length=30)]
Purpose = Annotated[
    str,
    Meta(
        pattern=r"^(?!([^0-9]*[0-9]){12})[a-z][a-z0-9._-]*$(?!\n)",
        min_length=3,
        max_length=64,
        description="a name such as chargeback.evidence: lower case letters, digits, ., _ and -, and fewer digits than a card number",
    ),
]
"""Why a number is shown in clear: a name that an auditor knows, such as `chargeback.evidence`. It is kept in the log, so it must not
contain a card number, and may have only fewer digits than one.
"""


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


# ---- at the edge ---------------------------------------------------------------------------------------------------


class CardNumber(_Message, frozen=True):
    """A card as its holder gave it: digits only, with a year of four digits. `cvc` is accepted and discarded (PCI DSS 3.3.1)."""

    number: Annotated[
        str, Meta(pattern=r"^[0-9]*$", min_length=12, max_length=19, description="digits only", extra=NUMBER_BELONGS)
    ]
    exp_month: Annotated[int, Meta(ge=1, le=12)]
    exp_year: Annotated[int, Meta(ge=2000, le=2199)]
    cvc: Annotated[str, Meta(pattern=r"^[0-9]*$", min_length=3, max_length=4, description="digits only")] | None = None

    def __repr__(self) -> str:
        return "CardNumber(****)"


class BankAccountNumber(_Message, frozen=True):
    """An IBAN (ISO 13616), with or without the spaces of its print format."""

    iban: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9 ]*$",
            min_length=15,
            max_length=42,
            description="letters, digits and spaces",
            extra=NUMBER_BELONGS,
        ),
    ]

    def __repr__(self) -> str:
        return "BankAccountNumber(****)"


class CreateCardToken(_Message, frozen=True, tag_field="type", tag="card"):
    card: CardNumber


class CreateBankAccountToken(_Message, frozen=True, tag_field="type", tag="bank_account"):
    bank_account: BankAccountNumber


CreateToken = CreateCardToken | CreateBankAccountToken


class Card(_Message, frozen=True):
    """What may be seen of a card: the first six digits and the last four (PCI DSS 3.4.1), never more.

    `fingerprint` is the same for the same number within a tenant, and differs between tenants.
    """

    brand: str
    bin: str
    last4: str
    exp_month: int
    exp_year: int
    fingerprint: str


class BankAccount(_Message, frozen=True):
    country: str
    last4: str
    fingerprint: str


class Token(_Message, frozen=True):
    id: TokenIdWire
    type: Literal["card", "bank_account"]
    created_at: InstantWire
    card: Card | None = None
    bank_account: BankAccount | None = None


class Reveal(_Message, frozen=True):
    purpose: Purpose


class ClearCard(_Message, frozen=True):
    number: str
    exp_month: int
    exp_year: int

    def __repr__(self) -> str:
        return "ClearCard(****)"


class ClearBankAccount(_Message, frozen=True):
    iban: str

    def __repr__(self) -> str:
        return "ClearBankAccount(****)"


class Revealed(_Message, frozen=True):
    """The clear value, and the id of the receipt which proves that this reveal is in the log."""

    id: TokenIdWire
    type: Literal["card", "bank_account"]
    receipt: FactIdWire
    card: ClearCard | None = None
    bank_account: ClearBankAccount | None = None


# ---- inside --------------------------------------------------------------------------------------------------------


class Outgoing(_Message, frozen=True):
    """The request for the destination.

    In `body`, `{{card.number}}`, `{{card.exp_month}}`, `{{card.exp_year}}` and `{{bank_account.iban}}` are replaced by
    the token's values. These consist of digits and capital letters only, so that no value can break out of the body's syntax.
    In the path nothing is replaced, because paths are logged everywhere.
    """

    method: Literal["GET", "POST", "PUT"]
    path: Annotated[str, Meta(pattern=r"^/[A-Za-z0-9/._~=&?-]*$", max_length=500)]
    body: Annotated[str, Meta(max_length=MAX_FORWARD_BYTES)] | None = None
    headers: Annotated[dict[str, str], Meta(max_length=16)] = {}


class ForwardItem(_Message, frozen=True):
    """One request to one destination.

    `token` is the index of the transaction token in the batch. `card_token` is `tok_...`, or absent when the request
    needs no number (a capture, a look-up). `request_id`, made beforehand, identifies the request at the destination: the same id
    is the same request, however often it is sent.
    """

    token: Annotated[int, Meta(ge=0, lt=MAX_ITEMS)]
    destination: Text64
    request: Outgoing
    request_id: Text64
    timeout_ms: Annotated[int, Meta(ge=1, le=60_000)]
    card_token: TokenText | None = None
    wait: bool = False
    """Whether to wait for the answer however long it takes, instead of answering `pending` after the destination's usual time."""


class ForwardBatch(_Message, frozen=True):
    tokens: Annotated[list[str], Meta(min_length=1, max_length=MAX_ITEMS)]
    items: Annotated[list[ForwardItem], Meta(min_length=1, max_length=MAX_ITEMS)]


class Forwarded(_Message, frozen=True):
    """The destination's answer. `masked`: it contained a number, which was masked."""

    status: int
    body: str
    masked: bool = False


class ForwardResult(_Message, frozen=True):
    """The result of one item: the answer, a problem document, or `pending`, which means: ask again for this one alone, with `wait`.

    So a slow acquirer does not hold up the other items of a batch.
    """

    answer: Forwarded | None = None
    problem: dict[str, Any] | None = None
    pending: bool = False


class ForwardAnswer(_Message, frozen=True):
    """Results in the order of the items."""

    items: list[ForwardResult]


class DescribeItem(_Message, frozen=True):
    token: Annotated[int, Meta(ge=0, lt=MAX_ITEMS)]
    id: TokenText


class DescribeBatch(_Message, frozen=True):
    tokens: Annotated[list[str], Meta(min_length=1, max_length=MAX_ITEMS)]
    items: Annotated[list[DescribeItem], Meta(min_length=1, max_length=MAX_ITEMS)]


class Described(_Message, frozen=True):
    """The masked view of a token, or a problem document."""

    token: Token | None = None
    problem: dict[str, Any] | None = None


class DescribeAnswer(_Message, frozen=True):
    items: list[Described]


# ---- what the vault tells ------------------------------------------------------------------------------------------


class TokenCreated(_Message, frozen=True):
    type: Literal["card", "bank_account"]
    brand: str | None = None
    """Of a card."""


class TokenRevealed(_Message, frozen=True):
    type: Literal["card", "bank_account"]
    purpose: Purpose


class TokensForwarded(_Message, frozen=True):
    uses: list[tuple[TokenIdWire, str, str, ClientIdWire]]
    """For each use of a token: the token, the destination, the request's id there, and the client that asked for it."""
