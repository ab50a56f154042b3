"""Files that are brought into a book: taken in line by line, then run in the background."""

from tallystick.services.ledger.service.imports.intake import Imports
from tallystick.services.ledger.service.imports.runner import Runner

__all__ = ["Imports", "Runner"]
