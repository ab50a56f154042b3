"""The problems of the audit log."""

from __future__ import annotations

from tallystick.kernel.problem import NotFound


class ReceiptNotFound(NotFound):
    """The fact is not in the log, not in the log yet, or belongs to somebody else: the answer does not tell which. With the parameter
    `wait_ms` the request waits for a fact that is about to enter the log.
    """

    slug, title, retryable = "receipt-not-found", "Receipt not found, or not yet available", True


class TileNotFound(NotFound):
    """The path names no tile, or one beyond the size of the signed tree. Fetch a checkpoint, and only tiles up to its size."""

    slug, title = "tile-not-found", "Tile not found"


class LogEmpty(NotFound):
    """The log has no entries yet. The first checkpoint is made a moment after the first fact."""

    slug, title, retryable = "log-empty", "The log has no checkpoint yet", True
