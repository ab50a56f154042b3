"""What is looked for in a book, and how a list of it goes on. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Generic, TypeVar

import msgspec

from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model.paths import Pattern
from tallystick.services.ledger.model.values import Transfer

#: Entries that one request looks at; a list whose filters fit less often goes on with the next page.
LOOKED_AT: Final = 50_000
#: Accounts that are looked at one by one. A pattern that fits more is looked for in the whole book.
ONE_BY_ONE: Final = 100


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """None: any. `metadata` is a key and its value, `reference` that of the transaction. Amounts are minor units. Effective from the first
    instant on and before the second.
    """

    kind: str | None = None
    code: str | None = None
    currency: str | None = None
    minimum: int | None = None
    maximum: int | None = None
    metadata: tuple[str, str] | None = None
    reference: str | None = None
    effective_from: datetime | None = None
    effective_to: datetime | None = None
    account: AccountId | str | None = None
    pattern: Pattern | None = None


class Hit(msgspec.Struct, frozen=True):
    """A transfer that fits, and which of its accounts do."""

    transfer: Transfer
    debit_normal: tuple[bool, bool]
    paths: tuple[str | None, str | None]
    fits: tuple[bool, bool]


class Side(msgspec.Struct, frozen=True):
    """An entry: one side of a transfer. `place` is its place in the order of entries."""

    hit: Hit
    debit: bool

    @property
    def place(self) -> int:
        return 2 * self.hit.transfer.sequence + self.debit

    @property
    def account(self) -> AccountId:
        transfer = self.hit.transfer
        return transfer.debit_account if self.debit else transfer.credit_account


def sides(hits: Sequence[Hit], before: int | None) -> list[Side]:
    """The entries of the transfers that fit, newest first, the debit before the credit, from before the place `before` on."""
    found = []
    for hit in hits:
        found += [Side(hit, debit) for debit, fits in ((True, hit.fits[0]), (False, hit.fits[1])) if fits]
    return [side for side in found if before is None or side.place < before]


T = TypeVar("T")


class Listing(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A page. `down_to`: everything after this sequence was looked at. `next_before` is where the next page goes on (a sequence, of entries
    a place); None: there is no more.
    """

    book: str
    as_of: int
    found: Sequence[T]
    down_to: int
    next_before: int | None
