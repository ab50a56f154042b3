"""The problems of risk."""

from __future__ import annotations

from tallystick.kernel.problem import Conflict, InvalidRequest, NotFound


class DecisionIsForAnotherPayment(Conflict):
    """A decision is for one payment, amount and tenant, and this id belongs to a decision about others. Use the id that was made for this
    payment.
    """

    slug, title = "decision-for-another-payment", "The decision's id belongs to another payment"


class InvalidListValue(InvalidRequest):
    """The value is none of those that lists hold. It is not repeated here, because it may be a card number. A card is listed by its
    fingerprint, which is in the answer to `POST /v1/tokens`.
    """

    slug, title = "invalid-list-value", "Lists hold fingerprints of cards (fp_), accounts (acc_) and clients (cli_)"


class NotListed(NotFound):
    """None of the tenant's lists has this value. `tallystick risk lists` shows what they hold."""

    slug, title = "not-listed", "This value is on none of the tenant's lists"
