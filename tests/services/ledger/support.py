"""Books for tests: commands in a line each, a ledger on a real database, and a reference of the rules that nobody optimised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from tallystick.chassis.db import Database
from tallystick.chassis.idempotency import Digester
from tallystick.chassis.outbox import Outbox
from tallystick.contracts.ledger.messages import PAYMENT_CODE
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock, ManualClock
from tallystick.kernel.ids import AccountId, TransferId
from tallystick.services.ledger.model import Account, Book, Command, Days, NewAccount, Result, State
from tallystick.services.ledger.service import Ask, Ledger
from tallystick.services.ledger.store import Store

START = datetime(2026, 1, 1, tzinfo=UTC)


def tid(number: int) -> TransferId:
    return TransferId(UUID(int=number))


def aid(number: int) -> AccountId:
    return AccountId(UUID(int=number))


def account(
    number: int,
    *,
    book: int = 1,
    currency: str = "EUR",
    side: str = "credit",
    floor: int | None = None,
    closed: bool = False,
    ceiling: int | None = None,
    frozen: bool = False,
) -> Account:
    return Account(aid(number), book, currency, side == "debit", floor, closed, 0, 0, 0, 0, 0, ceiling, frozen)


def state(*accounts: Account) -> State:
    books = {a.book for a in accounts} | {1}
    return State({number: Book(number, 0, START) for number in books}, {a.id: a for a in accounts})


def past_of(first: date, balances: Sequence[int]) -> Days:
    """The past of an account with these balances at the end of each day, from `first` on."""
    days = [first + timedelta(days=nth) for nth in range(len(balances) + 1)]
    return Days.of(
        days[-1], {day: now - before for day, now, before in zip(days, balances, [0, *balances], strict=False)}
    )


def daily(days: Days) -> list[int]:
    """The balance at the end of each day."""
    ends = [*days.since[1:], days.end]
    return [
        balance
        for since, end, balance in zip(days.since, ends, days.balances, strict=True)
        for _ in range((end - since).days)
    ]


def post(number: int, debit: int, credit: int, amount: int, **more: Any) -> Command:
    return Command(
        kind=more.pop("kind", "post"),
        id=tid(number),
        debit=aid(debit),
        credit=aid(credit),
        amount=amount,
        currency=more.pop("currency", "EUR"),
        **more,
    )


def hold(number: int, debit: int, credit: int, amount: int, **more: Any) -> Command:
    return post(number, debit, credit, amount, kind="hold", **more)


def on(kind: Any, number: int, target: int, amount: int | None = None, **more: Any) -> Command:
    """A capture, void, expiry or reversal of transfer `target`."""
    currency = more.pop("currency", None if amount is None else "EUR")
    return Command(kind=kind, id=tid(number), target=tid(target), amount=amount, currency=currency, **more)


# ---- a ledger on a real database ------------------------------------------------------------------------------------


def ledger_on(database: Database, clock: Clock | None = None, **more: Any) -> Ledger:
    return Ledger(
        database=database,
        store=Store(),
        outbox=Outbox(),
        clock=clock or ManualClock(START),
        digester=Digester(bytes(32)),
        **more,
    )


@dataclass
class Books:
    """A ledger and some accounts. `clock` is its clock."""

    ledger: Ledger
    clock: ManualClock
    database: Database
    tenant: str = "acme"
    made: list[AccountId] = field(default_factory=list)

    async def open(
        self,
        *,
        side: str = "credit",
        floor: int | None = None,
        currency: str = "EUR",
        tenant: str | None = None,
        book: str = "main",
        **more: Any,
    ) -> AccountId:
        new = NewAccount(
            id=ids.accounts.new(),
            name="an account",
            currency=currency,
            normal_side=side,
            floor=floor,
            code=None,
            metadata=None,
            **more,
        )
        await self.ledger.accounts.open(tenant or self.tenant, "cli_test", None, new, book=book)
        self.made.append(new.id)
        return new.id

    async def post(self, *commands: Command, atomic: bool = False, tenant: str | None = None) -> Sequence[Result]:
        ask = Ask(tenant or self.tenant, "cli_test", "0" * 32, commands, atomic)
        return (await self.ledger.poster.post(ask)).results

    async def balance(self, account: AccountId) -> tuple[int, int]:
        """Posted and available."""
        from tallystick.services.ledger.model import balance
        from tallystick.services.ledger.service import At

        row = await self.ledger.accounts.get(self.tenant, account, At())
        found = balance(
            row.normal_side == "debit", row.debits_pending, row.debits_posted, row.credits_pending, row.credits_posted
        )
        return found.posted, found.available

    async def sound(self) -> None:
        assert await self.ledger.faults() == []


def move(kind: Any, debit: AccountId, credit: AccountId, amount: int, **more: Any) -> Command:
    return Command(
        kind=kind,
        id=more.pop("id", None) or ids.transfers.new(),
        debit=debit,
        credit=credit,
        amount=amount,
        currency=more.pop("currency", "EUR"),
        **more,
    )


def draw(kind: Any, target: TransferId, amount: int | None = None, **more: Any) -> Command:
    return Command(
        kind=kind,
        id=more.pop("id", None) or ids.transfers.new(),
        target=target,
        amount=amount,
        currency=None if amount is None else "EUR",
        **more,
    )


# ---- the reference --------------------------------------------------------------------------------------------------


@dataclass
class Naive:
    """The rules once more, from the list of what was posted alone: every sum is made anew for every question."""

    accounts: dict[AccountId, Account]
    posted: list[tuple[Command, int, int, AccountId, AccountId]] = field(default_factory=list)
    expiries: dict[TransferId, datetime | None] = field(default_factory=dict)
    paths: dict[str, AccountId] = field(default_factory=dict)
    last: datetime = START
    due: bool = False

    def instant(self, now: datetime) -> datetime:
        """When the next transfer is recorded: later than the last one."""
        return max(now, self.last + timedelta(microseconds=1))

    def named(self, account: AccountId | str | None) -> AccountId | None:
        return self.paths.get(account) if isinstance(account, str) else account

    def _children(self, target: TransferId | None) -> list[tuple[Command, int, int, AccountId, AccountId]]:
        return [one for one in self.posted if one[0].target == target and target is not None]

    def _original(self, target: TransferId | None) -> tuple[Command, int, int, AccountId, AccountId] | None:
        return next((one for one in self.posted if one[0].id == target), None)

    def sums(self, account: AccountId) -> tuple[int, int, int, int]:
        """Debits pending, debits posted, credits pending, credits posted."""
        totals = [0, 0, 0, 0]
        for command, amount, released, debit, credit in self.posted:
            pending = amount if command.kind == "hold" else -released
            moved = amount if command.kind in ("post", "capture", "reverse") else 0
            if debit == account:
                totals[0] += pending
                totals[1] += moved
            if credit == account:
                totals[2] += pending
                totals[3] += moved
        return totals[0], totals[1], totals[2], totals[3]

    def available(self, account: AccountId) -> int:
        dp, d, cp, c = self.sums(account)
        return d - c - cp if self.accounts[account].debit_normal else c - d - dp

    def incoming(self, account: AccountId) -> int:
        """What is there and what holds may still bring in."""
        dp, d, cp, c = self.sums(account)
        return d + dp - c if self.accounts[account].debit_normal else c + cp - d

    def _allowed(self, debit: AccountId | None, credit: AccountId | None, amount: int, currency: str | None) -> bool:
        one = self.accounts.get(debit) if debit else None
        two = self.accounts.get(credit) if credit else None
        if one is None or two is None or one is two or one.book != 1 or two.book != 1:
            return False
        if not one.currency == two.currency == currency or one.closed or two.closed or amount < 1:
            return False
        if (one.frozen or two.frozen) and not self.due:
            return False
        for side, total in ((one, 0), (two, 2)):
            sums = self.sums(side.id)
            if sums[total] + sums[total + 1] + amount > 2**63 - 1:
                return False
        fills = [(one, one.debit_normal), (two, not two.debit_normal)]
        for side, filled in fills:
            if filled and side.ceiling is not None and self.incoming(side.id) + amount > side.ceiling:
                return False
        takes = [(one, not one.debit_normal), (two, two.debit_normal)]
        return all(
            not taken or side.floor is None or self.available(side.id) - amount >= side.floor for side, taken in takes
        )

    def apply(self, command: Command, now: datetime, *, payments: bool = False, due: bool = False) -> bool:
        """Whether the command is posted (it has a new id). `payments`: payments ask. `due`: it gives back what was taken before."""
        self.due = due
        original = self._original(command.target)
        if original is not None and original[0].code == PAYMENT_CODE and not payments and command.kind != "expire":
            return False
        posted = self._apply(command, self.instant(now))
        if posted:
            self.last = self.instant(now)
        return posted

    def _most(self, debit: AccountId | None, credit: AccountId | None, asked: int, currency: str | None) -> int:
        """As much of `asked` as may be moved."""
        low, high = 0, min(asked, 2**63 - 1)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._allowed(debit, credit, middle, currency) else (low, middle - 1)
        return low

    def _apply(self, command: Command, now: datetime) -> bool:
        if command.kind in ("post", "hold"):
            one, two = self.named(command.debit), self.named(command.credit)
            amount = command.amount or 0
            if command.balancing and amount <= 2**63 - 1:
                amount = self._most(one, two, amount, command.currency)
            ok = self._allowed(one, two, amount, command.currency)
            if ok:
                assert one
                assert two
                self.posted.append((command, amount, 0, one, two))
                self.expiries[command.id] = (
                    now + timedelta(seconds=command.expires_in) if command.expires_in is not None else None
                )
            return ok
        original = self._original(command.target)
        if original is None or (
            command.currency is not None and command.currency != self.accounts[original[3]].currency
        ):
            return False
        children = self._children(command.target)
        first, whole, _, debit, credit = original
        if command.kind == "reverse":
            left = whole - sum(amount for child, amount, *_ in children if child.kind == "reverse")
            amount = left if command.amount is None else command.amount
            if first.kind not in ("post", "capture") or not 1 <= amount <= left:
                return False
            if not self._allowed(credit, debit, amount, self.accounts[debit].currency):
                return False
            self.posted.append((command, amount, 0, credit, debit))
            return True
        left = whole - sum(released for _, _, released, *_ in children)
        expires = self.expiries.get(first.id)
        due = expires is not None and expires <= now
        if first.kind != "hold" or left == 0 or due != (command.kind == "expire"):
            return False
        if command.kind == "increase":
            amount = command.amount or 0
            held = whole + sum(a for child, a, *_ in children if child.kind == "increase")
            if self.accounts[debit].frozen or self.accounts[credit].frozen:
                return False
            if held + amount > 2**63 - 1 or self.accounts[debit].closed or self.accounts[credit].closed:
                return False
            if not self._allowed(debit, credit, amount, self.accounts[debit].currency):
                return False
            self.posted.append((command, amount, -amount, debit, credit))
            if command.expires_in is not None:
                self.expiries[first.id] = now + timedelta(seconds=command.expires_in)
            return True
        amount = command.amount if command.kind == "capture" and command.amount is not None else left
        if not 1 <= amount <= left:
            return False
        if command.kind == "capture" and (self.accounts[debit].frozen or self.accounts[credit].frozen):
            return False
        released = left if command.kind != "capture" or command.final or amount == left else amount
        self.posted.append((command, amount, released, debit, credit))
        return True
