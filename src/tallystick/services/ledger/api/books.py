"""Books and charts: one small function per row of the table."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tallystick.chassis.web import Page, Paging, Reply, Request, page, read_cursor
from tallystick.contracts.ledger import messages as wire
from tallystick.contracts.ledger.problems import BookNotFound
from tallystick.services.ledger.api import commands, views
from tallystick.services.ledger.api.common import who
from tallystick.services.ledger.model import BookRow
from tallystick.services.ledger.service import Ledger


class ChartQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Without a version the last one."""

    version: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


async def open_book(ledger: Ledger, request: Request[wire.OpenBook]) -> Reply[wire.Book]:
    body = request.body
    return Reply(views.book(await ledger.books.open(who(request), body.name, body.description, body.backdating)))


async def list_books(ledger: Ledger, request: Request[None, Paging]) -> Reply[Page[wire.Book]]:
    query = request.query
    key = read_cursor(query.after, str)
    rows = await ledger.books.page(request.subject.tenant, None if key is None else str(key[0]), query.limit + 1)
    found = page(rows, query.limit, lambda row: (row.name,))
    return Reply(Page(data=[views.book(row) for row in found.data], has_more=found.has_more, next=found.next))


async def get_book(ledger: Ledger, request: Request) -> Reply[wire.Book]:
    return Reply(views.book(await ledger.books.get(request.subject.tenant, named(request))))


async def change_book(ledger: Ledger, request: Request[wire.ChangeBook]) -> Reply[wire.Book]:
    body = request.body

    def change(row: BookRow) -> BookRow:
        return msgspec.structs.replace(
            row,
            description=row.description if body.description is msgspec.UNSET else body.description,
            backdating=row.backdating if body.backdating is msgspec.UNSET else body.backdating,
        )

    return Reply(views.book(await ledger.books.change(who(request), named(request), change)))


async def get_chart(ledger: Ledger, request: Request[None, ChartQuery]) -> Reply[wire.Chart]:
    name = named(request)
    chart, since = await ledger.books.chart(request.subject.tenant, name, request.query.version)
    return Reply(views.chart(name, chart, since))


async def set_chart(ledger: Ledger, request: Request[wire.SetChart]) -> Reply[wire.Chart]:
    name = named(request)
    body = request.body
    chart, since = await ledger.books.set_chart(who(request), name, lambda version: commands.chart(body, version))
    return Reply(views.chart(name, chart, since))


def named(request: Request[Any, Any]) -> str:
    """The book in the path. A text that can't be a book's name is that of no book."""
    try:
        name: str = msgspec.convert(request.path["name"], wire.BookName)
    except msgspec.ValidationError:
        raise BookNotFound from None
    return name
