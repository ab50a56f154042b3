"""The ledger's values: accounts, transfers, holds, commands and their results. Amounts are minor units."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import accumulate
from typing import Final, Literal, TypeVar
from uuid import UUID

import msgspec

from tallystick.contracts.ledger.messages import MAX_EXPIRES_IN, Reason
from tallystick.kernel.ids import AccountId, TransactionId, TransferId, hashed
from tallystick.services.ledger.model.approvals import ApprovalRule
from tallystick.services.ledger.model.paths import account_text

MAX: Final = 2**63 - 1

CommandKind = Literal["post", "hold", "increase", "capture", "void", "reverse", "expire"]
HoldStatus = Literal["held", "captured", "voided", "expired"]
Status = Literal["posted", "held", "rejected"]

_LACKING: Final = frozenset({Reason.INSUFFICIENT_FUNDS, Reason.CEILING_EXCEEDED, Reason.NOTHING_TO_MOVE})
_EXPIRY: Final = b"tallystick.ledger.expiry:"
_LEG: Final = b"tallystick.ledger.leg:"
MICROSECOND: Final = timedelta(microseconds=1)
SECOND: Final = timedelta(seconds=1)


class Account(msgspec.Struct, gc=False):
    """An account as the rules see it. `version` counts its entries, and the four totals are their sums. `transit`: it serves transfers between
    books. `number` is how stored transfers refer to it.
    """

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
    transit: bool = False
    path: str | None = None
    number: int = 0


class Balance(msgspec.Struct, frozen=True):
    """A balance in the account's normal direction. `pending` is what open holds may still take out."""

    posted: int
    pending: int
    available: int


def balance(debit_normal: bool, debits_pending: int, debits_posted: int, credits_pending: int, credits_posted: int) -> Balance:  # fmt: skip  # noqa: FBT001
    posted = debits_posted - credits_posted if debit_normal else credits_posted - debits_posted
    pending = credits_pending if debit_normal else debits_pending
    return Balance(posted, pending, posted - pending)


def usual_kind(normal_side: str) -> str:
    """The kind of an account for which none is given."""
    return "asset" if normal_side == "debit" else "liability"


class Transfer(msgspec.Struct, frozen=True, gc=False):
    """A row of the book: a transfer with its two entries. `dr_*` and `cr_*` are the accounts' totals after it. `released` is what it took off
    its hold; negative for an increase. `asked` is set for a balancing transfer: the most that it was to move. `effective_at` None: effective
    when recorded. The numbers are those of its accounts.
    """

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
    transaction: TransactionId | None = None
    effective_at: datetime | None = None
    asked: int | None = None
    debit_number: int = 0
    credit_number: int = 0

    @property
    def status(self) -> Status:
        return "held" if self.kind == "hold" else "posted"


class Hold(msgspec.Struct, gc=False):
    """The state of a hold: of `amount`, so much was `captured` and so much is `remaining`."""

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
    """How much of the transfer with this id, which moved `amount`, was reversed."""

    book: int
    id: TransferId
    amount: int
    reversed: int


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """A pinned refusal. `digest` is that of the refused command. `crossing`: it was part of a transfer between books. `account` is the one at
    fault: its id, or as it was named if it does not exist.
    """

    book: int
    id: TransferId
    digest: bytes
    reason: str
    available: int | None
    required: int | None
    currency: str | None
    crossing: bool = False
    account: str | None = None
    breached_on: tuple[date, ...] = ()


class Command(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One operation. By kind, it has:

    - post, hold: both accounts (by id or by path), amount and currency
    - capture, reverse: target; amount, or None for all that remains
    - increase: target and amount
    - void, expire: target

    `metadata` is JSON with sorted keys. `expires_in` is in seconds; commands from a file have the instant `expires_at` instead. `linked`: this
    command and the next are both posted or neither. `balancing` (post, hold): move as much as there is, up to `amount`. `transaction` and
    `effective_at` are those of the transaction to which it belongs.
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
    linked: bool = False
    balancing: bool = False
    transaction: TransactionId | None = None
    effective_at: datetime | None = None
    expires_at: datetime | None = None

    def expires(self, recorded: datetime) -> datetime | None:
        """When its hold expires if it is recorded at that instant. An `expires_at` that has passed by then becomes a second later, so that the sweep
        finds the hold.
        """
        if self.expires_at is not None:
            return min(max(self.expires_at, recorded + SECOND), recorded + MAX_EXPIRES_IN * SECOND)
        return None if self.expires_in is None else recorded + self.expires_in * SECOND

    def digest(self) -> bytes:
        """16 bytes that identify the command's content. Fields that came after the first release count only where they are set, so that older
        refusals keep their digests.
        """
        said: tuple[object, ...] = (
            self.kind, self.id, self.debit, self.credit, self.amount, self.currency, self.target, self.final, self.expires_in, self.code,
            self.metadata,
        )  # fmt: skip
        if self.balancing or self.transaction is not None or self.effective_at is not None:
            said = (*said, self.balancing, self.transaction, self.effective_at)
        if self.expires_at is not None:
            said = (*said, self.expires_at)
        return hashlib.blake2b(msgspec.json.encode(said), digest_size=16).digest()


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What makes transfers a transaction. `exchanges` is JSON: what was exchanged, and at which rates."""

    id: TransactionId
    reference: str | None = None
    description: str | None = None
    metadata: str | None = None
    effective_at: datetime | None = None
    reverses: TransactionId | None = None
    exchanges: str | None = None


class TransactionRow(msgspec.Struct, frozen=True):
    """A transaction: the transfers of its book with the sequences `first` to `last`."""

    book: int
    id: TransactionId
    first: int
    last: int
    recorded_at: datetime
    effective_at: datetime | None
    reference: str | None
    description: str | None
    metadata: str | None
    reverses: TransactionId | None
    exchanges: str | None

    def is_of(self, header: Header, transfers: int) -> bool:
        """Whether it has this header and so many transfers."""
        return self.last - self.first + 1 == transfers and (
            self.effective_at, self.reference, self.description, self.metadata, self.reverses, self.exchanges,
        ) == (
            header.effective_at, header.reference, header.description, header.metadata, header.reverses, header.exchanges,
        )  # fmt: skip


class Unit(msgspec.Struct, frozen=True, gc=False):
    """Commands for one book, in order.

    - `atomic`: all or none.
    - `header`: the commands are a transaction, and so atomic.
    - `crossing`: it is part of a transfer between books, and may touch transit accounts.
    - `approved`: it has the approvals that the book's rules demand.
    - `payments`: it comes from payments, which may move what payments made.
    - `due`: it gives back what was taken before, even if an account was frozen since.
    - `restored`: it comes from the book's own export, so whatever it does to a hold was done before the hold expired.
    """

    book: int
    commands: Sequence[Command]
    atomic: bool
    header: Header | None = None
    crossing: bool = False
    approved: bool = False
    payments: bool = False
    due: bool = False
    restored: bool = False

    def part(self, commands: Sequence[Command]) -> Unit:
        """Some of its commands as an atomic unit."""
        return msgspec.structs.replace(self, commands=commands, atomic=True)

    def is_ahead(self, instant: datetime) -> bool:
        """Whether it is dated so far ahead that it is certainly refused, approved or not, if the book's next transfer is recorded at `instant`: each
        of its commands moves the book's time on by a microsecond.
        """
        certain = instant + len(self.commands) * MICROSECOND
        return self.atomic and any(
            one.effective_at is not None and one.effective_at >= certain for one in self.commands
        )

    def chains(self) -> Iterator[Sequence[Command]]:
        """The unit's chains: a command that is linked to the next is in one chain with it; the others stand alone."""
        start = 0
        for place, command in enumerate(self.commands, 1):
            if not command.linked:
                yield self.commands[start:place]
                start = place
        if start < len(self.commands):
            yield self.commands[start:]


class Result(msgspec.Struct, frozen=True, gc=False):
    """The result of a command. `existed`: an earlier request did this already. For `insufficient_funds` and the like, `required` is what the
    transfer needs, and `available` is what there is: above the floor, left of the hold, or left to reverse. `breached_on` are the days (UTC) at
    whose end a transfer that is dated back broke a limit, or would have. `account` is the one at fault, as it was named if it does not exist.
    `rules` are those that demand approvals.
    """

    id: TransferId
    status: Status
    transfer: Transfer | None = None
    existed: bool = False
    reason: Reason | None = None
    available: int | None = None
    required: int | None = None
    currency: str | None = None
    account: AccountId | str | None = None
    breached_on: tuple[date, ...] = ()
    rules: tuple[ApprovalRule, ...] = ()

    @property
    def at_fault(self) -> str | None:
        """`account` as a text."""
        return account_text(self.account)

    @property
    def lacking(self) -> tuple[AccountId, ...]:
        """The accounts that had too little for the command, or (balancing) for all that it asked for. Holds may be the cause."""
        if self.reason in _LACKING and not (self.existed or self.account is None or isinstance(self.account, str)):
            return (self.account,)
        made = self.transfer
        if made is None or self.existed or made.asked is None or made.asked == made.amount:
            return ()
        return made.debit_account, made.credit_account


#: Where a book stands: its sequence, its revision and the number of its last flush.
Stand = tuple[int, int, int]


class Book(msgspec.Struct, gc=False):
    """A book as the rules see it. `sequence` and `recorded_at` are those of its last transfer; later transfers are never recorded as earlier.
    `revision` counts the changes of accounts and settings. `flush` is the number that the last flush gave itself, even if it only refused. While
    these three are unchanged, so is everything in the book.

    Nothing can be written to a `quarantined` book. `strict`: a transfer that is dated back and breaks a limit on a past day is refused. Nothing
    new can be effective at or before `sealed_until`.
    """

    id: int
    sequence: int
    recorded_at: datetime
    revision: int = 0
    quarantined: bool = False
    strict: bool = True
    sealed_until: datetime | None = None
    flush: int = 0
    approvals: tuple[ApprovalRule, ...] = ()

    @property
    def stand(self) -> Stand:
        return self.sequence, self.revision, self.flush

    def next_instant(self, now: datetime) -> datetime:
        """The instant of its next transfer: `now`, but later than its last transfer and its seal."""
        instant = max(now, self.recorded_at + MICROSECOND)
        return instant if self.sealed_until is None else max(instant, self.sealed_until + MICROSECOND)


Key = tuple[int, UUID]
Drawn = TypeVar("Drawn", Hold, Reversal)


class Days(msgspec.Struct):
    """An account's posted balance, in its normal direction and by effective time, at the end of each day (UTC) before `end`, which is today.
    `balances[n]` is the balance of the day `since[n]` and of the days up to the next in `since`. So only days with a change take room, even in a
    past of decades. Days before the first one are never asked for.
    """

    end: date
    since: list[date]
    balances: list[int]

    @classmethod
    def of(cls, end: date, changes: Mapping[date, int]) -> Days:
        """The past with these changes of the balance by day."""
        since = sorted(day for day in changes if day < end)
        return cls(end, since, list(accumulate(changes[day] for day in since)))


class State(msgspec.Struct):
    """Everything that the commands refer to. Keys of transfers are (book, id), those of paths (book, path)."""

    books: dict[int, Book]
    accounts: dict[AccountId, Account]
    transfers: dict[Key, Transfer] = {}
    rejections: dict[Key, Rejection] = {}
    holds: dict[Key, Hold] = {}
    reversals: dict[Key, Reversal] = {}
    paths: dict[tuple[int, str], AccountId] = {}
    transactions: dict[Key, TransactionRow] = {}
    days: dict[AccountId, Days] = {}

    def account(self, book: int, named: AccountId | str | None) -> AccountId | None:
        """The id of an account that a command names; None for a path where there is none."""
        return self.paths.get((book, named)) if isinstance(named, str) else named


class Decided(msgspec.Struct):
    """The decision: `results[unit][command]`, and what to store. Holds and reversals follow from the transfers."""

    results: list[list[Result]]
    transfers: list[Transfer]
    rejections: list[Rejection]
    transactions: list[TransactionRow] = []


def expiry_id(book: int, hold: TransferId) -> TransferId:
    """The id of a hold's expiry. It is derived from the hold, so the expiry can be written only once."""
    return TransferId(hashed(_EXPIRY + str(book).encode() + hold.bytes))


def leg_id(transaction: TransactionId, place: int) -> TransferId:
    """The id of a transaction's transfer for which the client gave none. A repeat of the transaction has the same ids."""
    return TransferId(hashed(_LEG + transaction.bytes + str(place).encode()))
