"""What the ledger is made of: accounts, transfers, holds, commands and their results. Amounts are minor units."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, TypeVar
from uuid import UUID

import msgspec

from tallystick.contracts.ledger.messages import Reason
from tallystick.kernel.ids import AccountId, TransferId

MAX: Final = 2**63 - 1

CommandKind = Literal["post", "hold", "capture", "void", "reverse", "expire"]
HoldStatus = Literal["held", "captured", "voided", "expired"]
Status = Literal["posted", "held", "rejected"]

_EXPIRY: Final = b"tallystick.ledger.expiry:"


class Account(msgspec.Struct, gc=False):
    """An account as the rules see it. `version` counts its entries; the four totals are the sums of them."""

    id: AccountId
    book: int
    currency: str
    debit_normal: bool
    floor: int | None
    closed: bool
    version: int
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int
    ceiling: int | None = None
    frozen: bool = False


class Balance(msgspec.Struct, frozen=True):
    """In the account's normal direction; `pending` is what open holds may still take out."""

    posted: int
    pending: int
    available: int


def balance(debit_normal: bool, debits_pending: int, debits_posted: int, credits_pending: int, credits_posted: int) -> Balance:  # fmt: skip  # noqa: FBT001
    posted = debits_posted - credits_posted if debit_normal else credits_posted - debits_posted
    pending = credits_pending if debit_normal else debits_pending
    return Balance(posted, pending, posted - pending)


def usual_kind(normal_side: str) -> str:
    """What an account is that does not say it."""
    return "asset" if normal_side == "debit" else "liability"


class Transfer(msgspec.Struct, frozen=True, gc=False):
    """A row of the book: a transfer with its two entries. `dr_*` and `cr_*` are the accounts' totals after it."""

    book: int
    sequence: int
    id: TransferId
    kind: str
    target: TransferId | None
    debit_account: AccountId
    credit_account: AccountId
    amount: int
    released: int
    currency: str
    recorded_at: datetime
    expires_at: datetime | None
    code: str | None
    metadata: str | None
    dr_version: int
    dr_debits_pending: int
    dr_debits_posted: int
    dr_credits_pending: int
    dr_credits_posted: int
    cr_version: int
    cr_debits_pending: int
    cr_debits_posted: int
    cr_credits_pending: int
    cr_credits_posted: int

    @property
    def status(self) -> Status:
        return "held" if self.kind == "hold" else "posted"

    @property
    def expires_in(self) -> int | None:
        """Seconds, as the command said."""
        return None if self.expires_at is None else (self.expires_at - self.recorded_at) // timedelta(seconds=1)


class Hold(msgspec.Struct, gc=False):
    """What is left of a hold."""

    book: int
    id: TransferId
    debit_account: AccountId
    credit_account: AccountId
    amount: int
    captured: int
    remaining: int
    state: HoldStatus
    expires_at: datetime | None


class Reversal(msgspec.Struct, gc=False):
    book: int
    id: TransferId
    amount: int
    reversed: int


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """A pinned refusal. `digest` is that of the command that was refused."""

    book: int
    id: TransferId
    digest: bytes
    reason: str
    available: int | None
    required: int | None
    currency: str | None


class Command(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One thing to do. post, hold: both accounts (by id, or by path), amount and currency. capture: target, amount or None for all that
    remains. void, expire: target. reverse: target, amount or None. `metadata` is JSON with sorted keys.
    """

    kind: CommandKind
    id: TransferId
    debit: AccountId | str | None = None
    credit: AccountId | str | None = None
    amount: int | None = None
    currency: str | None = None
    target: TransferId | None = None
    final: bool = False
    expires_in: int | None = None
    code: str | None = None
    metadata: str | None = None

    def digest(self) -> bytes:
        """16 bytes that are the same for the same command only."""
        said = msgspec.json.encode(msgspec.structs.astuple(self))
        return hashlib.blake2b(said, digest_size=16).digest()


class Unit(msgspec.Struct, frozen=True, gc=False):
    """Commands of one book, in order. `atomic`: all or none."""

    book: int
    commands: Sequence[Command]
    atomic: bool


class Result(msgspec.Struct, frozen=True, gc=False):
    """What became of a command. `existed`: an earlier request did this already. For `insufficient_funds` and the like `required` is what the
    transfer needs and `available` what there is: above the floor, left of the hold, left to reverse.
    """

    id: TransferId
    status: Status
    transfer: Transfer | None = None
    existed: bool = False
    reason: Reason | None = None
    available: int | None = None
    required: int | None = None
    currency: str | None = None
    account: AccountId | None = None


class Book(msgspec.Struct, gc=False):
    """`sequence` is that of its last transfer, `recorded_at` its instant: later transfers are never recorded as earlier. `revision` counts
    the changes of all else that the rules read: while both stand still, so does everything in the book. A `quarantined` book takes nothing.
    """

    id: int
    sequence: int
    recorded_at: datetime
    revision: int = 0
    quarantined: bool = False


Key = tuple[int, UUID]
Drawn = TypeVar("Drawn", Hold, Reversal)


class State(msgspec.Struct):
    """All that the commands are about, and nothing else. Keys of transfers are (book, id), of paths (book, path)."""

    books: dict[int, Book]
    accounts: dict[AccountId, Account]
    transfers: dict[Key, Transfer] = {}
    rejections: dict[Key, Rejection] = {}
    holds: dict[Key, Hold] = {}
    reversals: dict[Key, Reversal] = {}
    paths: dict[tuple[int, str], AccountId] = {}

    def account(self, book: int, named: AccountId | str | None) -> AccountId | None:
        """The id of an account that a command names; None for a path where there is none."""
        return self.paths.get((book, named)) if isinstance(named, str) else named


class Decided(msgspec.Struct):
    """`results[unit][command]`, and what is to be stored. Holds and reversals follow from the transfers."""

    results: list[list[Result]]
    transfers: list[Transfer]
    rejections: list[Rejection]


def expiry_id(book: int, hold: TransferId) -> TransferId:
    """The id of a hold's expiry follows from the hold: it can be written once only. UUID version 8 (RFC 9562)."""
    raw = bytearray(hashlib.blake2b(_EXPIRY + str(book).encode() + hold.bytes, digest_size=16).digest())
    raw[6] = raw[6] & 0x0F | 0x80
    raw[8] = raw[8] & 0x3F | 0x80
    return TransferId(UUID(bytes=bytes(raw)))


# ---- what is read --------------------------------------------------------------------------------------------------


class AccountRow(msgspec.Struct, frozen=True, kw_only=True):
    """An account as it is read: what it is, and its totals as of the book's sequence `as_of`."""

    id: AccountId
    tenant: str
    book: int
    book_name: str
    name: str
    path: str | None
    kind: str
    currency: str
    normal_side: str
    floor: int | None
    ceiling: int | None
    code: str | None
    metadata: str | None
    closed: bool
    frozen: bool
    created_at: datetime
    created_sequence: int
    version: int
    as_of: int
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int


class NewAccount(msgspec.Struct, frozen=True, kw_only=True):
    """`metadata` is JSON with sorted keys. Without a `kind` it is of the usual one of its side."""

    id: AccountId
    name: str
    currency: str
    normal_side: str
    floor: int | None
    code: str | None
    metadata: str | None
    path: str | None = None
    kind: str | None = None
    ceiling: int | None = None


class EntryRow(NamedTuple):
    sequence: int
    transfer: TransferId
    side: str
    other: AccountId
    kind: str
    amount: int
    released: int
    currency: str
    recorded_at: datetime
    code: str | None
    version: int
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int


class Due(NamedTuple):
    """A hold that has expired and was not swept yet."""

    tenant: str
    book: int
    hold: TransferId


class Found(NamedTuple):
    tenant: str
    id: AccountId
    currency: str
    normal_side: str
    closed: bool


class CheckedBook(NamedTuple):
    """A book as the continuous check begins with it: its sequence, and how many accounts and holds it has."""

    id: int
    tenant: str
    name: str
    sequence: int
    quarantined: bool
    accounts: int
    holds: int
