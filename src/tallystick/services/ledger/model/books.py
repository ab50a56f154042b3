"""Books as they are read and changed."""

from __future__ import annotations

from datetime import datetime

import msgspec

from tallystick.contracts.ledger.messages import Backdating


class BookRow(msgspec.Struct, frozen=True, kw_only=True):
    """A book. `sequence` is that of its last transfer; `revision` counts the changes of its accounts, its chart and its settings."""

    id: int
    tenant: str
    name: str
    description: str | None
    backdating: Backdating
    sealed_until: datetime | None
    quarantined_at: datetime | None
    quarantine_reason: str | None
    shard: str
    sequence: int
    revision: int
    created_at: datetime
