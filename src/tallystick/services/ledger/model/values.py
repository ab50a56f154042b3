"""What the ledger is made of: accounts, transfers, holds, commands and their results. Amounts are minor units."""

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
    """An account as the rules see it. `version` counts its entries; the four totals are the sums of them. `transit`: for money between books.
    `number` is how stored transfers refer to it.
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
    """A row of the book: a transfer with its two entries. `dr_*` and `cr_*` are the accounts' totals after it. `released` is what it took
    off its hold; less than nothing for an increase. `asked` is there when it moved what there was, up to so much. `effective_at` None:
    when it was recorded. The numbers are those of its accounts.
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
    """A pinned refusal. `digest` is that of the command that was refused. `crossing`: it was part of a transfer between books. `account` is the one
    at fault, by its id, or as it was named if it was not there.
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
    """One thing to do. post, hold: both accounts (by id, or by path), amount and currency. capture: target, amount or None for all that
    remains. increase: target and amount. void, expire: target. reverse: target, amount or None. `metadata` is JSON with sorted keys.

    `expires_in` are seconds. What a file says expires at an instant: `expires_at`.
    `linked`: this one and the next are posted both or not at all. `balancing` (post, hold): as much as there is, up to `amount`.
    `transaction` and `effective_at` are those of the transaction that it is part of.
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
        """When what it holds expires, recorded at that instant. What was to expire by then does in a second: the sweep finds it."""
        if self.expires_at is not None:
            return min(max(self.expires_at, recorded + SECOND), recorded + MAX_EXPIRES_IN * SECOND)
        return None if self.expires_in is None else recorded + self.expires_in * SECOND

    def digest(self) -> bytes:
        """16 bytes that are the same for the same command only. What came later than the first release counts only where it is said:
        refusals of before keep their digests.
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
    """What makes transfers a transaction. `exchanges` is JSON: what was exchanged at which rate."""

    id: TransactionId
    reference: str | None = None
    description: str | None = None
    metadata: str | None = None
    effective_at: datetime | None = None
    reverses: TransactionId | None = None
    exchanges: str | None = None


class TransactionRow(msgspec.Struct, frozen=True):
    """A transaction: the transfers of its book with the numbers `first` to `last`."""

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
        """Whether it is what this header, with so many transfers, asks for."""
        return self.last - self.first + 1 == transfers and (
            self.effective_at, self.reference, self.description, self.metadata, self.reverses, self.exchanges,
        ) == (
            header.effective_at, header.reference, header.description, header.metadata, header.reverses, header.exchanges,
        )  # fmt: skip


class Unit(msgspec.Struct, frozen=True, gc=False):
    """Commands of one book, in order. `atomic`: all or none. With a header they are a transaction, and atomic. `crossing`: of a transfer between
    books, which may touch transit accounts. `approved`: it has the approvals that the book's rules ask for. `payments`: of payments, which may
    move what payments made. `due`: it gives back what was taken before, whatever was frozen since. `restored`: it comes from the book's own
    export, and what was done to a hold was done in time.
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
        """Some of its commands, all or none of them."""
        return msgspec.structs.replace(self, commands=commands, atomic=True)

    def chains(self) -> Iterator[Sequence[Command]]:
        """Commands that are linked to the next, with it; the others alone."""
        start = 0
        for place, command in enumerate(self.commands, 1):
            if not command.linked:
                yield self.commands[start:place]
                start = place
        if start < len(self.commands):
            yield self.commands[start:]


class Result(msgspec.Struct, frozen=True, gc=False):
    """What became of a command. `existed`: an earlier request did this already. For `insufficient_funds` and the like `required` is what the
    transfer needs and `available` what there is: above the floor, left of the hold, left to reverse. `breached_on` are the days (UTC) at whose
    end a limit was broken or would have been by a transfer that is dated back. `account` is the one at fault, as it was named if it is not
    there. `rules` are those whose approvals are asked for.
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
        """The accounts that had too little for it, or for all that it asked for: what is held may be the cause."""
        if self.reason in _LACKING and not (self.existed or self.account is None or isinstance(self.account, str)):
            return (self.account,)
        made = self.transfer
        if made is None or self.existed or made.asked is None or made.asked == made.amount:
            return ()
        return made.debit_account, made.credit_account


#: Where a book stands: its sequence, its revision and the number of its last flush.
Stand = tuple[int, int, int]


class Book(msgspec.Struct, gc=False):
    """`sequence` is that of its last transfer, `recorded_at` its instant: later transfers are never recorded as earlier. `revision` counts
    the changes of accounts and settings, `flush` is the number that the last flush gave itself, also one that only refused: while all three
    stand still, so does everything in the book. A `quarantined` book takes nothing.
    `strict`: what is dated back and breaks a limit on past days is refused. Nothing is effective at or before `sealed_until`.
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
        """The instant of its next transfer: later than that of the last one and than what is sealed."""
        instant = max(now, self.recorded_at + MICROSECOND)
        return instant if self.sealed_until is None else max(instant, self.sealed_until + MICROSECOND)


Key = tuple[int, UUID]
Drawn = TypeVar("Drawn", Hold, Reversal)


class Days(msgspec.Struct):
    """An account's posted balance (in its normal direction) by effective time at the end of each day (UTC) before `end`, which is today.
    `balances[n]` is that of the day `since[n]` and of those after it, up to the next of `since`: a past of decades is as long as the days on
    which something changed, none if nothing did. What was before the first of them nobody asks.
    """

    end: date
    since: list[date]
    balances: list[int]

    @classmethod
    def of(cls, end: date, changes: Mapping[date, int]) -> Days:
        """The past in which the balance changed by so much on these days."""
        since = sorted(day for day in changes if day < end)
        return cls(end, since, list(accumulate(changes[day] for day in since)))


class State(msgspec.Struct):
    """All that the commands are about, and nothing else. Keys of transfers are (book, id), of paths (book, path)."""

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
    """`results[unit][command]`, and what is to be stored. Holds and reversals follow from the transfers."""

    results: list[list[Result]]
    transfers: list[Transfer]
    rejections: list[Rejection]
    transactions: list[TransactionRow] = []


def expiry_id(book: int, hold: TransferId) -> TransferId:
    """The id of a hold's expiry follows from the hold: it can be written once only."""
    return TransferId(hashed(_EXPIRY + str(book).encode() + hold.bytes))


def leg_id(transaction: TransactionId, place: int) -> TransferId:
    """The id of a transaction's transfer for which its client made none: the same transaction again has the same transfers."""
    return TransferId(hashed(_LEG + transaction.bytes + str(place).encode()))
