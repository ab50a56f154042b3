"""What was: transfers by number, and totals as of then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any

from tests.simulation.server.engine import Row, Transaction, Values, of_file
from tests.simulation.server.posting import TOTALS

statement = of_file("queries")


def _numbered(tx: Transaction, of_book: int) -> list[Values]:
    return sorted((row for row in tx.rows("transfer") if row["book"] == of_book), key=lambda row: row["sequence"])


def _sequence_at(tx: Transaction, of_book: int, at: datetime) -> int:
    begun = (tx.get("book", (of_book,)) or {})["created_at"]
    return 0 if at < begun else sum(row["recorded_at"] <= at for row in _numbered(tx, of_book))


def _totals_at(tx: Transaction, account: Any, of_book: int, upto: int) -> list[Row]:
    """As the account's last entry up to there says."""
    for row in reversed(_numbered(tx, of_book)[:upto]):
        for side, key in (("dr", "debit_account"), ("cr", "credit_account")):
            if row[key] == account:
                return [Row(**{name: row[f"{side}_{name}"] for name in TOTALS})]
    return []


def _adjustments(tx: Transaction, account: Any) -> Iterator[tuple[datetime, int, int]]:
    """When it counts, debits and credits: from when it is effective, and no longer from when it was recorded."""
    for row in tx.rows("transfer"):
        if row["effective_at"] is not None and account in (row["debit_account"], row["credit_account"]):
            debits, credits_ = (row["amount"], 0) if row["debit_account"] == account else (0, row["amount"])
            yield row["effective_at"], debits, credits_
            yield row["recorded_at"], -debits, -credits_


@statement
async def between(tx: Transaction, of_book: int, first: int, last: int) -> list[Row]:
    return [Row(**row) for row in _numbered(tx, of_book)[first - 1 : last]]


@statement
async def sequence_at(tx: Transaction, of_book: int, at: datetime) -> list[Row]:
    return [Row(sequence=_sequence_at(tx, of_book, at))]


@statement
async def account_at(tx: Transaction, of_book: int, wanted: Any, sequence: int) -> list[Row]:
    return _totals_at(tx, wanted, of_book, sequence)


@statement
async def adjusted_at(tx: Transaction, wanted: Any, at: datetime) -> list[Row]:
    found = [one for one in _adjustments(tx, wanted) if one[0] <= at]
    return [Row(debits=sum(one[1] for one in found), credits=sum(one[2] for one in found))]


@statement
async def days(
    tx: Transaction, accounts: Sequence[Any], books_: Sequence[int], firsts: Sequence[date], today: date
) -> list[Row]:
    """The last entry of each day that has one: of the days after the first, and of the last one up to it."""
    found = []
    for wanted, of_book, first in sorted(zip(accounts, books_, firsts, strict=True)):
        last = {
            row["recorded_at"].date(): row["sequence"]
            for row in _numbered(tx, of_book)
            if wanted in (row["debit_account"], row["credit_account"]) and row["recorded_at"].date() < today
        }
        begin = max((day for day in last if day <= first), default=first)
        for day, sequence in last.items():
            if day >= begin:
                (totals,) = _totals_at(tx, wanted, of_book, sequence)
                found.append(
                    Row(account=wanted, day=day, debits=totals["debits_posted"], credits=totals["credits_posted"])
                )
    return found


@statement
async def day_adjustments(tx: Transaction, accounts: Sequence[Any]) -> list[Row]:
    found = []
    for wanted in sorted(accounts):
        by_day: dict[date, tuple[int, int]] = {}
        for at, debits, credits_ in _adjustments(tx, wanted):
            before = by_day.get(at.date(), (0, 0))
            by_day[at.date()] = before[0] + debits, before[1] + credits_
        found += [Row(account=wanted, day=day, debits=sums[0], credits=sums[1]) for day, sums in sorted(by_day.items())]
    return found
