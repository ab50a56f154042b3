"""The noes of risk."""

from __future__ import annotations

from tallystick.kernel.problem import Conflict, InvalidRequest, NotFound


class DecisionIsForAnotherPayment(Conflict):
    """A decision stands for one payment, amount and tenant. Ask under the id that was made for this payment."""

    slug, title = "decision-for-another-payment", "This decision's id belongs to another payment"


class InvalidListValue(InvalidRequest):
    """The value is not quoted: it may be a card number. A card is named by its fingerprint, which is in the answer to `POST /v1/tokens`."""

    slug, title = "invalid-list-value", "Lists hold fingerprints of cards (fp_), accounts (acc_) and clients (cli_)"


class NotListed(NotFound):
    """`tallystick risk lists` has what there is."""

    slug, title = "not-listed", "This value is on none of the tenant's lists"
