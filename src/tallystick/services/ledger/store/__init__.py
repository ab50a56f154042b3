"""The ledger in PostgreSQL. One method per named query; rows in, model types out."""

from tallystick.services.ledger.store.accounts import Accounts
from tallystick.services.ledger.store.approvals import Proposals
from tallystick.services.ledger.store.books import Books
from tallystick.services.ledger.store.checks import Checks
from tallystick.services.ledger.store.history import History
from tallystick.services.ledger.store.imports import Imports
from tallystick.services.ledger.store.interbook import FIRST, Interbook
from tallystick.services.ledger.store.posting import MOVED, TAKEN, Posting, Writing
from tallystick.services.ledger.store.reports import Reports
from tallystick.services.ledger.store.search import Search

__all__ = ["FIRST", "MOVED", "TAKEN", "Checks", "Imports", "Proposals", "Store", "Writing"]


class Store(Posting, Accounts, History, Books, Reports, Search, Interbook, Proposals):
    """All queries of the books. It has no state: each call is given the database or the transaction."""
