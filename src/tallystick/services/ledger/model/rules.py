"""The posting rules of a book: pure, sequential, total. Every command gets exactly one named result; nothing here waits or fails.

`decide` takes units of commands and the state that they refer to, and returns what happens: transfers with both accounts' totals after
them, and refusals to be pinned. It updates the state in place: accounts, holds, reversals and the book are afterwards as decided. The
store writes the result; constraints and triggers in the database check it again, from the rows alone.

Each account has four totals, as in TigerBeetle: debits and credits, each pending (held) and posted. Amounts are minor units, 1 to 2**63 - 1.
Pending and posted of one side together stay below 2**63, so no sum can wrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Final

from tallystick.contracts.ledger.messages import PAYMENT_CODE, Reason
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model.demands import demanded
from tallystick.services.ledger.model.limits import EPOCH, change_past, check_not_frozen, check_room, most, positive
from tallystick.services.ledger.model.refusal import Refused
from tallystick.services.ledger.model.repeats import check_same, refused_again
from tallystick.services.ledger.model.savepoint import Savepoint
from tallystick.services.ledger.model.values import (
    MAX,
    MICROSECOND,
    Account,
    Command,
    Decided,
    Header,
    Hold,
    HoldStatus,
    Rejection,
    Result,
    Reversal,
    State,
    TransactionRow,
    Transfer,
    Unit,
)


def decide(units: Sequence[Unit], state: State, now: datetime) -> Decided:
    """Decides the commands in order; later ones see the effects of earlier ones."""
    decider = _Decider(state, now)
    results = [decider.unit(unit) for unit in units]
    return Decided(results, decider.transfers, decider.rejections, decider.transactions)


_CLOSED_HOLD: Final = {
    "captured": Reason.HOLD_ALREADY_CAPTURED,
    "voided": Reason.HOLD_ALREADY_VOIDED,
    "expired": Reason.HOLD_EXPIRED,
}
_DRAWN: Final[dict[str, HoldStatus]] = {"capture": "captured", "void": "voided", "expire": "expired"}


class _Decider:
    def __init__(self, state: State, now: datetime) -> None:
        self.state = state
        self.transfers: list[Transfer] = []
        self.rejections: list[Rejection] = []
        self.transactions: list[TransactionRow] = []
        #: The unit being decided. It says what its commands may do.
        self._asked = Unit(0, (), atomic=True)
        #: Whether commands that are dated back follow in the unit. If so, its changes of past days, by account and first day, are collected here.
        self._more = False
        self._changes: dict[tuple[AccountId, date], int] = {}
        #: When each book's next transfer is recorded.
        self.instants = {number: book.next_instant(now) for number, book in state.books.items()}

    # ---- units ------------------------------------------------------------------------------------------------------

    def unit(self, unit: Unit) -> list[Result]:
        if self.state.books[unit.book].approvals and not unit.approved:
            return self._unapproved(unit)
        return self._permitted(unit)

    def _unapproved(self, unit: Unit) -> list[Result]:
        """Decides a unit that has no approvals. If it needs some, it is refused but not pinned, so that it may come again with its approvals. For a
        payment the refusal is pinned: two workers may post it, and the one that asks after the rule is gone must get the same answer.
        """
        if not (unit.atomic or unit.header is not None):
            # Each command, or chain, stands for itself: those that need approvals are refused, and the others are decided.
            return [result for chain in unit.chains() for result in self._unapproved(unit.part(chain))]
        asked = demanded(self.state, unit)
        if not asked or unit.is_ahead(self.instants[unit.book]):
            return self._permitted(unit)
        if unit.payments:
            missing = Refused(Reason.APPROVAL_REQUIRED)
            for command in unit.commands:
                self._pin(missing.rejection(unit.book, command, crossing=unit.crossing))
        return [
            Result(command.id, "rejected", reason=Reason.APPROVAL_REQUIRED, rules=asked) for command in unit.commands
        ]

    def _permitted(self, unit: Unit) -> list[Result]:
        self._asked = unit
        if unit.header is not None:
            return self._transaction(unit, unit.header)
        if unit.atomic:
            return self._all_or_none(unit)
        results: list[Result] = []
        for chain in unit.chains():
            if len(chain) == 1:
                results.append(self._one(unit.book, chain[0]))
            else:
                results += self._all_or_none(unit.part(chain))
        return results

    def _all_or_none(self, unit: Unit) -> list[Result]:
        """Decides a unit as a whole: the first refusal undoes what the unit did before. Only the refused command's id is pinned."""
        if len(unit.commands) == 1:
            return [self._one(unit.book, unit.commands[0])]
        undo = Savepoint(unit, self.state, self.transfers, self.rejections)
        instant = self.instants[unit.book]
        results: list[Result] = []
        last = max(
            (place for place, command in enumerate(unit.commands) if command.effective_at is not None), default=0
        )
        for place, command in enumerate(unit.commands):
            self._more = place < last
            result = self._one(unit.book, command)
            if result.status == "rejected":
                self._more = False
                self._changes.clear()
                self.instants[unit.book] = instant
                for rejection in undo.roll_back():
                    self._pin(rejection)
                return _failed(unit, place, result)
            results.append(result)
        return results

    def _transaction(self, unit: Unit, header: Header) -> list[Result]:
        """Decides a transaction. If it exists, its header and all its transfers must be the same; otherwise this one is refused."""
        key = (unit.book, header.id)
        existing = self.state.transactions.get(key)
        if existing is not None:
            first = unit.commands[0]
            if not existing.is_of(header, len(unit.commands)) or any(
                (unit.book, command.id) not in self.state.transfers for command in unit.commands
            ):
                return _failed(unit, 0, Result(first.id, "rejected", reason=Reason.EXISTS_WITH_DIFFERENT_TRANSACTION))
            return self._all_or_none(unit)
        results = self._all_or_none(unit)
        made = [result.transfer for result in results if result.transfer is not None]
        if len(made) == len(results):
            row = TransactionRow(
                unit.book,
                header.id,
                made[0].sequence,
                made[-1].sequence,
                made[-1].recorded_at,
                header.effective_at,
                header.reference,
                header.description,
                header.metadata,
                header.reverses,
                header.exchanges,
            )
            self.transactions.append(row)
            self.state.transactions[key] = row
        return results

    # ---- one command ------------------------------------------------------------------------------------------------

    def _pin(self, rejection: Rejection) -> None:
        self.rejections.append(rejection)
        self.state.rejections[rejection.book, rejection.id] = rejection

    def _one(self, book: int, command: Command) -> Result:
        key = (book, command.id)
        existing = self.state.transfers.get(key)
        breaches: tuple[date, ...] = ()
        try:
            if existing is not None:
                check_same(self.state, book, command, existing)
                return Result(command.id, existing.status, existing, existed=True)
            rejection = self.state.rejections.get(key)
            if rejection is not None:
                return refused_again(command, rejection)
            if self.state.books[book].quarantined:
                raise Refused(Reason.BOOK_QUARANTINED, pinned=False)
            kind = command.kind
            if kind == "post":
                transfer, breaches = self._post(book, command)
            elif kind == "hold":
                transfer = self._hold(book, command)
            elif kind == "reverse":
                transfer, breaches = self._reverse(book, command)
            elif kind == "increase":
                transfer = self._increase(book, command)
            else:
                transfer, breaches = self._draw(book, command)
        except Refused as no:
            if no.pinned and command.kind != "expire":
                self._pin(no.rejection(book, command, crossing=self._asked.crossing))
            return no.result(command.id)
        self.transfers.append(transfer)
        self.state.transfers[key] = transfer
        return Result(command.id, transfer.status, transfer, breached_on=breaches)

    def _accounts(
        self, book: int, debit_ref: AccountId | str | None, credit_ref: AccountId | str | None, currency: str | None
    ) -> tuple[Account, Account]:
        """Both accounts. Raises Refused unless they are of this book, distinct, open, not frozen, and in the currency."""
        accounts = self.state.accounts
        debit_id = self.state.account(book, debit_ref)
        credit_id = self.state.account(book, credit_ref)
        debit = accounts.get(debit_id) if debit_id is not None else None
        if debit is None or debit.book != book:
            raise Refused(Reason.ACCOUNT_NOT_FOUND, account=debit_ref)
        credit = accounts.get(credit_id) if credit_id is not None else None
        if credit is None or credit.book != book:
            raise Refused(Reason.ACCOUNT_NOT_FOUND, account=credit_ref)
        if debit is credit:
            raise Refused(Reason.SAME_ACCOUNT, account=debit_id)
        if debit.currency != currency or credit.currency != currency:
            raise Refused(
                Reason.CURRENCY_MISMATCH,
                currency=currency,
                account=debit.id if debit.currency != currency else credit.id,
            )
        if debit.transit and credit.transit:
            # One is the ledger's own end of a transfer between books. The other was named by the client, who may name none.
            raise Refused(Reason.TRANSIT_ACCOUNT, account=debit.id)
        self._passable(debit, credit)
        if debit.closed or credit.closed:
            raise Refused(Reason.ACCOUNT_CLOSED, account=debit.id if debit.closed else credit.id)
        if not self._asked.due:
            check_not_frozen(debit, credit)
        return debit, credit

    def _passable(self, debit: Account, credit: Account) -> None:
        """Raises Refused if only a transfer between books may do this: nobody else may post, capture, void or reverse half of one."""
        if (debit.transit or credit.transit) and not self._asked.crossing:
            raise Refused(Reason.TRANSIT_ACCOUNT, account=debit.id if debit.transit else credit.id)

    def _movable(self, transfer: Transfer) -> None:
        """Raises Refused if only payments may touch this transfer. If a client took a payment's hold, a card would be charged for nothing."""
        if transfer.code == PAYMENT_CODE and not self._asked.payments:
            raise Refused(Reason.TRANSFER_OF_A_PAYMENT, pinned=False)

    def _post(self, book: int, command: Command) -> tuple[Transfer, tuple[date, ...]]:
        asked = positive(command.amount)
        debit, credit = self._accounts(book, command.debit, command.credit, command.currency)
        if command.balancing:
            amount = most(debit, credit, asked)
            return self._move(book, command, debit, credit, amount, asked)
        return self._move(book, command, debit, credit, asked, None)

    def _move(  # noqa: PLR0917 - on the way of every transfer
        self, book: int, command: Command, debit: Account, credit: Account, amount: int, asked: int | None
    ) -> tuple[Transfer, tuple[date, ...]]:
        """Posts a post or a reversal. Returns also the past days on which it breaks a limit."""
        check_room(debit, credit, amount)
        breaches: tuple[date, ...] = ()
        if command.effective_at is not None:
            breaches = self._date_back(book, command.effective_at, debit, credit, amount)
        debit.debits_posted += amount
        credit.credits_posted += amount
        return self._record(book, command, debit, credit, amount, 0, None, asked), breaches

    def _date_back(
        self, number: int, effective: datetime, debit: Account, credit: Account, amount: int
    ) -> tuple[date, ...]:
        """Dates a movement back. Limits apply at the end of each past day, so a unit's changes are judged together, with its last dated command."""
        book = self.state.books[number]
        if effective >= self.instants[number]:
            raise Refused(Reason.EFFECTIVE_IN_FUTURE, pinned=False)
        if effective < EPOCH:
            raise Refused(Reason.EFFECTIVE_TOO_EARLY)
        if book.sealed_until is not None and effective <= book.sealed_until:
            raise Refused(Reason.PERIOD_SEALED)
        for account, side in ((debit, amount), (credit, -amount)):
            if account.id in self.state.days:
                key = account.id, effective.date()
                self._changes[key] = self._changes.get(key, 0) + (side if account.debit_normal else -side)
        if self._more:
            return ()
        changes, self._changes = self._changes, {}
        return change_past(self.state, changes, strict=book.strict)

    def _hold(self, book: int, command: Command) -> Transfer:
        asked = positive(command.amount)
        debit, credit = self._accounts(book, command.debit, command.credit, command.currency)
        amount = most(debit, credit, asked) if command.balancing else asked
        check_room(debit, credit, amount)
        debit.debits_pending += amount
        credit.credits_pending += amount
        expires_at = command.expires(self.instants[book])
        self.state.holds[book, command.id] = Hold(
            book, command.id, debit.id, credit.id, amount, 0, amount, "held", expires_at
        )
        return self._record(book, command, debit, credit, amount, 0, expires_at, asked if command.balancing else None)

    def _open_hold(self, book: int, command: Command, *, expires: bool = False) -> tuple[Hold, Account, Account]:
        """The command's target, an open hold, and its accounts. Raises Refused if it is not open, or expired (unless this is its expiry, which is
        refused before that).
        """
        hold = None if command.target is None else self.state.holds.get((book, command.target))
        if hold is None:
            raise Refused(Reason.HOLD_NOT_FOUND)
        if not expires:
            self._movable(self.state.transfers[book, hold.id])
        if hold.state != "held":
            raise Refused(_CLOSED_HOLD[hold.state])
        # Expiry goes by the book's time: another replica's clock may have been ahead of this one's when it wrote.
        due = hold.expires_at is not None and hold.expires_at <= self.instants[book] and not self._asked.restored
        if due != expires:
            # It has expired but is not swept yet; or a sweep was started by a clock that is ahead of this one.
            raise Refused(Reason.HOLD_EXPIRED if due else Reason.HOLD_NOT_DUE, pinned=due)
        debit, credit = self.state.accounts[hold.debit_account], self.state.accounts[hold.credit_account]
        self._passable(debit, credit)
        if command.currency is not None and command.currency != debit.currency:
            raise Refused(Reason.CURRENCY_MISMATCH, currency=command.currency, account=debit.id)
        return hold, debit, credit

    def _increase(self, book: int, command: Command) -> Transfer:
        """Increases a hold, and changes its expiry if the command says so."""
        amount = positive(command.amount)
        hold, debit, credit = self._open_hold(book, command)
        check_not_frozen(debit, credit, pinned=False)
        check_room(debit, credit, amount)
        if hold.amount + amount > MAX:
            raise Refused(Reason.AMOUNT_OVERFLOW)
        debit.debits_pending += amount
        credit.credits_pending += amount
        hold.amount += amount
        hold.remaining += amount
        expires_at = command.expires(self.instants[book])
        if expires_at is not None:
            hold.expires_at = expires_at
        return self._record(book, command, debit, credit, amount, -amount, expires_at, None)

    def _draw(self, book: int, command: Command) -> tuple[Transfer, tuple[date, ...]]:
        """Captures, voids or expires a hold. It takes no more than the hold did, so no limit can break today. On past days one can, because a
        restored capture is dated back to when it was made.
        """
        breaches: tuple[date, ...] = ()
        hold, debit, credit = self._open_hold(book, command, expires=command.kind == "expire")
        amount = hold.remaining
        released = hold.remaining
        if command.kind == "capture":
            # Money that has arrived in another book must leave this one, even if an account was frozen since. Other captures wait: the refusal
            # is not pinned, since the account may be thawed.
            if not self._asked.crossing:
                check_not_frozen(debit, credit, pinned=False)
            if command.amount is not None:
                amount = positive(command.amount)
            if amount > hold.remaining:
                raise Refused(Reason.EXCEEDS_HOLD, available=hold.remaining, required=amount, currency=debit.currency)
            if not command.final:
                released = amount
            if command.effective_at is not None:
                breaches = self._date_back(book, command.effective_at, debit, credit, amount)
            debit.debits_posted += amount
            credit.credits_posted += amount
            hold.captured += amount
        debit.debits_pending -= released
        credit.credits_pending -= released
        hold.remaining -= released
        if hold.remaining == 0:
            hold.state = _DRAWN[command.kind]
        return self._record(book, command, debit, credit, amount, released, None, None), breaches

    def _reverse(self, book: int, command: Command) -> tuple[Transfer, tuple[date, ...]]:
        original = None if command.target is None else self.state.transfers.get((book, command.target))
        if original is None:
            raise Refused(Reason.TRANSFER_NOT_FOUND)
        self._movable(original)
        if original.kind not in ("post", "capture"):
            raise Refused(Reason.NOT_REVERSIBLE)
        if command.currency is not None and command.currency != original.currency:
            raise Refused(Reason.CURRENCY_MISMATCH, currency=command.currency)
        key = (book, original.id)
        reversal = self.state.reversals.get(key)
        left = original.amount - (0 if reversal is None else reversal.reversed)
        amount = left if command.amount is None else positive(command.amount)
        if amount > left or left == 0:
            raise Refused(
                Reason.EXCEEDS_REVERSIBLE,
                available=left,
                required=command.amount or original.amount,
                currency=original.currency,
            )
        debit, credit = self._accounts(book, original.credit_account, original.debit_account, original.currency)
        made = self._move(book, command, debit, credit, amount, None)
        if reversal is None:
            reversal = self.state.reversals[key] = Reversal(book, original.id, original.amount, 0)
        reversal.reversed += amount
        return made

    def _record(  # noqa: PLR0917 - on the way of every transfer
        self,
        number: int,
        command: Command,
        debit: Account,
        credit: Account,
        amount: int,
        released: int,
        expires_at: datetime | None,
        asked: int | None,
    ) -> Transfer:
        book = self.state.books[number]
        book.sequence += 1
        book.recorded_at = instant = self.instants[number]
        self.instants[number] = instant + MICROSECOND
        debit.version += 1
        credit.version += 1
        return Transfer(
            number,
            book.sequence,
            command.id,
            command.kind,
            command.target,
            debit.id,
            credit.id,
            amount,
            released,
            debit.currency,
            instant,
            expires_at,
            command.code,
            command.metadata,
            debit.version,
            debit.debits_pending,
            debit.debits_posted,
            debit.credits_pending,
            debit.credits_posted,
            credit.version,
            credit.debits_pending,
            credit.debits_posted,
            credit.credits_pending,
            credit.credits_posted,
            command.transaction,
            command.effective_at,
            asked,
            debit.number,
            credit.number,
        )


def _failed(unit: Unit, place: int, result: Result) -> list[Result]:
    linked = Reason.LINKED_TRANSFER_FAILED
    return [
        result if nth == place else Result(other.id, "rejected", reason=linked)
        for nth, other in enumerate(unit.commands)
    ]
