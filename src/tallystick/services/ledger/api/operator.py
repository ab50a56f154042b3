"""The operator's endpoints: check books, and release them from quarantine."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from tallystick.chassis.web import Reply, Request
from tallystick.contracts.ledger import messages as wire
from tallystick.kernel.problem import InvalidRequest
from tallystick.services.ledger.model import CheckedBook
from tallystick.services.ledger.service import Ledger, Mark

PAGE: Final = 500

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Mark).decode


class BooksQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    after: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


async def list_all_books(ledger: Ledger, request: Request[None, BooksQuery]) -> Reply[wire.WatchedBooks]:
    rows = await ledger.quarantine.books(request.query.after, PAGE + 1)
    data = [_watched(row) for row in rows[:PAGE]]
    return Reply(wire.WatchedBooks(data, data[-1].number if len(rows) > PAGE else None))


async def check_book(ledger: Ledger, request: Request[wire.CheckBook]) -> Reply[wire.Checked]:
    body = request.body
    try:
        place = Mark("balance") if body.cursor is None else _decode(body.cursor)
    except msgspec.DecodeError:
        raise InvalidRequest("the cursor is not one that a check gave") from None
    looked, on = await ledger.quarantine.check(body.number, place)
    return Reply(wire.Checked(looked.rows, looked.faults, None if on is None else _encode(on).decode()))


async def release_book(ledger: Ledger, request: Request[wire.ReleaseBook]) -> Reply[wire.WatchedBook]:
    body = request.body
    return Reply(_watched(await ledger.quarantine.release(body.number, request.trace_id, checked=body.checked)))


def _watched(row: CheckedBook) -> wire.WatchedBook:
    return wire.WatchedBook(row.id, row.tenant, row.name, row.sequence, row.quarantined, row.accounts, row.holds)
