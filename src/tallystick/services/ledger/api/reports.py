"""Reports of a book: trial balance, balance sheet, income statement."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from tallystick.chassis.web import After, Reply, Request
from tallystick.contracts.ledger import messages as wire
from tallystick.contracts.ledger.messages import SignedMoney
from tallystick.kernel import ids
from tallystick.kernel.clock import InstantWire, rfc3339
from tallystick.kernel.ids import AccountId
from tallystick.kernel.money import in_units
from tallystick.kernel.problem import InvalidRequest
from tallystick.services.ledger.api import formats, times
from tallystick.services.ledger.api.common import bound_cursor, read_bound_cursor
from tallystick.services.ledger.model import AccountLine, Group
from tallystick.services.ledger.service import At, BalanceSheet, IncomeStatement, Ledger, TrialBalance

_FORMATS: Final = {formats.CSV: "csv"}
_kind = partial(msgspec.convert, type=wire.AccountKind)
_side = partial(msgspec.convert, type=wire.Side)

Level = Annotated[int, Meta(ge=1, le=16)]


class ReportQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The time as of which to report: `at`, an instant of recorded time (RFC 3339); a `sequence` of the book; or an `effective` instant, as known
    now. By default now. `level`: accounts whose paths begin with the same so many segments are one line.
    """

    at: InstantWire | None = None
    sequence: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    effective: InstantWire | None = None
    level: Level = 1
    format: Literal["json", "csv"] | None = None


class TrialQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As `ReportQuery`. Without a `level` there is a line for each account, in pages."""

    at: InstantWire | None = None
    sequence: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    effective: InstantWire | None = None
    level: Level | None = None
    limit: Annotated[int, Meta(ge=1, le=wire.MAX_TRIAL_LINES)] = 1000
    after: After | None = None
    format: Literal["json", "csv"] | None = None


class IncomeQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By default from the opening of the book (by effective time, from 1970, before which nothing is effective) to now."""

    start: times.When | None = msgspec.field(default=None, name="from")
    end: times.When | None = msgspec.field(default=None, name="to")
    by: times.By = "recorded"
    level: Level = 1
    format: Literal["json", "csv"] | None = None


async def trial_balance(ledger: Ledger, request: Request[None, TrialQuery]) -> Reply[Any]:
    query = request.query
    at = At(query.sequence, times.instant(query.at), times.instant(query.effective, "effective"))
    after: AccountId | None = None
    key = read_bound_cursor(request, int, str)
    if key is not None:
        if query.level is not None:
            raise InvalidRequest("groups have no pages")
        at, after = At(int(key[0])), ids.accounts.parse(str(key[1]))
    found = await ledger.reports.trial_balance(
        request.subject.tenant, request.path["name"], at, query.level, after, query.limit
    )
    following = None
    if found.more and found.accounts:
        following = bound_cursor(request, found.as_of, ids.accounts.text(AccountId(found.accounts[-1].id)))
    lines = _accounts(found.accounts) if found.accounts is not None else _groups(found.groups or ())
    if formats.asked_for(request, query.format, _FORMATS) == "csv":
        return _trial_csv(found, lines, formats.next_page(query, following))
    return Reply(
        wire.TrialBalance(
            book=found.book.name,
            as_of=found.as_of,
            totals=[
                wire.TrialTotal(
                    currency=one.currency,
                    accounts=one.accounts,
                    debits=_money(one.debits, one.currency),
                    credits=_money(one.credits, one.currency),
                )
                for one in found.totals
            ],
            data=lines,
            has_more=following is not None,
            next=following,
        )
    )


async def balance_sheet(ledger: Ledger, request: Request[None, ReportQuery]) -> Reply[Any]:
    query = request.query
    at = At(query.sequence, times.instant(query.at), times.instant(query.effective, "effective"))
    found = await ledger.reports.balance_sheet(request.subject.tenant, request.path["name"], at, query.level)
    if formats.asked_for(request, query.format, _FORMATS) == "csv":
        return _sheet_csv(found)
    return Reply(
        wire.BalanceSheet(
            book=found.book.name,
            as_of=found.as_of,
            currencies=[
                wire.Sheet(
                    currency=sheet.currency,
                    assets=_section(sheet.assets, sheet.total_assets, sheet.currency),
                    liabilities=_section(sheet.liabilities, sheet.total_liabilities, sheet.currency),
                    equity=_section(sheet.equity, sheet.total_equity, sheet.currency),
                    net_income=_money(sheet.net_income, sheet.currency),
                    liabilities_equity_and_net_income=_money(
                        sheet.total_liabilities + sheet.total_equity + sheet.net_income, sheet.currency
                    ),
                )
                for sheet in found.sheets
            ],
        )
    )


async def income_statement(ledger: Ledger, request: Request[None, IncomeQuery]) -> Reply[Any]:
    query = request.query
    found = await ledger.reports.income_statement(
        request.subject.tenant, request.path["name"], times.start(query.start), times.end(query.end), query.level,
        effective=query.by == "effective",
    )  # fmt: skip
    if formats.asked_for(request, query.format, _FORMATS) == "csv":
        return _income_csv(found)
    return Reply(
        wire.IncomeStatement(
            book=found.book.name,
            start=rfc3339(found.start),
            end=rfc3339(found.end),
            after=found.first,
            as_of=found.as_of,
            currencies=[
                wire.Income(
                    currency=one.currency,
                    income=_section(one.income, one.total_income, one.currency),
                    expenses=_section(one.expenses, one.total_expenses, one.currency),
                    net_income=_money(one.net_income, one.currency),
                )
                for one in found.statements
            ],
        )
    )


# ---- model to wire ------------------------------------------------------------------------------------------------


def _accounts(lines: Sequence[AccountLine]) -> list[wire.TrialLine]:
    return [
        wire.TrialLine(
            kind=_kind(one.kind),
            debits=_money(one.debits, one.currency),
            credits=_money(one.credits, one.currency),
            balance=_money(one.debits - one.credits, one.currency),
            path=one.path,
            account=ids.accounts.text(AccountId(one.id)),
            name=one.name,
            normal_side=_side(one.normal_side),
        )
        for one in lines
    ]


def _groups(groups: Sequence[Group]) -> list[wire.TrialLine]:
    return [
        wire.TrialLine(
            kind=_kind(one.kind),
            debits=_money(one.debits, one.currency),
            credits=_money(one.credits, one.currency),
            balance=_money(one.debits - one.credits, one.currency),
            path=one.path,
            accounts=one.accounts,
        )
        for one in groups
    ]


def _section(groups: Sequence[Group], total: int, currency: str) -> wire.Section:
    return wire.Section(
        lines=[
            wire.ReportLine(path=one.path, accounts=one.accounts, balance=_money(one.balance, currency))
            for one in groups
        ],
        total=_money(total, currency),
    )


def _money(minor: int, currency: str) -> SignedMoney:
    return SignedMoney(amount=str(minor), currency=currency)


# ---- model to CSV -------------------------------------------------------------------------------------------------


def _trial_csv(found: TrialBalance, lines: Sequence[wire.TrialLine], link: str | None) -> Reply[Any]:
    """The lines, and on the last page the totals."""
    rows: list[list[str | None]] = [
        [
            "account" if line.account is not None else "group", line.account, formats.text(line.path), formats.text(line.name), line.kind,
            *(in_units(int(one.amount), one.currency) for one in (line.debits, line.credits, line.balance)), line.balance.currency,
        ]
        for line in lines
    ]  # fmt: skip
    if link is None:
        rows += [
            ["total", None, None, None, None, in_units(one.debits, one.currency), in_units(one.credits, one.currency),
             in_units(one.debits - one.credits, one.currency), one.currency]
            for one in found.totals
        ]  # fmt: skip
    return formats.csv_reply(
        ("record", "account", "path", "name", "kind", "debits", "credits", "balance", "currency"),
        rows,
        name=f"trial-balance-{found.book.name}-{found.as_of}.csv",
        as_of=found.as_of,
        link=link,
    )


_COLUMNS: Final = ("section", "path", "accounts", "balance", "currency")


def _lines(section: str, groups: Sequence[Group], total: int, currency: str) -> list[list[str | None]]:
    return [
        *([section, formats.text(one.path), str(one.accounts), in_units(one.balance, currency), currency] for one in groups),
        [f"total {section}", None, None, in_units(total, currency), currency],
    ]  # fmt: skip


def _sheet_csv(found: BalanceSheet) -> Reply[Any]:
    rows: list[list[str | None]] = []
    for sheet in found.sheets:
        rows += _lines("assets", sheet.assets, sheet.total_assets, sheet.currency)
        rows += _lines("liabilities", sheet.liabilities, sheet.total_liabilities, sheet.currency)
        rows += _lines("equity", sheet.equity, sheet.total_equity, sheet.currency)
        rows.append(["net income", None, None, in_units(sheet.net_income, sheet.currency), sheet.currency])
    name = f"balance-sheet-{found.book.name}-{found.as_of}.csv"
    return formats.csv_reply(_COLUMNS, rows, name=name, as_of=found.as_of)


def _income_csv(found: IncomeStatement) -> Reply[Any]:
    rows: list[list[str | None]] = []
    for one in found.statements:
        rows += _lines("income", one.income, one.total_income, one.currency)
        rows += _lines("expenses", one.expenses, one.total_expenses, one.currency)
        rows.append(["net income", None, None, in_units(one.net_income, one.currency), one.currency])
    name = f"income-statement-{found.book.name}-{found.as_of}.csv"
    return formats.csv_reply(_COLUMNS, rows, name=name, as_of=found.as_of)
