"""What the log answers, beside the files of C2SP tlog-tiles, which are text and bytes."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

MAX_WAIT_MS = 5_000


class ReceiptQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`wait_ms`: how long to wait for a fact that is on its way into the log."""

    wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)] = 0


class InnerReceipt(msgspec.Struct, frozen=True):
    """A receipt for another service: the text of the proof, and the log's entry that it is about."""

    receipt: str
    index: int
