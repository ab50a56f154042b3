"""Which sequence of a book a question is about. Asking for history that is not kept is an error."""

from __future__ import annotations

from datetime import datetime

import msgspec

from tallystick.chassis.db import Transaction
from tallystick.contracts.ledger.problems import BookNotFound, HistoryNotKept
from tallystick.kernel.clock import rfc3339
from tallystick.services.ledger.model import BookRow
from tallystick.services.ledger.service.accounts import At
from tallystick.services.ledger.service.poster import Poster
from tallystick.services.ledger.store import Store


class BookAt(msgspec.Struct, frozen=True):
    """A book, and the sequence as of which it is read."""

    row: BookRow
    sequence: int


class AsOf:
    def __init__(self, *, store: Store, poster: Poster) -> None:
        self._store = store
        self._poster = poster

    async def number(self, tenant: str, name: str) -> int:
        """The number of a book. To be called outside of a transaction, because it opens the main book on first use. Raises BookNotFound."""
        return await self._poster.book(tenant, name)

    async def book(self, tx: Transaction, tenant: str, name: str, at: At, now: datetime) -> BookAt:
        """The book as of `at`. By effective time that is the present sequence: what is known now. Raises BookNotFound, and HistoryNotKept for a
        time before the book was opened, or for a time or a sequence still to come.
        """
        row = await self._store.book(tx, tenant, name)
        if row is None:
            raise BookNotFound
        if at.effective is not None:
            if at.effective > now:
                raise HistoryNotKept("that time is still to come", as_of=row.sequence)
            return BookAt(row, row.sequence)
        if at.instant is not None:
            check_past(at.instant, row, now)
            return BookAt(row, await self._store.sequence_at(tx, row.id, at.instant))
        if at.sequence is not None and at.sequence > row.sequence:
            raise HistoryNotKept("the book has not come to that sequence yet", as_of=row.sequence)
        return BookAt(row, row.sequence if at.sequence is None else at.sequence)


def check_past(instant: datetime, row: BookRow, now: datetime) -> None:
    """Raises HistoryNotKept unless the instant is between the book's opening and now."""
    if instant > now:
        raise HistoryNotKept("that time is still to come", as_of=row.sequence)
    if instant < row.created_at:
        raise HistoryNotKept("the book was opened later", created_at=rfc3339(row.created_at))
