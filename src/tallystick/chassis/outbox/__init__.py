"""The transactional outbox: facts leave a service only by this table, stored in the transaction that made them.

A fact's number (`seq`: 1, 2, 3 ... per service, without gaps) is not stored with it. It follows from the order of the table,
(transaction id, position), of which only the part is read that no later commit can change. So reading again after a crash gives the
same numbers. A transaction that stays open, in any database of the server, holds up all later facts; `transaction_timeout` bounds
that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from tallystick.chassis.bus.streams import StreamSettings
from tallystick.chassis.db import Database, Queries, Transaction, arguments
from tallystick.chassis.fact import MAX_FACT_BYTES, Fact, decode, encode

Q: Final = Queries.load("tallystick.chassis", "outbox")
RETENTION: Final = timedelta(days=30)
_PAGE: Final = 500


__all__ = ["MAX_FACT_BYTES", "RETENTION", "Fact", "Outbox", "append", "columns", "decode", "encode", "purge"]


async def append(tx: Transaction, facts: Sequence[Fact]) -> None:
    """Tell `facts`, in this order, if `tx` is committed."""
    if facts:
        await tx.execute(Q.append, *columns(facts))


def columns(facts: Iterable[Fact | None]) -> list[list[Any]]:
    """Id, type and bytes of facts, each as a column (None where there is no fact). For a service's own statement that stores facts
    together with what they are about: `INSERT INTO outbox (id, type, fact) SELECT ... ORDER BY place`.
    """
    return arguments(((None, None, None) if fact is None else (fact.id, fact.type, encode(fact)) for fact in facts), 3)


class Outbox:
    """`append` as an object, for use cases that take their outbox as a constructor argument."""

    __slots__ = ()

    async def append(self, tx: Transaction, facts: Sequence[Fact]) -> None:
        await append(tx, facts)


async def purge(database: Database, now: datetime, retention: timedelta = RETENTION) -> int:
    """Delete facts that were relayed longer ago than `retention`; returns how many. Called by a schedule.

    A fact that is not relayed yet is never deleted. Neither is one that the stream may hold, counted back from the last relayed fact
    and not from now, because the stream may have to be rebuilt: so these stay after a long stop or a quiet time as well.
    """
    total = 0
    while True:
        gone = await database.execute(Q.purge, now - retention, _PAGE, StreamSettings().max_age)
        total += gone
        if not gone:
            return total
