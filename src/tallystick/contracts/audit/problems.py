"""The noes of the log."""

from __future__ import annotations

from tallystick.kernel.problem import NotFound


class ReceiptNotFound(NotFound):
    """Not in the log, not there yet, or somebody else's: these look alike. `wait_ms` waits for one that is on its way."""

    slug, title, retryable = "receipt-not-found", "There is no such receipt, not yet, or not for you", True


class TileNotFound(NotFound):
    """The path names no tile, or one that the signed tree does not fill so far: take a checkpoint, and tiles up to its size."""

    slug, title = "tile-not-found", "The log has no such tile"


class LogEmpty(NotFound):
    """Nothing was told yet. The first checkpoint is there a moment after the first fact."""

    slug, title, retryable = "log-empty", "The log has no checkpoint yet", True
