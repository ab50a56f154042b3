"""Lists of a book's entries and transfers, by what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from tallystick.chassis.web import Paging, Reply, Request, cursor, invalid, read_cursor
from tallystick.contracts.ledger import messages as wire
from tallystick.contracts.ledger.messages import SignedMoney
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.money import CurrencyCode, Digits, MoneyWire, currency
from tallystick.kernel.problem import InvalidRequest
from tallystick.services.ledger.api import times, transactions, views
from tallystick.services.ledger.model import MAX, Listing, Side, Wanted, account_ref, balance, pattern
from tallystick.services.ledger.service import Ledger, Recorded

A = TypeVar("A")
T = TypeVar("T")

_encode = msgspec.json.Encoder().encode


class ListQuery(Paging, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that is said has to fit. `account` is an id or a path, `path` a pattern of paths; `metadata` is `key=value`; `min` and `max`
    are minor units; times are instants or days. `reference` is that of the transaction.
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
    query, question = request.query, _question(request)
    listing = await search(
        request.subject.tenant, query.book, _wanted(query), _recorded(query), _place(query, question), query.limit
    )
    following = None if listing.next_before is None else cursor(question, listing.as_of, listing.next_before)
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


def _question(request: Request[None, ListQuery]) -> str:
    """A digest of the list that is asked for. It is part of the cursor, since a place in one list is another place in a list of another kind, and
    the sequence as of which a list is told is one of its book.
    """
    said = msgspec.structs.replace(request.query, limit=1, after=None)
    return hashlib.blake2b(_encode((request.route, said)), digest_size=8).hexdigest()


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


def _place(query: ListQuery, question: str) -> tuple[int, int] | None:
    """The sequence as of which the list is told, and the place before which the page begins. Raises InvalidRequest."""
    key = read_cursor(query.after, str, int, int)
    if key is None:
        return None
    if key[0] != question or int(key[2]) < 1:
        raise invalid("/after", "not a cursor of this list")
    return int(key[1]), int(key[2])


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
