"""Limits on what can be moved: totals that must not wrap, floors and ceilings, today and on past days. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Final

from tallystick.contracts.ledger.messages import Reason
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model.refusal import Refused
from tallystick.services.ledger.model.values import MAX, Account, Command, Days, Key, State, Unit

#: The earliest effective time. It bounds the past days that have to be checked.
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY: Final = timedelta(days=1)


def check_room(debit: Account, credit: Account, amount: int) -> None:
    """Raises Refused unless `amount` more can be debited and credited without wrapping a total, breaking a floor or passing a ceiling."""
    if debit.debits_posted + debit.debits_pending + amount > MAX:
        raise Refused(Reason.AMOUNT_OVERFLOW, account=debit.id)
    if credit.credits_posted + credit.credits_pending + amount > MAX:
        raise Refused(Reason.AMOUNT_OVERFLOW, account=credit.id)
    # A debit lowers a credit-normal account and raises a debit-normal one; a credit does the reverse.
    if debit.floor is not None and not debit.debit_normal:
        room = debit.credits_posted - debit.debits_posted - debit.debits_pending - debit.floor
        if amount > room:
            raise _no(Reason.INSUFFICIENT_FUNDS, debit, room, amount)
    if credit.floor is not None and credit.debit_normal:
        room = credit.debits_posted - credit.credits_posted - credit.credits_pending - credit.floor
        if amount > room:
            raise _no(Reason.INSUFFICIENT_FUNDS, credit, room, amount)
    if debit.ceiling is not None and debit.debit_normal:
        room = debit.ceiling - (debit.debits_posted + debit.debits_pending - debit.credits_posted)
        if amount > room:
            raise _no(Reason.CEILING_EXCEEDED, debit, room, amount)
    if credit.ceiling is not None and not credit.debit_normal:
        room = credit.ceiling - (credit.credits_posted + credit.credits_pending - credit.debits_posted)
        if amount > room:
            raise _no(Reason.CEILING_EXCEEDED, credit, room, amount)


def most(debit: Account, credit: Account, asked: int) -> int:
    """As much of `asked` as there is room for. Raises Refused if that is nothing, naming the account without room."""
    amount = min(
        asked,
        MAX - debit.debits_posted - debit.debits_pending,
        MAX - credit.credits_posted - credit.credits_pending,
    )
    narrow = debit
    for account, takes in ((debit, not debit.debit_normal), (credit, credit.debit_normal)):
        if account.debit_normal:
            posted, out, coming = (
                account.debits_posted - account.credits_posted,
                account.credits_pending,
                account.debits_pending,
            )
        else:
            posted, out, coming = (
                account.credits_posted - account.debits_posted,
                account.debits_pending,
                account.credits_pending,
            )
        room = None
        if takes and account.floor is not None:
            room = posted - out - account.floor
        elif not takes and account.ceiling is not None:
            room = account.ceiling - posted - coming
        if room is not None and room < amount:
            amount, narrow = room, account
    if amount < 1:
        raise _no(Reason.NOTHING_TO_MOVE, narrow, max(amount, 0), asked)
    return amount


def _no(reason: Reason, account: Account, room: int, amount: int) -> Refused:
    return Refused(reason, available=room, required=amount, currency=account.currency, account=account.id)


# ---- past days ---------------------------------------------------------------------------------------------------------


def dated_back(units: Sequence[Unit], state: State) -> dict[AccountId, date]:
    """The accounts with limits that are moved by commands that are dated back, each with the earliest day. A command with a target moves the
    target's accounts, whether the target is stored or comes among the units.
    """
    moves = [(unit.book, command) for unit in units for command in unit.commands if command.effective_at is not None]
    if not moves:
        return {}
    among: dict[Key, list[Command]] = {}
    for unit in units:
        for command in unit.commands:
            among.setdefault((unit.book, command.id), []).append(command)
    since: dict[AccountId, date] = {}
    for book, command in moves:
        day = max(command.effective_at or EPOCH, EPOCH).date()
        for moved in _moved(state, book, command, among):
            account = None if moved is None else state.accounts.get(moved)
            if account is not None and (account.floor is not None or account.ceiling is not None):
                since[account.id] = min(day, since.get(account.id, day))
    return since


def _moved(state: State, book: int, command: Command, among: Mapping[Key, Sequence[Command]]) -> set[AccountId | None]:
    found: set[AccountId | None] = set()
    seen: set[Key] = set()
    left = [command]
    while left:
        one = left.pop()
        if one.target is None:
            found.update((state.account(book, one.debit), state.account(book, one.credit)))
            continue
        key = (book, one.target)
        stored = state.transfers.get(key)
        if stored is not None:
            found.update((stored.debit_account, stored.credit_account))
        elif key not in seen:
            seen.add(key)
            left += among.get(key, ())
    return found


def breached(account: Account, days: Days, since: date, change: int) -> list[date]:
    """The days from `since` on at whose end the account, changed by `change`, is outside its limits. Holds of past days are not counted, since
    their outcome is known.
    """
    floor = account.floor if change < 0 else None
    ceiling = account.ceiling if change > 0 else None
    if floor is None and ceiling is None:
        return []
    found: list[date] = []
    for begin, end, balance in zip(days.since, [*days.since, days.end][1:], days.balances, strict=True):
        if (floor is not None and balance + change < floor) or (ceiling is not None and balance + change > ceiling):
            first = max(begin, since)
            found += [first + nth * _DAY for nth in range((end - first) // _DAY)]
    return found


def dated(days: Days, since: date, change: int) -> None:
    """Changes the balances of past days from `since` on, in place."""
    if not days.since or since >= days.end:
        return
    since = max(since, days.since[0])
    place = bisect_left(days.since, since)
    if place == len(days.since) or days.since[place] != since:
        days.since.insert(place, since)
        days.balances.insert(place, days.balances[place - 1])
    for nth in range(place, len(days.balances)):
        days.balances[nth] += change


def change_past(state: State, changes: Mapping[tuple[AccountId, date], int], *, strict: bool) -> tuple[date, ...]:
    """Applies changes to the past days of accounts, each from its day on. Returns the days at whose end that breaks a limit. If `strict`, raises
    Refused for these instead, with nothing changed.
    """
    known = [(state.accounts[own], state.days[own], since, change) for (own, since), change in changes.items()]
    broken = [(each[0].id, ends) for each in known if (ends := breached(*each))]
    found = tuple(sorted({day for _, ends in broken for day in ends}))
    if broken and strict:
        raise Refused(Reason.PAST_LIMIT_BROKEN, account=broken[0][0], breached_on=found)
    for _, days, since, change in known:
        dated(days, since, change)
    return found


def positive(amount: int | None) -> int:
    """The amount, if it is at least 1 and fits. Raises Refused."""
    if amount is None or amount < 1:
        raise Refused(Reason.AMOUNT_MUST_BE_POSITIVE)
    if amount > MAX:
        raise Refused(Reason.AMOUNT_OVERFLOW)
    return amount


def check_not_frozen(debit: Account, credit: Account, *, pinned: bool = True) -> None:
    """Raises Refused if one of the accounts is frozen."""
    if debit.frozen or credit.frozen:
        raise Refused(Reason.ACCOUNT_FROZEN, account=debit.id if debit.frozen else credit.id, pinned=pinned)
