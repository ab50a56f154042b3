"""Facts leave a service by its outbox only, stored in the transaction that made them.

A fact's number (`seq`: 1, 2, 3 ... per service, without gaps) is not stored with it: it follows from the order (transaction id, position)
of the table, of which only that part is read that no later commit can change. Reading again after a crash gives the same numbers.
A transaction that stays open, in any database of the server, holds up what comes after it; `transaction_timeout` bounds that.
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
    """Tell `facts` if `tx` is stored, in this order."""
    if facts:
        await tx.execute(Q.append, *columns(facts))


def columns(facts: Iterable[Fact | None]) -> list[list[Any]]:
    """Id, type and bytes of facts, each as a column (None where there is no fact), for a statement of a service that stores them
    together with what they tell of: `INSERT INTO outbox (id, type, fact) SELECT ... ORDER BY place`.
    """
    return arguments(((None, None, None) if fact is None else (fact.id, fact.type, encode(fact)) for fact in facts), 3)


class Outbox:
    """`append` as an object, for use cases that take their outbox as a constructor argument."""

    __slots__ = ()

    async def append(self, tx: Transaction, facts: Sequence[Fact]) -> None:
        await append(tx, facts)


async def purge(database: Database, now: datetime, retention: timedelta = RETENTION) -> int:
    """Forget facts relayed longer ago than `retention`; returns how many. For the schedule. What is not relayed is never forgotten, and what a
    stream holds stays also when nothing was told since, or all was stopped: it may have to be relayed again.
    """
    total = 0
    while True:
        gone = await database.execute(Q.purge, now - retention, _PAGE, StreamSettings().max_age)
        total += gone
        if not gone:
            return total
