"""The rules of the book: pure, sequential, total. Every command gets one named result; nothing here waits or fails.

`decide` takes commands in units and the state that they need, loaded while the book is locked, and says what happens: transfers with
both accounts' totals after them, refusals to be pinned, holds and reversals as they are then. It consumes the state that it is
given. The store writes what it says; constraints and triggers in the database check it again, from the rows alone.

Four totals per account, as in TigerBeetle: debits and credits, each pending (held) and posted. Amounts are minor units, 1 to 2**63 - 1;
pending and posted of a side together stay below 2**63, so no sum can wrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from tallystick.contracts.ledger.messages import Reason
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model.savepoint import Savepoint
from tallystick.services.ledger.model.values import (
    MAX,
    Account,
    Command,
    Decided,
    Hold,
    HoldStatus,
    Rejection,
    Result,
    Reversal,
    State,
    Transfer,
    Unit,
)


def decide(units: Sequence[Unit], state: State, now: datetime) -> Decided:
    """What becomes of each command, in order: later ones see the effects of earlier ones."""
    decider = _Decider(state, now)
    results = [
        decider.all_or_none(unit) if unit.atomic and len(unit.commands) > 1 else decider.each(unit) for unit in units
    ]
    return Decided(results, decider.transfers, decider.rejections)


_CLOSED_HOLD: Final = {
    "captured": Reason.HOLD_ALREADY_CAPTURED,
    "voided": Reason.HOLD_ALREADY_VOIDED,
    "expired": Reason.HOLD_EXPIRED,
}


class _Refused(Exception):
    """Inside of this module: a rule said no."""

    def __init__(
        self,
        reason: Reason,
        *,
        available: int | None = None,
        required: int | None = None,
        currency: str | None = None,
        account: AccountId | None = None,
        pinned: bool = True,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.available = available
        self.required = required
        self.currency = currency
        self.account = account
        self.pinned = pinned


def _full(account: Account, room: int, amount: int) -> _Refused:
    return _Refused(
        Reason.CEILING_EXCEEDED, available=room, required=amount, currency=account.currency, account=account.id
    )


class _Decider:
    def __init__(self, state: State, now: datetime) -> None:
        self.state = state
        self.transfers: list[Transfer] = []
        self.rejections: list[Rejection] = []
        for book in state.books.values():
            book.recorded_at = max(book.recorded_at, now)

    def each(self, unit: Unit) -> list[Result]:
        return [self._one(unit.book, command) for command in unit.commands]

    def all_or_none(self, unit: Unit) -> list[Result]:
        """The first refusal undoes what the unit did before it. Only the refused command's id is pinned."""
        undo = Savepoint(unit, self.state, self.transfers, self.rejections)
        results: list[Result] = []
        for place, command in enumerate(unit.commands):
            result = self._one(unit.book, command)
            if result.status == "rejected":
                for rejection in undo.roll_back():
                    self._pin(rejection)
                linked = Reason.LINKED_TRANSFER_FAILED
                return [
                    result if i == place else Result(other.id, "rejected", reason=linked)
                    for i, other in enumerate(unit.commands)
                ]
            results.append(result)
        return results

    def _pin(self, rejection: Rejection) -> None:
        self.rejections.append(rejection)
        self.state.rejections[rejection.book, rejection.id] = rejection

    def _one(self, book: int, command: Command) -> Result:
        key = (book, command.id)
        existing = self.state.transfers.get(key)
        try:
            if existing is not None:
                self._same(book, command, existing)
                return Result(command.id, existing.status, existing, existed=True)
            rejection = self.state.rejections.get(key)
            if rejection is not None:
                return self._repeated(command, rejection)
            if self.state.books[book].quarantined:
                raise _Refused(Reason.BOOK_QUARANTINED, pinned=False)
            kind = command.kind
            if kind == "post":
                transfer = self._move(book, command, command.debit, command.credit, command.amount, command.currency)
            elif kind == "hold":
                transfer = self._hold(book, command)
            elif kind == "reverse":
                transfer = self._reverse(book, command)
            else:
                transfer = self._draw(book, command)
        except _Refused as no:
            if no.pinned and command.kind != "expire":
                self._pin(
                    Rejection(book, command.id, command.digest(), no.reason, no.available, no.required, no.currency)
                )
            return Result(
                command.id,
                "rejected",
                reason=no.reason,
                available=no.available,
                required=no.required,
                currency=no.currency,
                account=no.account,
            )
        self.transfers.append(transfer)
        self.state.transfers[key] = transfer
        return Result(command.id, transfer.status, transfer)

    @staticmethod
    def _repeated(command: Command, rejection: Rejection) -> Result:
        if command.digest() != rejection.digest:
            return Result(command.id, "rejected", reason=Reason.ID_ALREADY_FAILED)
        return Result(
            command.id,
            "rejected",
            existed=True,
            reason=Reason(rejection.reason),
            available=rejection.available,
            required=rejection.required,
            currency=rejection.currency,
        )

    def _same(self, book: int, command: Command, existing: Transfer) -> None:
        """A repeat is the same in all that it says. Raises the name of the first difference."""
        if command.kind != existing.kind:
            raise _Refused(Reason.EXISTS_WITH_DIFFERENT_KIND, pinned=False)
        if command.target != existing.target:
            raise _Refused(Reason.EXISTS_WITH_DIFFERENT_TARGET, pinned=False)
        for named, account, reason in (
            (command.debit, existing.debit_account, Reason.EXISTS_WITH_DIFFERENT_DEBIT_ACCOUNT),
            (command.credit, existing.credit_account, Reason.EXISTS_WITH_DIFFERENT_CREDIT_ACCOUNT),
        ):
            if named is not None and self.state.account(book, named) != account:
                raise _Refused(reason, pinned=False)
        if command.amount is not None and command.amount != existing.amount:
            raise _Refused(Reason.EXISTS_WITH_DIFFERENT_AMOUNT, pinned=False)
        if command.currency is not None and command.currency != existing.currency:
            raise _Refused(Reason.EXISTS_WITH_DIFFERENT_CURRENCY, pinned=False)
        # A final capture releases more than it captures, unless nothing was left over: then final or not is the same.
        if command.kind == "capture" and not command.final and command.amount is not None and existing.released != existing.amount:  # fmt: skip
            raise _Refused(Reason.EXISTS_WITH_DIFFERENT_AMOUNT, pinned=False)
        if command.kind == "hold" and command.expires_in != existing.expires_in:
            raise _Refused(Reason.EXISTS_WITH_DIFFERENT_EXPIRY, pinned=False)
        if command.code != existing.code:
            raise _Refused(Reason.EXISTS_WITH_DIFFERENT_CODE, pinned=False)
        if command.metadata != existing.metadata:
            raise _Refused(Reason.EXISTS_WITH_DIFFERENT_METADATA, pinned=False)

    def _accounts(
        self, book: int, debit_ref: AccountId | str | None, credit_ref: AccountId | str | None, currency: str | None
    ) -> tuple[Account, Account]:
        """Both accounts, of this book, open, not frozen, and of one currency."""
        accounts = self.state.accounts
        debit_id = self.state.account(book, debit_ref)
        credit_id = self.state.account(book, credit_ref)
        debit = accounts.get(debit_id) if debit_id is not None else None
        if debit is None or debit.book != book:
            raise _Refused(Reason.ACCOUNT_NOT_FOUND, account=debit_id)
        credit = accounts.get(credit_id) if credit_id is not None else None
        if credit is None or credit.book != book:
            raise _Refused(Reason.ACCOUNT_NOT_FOUND, account=credit_id)
        if debit is credit:
            raise _Refused(Reason.SAME_ACCOUNT, account=debit_id)
        if debit.currency != currency or credit.currency != currency:
            raise _Refused(
                Reason.CURRENCY_MISMATCH,
                currency=currency,
                account=debit.id if debit.currency != currency else credit.id,
            )
        if debit.closed or credit.closed:
            raise _Refused(Reason.ACCOUNT_CLOSED, account=debit.id if debit.closed else credit.id)
        if debit.frozen or credit.frozen:
            raise _Refused(Reason.ACCOUNT_FROZEN, account=debit.id if debit.frozen else credit.id)
        return debit, credit

    @staticmethod
    def _affordable(debit: Account, credit: Account, amount: int) -> None:
        """Raises unless `amount` more can be debited and credited: no total wraps, no floor is broken, no ceiling passed."""
        if (
            debit.debits_posted + debit.debits_pending + amount > MAX
            or credit.credits_posted + credit.credits_pending + amount > MAX
        ):
            raise _Refused(Reason.AMOUNT_OVERFLOW)
        # A debit takes from an account that credits make grow, and the other way round.
        if debit.floor is not None and not debit.debit_normal:
            room = debit.credits_posted - debit.debits_posted - debit.debits_pending - debit.floor
            if amount > room:
                raise _Refused(
                    Reason.INSUFFICIENT_FUNDS,
                    available=room,
                    required=amount,
                    currency=debit.currency,
                    account=debit.id,
                )
        if credit.floor is not None and credit.debit_normal:
            room = credit.debits_posted - credit.credits_posted - credit.credits_pending - credit.floor
            if amount > room:
                raise _Refused(
                    Reason.INSUFFICIENT_FUNDS,
                    available=room,
                    required=amount,
                    currency=credit.currency,
                    account=credit.id,
                )

        # And it fills one that debits make grow; what open holds may bring in counts already.
        if debit.ceiling is not None and debit.debit_normal:
            room = debit.ceiling - (debit.debits_posted + debit.debits_pending - debit.credits_posted)
            if amount > room:
                raise _full(debit, room, amount)
        if credit.ceiling is not None and not credit.debit_normal:
            room = credit.ceiling - (credit.credits_posted + credit.credits_pending - credit.debits_posted)
            if amount > room:
                raise _full(credit, room, amount)

    @staticmethod
    def _positive(amount: int | None) -> int:
        if amount is None or amount < 1:
            raise _Refused(Reason.AMOUNT_MUST_BE_POSITIVE)
        if amount > MAX:
            raise _Refused(Reason.AMOUNT_OVERFLOW)
        return amount

    def _move(  # noqa: PLR0917 - on the way of every transfer
        self,
        book: int,
        command: Command,
        debit_id: AccountId | str | None,
        credit_id: AccountId | str | None,
        amount: int | None,
        currency: str | None,
    ) -> Transfer:
        """Posts at once: a post, or a reversal."""
        amount = self._positive(amount)
        debit, credit = self._accounts(book, debit_id, credit_id, currency)
        self._affordable(debit, credit, amount)
        debit.debits_posted += amount
        credit.credits_posted += amount
        return self._record(book, command, debit, credit, amount, 0, None)

    def _hold(self, book: int, command: Command) -> Transfer:
        amount = self._positive(command.amount)
        debit, credit = self._accounts(book, command.debit, command.credit, command.currency)
        self._affordable(debit, credit, amount)
        debit.debits_pending += amount
        credit.credits_pending += amount
        expires_at = None
        if command.expires_in is not None:
            expires_at = self.state.books[book].recorded_at + timedelta(seconds=command.expires_in)
        self.state.holds[book, command.id] = Hold(
            book, command.id, debit.id, credit.id, amount, 0, amount, "held", expires_at
        )
        return self._record(book, command, debit, credit, amount, 0, expires_at)

    def _draw(self, book: int, command: Command) -> Transfer:
        """Captures, voids or expires a hold. Takes no more from anybody than the hold did, so no floor can break."""
        hold = None if command.target is None else self.state.holds.get((book, command.target))
        if hold is None:
            raise _Refused(Reason.HOLD_NOT_FOUND)
        if hold.state != "held":
            raise _Refused(_CLOSED_HOLD[hold.state])
        # By the book's time: another replica's clock may have been ahead of this one's when it wrote.
        due = hold.expires_at is not None and hold.expires_at <= self.state.books[book].recorded_at
        if due != (command.kind == "expire"):
            # Expired, though not swept yet; or a sweep by a clock that is ahead of this one.
            raise _Refused(Reason.HOLD_EXPIRED if due else Reason.HOLD_NOT_DUE, pinned=due)
        debit, credit = self.state.accounts[hold.debit_account], self.state.accounts[hold.credit_account]
        if command.currency is not None and command.currency != debit.currency:
            raise _Refused(Reason.CURRENCY_MISMATCH, currency=command.currency, account=debit.id)
        amount = hold.remaining
        released = hold.remaining
        if command.kind == "capture":
            if debit.frozen or credit.frozen:
                raise _Refused(Reason.ACCOUNT_FROZEN, account=debit.id if debit.frozen else credit.id)
            if command.amount is not None:
                amount = self._positive(command.amount)
            if amount > hold.remaining:
                raise _Refused(Reason.EXCEEDS_HOLD, available=hold.remaining, required=amount, currency=debit.currency)
            if not command.final:
                released = amount
            debit.debits_posted += amount
            credit.credits_posted += amount
            hold.captured += amount
        debit.debits_pending -= released
        credit.credits_pending -= released
        hold.remaining -= released
        if hold.remaining == 0:
            hold.state = _DRAWN[command.kind]
        return self._record(book, command, debit, credit, amount, released, None)

    def _reverse(self, book: int, command: Command) -> Transfer:
        original = None if command.target is None else self.state.transfers.get((book, command.target))
        if original is None:
            raise _Refused(Reason.TRANSFER_NOT_FOUND)
        if original.kind not in ("post", "capture"):
            raise _Refused(Reason.NOT_REVERSIBLE)
        if command.currency is not None and command.currency != original.currency:
            raise _Refused(Reason.CURRENCY_MISMATCH, currency=command.currency)
        key = (book, original.id)
        reversal = self.state.reversals.get(key)
        left = original.amount - (0 if reversal is None else reversal.reversed)
        amount = left if command.amount is None else self._positive(command.amount)
        if amount > left or left == 0:
            raise _Refused(
                Reason.EXCEEDS_REVERSIBLE,
                available=left,
                required=command.amount or original.amount,
                currency=original.currency,
            )
        transfer = self._move(book, command, original.credit_account, original.debit_account, amount, original.currency)
        if reversal is None:
            reversal = self.state.reversals[key] = Reversal(book, original.id, original.amount, 0)
        reversal.reversed += amount
        return transfer

    def _record(  # noqa: PLR0917 - on the way of every transfer
        self,
        number: int,
        command: Command,
        debit: Account,
        credit: Account,
        amount: int,
        released: int,
        expires_at: datetime | None,
    ) -> Transfer:
        book = self.state.books[number]
        book.sequence += 1
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
            book.recorded_at,
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
        )


_DRAWN: Final[dict[str, HoldStatus]] = {"capture": "captured", "void": "voided", "expire": "expired"}
