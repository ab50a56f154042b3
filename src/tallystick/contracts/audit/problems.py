"""The noes of the log."""

from __future__ import annotations

from tallystick.kernel.problem import NotFound


class ReceiptNotFound(NotFound):
    """Not in the log, not there yet, or somebody else's: these look alike."""

    slug, title, retryable = "receipt-not-found", "There is no such receipt, not yet, or not for you", True


class TileNotFound(NotFound):
    slug, title = "tile-not-found", "The log has no such tile"


class LogEmpty(NotFound):
    slug, title, retryable = "log-empty", "The log has no checkpoint yet", True
