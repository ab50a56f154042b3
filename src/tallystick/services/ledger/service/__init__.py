"""The ledger's intentions: post, keep books and accounts, tell history, sweep expired holds, check itself."""

from tallystick.services.ledger.service.accounts import Accounts, At
from tallystick.services.ledger.service.asks import Answered, Ask, GuardRefused
from tallystick.services.ledger.service.books import Books, Who
from tallystick.services.ledger.service.checker import Place
from tallystick.services.ledger.service.ledger import Ledger
from tallystick.services.ledger.service.poster import Poster

__all__ = ["Accounts", "Answered", "Ask", "At", "Books", "GuardRefused", "Ledger", "Place", "Poster", "Who"]
