"""The noes of risk."""

from __future__ import annotations

from tallystick.kernel.problem import Conflict


class DecisionIsForAnotherPayment(Conflict):
    slug, title = "decision-for-another-payment", "This decision's id belongs to another payment"
