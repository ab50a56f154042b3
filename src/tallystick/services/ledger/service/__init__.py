"""The ledger's intentions: post, keep accounts, tell history, sweep expired holds, check itself."""

from tallystick.services.ledger.service.accounts import Accounts, At
from tallystick.services.ledger.service.ledger import Ledger
from tallystick.services.ledger.service.poster import Answered, Ask, Poster

__all__ = ["Accounts", "Answered", "Ask", "At", "Ledger", "Poster"]
