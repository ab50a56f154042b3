"""The noes of risk."""

from __future__ import annotations

from tallystick.kernel.problem import Conflict, InvalidRequest, NotFound


class DecisionIsForAnotherPayment(Conflict):
    slug, title = "decision-for-another-payment", "This decision's id belongs to another payment"


class InvalidListValue(InvalidRequest):
    """The value is not quoted: it may be a card number."""

    slug, title = "invalid-list-value", "Lists hold fingerprints of cards (fp_), accounts (acc_) and clients (cli_)"


class NotListed(NotFound):
    slug, title = "not-listed", "This value is on none of the tenant's lists"
