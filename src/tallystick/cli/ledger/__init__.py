"""`tallystick ledger`: the books, from the command line. Each group of subcommands is a module; they register with `app.ledger`."""

from tallystick.cli.ledger import accounts, approvals, books, check, files, posting, reports
from tallystick.cli.ledger.app import ledger

__all__ = ["accounts", "approvals", "books", "check", "files", "ledger", "posting", "reports"]
