"""The exception by which a rule refuses a command, within the model."""

from __future__ import annotations

from datetime import date

from tallystick.contracts.ledger.messages import Reason
from tallystick.kernel.ids import AccountId, TransferId
from tallystick.services.ledger.model.paths import account_text
from tallystick.services.ledger.model.values import Command, Rejection, Result


class Refused(Exception):
    """A refusal. If `pinned`, it is final for the transfer's id. Otherwise it is about this request or this moment only. `account` is the one at
    fault, as the command named it if it does not exist.
    """

    def __init__(
        self,
        reason: Reason,
        *,
        available: int | None = None,
        required: int | None = None,
        currency: str | None = None,
        account: AccountId | str | None = None,
        pinned: bool = True,
        breached_on: tuple[date, ...] = (),
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.available = available
        self.required = required
        self.currency = currency
        self.account = account
        self.pinned = pinned
        self.breached_on = breached_on

    def rejection(self, book: int, command: Command, *, crossing: bool) -> Rejection:
        """The refusal to pin to the command's id."""
        return Rejection(
            book,
            command.id,
            command.digest(),
            self.reason,
            self.available,
            self.required,
            self.currency,
            crossing,
            account_text(self.account),
            self.breached_on,
        )

    def result(self, own: TransferId) -> Result:
        return Result(
            own,
            "rejected",
            reason=self.reason,
            available=self.available,
            required=self.required,
            currency=self.currency,
            account=self.account,
            breached_on=self.breached_on,
        )
