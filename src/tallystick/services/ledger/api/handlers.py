"""Handlers of accounts, transfers and the mesh: one small function per row of the endpoint table."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tallystick.chassis.auth import Subject
from tallystick.chassis.web import Page, Paging, Reply, Request, cursor, invalid, read_cursor, subject_at
from tallystick.contracts.ledger import messages as wire
from tallystick.kernel import ids
from tallystick.kernel.clock import InstantWire
from tallystick.kernel.ids import AccountId
from tallystick.kernel.money import CurrencyCode, currency
from tallystick.kernel.problem import Problem
from tallystick.services.ledger.api import commands, views
from tallystick.services.ledger.api.common import bound_cursor, entry, instant, read_bound_cursor, who
from tallystick.services.ledger.model import AccountRow, Command, Result, account_ref, is_reserved, pattern
from tallystick.services.ledger.service import Answered, At, Ledger

_encode = msgspec.json.Encoder().encode


class AccountsQuery(Paging, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """With a `path`, in the order of paths; otherwise newest first."""

    book: wire.BookName = wire.MAIN
    path: wire.PathPattern | None = None
    kind: wire.AccountKind | None = None
    currency: CurrencyCode | None = None
    code: wire.Text64 | None = None


class BookQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The book of a transfer, or of an account named by its path."""

    book: wire.BookName = wire.MAIN


class EntriesQuery(Paging, frozen=True, kw_only=True, forbid_unknown_fields=True):
    book: wire.BookName = wire.MAIN


class AtQuery(BookQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The time as of which to read: `at`, an instant of recorded time (RFC 3339); a `sequence` of the book; or an `effective` instant."""

    at: InstantWire | None = None
    sequence: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    effective: InstantWire | None = None


# ---- accounts -----------------------------------------------------------------------------------------------------


async def open_account(ledger: Ledger, request: Request[wire.OpenAccount]) -> Reply[wire.Account]:
    subject = request.subject
    opened = await ledger.accounts.open(
        subject.tenant,
        subject.actor,
        request.trace_id,
        commands.account(request.body, ids.accounts.new()),
        entry=entry(ledger, request),
        render=lambda row: _encode(views.account(row)),
        book=request.body.book,
    )
    if isinstance(opened, Answered):
        return Reply.raw(opened.body, opened.status, replayed=opened.replayed)
    return Reply(views.account(opened))


async def list_accounts(ledger: Ledger, request: Request[None, AccountsQuery]) -> Reply[Page[wire.Account]]:
    query = request.query
    if query.currency is not None:
        currency(query.currency)
    rows = await ledger.accounts.page(
        request.subject.tenant,
        after=_after(query),
        currency=query.currency,
        code=query.code,
        kind=query.kind,
        pattern=None if query.path is None else pattern(query.path),
        limit=query.limit + 1,
        book=query.book,
    )
    data = [views.account(row) for row in rows[: query.limit]]
    more = len(rows) > query.limit
    last = None if not more else data[-1].id if query.path is None else data[-1].path
    return Reply(Page(data=data, has_more=more, next=None if last is None else cursor(last)))


def _after(query: AccountsQuery) -> AccountId | str | None:
    """The account after which the page begins: its path in the order of paths, otherwise its id. Raises InvalidRequest, InvalidId."""
    key = read_cursor(query.after, str)
    if key is None:
        return None
    after = account_ref(str(key[0]))
    if isinstance(after, str) != (query.path is not None):
        raise invalid("/after", "not a cursor of this list")
    return after


async def get_account(ledger: Ledger, request: Request[None, AtQuery]) -> Reply[wire.Account]:
    query = request.query
    at = At(query.sequence, instant("at", query.at), instant("effective", query.effective))
    row = await ledger.accounts.get(request.subject.tenant, _account(request), at, query.book)
    return Reply(views.account(row))


async def list_entries(ledger: Ledger, request: Request[None, EntriesQuery]) -> Reply[Page[wire.Entry]]:
    query = request.query
    key = read_bound_cursor(request, int)
    row, rows = await ledger.accounts.entries(
        request.subject.tenant,
        _account(request),
        before=None if key is None else int(key[0]),
        limit=query.limit + 1,
        book=query.book,
    )
    data = [views.entry(each, row.normal_side) for each in rows[: query.limit]]
    more = len(rows) > query.limit
    return Reply(Page(data=data, has_more=more, next=bound_cursor(request, data[-1].sequence) if more else None))


async def close_account(ledger: Ledger, request: Request[None, BookQuery]) -> Reply[wire.Account]:
    row = await ledger.accounts.close(*who(request), _account(request), request.query.book)
    return Reply(views.account(row))


async def change_account(ledger: Ledger, request: Request[wire.ChangeAccount, BookQuery]) -> Reply[wire.Account]:
    row = await ledger.accounts.change(
        who(request), _account(request), lambda row: commands.changed(row, request.body), request.query.book
    )
    return Reply(views.account(row))


async def freeze_account(ledger: Ledger, request: Request[None, BookQuery]) -> Reply[wire.Account]:
    row = await ledger.accounts.freeze(who(request), _account(request), frozen=True, book=request.query.book)
    return Reply(views.account(row))


async def unfreeze_account(ledger: Ledger, request: Request[None, BookQuery]) -> Reply[wire.Account]:
    row = await ledger.accounts.freeze(who(request), _account(request), frozen=False, book=request.query.book)
    return Reply(views.account(row))


# ---- transfers ----------------------------------------------------------------------------------------------------


async def create_transfers(ledger: Ledger, request: Request[wire.NewTransfers]) -> Reply[wire.Transfers]:
    body = request.body
    given = body.transfers
    answered = await ledger.post(
        request.subject,
        request.trace_id,
        commands.new_transfers(given),
        atomic=body.atomic,
        entry=entry(ledger, request),
        render=lambda results, receipt: views.results(given, results, receipt, body.book),
        book=body.book,
    )
    return Reply.raw(answered.body, answered.status, replayed=answered.replayed)


async def capture(ledger: Ledger, request: Request[wire.CaptureHold]) -> Reply[wire.Transfer]:
    body = request.body
    target = ids.transfers.parse(request.path["id"])
    return await _one(
        ledger, request, commands.on_target("capture", target, body.id, body.amount, final=body.final), body.book
    )


async def increase(ledger: Ledger, request: Request[wire.IncreaseHold]) -> Reply[wire.Transfer]:
    body = request.body
    target = ids.transfers.parse(request.path["id"])
    command = commands.on_target("increase", target, body.id, body.amount, expires_in=body.expires_in)
    return await _one(ledger, request, command, body.book)


async def void(ledger: Ledger, request: Request[wire.VoidHold]) -> Reply[wire.Transfer]:
    target = ids.transfers.parse(request.path["id"])
    return await _one(ledger, request, commands.on_target("void", target, request.body.id), request.body.book)


async def reverse(ledger: Ledger, request: Request[wire.ReverseTransfer]) -> Reply[wire.Transfer]:
    body = request.body
    target = ids.transfers.parse(request.path["id"])
    return await _one(ledger, request, commands.on_target("reverse", target, body.id, body.amount), body.book)


async def _one(ledger: Ledger, request: Request[Any], command: Command, book: str) -> Reply[wire.Transfer]:
    def render(results: Sequence[Result], _receipt: str | None) -> tuple[int, bytes]:
        return views.single(results, request.trace_id, book)

    answered = await ledger.post(
        request.subject,
        request.trace_id,
        [command],
        atomic=False,
        entry=entry(ledger, request),
        render=render,
        book=book,
    )
    return Reply.raw(answered.body, answered.status, replayed=answered.replayed)


async def get_transfer(ledger: Ledger, request: Request[None, BookQuery]) -> Reply[wire.Transfer]:
    book = request.query.book
    state = await ledger.transfer(request.subject.tenant, ids.transfers.parse(request.path["id"]), book)
    return Reply(views.known(state, ledger.clock.now(), book))


# ---- over the mesh ------------------------------------------------------------------------------------------------


async def post_units(ledger: Ledger, request: Request[wire.PostUnits]) -> Reply[wire.PostedUnits]:
    """Posts each unit for the subject of its own token. A problem of one unit does not affect the others. Only payments may call this."""
    subjects = await request.judge(request.body.tokens)
    answers = await asyncio.gather(*(_unit(ledger, request.trace_id, each, subjects) for each in request.body.units))
    return Reply(wire.PostedUnits(list(answers)))


async def _unit(ledger: Ledger, trace: str, given: wire.Unit, subjects: Sequence[Subject | Problem]) -> wire.UnitResult:
    try:
        subject = subject_at(subjects, given.token)
        answered = await ledger.post(
            subject,
            trace,
            commands.unit(given.transfers),
            atomic=True,
            book=given.book,
            payments=True,
            due=given.due,
        )
    except Problem as problem:
        return wire.UnitResult(problem=problem.document(trace))
    return wire.UnitResult([views.posted(result) for result in answered.results], answered.receipt)


async def open_account_as(ledger: Ledger, request: Request[wire.OpenAccountAs]) -> Reply[wire.Account]:
    body = request.body
    subject = (await request.subjects([body.token]))[0]
    opened = await ledger.accounts.open(
        subject.tenant,
        subject.actor,
        request.trace_id,
        commands.account(body.account, ids.accounts.parse(body.id)),
        book=body.account.book,
        reserved=is_reserved(body.account.path),
    )
    if not isinstance(opened, AccountRow):
        raise TypeError("an account that was opened without an idempotency key has no stored answer")
    return Reply(views.account(opened))


async def find_accounts(ledger: Ledger, request: Request[wire.FindAccounts]) -> Reply[wire.FoundAccounts]:
    subjects = await request.judge(request.body.tokens)
    answers: list[wire.Found | None] = []
    wanted: list[tuple[str, AccountId]] = []
    for each in request.body.accounts:
        try:
            wanted.append((subject_at(subjects, each.token).tenant, ids.accounts.parse(each.id)))
            answers.append(None)
        except Problem as problem:
            answers.append(wire.Found(problem=problem.document(request.trace_id)))
    found = iter(await ledger.accounts.find(wanted) if wanted else [])
    for place, answer in enumerate(answers):
        if answer is None:
            one = next(found)
            answers[place] = (
                wire.Found(problem=one.document(request.trace_id))
                if isinstance(one, Problem)
                else wire.Found(one.currency, "debit" if one.normal_side == "debit" else "credit", one.closed, one.book)
            )
    return Reply(wire.FoundAccounts([answer for answer in answers if answer is not None]))


def _account(request: Request[Any, Any]) -> AccountId | str:
    return account_ref(request.path["id"])
