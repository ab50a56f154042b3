"""The facts that the ledger tells, and the hash by which they prove the book."""

from __future__ import annotations

import msgspec

from tallystick.contracts.ledger.messages.books import Backdating, ChartMode
from tallystick.contracts.ledger.messages.words import AccountKind, BookName, Id, Side
from tallystick.kernel.clock import DayWire, InstantWire
from tallystick.kernel.ids import AccountIdWire, ClientIdWire, ImportIdWire, ProposalIdWire
from tallystick.kernel.money import CurrencyCode

#: How many transfers of a unit its fact lists. The digest covers them all.
LISTED = 32


class TransferLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A transfer as its fact lists it. `amount` and `released` are minor units; `target` is the hold or transfer that it goes on with."""

    sequence: int
    id: Id
    kind: str
    debit_account: Id
    credit_account: Id
    amount: str
    currency: str
    target: Id | None = None
    released: str | None = None
    expires_at: str | None = None
    effective_at: str | None = None


class TransfersPosted(msgspec.Struct, frozen=True, kw_only=True):
    """One unit: what was posted together. `count` transfers with the sequences `first` to `last` of the tenant's book."""

    book: int
    """The book's number, the same in all facts of it."""
    first: int
    last: int
    count: int
    sha256: str
    """Over a line for each transfer (`canonical_line`), by which an auditor finds any later change of the book."""
    transfers: list[TransferLine]
    """The first 32 of them."""
    transaction: Id | None = None
    """The transaction that they are the entries of, if there is one."""


class AccountFact(msgspec.Struct, frozen=True, kw_only=True):
    """An account as it was after this, without what people typed (its name, path and metadata)."""

    account: AccountIdWire
    book: int
    """The book's number, the same in all facts of it."""
    kind: AccountKind
    currency: CurrencyCode
    normal_side: Side
    floor: str | None
    """The lowest available balance that is allowed, in minor units; null for none."""
    ceiling: str | None
    """The highest balance that is allowed, in minor units; null for none."""


class _OfBook(msgspec.Struct, frozen=True, kw_only=True):
    book: int
    name: BookName


class BookFact(_OfBook, frozen=True, kw_only=True):
    """A book and, for all that is dated back, what becomes of a limit that it breaks on past days."""

    backdating: Backdating


class BookSealed(_OfBook, frozen=True, kw_only=True):
    until: InstantWire
    """Nothing is effective at or before this any more (RFC 3339)."""


class QuarantineFact(_OfBook, frozen=True, kw_only=True, omit_defaults=True):
    reason: str | None = None
    """What does not add up, of one that was put in quarantine."""


class ChartChanged(_OfBook, frozen=True, kw_only=True):
    version: int
    """Of the chart: how often it was changed."""
    mode: ChartMode


class ApprovalsChanged(_OfBook, frozen=True, kw_only=True):
    rules: int
    """How many rules there are now."""


class ProposalFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    proposal: ProposalIdWire
    book: int
    digest: str
    """What approvers sign: SHA-256, in hex, over what would be posted."""
    proposer: ClientIdWire
    breached_on: list[DayWire] = []
    """On which past days (UTC) posting it broke a limit, or would have."""


class ImportDone(msgspec.Struct, frozen=True, kw_only=True, rename={"import_": "import"}):
    """What an import has brought into a book."""

    import_: ImportIdWire
    book: int
    sha256: str
    """The hash of its content, in hex."""
    accounts: int
    """How many were opened; those that the book had are not counted."""
    transfers: int
    """How many were posted; those that the book had are not counted."""
    refused: int
    """How many lines were refused."""
    sequence: int
    """The book's, after it."""


def canonical_line(  # noqa: PLR0917 - the fields of a line, in their order
    sequence: int,
    transfer: str,
    kind: str,
    target: str,
    debit: str,
    credit: str,
    amount: int,
    released: int,
    currency: str,
    effective_at: str = "",
) -> str:
    """The line of a transfer in the digest of its fact: its fields separated by `|`, ids as 32 hex digits (empty if absent), amounts in
    minor units. A backdated transfer has its effective time (RFC 3339) as a further field.
    """
    dated = f"|{effective_at}" if effective_at else ""
    return f"{sequence}|{transfer}|{kind}|{target}|{debit}|{credit}|{amount}|{released}|{currency}{dated}\n"
