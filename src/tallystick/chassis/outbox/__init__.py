"""Facts leave a service by its outbox only, stored in the transaction that made them.

A fact's number (`seq`: 1, 2, 3 ... per service, without gaps) is not stored with it: it follows from the order (transaction id, position)
of the table, of which only that part is read that no later commit can change. Reading again after a crash gives the same numbers.
A transaction that stays open, in any database of the server, holds up what comes after it; `transaction_timeout` bounds that.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from tallystick.chassis.db import Database, Queries, Transaction, arguments
from tallystick.kernel import ids
from tallystick.kernel.clock import parse_rfc3339, rfc3339
from tallystick.kernel.ids import FactId

Q: Final = Queries.load("tallystick.chassis", "outbox")
MAX_FACT_BYTES: Final = 64 * 1024
RETENTION: Final = timedelta(days=30)
_PAGE: Final = 500


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened: who (`actor`, a client or a service) did what (`type`, `<service>.<thing>.<past tense>`) to which
    `resource` of which tenant. `data` holds ids, amounts and states; never what a person typed. `trace` is the request's trace id.
    """

    id: FactId
    type: str
    tenant: str
    actor: str
    resource: str
    at: datetime
    trace: str | None = None
    data: dict[str, Any] = {}


class _Wire(msgspec.Struct, frozen=True):
    id: str
    type: str
    tenant: str
    actor: str
    resource: str
    at: str
    trace: str | None
    data: dict[str, Any]


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(_Wire)


def encode(fact: Fact) -> bytes:
    """The one encoding of a fact: what is stored, sent and logged. Raises ValueError when it is too large."""
    raw = _encoder.encode(
        _Wire(
            ids.facts.text(fact.id),
            fact.type,
            fact.tenant,
            fact.actor,
            fact.resource,
            rfc3339(fact.at),
            fact.trace,
            fact.data,
        )
    )
    if len(raw) > MAX_FACT_BYTES:
        raise ValueError(
            f"a fact of type {fact.type} has {len(raw)} bytes; at most {MAX_FACT_BYTES} are told, the rest is looked up"
        )
    return raw


def decode(raw: bytes) -> Fact:
    """The inverse of `encode`. Raises msgspec.DecodeError, InvalidId or ValueError for what `encode` can't have made."""
    wire = _decoder.decode(raw)
    return Fact(
        id=ids.facts.parse(wire.id),
        type=wire.type,
        tenant=wire.tenant,
        actor=wire.actor,
        resource=wire.resource,
        at=parse_rfc3339(wire.at),
        trace=wire.trace,
        data=wire.data,
    )


async def append(tx: Transaction, facts: Sequence[Fact]) -> None:
    """Tell `facts` if `tx` is stored, in this order."""
    if facts:
        rows = [(fact.id, fact.type, encode(fact)) for fact in facts]
        await tx.execute(Q.append, *arguments(rows, 3))
        tx.on_commit(tx.database.appended.send)


class Outbox:
    """`append` as an object, for use cases that take their outbox as a constructor argument."""

    __slots__ = ()

    async def append(self, tx: Transaction, facts: Sequence[Fact]) -> None:
        await append(tx, facts)


async def lag(database: Database) -> tuple[int, datetime | None]:
    """How many facts are stored but not yet on the bus, and the time of the oldest of them."""
    row = await database.fetchrow(Q.lag)
    if row is None:
        return 0, None
    return row["waiting"], row["oldest"]


async def purge(database: Database, now: datetime, retention: timedelta = RETENTION) -> int:
    """Forget facts relayed longer ago than `retention`; returns how many. For the schedule. What is not relayed is never forgotten."""
    total = 0
    while True:
        gone = await database.execute(Q.purge, now - retention, _PAGE)
        total += gone
        if not gone:
            return total
