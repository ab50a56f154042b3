"""The use cases of payments: create, capture, cancel, refund, read, and resume what was left unfinished."""

from tallystick.services.payments.service.acquirer import Acquirer
from tallystick.services.payments.service.answers import Made
from tallystick.services.payments.service.background import DISPUTES, Background
from tallystick.services.payments.service.directory import Directory
from tallystick.services.payments.service.effects import Effects, Postponed
from tallystick.services.payments.service.journal import Journal
from tallystick.services.payments.service.payments import NewPayment, Payments
from tallystick.services.payments.service.refunds import Refunds
from tallystick.services.payments.service.work import Work

__all__ = [
    "DISPUTES",
    "Acquirer",
    "Background",
    "Directory",
    "Effects",
    "Journal",
    "Made",
    "NewPayment",
    "Payments",
    "Postponed",
    "Refunds",
    "Work",
]
