"""Types that the messages have in common."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tallystick.kernel.money import CurrencyCode
from tallystick.kernel.numbers import NUMBER_BELONGS

MAX_TRANSFERS = 1000
#: Of a request that posts transfers or a transaction. A transaction's record in an export is longer (each transfer has ids and instants there), and has to fit a request as well.
TRANSACTION_BYTES = 786_432
#: A hold lives at most this long: a year, in seconds.
MAX_EXPIRES_IN = 366 * 24 * 3600

Text64 = Annotated[str, Meta(min_length=1, max_length=64)]
#: An id on the wire; `kernel.ids` checks the rest.
Id = Annotated[str, Meta(min_length=1, max_length=40)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
#: A book's name, unique in its tenant. Every tenant has `main`.
BookName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)",
        min_length=1,
        max_length=63,
        description="a book's name: lower case letters, digits and hyphens",
    ),
]
MAIN = "main"
#: A shard: a ledger with a database of its own. The one at home knows where every book is.
ShardName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$(?!\n)",
        min_length=1,
        max_length=63,
        description="a shard's name: lower case letters, digits and hyphens",
    ),
]
_SEGMENT = "[A-Za-z0-9_.-]{1,64}"
#: An account's path: segments such as `customers:42:wallet`. It can't be taken for an id, nor for a step in a URL (RFC 3986 section 5.2.4).
AccountPath = Annotated[
    str,
    Meta(
        pattern=rf"^(?!acc_|[a-z]{{3}}_[0-9a-z]{{26}}$|\.{{1,2}}$){_SEGMENT}(:{_SEGMENT}){{0,15}}$(?!\n)",
        min_length=1,
        max_length=512,
        description="an account's path: words of letters, digits, _, . and - with colons between them, such as customers:42:wallet",
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
    str,
    Meta(
        pattern=rf"^(?!acc_)((\*|{_SEGMENT}):){{0,15}}(\*\*|\*|{_SEGMENT})$(?!\n)",
        min_length=1,
        max_length=512,
        description="paths such as customers:*:wallet, where * is one word, or ** at the end one or more",
    ),
]
#: Characters of one of them.
MAX_TEXT = 500
#: Up to 32 short texts of the client's own. The ledger stores them and does not interpret them.
Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=40)], Annotated[str, Meta(max_length=MAX_TEXT)]],
    Meta(max_length=32),
]
#: Minor units; negative for an overdraft. Python lets `$` match before a final newline, hence the look-ahead.
Floor = Annotated[
    str,
    Meta(
        pattern=r"^(0|-[1-9][0-9]{0,18})$(?!\n)",
        max_length=20,
        description="minor units of the account's currency, zero or less, such as -10000",
        extra=NUMBER_BELONGS,
    ),
]
Ceiling = Annotated[
    str,
    Meta(
        pattern=r"^(0|[1-9][0-9]{0,18})$(?!\n)",
        max_length=19,
        description="minor units of the account's currency, zero or more",
        extra=NUMBER_BELONGS,
    ),
]
Digits = Annotated[
    str,
    Meta(
        pattern=r"^-?[0-9]{1,40}$(?!\n)",
        max_length=41,
        description="minor units as digits, with a minus sign below zero",
        extra=NUMBER_BELONGS,
    ),
]
Side = Literal["debit", "credit"]
#: What an account is to a balance sheet or an income statement. Left out, it is an asset if debits make it grow, else a liability.
AccountKind = Literal["asset", "liability", "equity", "income", "expense"]
Kind = Literal["post", "hold", "increase", "capture", "void", "reverse"]


#: Codes of transfers and paths of accounts that begin so are the platform's own: no client writes the ones nor opens the others.
OWN = "tallystick:"
#: The code of what payments made: theirs to capture, void and reverse.
PAYMENT_CODE = "tallystick:payment"


class Reason(StrEnum):
    """Why a transfer was refused. A refusal is pinned to the transfer's id, unless it says otherwise: asking again can't turn it into a yes."""

    ACCOUNT_NOT_FOUND = "account_not_found"
    """One of its accounts is not in the book."""
    ACCOUNT_CLOSED = "account_closed"
    """One of its accounts is closed."""
    ACCOUNT_FROZEN = "account_frozen"
    """One of its accounts is frozen. Not pinned for what goes on with a hold (capture, increase): it may come again when the account is thawed."""
    TRANSIT_ACCOUNT = "transit_account"
    """One of its accounts is the ledger's own end of a transfer between books: that is asked for by `POST /v1/interbook_transfers`."""
    SAME_ACCOUNT = "same_account"
    """Both of its accounts are the same."""
    CURRENCY_MISMATCH = "currency_mismatch"
    """An account, the hold or the transfer is in another currency."""
    AMOUNT_MUST_BE_POSITIVE = "amount_must_be_positive"
    """It would move nothing."""
    AMOUNT_OVERFLOW = "amount_overflow"
    """A total would pass 2^63 - 1 minor units."""
    INSUFFICIENT_FUNDS = "insufficient_funds"
    """The available balance would fall below the floor."""
    CEILING_EXCEEDED = "ceiling_exceeded"
    """The balance would pass the ceiling."""
    NOTHING_TO_MOVE = "nothing_to_move"
    """A balancing transfer finds nothing."""
    PERIOD_SEALED = "period_sealed"
    """The book is sealed up to later than it would be effective."""
    PAST_LIMIT_BROKEN = "past_limit_broken"
    """Dated back, it would have broken a limit on past days."""
    HOLD_NOT_FOUND = "hold_not_found"
    """There is no such hold."""
    HOLD_ALREADY_CAPTURED = "hold_already_captured"
    """All of the hold was captured."""
    HOLD_ALREADY_VOIDED = "hold_already_voided"
    """The hold was voided."""
    HOLD_EXPIRED = "hold_expired"
    """The hold has expired."""
    HOLD_NOT_DUE = "hold_not_due"
    """Only the sweep gets this: the hold has not expired by the book's time."""
    EXCEEDS_HOLD = "exceeds_hold"
    """More than is left of the hold."""
    TRANSFER_NOT_FOUND = "transfer_not_found"
    """There is no such transfer."""
    NOT_REVERSIBLE = "not_reversible"
    """Only posts and captures are reversed."""
    EXCEEDS_REVERSIBLE = "exceeds_reversible"
    """More than is left to reverse."""
    EFFECTIVE_TOO_EARLY = "effective_too_early"
    """Before 1970, since when there is effective time."""
    BOOK_QUARANTINED = "book_quarantined"
    """The book is in quarantine. Not pinned."""
    APPROVAL_REQUIRED = "approval_required"
    """An approval rule of the book concerns it: propose it by `POST /v1/transactions`. Pinned only for what is a payment's."""
    EFFECTIVE_IN_FUTURE = "effective_in_future"
    """It would be effective later than now. Not pinned."""
    TRANSFER_OF_A_PAYMENT = "transfer_of_a_payment"
    """What is to be captured, voided, increased or reversed was made by a payment: capture, cancel or refund that. Not pinned."""
    LINKED_TRANSFER_FAILED = "linked_transfer_failed"
    """Another transfer of its chain, or of a request that is all or nothing, was refused; that one says why. Not pinned."""
    ID_ALREADY_FAILED = "id_already_failed"
    """Another transfer was refused under this id. Take a new one."""
    EXISTS_WITH_DIFFERENT_KIND = "exists_with_different_kind"
    """The id is that of a transfer with another kind."""
    EXISTS_WITH_DIFFERENT_TRANSACTION = "exists_with_different_transaction"
    """The id is that of a transfer with another transaction."""
    EXISTS_WITH_DIFFERENT_BALANCING = "exists_with_different_balancing"
    """The id is that of a transfer that is balancing, or is not."""
    EXISTS_WITH_DIFFERENT_EFFECTIVE_TIME = "exists_with_different_effective_time"
    """The id is that of a transfer with another effective time."""
    EXISTS_WITH_DIFFERENT_TARGET = "exists_with_different_target"
    """The id is that of a transfer with another target."""
    EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT = "exists_with_different_debit_account"
    """The id is that of a transfer with another debit account."""
    EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT = "exists_with_different_credit_account"
    """The id is that of a transfer with another credit account."""
    EXISTS_WITH_DIFFERENT_AMOUNT = "exists_with_different_amount"
    """The id is that of a transfer with another amount."""
    EXISTS_WITH_DIFFERENT_CURRENCY = "exists_with_different_currency"
    """The id is that of a transfer with another currency."""
    EXISTS_WITH_DIFFERENT_EXPIRY = "exists_with_different_expiry"
    """The id is that of a transfer with another expiry."""
    EXISTS_WITH_DIFFERENT_CODE = "exists_with_different_code"
    """The id is that of a transfer with another code."""
    EXISTS_WITH_DIFFERENT_METADATA = "exists_with_different_metadata"
    """The id is that of a transfer with other metadata."""


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What arrives: strict about what it does not know."""


class SignedMoney(Message, frozen=True):
    """A balance, which unlike an amount can be below zero: minor units as a string with a sign if negative."""

    amount: Digits
    currency: CurrencyCode
