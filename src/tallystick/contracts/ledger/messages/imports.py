"""A book as records, one per line of a file. An export writes them, an import reads them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tallystick.contracts.ledger.messages.books import MAX_RULES, Backdating, ChartRule, Description
from tallystick.contracts.ledger.messages.transactions import Rate, Reference, Rounding
from tallystick.contracts.ledger.messages.words import (
    MAIN,
    MAX_EXPIRES_IN,
    AccountKind,
    AccountPath,
    AccountRef,
    BookName,
    Ceiling,
    Floor,
    Id,
    Message,
    Metadata,
    Name,
    PathPattern,
    Side,
    SignedMoney,
    Text64,
)
from tallystick.kernel.clock import InstantWire
from tallystick.kernel.ids import ImportIdWire
from tallystick.kernel.money import CurrencyCode, MoneyWire

#: Records of one upload.
MAX_RECORDS = 1000
#: Records of an import that is done whole or not at all: as many as one transaction of the database can take in its time.
MAX_WHOLE = 20_000
#: Records of an import in parts.
MAX_IMPORT = 10_000_000
#: Transfers of one transaction, the legs of its exchanges counted.
MAX_LEGS = 3000

#: As `Metadata`; in an export also what a transfer between books says of itself, where the client's is one text, as JSON, and accounts are paths.
KeptMetadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=40)], Annotated[str, Meta(max_length=200_000)]],
    Meta(max_length=32),
]
#: What the file calls a record: an id of the ledger, or any text that is unique in the file.
RowId = Annotated[str, Meta(min_length=1, max_length=200)]
#: whole: all or nothing. parts: all, a thousand at a time, up to the first part with a wrong line. valid: what can be.
ImportMode = Literal["whole", "parts", "valid"]
ImportState = Literal["open", "queued", "done", "failed"]
#: As `Kind`, and what the clock does.
RecordKind = Literal["post", "hold", "increase", "capture", "void", "expire", "reverse"]


class BookRecord(Message, frozen=True, tag_field="type", tag="book"):
    """The first record of an export, which no other file has. It makes the import a restoration, which needs an empty book. The export is
    as of the book's `sequence`.
    """

    name: BookName
    sequence: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    exported_at: InstantWire
    description: Description | None = None
    backdating: Backdating = "strict"
    sealed_until: InstantWire | None = None
    format: Literal[1] = 1


class ChartRecord(Message, frozen=True, tag_field="type", tag="chart"):
    mode: Literal["open", "strict"]
    rules: Annotated[list[ChartRule], Meta(max_length=MAX_RULES)]


class CategoryRecord(Message, frozen=True, tag_field="type", tag="category"):
    name: BookName
    paths: Annotated[list[PathPattern], Meta(max_length=200)] = msgspec.field(default_factory=list)
    categories: Annotated[list[BookName], Meta(max_length=200)] = msgspec.field(default_factory=list)


class AccountRecord(Message, frozen=True, tag_field="type", tag="account"):
    """`id` is the account's name in the file; without one, its path is. `opening` is its balance before the file's first transfer, in its
    normal direction, effective from `effective_at` on. It is posted from `opening_account`; if none is named, from
    `equity:opening-balances:CURRENCY`, which is opened.
    """

    name: Name
    currency: CurrencyCode
    normal_side: Side
    id: AccountRef | None = None
    path: AccountPath | None = None
    kind: AccountKind | None = None
    floor: Floor | None = None
    ceiling: Ceiling | None = None
    code: Text64 | None = None
    metadata: Metadata | None = None
    closed: bool = False
    frozen: bool = False
    created_at: InstantWire | None = None
    opening: SignedMoney | None = None
    opening_account: AccountRef | None = None
    effective_at: InstantWire | None = None


class LegRecord(Message, frozen=True):
    """A transfer. post, hold: both accounts and the amount. increase: `target` (the hold) and the amount. capture: `target`, the amount,
    `final`. void, expire: `target`. reverse: `target` (a post or a capture) and the amount.

    An export also has `recorded_at`, `sequence`, `released` and `asked`. In a restoration a transfer becomes effective when it originally
    was, or else when it was recorded, and the texts of its metadata may be longer than 500 characters.
    """

    id: RowId | None = None
    kind: RecordKind = "post"
    debit_account: AccountRef | None = None
    credit_account: AccountRef | None = None
    amount: MoneyWire | None = None
    target: RowId | None = None
    final: bool = False
    code: Text64 | None = None
    metadata: KeptMetadata | None = None
    expires_in: Annotated[int, Meta(ge=1, le=MAX_EXPIRES_IN)] | None = None
    expires_at: InstantWire | None = None
    effective_at: InstantWire | None = None
    recorded_at: InstantWire | None = None
    sequence: Annotated[int, Meta(ge=1, le=2**63 - 1)] | None = None
    released: MoneyWire | None = None
    asked: MoneyWire | None = None


class TransferRecord(LegRecord, frozen=True, tag_field="type", tag="transfer"):
    """A transfer that is not part of a transaction. It must have an `id`."""


class ExchangeRecord(Message, frozen=True):
    """The result of an exchange. `transfers` are the ids of its legs: what was sold, what was bought and what was kept back. They have to
    agree with it.
    """

    sold: MoneyWire
    bought: MoneyWire
    rate: Rate
    rounding: Rounding
    transfers: Annotated[list[Id], Meta(max_length=MAX_LEGS)]
    spread: MoneyWire | None = None


class TransactionRecord(Message, frozen=True, tag_field="type", tag="transaction"):
    """A unit of transfers, of which all are posted or none. It is named by its `id` or its `reference`; its transfers need no ids."""

    transfers: Annotated[list[LegRecord], Meta(min_length=1, max_length=MAX_LEGS)]
    id: RowId | None = None
    reference: Reference | None = None
    description: Description | None = None
    metadata: Metadata | None = None
    effective_at: InstantWire | None = None
    reverses: RowId | None = None
    exchanges: Annotated[list[ExchangeRecord], Meta(max_length=1000)] = msgspec.field(default_factory=list)


Record = BookRecord | ChartRecord | CategoryRecord | AccountRecord | TransactionRecord | TransferRecord


class NewImport(Message, frozen=True):
    """`rows` is the number of records, `sha256` the hash of their content: the same content is imported into a book only once. `sequence`
    is the one that a restored book has to end at.
    """

    rows: Annotated[int, Meta(ge=1, le=MAX_IMPORT)]
    sha256: Annotated[
        str,
        Meta(pattern=r"^[0-9a-f]{64}$(?!\n)", min_length=64, max_length=64, description="a SHA-256 in lower case hex"),
    ]
    book: BookName = MAIN
    mode: ImportMode = "whole"
    dry_run: bool = False
    sequence: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None


class ImportLine(Message, frozen=True):
    """A record with the number of its line in the file."""

    line: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    record: Record


class ImportLines(Message, frozen=True):
    lines: Annotated[list[ImportLine], Meta(min_length=1, max_length=MAX_RECORDS)]


class ImportWait(msgspec.Struct, frozen=True, kw_only=True):
    """A queued import could not be run, for a `reason` that passes. It has been waiting `since` then, and is run again at `due_at`."""

    reason: str
    since: InstantWire
    due_at: InstantWire


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """`open`: it accepts lines. `queued`: it waits or runs; everything up to `line` is imported. `done`, `failed`: it has ended. A failed
    import in mode `whole` changed nothing. `known` counts what the book had already, `refused` the lines that were refused;
    `reason` says why it failed as a whole, `waiting` why it is still queued. `sequence` is the book's after the import.
    """

    id: ImportIdWire
    book: str
    mode: ImportMode
    dry_run: bool
    state: ImportState
    rows: int
    staged: int
    line: int
    accounts: int
    accounts_known: int
    transfers: int
    transfers_known: int
    refused: int
    reason: str | None
    sequence: int | None
    created_at: InstantWire
    finished_at: InstantWire | None
    waiting: ImportWait | None = None


class ImportRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """A refused line: the field at fault, if any (a JSON pointer), and the reason as a word and as a sentence."""

    line: int
    field: str | None
    reason: str
    detail: str


class ExportPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of an export as of the sequence `as_of`: first settings, chart, categories and accounts, then everything posted, in order."""

    as_of: int
    data: list[Record]
    has_more: bool
    next: str | None = None
