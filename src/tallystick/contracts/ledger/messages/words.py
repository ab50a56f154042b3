"""The words that the messages have in common."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tallystick.kernel.money import CurrencyCode
from tallystick.kernel.numbers import NUMBER_BELONGS

MAX_TRANSFERS = 1000
#: A hold lives at most this long: a year, in seconds.
MAX_EXPIRES_IN = 366 * 24 * 3600

Text64 = Annotated[str, Meta(min_length=1, max_length=64)]
#: An id on the wire; `kernel.ids` checks the rest.
Id = Annotated[str, Meta(min_length=1, max_length=40)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
#: A book's name, unique in its tenant. Every tenant has `main`.
BookName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)", min_length=1, max_length=63)]
MAIN = "main"
#: A shard: a ledger with a database of its own. The one at home knows where every book is.
ShardName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)", min_length=1, max_length=63)]
_SEGMENT = "[A-Za-z0-9_.-]{1,64}"
#: An account's path: segments such as `customers:42:wallet`. It can't be taken for an id, nor for a step in a URL (RFC 3986 section 5.2.4).
AccountPath = Annotated[
    str,
    Meta(
        pattern=rf"^(?!acc_|[a-z]{{3}}_[0-9a-z]{{26}}$|\.{{1,2}}$){_SEGMENT}(:{_SEGMENT}){{0,15}}$(?!\n)",
        min_length=1,
        max_length=512,
    ),
]
#: An account, by its id or its path.
AccountRef = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=512,
        description="an account's id, or its path",
        extra_json_schema={"pattern": rf"^{_SEGMENT}(:{_SEGMENT}){{0,15}}$"},
    ),
]
#: Paths: `customers:*:wallet`. `*` is one segment, `**` at the end one or more.
PathPattern = Annotated[
    str, Meta(pattern=rf"^(?!acc_)((\*|{_SEGMENT}):){{0,15}}(\*\*|\*|{_SEGMENT})$(?!\n)", min_length=1, max_length=512)
]
#: Up to 32 short texts of the client's own. The ledger keeps them and makes nothing of them.
Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=40)], Annotated[str, Meta(max_length=500)]], Meta(max_length=32)
]
#: Minor units; negative for an overdraft. Python lets `$` match before a final newline, hence the look-ahead.
Floor = Annotated[
    str,
    Meta(
        pattern=r"^(0|-[1-9][0-9]{0,18})$(?!\n)",
        max_length=20,
        description="minor units of the account's currency",
        extra=NUMBER_BELONGS,
    ),
]
Ceiling = Annotated[
    str,
    Meta(
        pattern=r"^(0|[1-9][0-9]{0,18})$(?!\n)",
        max_length=19,
        description="minor units of the account's currency",
        extra=NUMBER_BELONGS,
    ),
]
Digits = Annotated[str, Meta(pattern=r"^-?[0-9]{1,40}$(?!\n)", max_length=41, extra=NUMBER_BELONGS)]
Side = Literal["debit", "credit"]
#: What an account is to a balance sheet or an income statement. Left out, it is an asset if debits make it grow, else a liability.
AccountKind = Literal["asset", "liability", "equity", "income", "expense"]
Kind = Literal["post", "hold", "increase", "capture", "void", "reverse"]


#: Codes of transfers and paths of accounts that begin so are the platform's own: no client writes the ones nor opens the others.
OWN = "tallystick:"
#: The code of what payments made: theirs to capture, void and reverse.
PAYMENT_CODE = "tallystick:payment"


class Reason(StrEnum):
    """Why a transfer was refused. A refusal is pinned to the transfer's id: asking again can't turn it into a yes."""

    ACCOUNT_NOT_FOUND = "account_not_found"
    ACCOUNT_CLOSED = "account_closed"
    #: Not pinned for what goes on with a hold (capture, increase): it may come again when the account is thawed.
    ACCOUNT_FROZEN = "account_frozen"
    TRANSIT_ACCOUNT = "transit_account"
    SAME_ACCOUNT = "same_account"
    CURRENCY_MISMATCH = "currency_mismatch"
    AMOUNT_MUST_BE_POSITIVE = "amount_must_be_positive"
    AMOUNT_OVERFLOW = "amount_overflow"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    CEILING_EXCEEDED = "ceiling_exceeded"
    NOTHING_TO_MOVE = "nothing_to_move"
    PERIOD_SEALED = "period_sealed"
    PAST_LIMIT_BROKEN = "past_limit_broken"
    HOLD_NOT_FOUND = "hold_not_found"
    HOLD_ALREADY_CAPTURED = "hold_already_captured"
    HOLD_ALREADY_VOIDED = "hold_already_voided"
    HOLD_EXPIRED = "hold_expired"
    HOLD_NOT_DUE = "hold_not_due"
    EXCEEDS_HOLD = "exceeds_hold"
    TRANSFER_NOT_FOUND = "transfer_not_found"
    NOT_REVERSIBLE = "not_reversible"
    EXCEEDS_REVERSIBLE = "exceeds_reversible"
    #: Before 1970, since when there is effective time.
    EFFECTIVE_TOO_EARLY = "effective_too_early"
    # Not pinned: they say what is wrong with this request or this moment, not with the transfer's id.
    BOOK_QUARANTINED = "book_quarantined"
    #: An approval rule of the book concerns it: propose it as a transaction.
    APPROVAL_REQUIRED = "approval_required"
    EFFECTIVE_IN_FUTURE = "effective_in_future"
    #: What is to be captured, voided, increased or reversed was made by a payment: capture, cancel or refund that.
    TRANSFER_OF_A_PAYMENT = "transfer_of_a_payment"
    LINKED_TRANSFER_FAILED = "linked_transfer_failed"
    ID_ALREADY_FAILED = "id_already_failed"
    EXISTS_WITH_DIFFERENT_KIND = "exists_with_different_kind"
    EXISTS_WITH_DIFFERENT_TRANSACTION = "exists_with_different_transaction"
    EXISTS_WITH_DIFFERENT_BALANCING = "exists_with_different_balancing"
    EXISTS_WITH_DIFFERENT_EFFECTIVE_TIME = "exists_with_different_effective_time"
    EXISTS_WITH_DIFFERENT_TARGET = "exists_with_different_target"
    EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT = "exists_with_different_debit_account"
    EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT = "exists_with_different_credit_account"
    EXISTS_WITH_DIFFERENT_AMOUNT = "exists_with_different_amount"
    EXISTS_WITH_DIFFERENT_CURRENCY = "exists_with_different_currency"
    EXISTS_WITH_DIFFERENT_EXPIRY = "exists_with_different_expiry"
    EXISTS_WITH_DIFFERENT_CODE = "exists_with_different_code"
    EXISTS_WITH_DIFFERENT_METADATA = "exists_with_different_metadata"


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What arrives: strict about what it does not know."""


class SignedMoney(Message, frozen=True):
    """A balance, which unlike an amount can be below zero: minor units as a string with a sign if negative."""

    amount: Digits
    currency: CurrencyCode
