"""What is searched for in a book, and the pages of the result. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Generic, TypeVar

import msgspec

from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model.paths import Pattern
from tallystick.services.ledger.model.values import Transfer

#: Most entries that one request examines. If the filters match rarely, the page ends there and the next one goes on.
LOOKED_AT: Final = 50_000
#: Most accounts that are searched one by one. For a pattern that matches more, the whole book is searched.
ONE_BY_ONE: Final = 100


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The filters; None matches anything. `metadata` is a key and its value, `reference` the transaction's. Amounts are minor units. The effective
    time is from `effective_from` to before `effective_to`.
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
    """A matching transfer. The pairs are about its debit and its credit account; `fits`: whether the account itself matches."""

    transfer: Transfer
    debit_normal: tuple[bool, bool]
    paths: tuple[str | None, str | None]
    fits: tuple[bool, bool]


class Side(msgspec.Struct, frozen=True):
    """An entry: one side of a transfer. `place` is its position in the order of entries."""

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
    """The matching sides of the transfers, newest first, the debit before the credit, starting before the place `before`."""
    found = []
    for hit in hits:
        found += [Side(hit, debit) for debit, fits in ((True, hit.fits[0]), (False, hit.fits[1])) if fits]
    return [side for side in found if before is None or side.place < before]


T = TypeVar("T")


class Listing(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A page of a list. Everything after the sequence `down_to` was examined. The next page begins before `next_before` (a sequence, or for entries a
    `Side.place`); None: this is the last page.
    """

    book: str
    as_of: int
    found: Sequence[T]
    down_to: int
    next_before: int | None
