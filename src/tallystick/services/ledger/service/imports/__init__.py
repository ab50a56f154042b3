"""Imports of files into a book: their lines are staged first, then processed in the background."""

from tallystick.services.ledger.service.imports.intake import Imports
from tallystick.services.ledger.service.imports.runner import Runner

__all__ = ["Imports", "Runner"]
