"""The audit log's messages, apart from the files of C2SP tlog-tiles, which are text and bytes."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

MAX_WAIT_MS = 5_000

#: Level, then the index in groups of three digits (C2SP tlog-tiles).
TilePath = Annotated[
    str,
    Meta(
        description="level, index in groups of three digits, width if it is not full",
        examples=["0/x001/067", "entries/000.p/5"],
        extra_json_schema={"pattern": r"^([0-9]{1,2}|entries)(/x[0-9]{3})*/[0-9]{3}(\.p/[0-9]{1,3})?$"},
    ),
]


class ReceiptQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`wait_ms`: how long to wait for a fact that is on its way into the log."""

    wait_ms: Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)] = 0


class InnerReceipt(msgspec.Struct, frozen=True):
    """A receipt for another service: the text of the proof, and the index of the log's entry."""

    receipt: str
    index: int
