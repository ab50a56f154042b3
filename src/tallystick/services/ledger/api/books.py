"""Handlers of books, charts and categories: one small function per row of the endpoint table."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tallystick.chassis.web import Page, Paging, Reply, Request, invalid, page, read_cursor
from tallystick.contracts.ledger import messages as wire
from tallystick.contracts.ledger.problems import BookNotFound, CategoryNotFound
from tallystick.kernel.numbers import found_in
from tallystick.services.ledger.api import views
from tallystick.services.ledger.api.common import entry, instant, who
from tallystick.services.ledger.model import BookRow, chart_of
from tallystick.services.ledger.service import Answered, Ledger

_encode = msgspec.json.Encoder().encode


class ChartQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Without a version, the last one."""

    version: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None


async def open_book(ledger: Ledger, request: Request[wire.OpenBook]) -> Reply[wire.Book]:
    body = request.body
    opened = await ledger.books.open(
        who(request),
        body.name,
        body.description,
        body.backdating,
        body.shard,
        entry=entry(ledger, request),
        render=lambda row: _encode(views.book(row)),
    )
    if isinstance(opened, Answered):
        return Reply.raw(opened.body, opened.status, replayed=opened.replayed)
    return Reply(views.book(opened))


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


async def seal_book(ledger: Ledger, request: Request[wire.SealBook]) -> Reply[wire.Book]:
    until = instant("until", request.body.until)
    if until is None:
        raise TypeError("a required field was decoded as absent")
    return Reply(views.book(await ledger.books.seal(who(request), named(request), until)))


async def list_categories(ledger: Ledger, request: Request) -> Reply[wire.Categories]:
    found = await ledger.categories.all(request.subject.tenant, named(request))
    return Reply(wire.Categories(data=[views.category(one) for one in found]))


async def get_category(ledger: Ledger, request: Request) -> Reply[wire.Category]:
    return Reply(
        views.category(await ledger.categories.get(request.subject.tenant, named(request), _category(request)))
    )


async def set_category(ledger: Ledger, request: Request[wire.SetCategory]) -> Reply[wire.Category]:
    body = request.body
    name = _category(request)
    return Reply(
        views.category(await ledger.categories.set(who(request), named(request), name, body.paths, body.categories))
    )


async def delete_category(ledger: Ledger, request: Request) -> Reply[None]:
    await ledger.categories.delete(who(request), named(request), _category(request))
    return Reply(None, status=204)


async def category_balances(ledger: Ledger, request: Request) -> Reply[wire.CategoryBalances]:
    name = _category(request)
    as_of, totals = await ledger.categories.balances(request.subject.tenant, named(request), name)
    return Reply(wire.CategoryBalances(name=name, as_of=as_of, data=[views.category_total(one) for one in totals]))


def _category(request: Request[Any, Any]) -> str:
    try:
        name: str = msgspec.convert(request.path["category"], wire.BookName)
    except msgspec.ValidationError:
        raise CategoryNotFound from None
    # The only name that comes in a path and is stored. Bodies have been searched for card numbers and IBANs before they get here.
    if what := found_in(name):
        raise CategoryNotFound(f"a category's name does not hold {what}")
    return name


async def get_chart(ledger: Ledger, request: Request[None, ChartQuery]) -> Reply[wire.Chart]:
    name, version = named(request), request.query.version
    chart, since = await ledger.books.chart(request.subject.tenant, name, version)
    if version is not None and chart.version != version:
        raise invalid("/version", "the chart has not come to that version")
    return Reply(views.chart(name, chart, since))


async def set_chart(ledger: Ledger, request: Request[wire.SetChart]) -> Reply[wire.Chart]:
    name = named(request)
    body = request.body
    chart, since = await ledger.books.set_chart(who(request), name, lambda version: chart_of(body, version))
    return Reply(views.chart(name, chart, since))


def named(request: Request[Any, Any]) -> str:
    """The book's name in the path. Raises BookNotFound for a text that can't be one."""
    try:
        name: str = msgspec.convert(request.path["name"], wire.BookName)
    except msgspec.ValidationError:
        raise BookNotFound from None
    return name
