"""Account statements, and explanations of an account's numbers."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from tallystick.chassis.web import After, Reply, Request, cursor, read_cursor
from tallystick.contracts.ledger import messages as wire
from tallystick.contracts.ledger.messages import SignedMoney
from tallystick.kernel import ids
from tallystick.kernel.clock import InstantWire, rfc3339
from tallystick.kernel.money import MoneyWire, in_units
from tallystick.services.ledger.api import formats, times, views
from tallystick.services.ledger.api.camt import camt053
from tallystick.services.ledger.model import (
    EntryRow,
    Explanation,
    HeldRow,
    Line,
    Posted,
    Rule,
    Span,
    Statement,
    Step,
    Totals,
    account_ref,
    effect,
)
from tallystick.services.ledger.service import Asked, At, Ledger, Place

_FORMATS: Final = {formats.CSV: "csv", formats.XML: "camt.053", "text/xml": "camt.053"}
_COLUMNS: Final = (
    "record", "sequence", "recorded_at", "transfer", "kind", "code", "other_account", "debit", "credit", "balance", "currency",
    "effective_at", "transaction", "reference", "description",
)  # fmt: skip


class StatementQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By default from the opening of the account (by effective time, from its first entry if that is earlier) to the book's last transfer, so that the
    next statement may begin where this one ends. `sequence`: as of this sequence of the book. `book` is for an account named by its path. A
    further page is requested with the same parameters.
    """

    start: times.When | None = msgspec.field(default=None, name="from")
    end: times.When | None = msgspec.field(default=None, name="to")
    by: times.By = "recorded"
    sequence: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    book: wire.BookName = wire.MAIN
    limit: Annotated[int, Meta(ge=1, le=wire.MAX_STATEMENT_ENTRIES)] = 1000
    after: After | None = None
    format: Literal["json", "csv", "camt.053"] | None = None


class ExplainQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The time as of which to explain: `at`, an instant of recorded time (RFC 3339); a `sequence` of the book; or an `effective` instant, as known
    now. By default now. `limit`: how many entries are listed one by one.
    """

    at: InstantWire | None = None
    sequence: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    effective: InstantWire | None = None
    book: wire.BookName = wire.MAIN
    limit: Annotated[int, Meta(ge=1, le=wire.MAX_EXPLAINED_ENTRIES)] = 100


async def statement(ledger: Ledger, request: Request[None, StatementQuery]) -> Reply[Any]:
    query = request.query
    found = await ledger.statements.statement(
        request.subject.tenant,
        account_ref(request.path["id"]),
        Asked(times.start(query.start), times.end(query.end), query.by == "effective", query.sequence),
        _place(query.after),
        query.limit,
        query.book,
    )
    after = None if found.last_page else _after(found)
    form = formats.asked_for(request, query.format, _FORMATS)
    if form == "json":
        return Reply(_statement(found, after))
    which = "-effective" if found.effective else ""
    name = f"statement-{ids.accounts.text(found.account.id)}{which}-{found.as_of}-{found.page}"
    link = formats.next_page(query, after)
    if form == "csv":
        return formats.csv_reply(_COLUMNS, _rows(found), name=f"{name}.csv", as_of=found.as_of, link=link)
    content = camt053(found, request.trace_id, ledger.clock.now())
    return formats.file_reply(content, formats.XML, name=f"{name}.xml", as_of=found.as_of, link=link)


def _place(after: str | None) -> Place | None:
    """The place in a cursor of `_after`. Raises InvalidRequest, InvalidId."""
    key = read_cursor(after, str, *[int] * 10)
    if key is None:
        return None
    account = ids.accounts.parse(str(key[0]))
    effective, start, end, first, last, instant, sequence, page, debits, credit = map(int, key[1:])
    span = Span(times.of_number(start), times.of_number(end), first, last)
    return Place(account, effective == 1, span, (times.of_number(instant), sequence), page, debits, credit)


def _after(found: Statement) -> str:
    """The cursor of the next page. It carries the number of entries of all pages, so that they are counted only once."""
    span, line = found.span, found.lines[-1]
    return cursor(
        ids.accounts.text(found.account.id), int(found.effective), times.numbered(span.start), times.numbered(span.end), span.first, span.last,
        times.numbered(found.time(line)), line.sequence, found.page + 1, found.debits, found.credits,
    )  # fmt: skip


async def explain(ledger: Ledger, request: Request[None, ExplainQuery]) -> Reply[wire.Explanation]:
    query = request.query
    at = At(query.sequence, times.instant(query.at), times.instant(query.effective, "effective"))
    found, rule = await ledger.statements.explain(
        request.subject.tenant, account_ref(request.path["id"]), at, query.limit, query.book
    )
    return Reply(_explanation(found, rule))


def _statement(found: Statement, after: str | None) -> wire.Statement:
    account = found.account
    currency = account.currency
    return wire.Statement(
        account=ids.accounts.text(account.id),
        book=account.book_name,
        name=account.name,
        path=account.path,
        currency=currency,
        normal_side="debit" if found.debit_normal else "credit",
        by="effective" if found.effective else "recorded",
        start=rfc3339(found.span.start),
        end=rfc3339(found.span.end),
        as_of=found.as_of,
        opening=_balance(found, found.opening),
        closing=_balance(found, found.closing),
        debits=MoneyWire(str(found.closing.debits - found.opening.debits), currency),
        credits=MoneyWire(str(found.closing.credits - found.opening.credits), currency),
        entries=found.debits + found.credits,
        carried=_balance(found, found.carried),
        data=[_line(found, line) for line in found.lines],
        has_more=after is not None,
        next=after,
    )


def _line(found: Statement, line: Line) -> wire.StatementEntry:
    return wire.StatementEntry(
        transfer=ids.transfers.text(line.transfer),
        kind=line.kind,
        side="debit" if line.side == "debit" else "credit",
        other_account=ids.accounts.text(line.other),
        amount=MoneyWire(str(line.amount), found.account.currency),
        balance=_balance(found, Posted(line.debits_posted, line.credits_posted)),
        sequence=line.sequence,
        recorded_at=rfc3339(line.recorded_at),
        effective_at=rfc3339(line.effective_at),
        code=line.code,
        transaction=None if line.transaction is None else ids.transactions.text(line.transaction),
        reference=line.reference,
        description=line.description,
    )


def _balance(found: Statement, totals: Posted) -> SignedMoney:
    return SignedMoney(amount=str(totals.balance(found.debit_normal)), currency=found.account.currency)


def _rows(found: Statement) -> list[list[str | None]]:
    """The CSV rows: the opening balance on the first page, the entries, and the closing balance on the last page. Amounts in the currency's units."""
    currency = found.account.currency

    def row(record: str, totals: Posted, line: Line | None = None) -> list[str | None]:
        balance = in_units(totals.balance(found.debit_normal), currency)
        if line is None:
            return [record, *([None] * 8), balance, currency, *([None] * 4)]
        amount = in_units(line.amount, currency)
        debit, credit = (amount, None) if line.side == "debit" else (None, amount)
        return [
            record, str(line.sequence), rfc3339(line.recorded_at), ids.transfers.text(line.transfer), line.kind, formats.text(line.code),
            ids.accounts.text(line.other), debit, credit, balance, currency, rfc3339(line.effective_at),
            None if line.transaction is None else ids.transactions.text(line.transaction), formats.text(line.reference),
            formats.text(line.description),
        ]  # fmt: skip

    rows = [row("opening", found.opening)] if found.page == 1 else []
    rows += [row("entry", Posted(line.debits_posted, line.credits_posted), line) for line in found.lines]
    return [*rows, row("closing", found.closing)] if found.last_page else rows


# ---- explained ----------------------------------------------------------------------------------------------------


def _explanation(found: Explanation, rule: Rule | None) -> wire.Explanation:
    row = found.account
    account = views.account(row)
    return wire.Explanation(
        account=account,
        as_of=row.as_of,
        balance=account.balance,
        totals=_totals(Totals(row.debits_pending, row.debits_posted, row.credits_pending, row.credits_posted)),
        checkpoint=wire.Checkpoint(
            version=found.checkpoint.version,
            sequence=found.checkpoint.sequence,
            totals=_totals(found.checkpoint.totals),
        ),
        entries=[_entry(entry) for entry in found.entries],
        dated_back=None
        if found.back is None
        else wire.DatedBack(
            after=found.back.after,
            earlier_entries=found.back.more,
            earlier=_totals(found.back.earlier),
            entries=[_entry(entry) for entry in found.back.entries],
        ),
        holds=[_hold(found, one, counts=True) for one in found.holds]
        + [_hold(found, one, counts=False) for one in found.expired],
        rules=_rules(found, rule),
        steps=[_step(step, row.currency) for step in found.steps],
    )


def _entry(entry: EntryRow) -> wire.ExplainedEntry:
    return wire.ExplainedEntry(
        version=entry.version,
        sequence=entry.sequence,
        recorded_at=rfc3339(entry.recorded_at),
        effective_at=None if entry.effective_at == entry.recorded_at else rfc3339(entry.effective_at),
        transfer=ids.transfers.text(entry.transfer),
        kind=entry.kind,
        side="debit" if entry.side == "debit" else "credit",
        other_account=ids.accounts.text(entry.other),
        change=_totals(effect(entry)),
        totals=_totals(Totals(entry.debits_pending, entry.debits_posted, entry.credits_pending, entry.credits_posted)),
        code=entry.code,
    )


def _totals(totals: Totals) -> wire.AccountTotals:
    return wire.AccountTotals(**{name: str(value) for name, value in totals._asdict().items()})


def _hold(found: Explanation, one: HeldRow, *, counts: bool) -> wire.ExplainedHold:
    row = found.account
    side = one.side_on(row.id)
    return wire.ExplainedHold(
        transfer=ids.transfers.text(one.id),
        sequence=one.sequence,
        side="debit" if side == "debit" else "credit",
        takes=side != row.normal_side,
        amount=MoneyWire(str(one.amount), row.currency),
        captured=MoneyWire(str(one.captured), row.currency),
        remaining=MoneyWire(str(one.remaining), row.currency),
        state="held" if counts else "expired",
        counts=counts,
        expires_at=None if one.expires_at is None else rfc3339(one.expires_at),
    )


def _rules(found: Explanation, rule: Rule | None) -> list[wire.ExplainedRule]:
    row = found.account
    other = "credits" if row.normal_side == "debit" else "debits"
    rules = [
        wire.ExplainedRule(
            rule="normal_side",
            value=row.normal_side,
            means=f"{row.normal_side}s make the balance grow, {other} make it fall; what open holds would take is pending",
        )
    ]
    if row.floor is not None:
        rules.append(
            wire.ExplainedRule(rule="floor", value=str(row.floor), means="what is available can't fall below this")
        )
    if row.ceiling is not None:
        rules.append(
            wire.ExplainedRule(
                rule="ceiling",
                value=str(row.ceiling),
                means="the balance, with what open holds may still bring in, can't pass this",
            )
        )
    if row.frozen:
        rules.append(wire.ExplainedRule(rule="frozen", means="nothing moves on it; holds can be voided and expire"))
    if row.closed:
        rules.append(wire.ExplainedRule(rule="closed", means="nothing moves on it any more"))
    if rule is not None:
        rules.append(
            wire.ExplainedRule(rule="chart", means="the book's chart says what this account is", chart=views.rule(rule))
        )
    return rules


def _step(step: Step, currency: str) -> wire.ExplainedStep:
    return wire.ExplainedStep(
        name=step.name,
        terms=[
            wire.ExplainedTerm(what=term.what, amount=SignedMoney(amount=str(term.amount), currency=currency))
            for term in step.terms
        ],
        result=SignedMoney(amount=str(step.result), currency=currency),
    )
