"""The use cases of the ledger: post, manage books and accounts, report history, sweep expired holds, check itself."""

from tallystick.services.ledger.service.accounts import Accounts, At
from tallystick.services.ledger.service.approvals import Approvals, Plan
from tallystick.services.ledger.service.asks import Answered, Ask, GuardRefused
from tallystick.services.ledger.service.books import Books, Who
from tallystick.services.ledger.service.checker import Mark
from tallystick.services.ledger.service.elsewhere import Elsewhere
from tallystick.services.ledger.service.exports import Part, Spot
from tallystick.services.ledger.service.interbook import Interbook, Shard
from tallystick.services.ledger.service.ledger import Ledger
from tallystick.services.ledger.service.poster import Poster
from tallystick.services.ledger.service.reports import BalanceSheet, IncomeStatement, Reports, TrialBalance
from tallystick.services.ledger.service.search import Recorded, Search
from tallystick.services.ledger.service.statements import Asked, Place, Statements

__all__ = [
    "Accounts",
    "Answered",
    "Approvals",
    "Ask",
    "Asked",
    "At",
    "BalanceSheet",
    "Books",
    "Elsewhere",
    "GuardRefused",
    "IncomeStatement",
    "Interbook",
    "Ledger",
    "Mark",
    "Part",
    "Place",
    "Plan",
    "Poster",
    "Recorded",
    "Reports",
    "Search",
    "Shard",
    "Spot",
    "Statements",
    "TrialBalance",
    "Who",
]  # fmt: skip
