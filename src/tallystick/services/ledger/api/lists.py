"""Searchable lists of a book's entries, transfers and transactions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from tallystick.chassis.web import Paging, Reply, Request, invalid
from tallystick.contracts.ledger import messages as wire
from tallystick.contracts.ledger.messages import SignedMoney
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.money import CurrencyCode, Digits, MoneyWire, currency
from tallystick.kernel.problem import InvalidRequest
from tallystick.services.ledger.api import times, transactions, views
from tallystick.services.ledger.api.common import bound_cursor, read_bound_cursor
from tallystick.services.ledger.model import MAX, Listing, Side, Wanted, account_ref, balance, pattern
from tallystick.services.ledger.service import Ledger, Recorded

A = TypeVar("A")
T = TypeVar("T")


class ListQuery(Paging, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All filters that are given have to match. `account` is an id or a path, `path` a pattern of paths; `metadata` is `key=value`; `min` and `max`
    are minor units; times are instants or days. `reference` is the transaction's.
    """

    book: wire.BookName = wire.MAIN
    account: wire.AccountRef | None = None
    path: wire.PathPattern | None = None
    kind: Literal["post", "hold", "increase", "capture", "void", "expire", "reverse"] | None = None
    code: wire.Text64 | None = None
    currency: CurrencyCode | None = None
    minimum: Digits | None = msgspec.field(default=None, name="min")
    maximum: Digits | None = msgspec.field(default=None, name="max")
    metadata: Annotated[str, Meta(min_length=2, max_length=541)] | None = None
    recorded_from: times.When | None = None
    recorded_to: times.When | None = None
    effective_from: times.When | None = None
    effective_to: times.When | None = None
    reference: wire.Reference | None = None


async def list_entries(ledger: Ledger, request: Request[None, ListQuery]) -> Reply[wire.Entries]:
    return await _listed(request, ledger.search.entries, wire.Entries, lambda side, _: _entry(side))


async def list_transfers(ledger: Ledger, request: Request[None, ListQuery]) -> Reply[wire.TransferList]:
    return await _listed(
        request, ledger.search.transfers, wire.TransferList, lambda hit, book: views.transfer(hit.transfer, book)
    )


async def list_transactions(ledger: Ledger, request: Request[None, ListQuery]) -> Reply[wire.TransactionList]:
    return await _listed(
        request, ledger.search.transactions, wire.TransactionList, lambda one, book: transactions.view(*one, book)
    )


async def _listed(
    request: Request[None, ListQuery],
    search: Callable[[str, str, Wanted, Recorded, tuple[int, int] | None, int], Awaitable[Listing[T]]],
    answer: Callable[..., A],
    view: Callable[[T, str], object],
) -> Reply[A]:
    """A page of what the search finds. `view` makes the wire form of each, given the book's name."""
    query = request.query
    listing = await search(
        request.subject.tenant, query.book, _wanted(query), _recorded(query), _place(request), query.limit
    )
    following = None if listing.next_before is None else bound_cursor(request, listing.as_of, listing.next_before)
    return Reply(
        answer(
            book=listing.book,
            as_of=listing.as_of,
            down_to=listing.down_to,
            data=[view(one, listing.book) for one in listing.found],
            has_more=following is not None,
            next=following,
        )
    )


def _wanted(query: ListQuery) -> Wanted:
    if query.account is not None and query.path is not None:
        raise InvalidRequest("an account or a pattern of paths, not both")
    if query.currency is not None:
        currency(query.currency)
    least, most = _minor(query.minimum, "min"), _minor(query.maximum, "max")
    if least is not None and most is not None and least > most:
        raise invalid("/min", "more than max")
    return Wanted(
        kind=query.kind,
        code=query.code,
        currency=query.currency,
        minimum=least,
        maximum=most,
        metadata=_metadata(query.metadata),
        account=None if query.account is None else account_ref(query.account),
        pattern=None if query.path is None else pattern(query.path),
        reference=query.reference,
        effective_from=times.start(query.effective_from, "effective_from"),
        effective_to=times.end(query.effective_to, "effective_to"),
    )


def _minor(said: str | None, name: str) -> int | None:
    if said is None:
        return None
    minor = int(said)
    if minor > MAX:
        raise invalid(f"/{name}", "more than any amount: 2^63 - 1 minor units")
    return minor


def _metadata(said: str | None) -> tuple[str, str] | None:
    if said is None:
        return None
    key, equals, value = said.partition("=")
    if not key or not equals or "\0" in said:
        raise invalid("/metadata", "key=value")
    return key, value


def _recorded(query: ListQuery) -> Recorded:
    return Recorded(times.start(query.recorded_from, "recorded_from"), times.end(query.recorded_to, "recorded_to"))


def _place(request: Request[None, ListQuery]) -> tuple[int, int] | None:
    """The sequence as of which the list is, and the place before which the page begins. Raises InvalidRequest."""
    key = read_bound_cursor(request, int, int)
    if key is None:
        return None
    if int(key[1]) < 1:
        raise invalid("/after", "not a cursor of this list")
    return int(key[0]), int(key[1])


def _entry(side: Side) -> wire.FoundEntry:
    transfer, debit = side.hit.transfer, side.debit
    of = "dr" if debit else "cr"
    totals = [
        getattr(transfer, f"{of}_{name}")
        for name in ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
    ]
    held = transfer.amount if transfer.kind == "hold" else -transfer.released
    return wire.FoundEntry(
        account=ids.accounts.text(side.account),
        path=side.hit.paths[0 if debit else 1],
        transfer=ids.transfers.text(transfer.id),
        kind=transfer.kind,
        side="debit" if debit else "credit",
        other_account=ids.accounts.text(transfer.credit_account if debit else transfer.debit_account),
        amount=MoneyWire(str(transfer.amount), transfer.currency),
        pending=SignedMoney(amount=str(held), currency=transfer.currency),
        balance=views.of_balance(balance(side.hit.debit_normal[0 if debit else 1], *totals), transfer.currency),
        version=transfer.dr_version if debit else transfer.cr_version,
        sequence=transfer.sequence,
        recorded_at=rfc3339(transfer.recorded_at),
        effective_at=rfc3339(transfer.effective_at or transfer.recorded_at),
        code=transfer.code,
        transaction=None if transfer.transaction is None else ids.transactions.text(transfer.transaction),
        metadata=views.metadata(transfer.metadata),
    )
