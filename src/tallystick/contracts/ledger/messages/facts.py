"""The facts that the ledger tells, and the hash by which they prove the book."""

from __future__ import annotations

import msgspec

from tallystick.contracts.ledger.messages.words import Id

#: How many transfers of a unit its fact lists. The digest covers them all.
LISTED = 32


class TransferLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A transfer as its fact lists it. `amount` and `released` are minor units."""

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
    """Fact `ledger.transfers.posted`: one per unit. `count` transfers with the sequences `first` to `last` of the tenant's book.

    `sha256` is the hash of `transfers_digest`'s lines, by which `verify` and an auditor find any later change of the book.
    """

    book: int
    first: int
    last: int
    count: int
    sha256: str
    transfers: list[TransferLine]
    transaction: Id | None = None


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
    """One transfer in the digest of its fact: its fields between `|`, ids as 32 hex digits (empty if absent), amounts in minor units. What
    is dated back has its effective time (RFC 3339) as one field more.
    """
    dated = f"|{effective_at}" if effective_at else ""
    return f"{sequence}|{transfer}|{kind}|{target}|{debit}|{credit}|{amount}|{released}|{currency}{dated}\n"
