"""A PostgreSQL of which only what the ledger asks of it is real: rows, locks and READ COMMITTED in memory."""

from tests.simulation.server import accounts, approvals, books, chassis, history, imports, interbook, posting
from tests.simulation.server.engine import STATEMENTS, Change, Faults, Server, SimDatabase, Transaction

__all__ = [
    "STATEMENTS",
    "Change",
    "Faults",
    "Server",
    "SimDatabase",
    "Transaction",
    "accounts",
    "approvals",
    "books",
    "chassis",
    "history",
    "imports",
    "interbook",
    "posting",
]
