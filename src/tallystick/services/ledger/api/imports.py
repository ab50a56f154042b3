"""Handlers of imports and exports, and the wire form of a book's records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from tallystick.chassis.web import After, Page, Paging, Reply, Request, invalid, page, read_cursor
from tallystick.contracts.ledger import messages as wire
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock, rfc3339
from tallystick.kernel.ids import TransferId
from tallystick.kernel.money import MoneyWire
from tallystick.services.ledger.api import views
from tallystick.services.ledger.api.books import named
from tallystick.services.ledger.api.common import bound_cursor, read_bound_cursor, who
from tallystick.services.ledger.model import (
    AccountRow,
    BookRow,
    Category,
    Chart,
    ImportRow,
    TransactionRow,
    Transfer,
)
from tallystick.services.ledger.service import Ledger, Part, Spot

_encode = msgspec.json.Encoder().encode
_metadata = msgspec.json.Decoder(dict[str, str]).decode
_exchanges = msgspec.json.Decoder(list[wire.ExchangeRecord]).decode


class ExportQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At most `limit` records; a transaction with all its transfers counts as one."""

    limit: Annotated[int, Meta(ge=1, le=1000)] = 500
    after: After | None = None


# ---- imports --------------------------------------------------------------------------------------------------------


async def announce(ledger: Ledger, request: Request[wire.NewImport]) -> Reply[wire.Import]:
    row, new = await ledger.imports.announce(who(request), request.body)
    return Reply(_import(row), 201 if new else 200)


async def stage(ledger: Ledger, request: Request[wire.ImportLines]) -> Reply[wire.Import]:
    lines = request.body.lines
    texts = [_encode(line.record).decode() for line in lines]
    own = ids.imports.parse(request.path["id"])
    return Reply(_import(await ledger.imports.stage(request.subject.tenant, own, lines, texts)))


async def start(ledger: Ledger, request: Request) -> Reply[wire.Import]:
    return Reply(_import(await ledger.imports.start(request.subject.tenant, ids.imports.parse(request.path["id"]))))


async def get(ledger: Ledger, request: Request) -> Reply[wire.Import]:
    return Reply(_import(await ledger.imports.get(request.subject.tenant, ids.imports.parse(request.path["id"]))))


async def refusals(ledger: Ledger, request: Request[None, Paging]) -> Reply[Page[wire.ImportRefusal]]:
    query = request.query
    key = read_cursor(query.after, int)
    rows = await ledger.imports.refusals(
        request.subject.tenant,
        ids.imports.parse(request.path["id"]),
        0 if key is None else int(key[0]),
        query.limit + 1,
    )
    found = page(rows, query.limit, lambda row: (row.line,))
    data = [
        wire.ImportRefusal(line=one.line, field=one.field, reason=one.reason, detail=one.detail) for one in found.data
    ]
    return Reply(Page(data=data, has_more=found.has_more, next=found.next))


def _import(row: ImportRow) -> wire.Import:
    return wire.Import(
        id=ids.imports.text(row.id),
        book=row.book_name,
        mode=msgspec.convert(row.mode, wire.ImportMode),
        dry_run=row.dry_run,
        state=msgspec.convert(row.state, wire.ImportState),
        rows=row.rows,
        staged=row.staged,
        line=row.line,
        accounts=row.accounts,
        accounts_known=row.accounts_known,
        transfers=row.transfers,
        transfers_known=row.transfers_known,
        refused=row.refused,
        reason=row.reason,
        sequence=row.sequence,
        created_at=rfc3339(row.created_at),
        finished_at=None if row.finished_at is None else rfc3339(row.finished_at),
        waiting=_waiting(row),
    )


def _waiting(row: ImportRow) -> wire.ImportWait | None:
    if row.waits_for is None or row.waiting_since is None or row.due_at is None:
        return None
    return wire.ImportWait(reason=row.waits_for, since=rfc3339(row.waiting_since), due_at=rfc3339(row.due_at))


# ---- exports --------------------------------------------------------------------------------------------------------


async def export(ledger: Ledger, request: Request[None, ExportQuery]) -> Reply[wire.ExportPage]:
    query = request.query
    key = read_bound_cursor(request, str, int, int, str, int)
    spot = None if key is None else _spot(key)
    part = await ledger.exports.page(request.subject.tenant, named(request), spot, query.limit)
    after = part.next
    following = None
    if after is not None:
        place = after.part[0], after.as_of, after.revision, after.account.hex, after.sequence
        following = bound_cursor(request, *place)
    return Reply(
        wire.ExportPage(
            as_of=part.as_of, data=list(_records(part, ledger.clock)), has_more=after is not None, next=following
        )
    )


#: The parts of an export as they stand in a cursor.
_PARTS: Final[dict[str | int, Literal["accounts", "transfers"]]] = {"a": "accounts", "t": "transfers"}


def _spot(key: tuple[str | int, ...]) -> Spot:
    """Raises InvalidRequest."""
    part, as_of, revision, account, sequence = key
    try:
        return Spot(_PARTS[part], int(as_of), int(revision), UUID(hex=str(account)), int(sequence))
    except (KeyError, ValueError):
        raise invalid("/after", "not a cursor of this list") from None


def _records(part: Part, clock: Clock) -> Iterator[wire.Record]:
    if part.settings is not None:
        yield from _settings(*part.settings, rfc3339(clock.now()))
    for account in part.accounts:
        yield _account(account)
    starts = {one.first: one for one in part.transactions}
    place = 0
    while place < len(part.transfers):
        transfer = part.transfers[place]
        whole = starts.get(transfer.sequence)
        if whole is None:
            yield msgspec.convert(_leg(transfer), wire.TransferRecord, from_attributes=True)
            place += 1
            continue
        count = whole.last - whole.first + 1
        yield _transaction(whole, [_leg(one) for one in part.transfers[place : place + count]])
        place += count


def _settings(book: BookRow, chart: Chart, categories: Sequence[Category], now: str) -> Iterator[wire.Record]:
    yield wire.BookRecord(
        name=book.name,
        sequence=book.sequence,
        exported_at=now,
        description=book.description,
        backdating=msgspec.convert(book.backdating, wire.Backdating),
        sealed_until=None if book.sealed_until is None else rfc3339(book.sealed_until),
    )
    if chart.version:
        yield wire.ChartRecord(mode=chart.mode, rules=views.chart(book.name, chart, None).rules)
    for one in categories:
        yield wire.CategoryRecord(name=one.name, paths=list(one.paths), categories=list(one.categories))


def _account(row: AccountRow) -> wire.AccountRecord:
    return wire.AccountRecord(
        id=ids.accounts.text(row.id),
        name=row.name,
        path=row.path,
        kind=msgspec.convert(row.kind, wire.AccountKind),
        currency=row.currency,
        normal_side=msgspec.convert(row.normal_side, wire.Side),
        floor=None if row.floor is None else str(row.floor),
        ceiling=None if row.ceiling is None else str(row.ceiling),
        code=row.code,
        metadata=None if row.metadata is None else _metadata(row.metadata),
        closed=row.closed,
        frozen=row.frozen,
        created_at=rfc3339(row.created_at),
    )


def _leg(t: Transfer) -> wire.LegRecord:
    moves = t.kind in ("post", "hold")
    draws = t.kind in ("void", "expire")
    return wire.LegRecord(
        id=ids.transfers.text(t.id),
        kind=msgspec.convert(t.kind, wire.RecordKind),
        debit_account=ids.accounts.text(t.debit_account) if moves else None,
        credit_account=ids.accounts.text(t.credit_account) if moves else None,
        amount=None if draws else MoneyWire(str(t.amount), t.currency),
        target=None if t.target is None else ids.transfers.text(TransferId(t.target)),
        code=t.code,
        metadata=None if t.metadata is None else _metadata(t.metadata),
        expires_at=None if t.expires_at is None else rfc3339(t.expires_at),
        effective_at=None if t.effective_at is None else rfc3339(t.effective_at),
        recorded_at=rfc3339(t.recorded_at),
        sequence=t.sequence,
        released=MoneyWire(str(t.released), t.currency) if t.released > 0 else None,
        asked=None if t.asked is None else MoneyWire(str(t.asked), t.currency),
    )


def _transaction(row: TransactionRow, legs: list[wire.LegRecord]) -> wire.TransactionRecord:
    return wire.TransactionRecord(
        id=ids.transactions.text(row.id),
        transfers=legs,
        reference=row.reference,
        description=row.description,
        metadata=None if row.metadata is None else _metadata(row.metadata),
        effective_at=None if row.effective_at is None else rfc3339(row.effective_at),
        reverses=None if row.reverses is None else ids.transactions.text(row.reverses),
        exchanges=[] if row.exchanges is None else _exchanges(row.exchanges),
    )
