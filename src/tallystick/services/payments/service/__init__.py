"""Payments' intentions: take, capture, cancel, refund, look, and go on with what was left half-way."""

from tallystick.services.payments.service.effects import Effects, Postponed
from tallystick.services.payments.service.journal import Journal
from tallystick.services.payments.service.payments import Made, NewPayment, Payments

__all__ = ["Effects", "Journal", "Made", "NewPayment", "Payments", "Postponed"]
