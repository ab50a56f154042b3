"""Where decisions and lists are kept (PostgreSQL) and where payments are counted (Valkey)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from tallystick.chassis.db import Database, Queries, Transaction
from tallystick.contracts.risk.messages import ListEntry
from tallystick.kernel.ids import DecisionId
from tallystick.kernel.money import Money
from tallystick.services.risk.model import WINDOWS, Decided, Kind, Verdict, Window, sliding

queries = Queries.load("tallystick.services.risk")


class Scored(msgspec.Struct, frozen=True):
    """A decision on its way into the store, with what it was about."""

    decided: Decided
    client_id: str
    amount: Money


class Store:
    """Decisions are inserted and never changed; a list entry is the only thing that is."""

    async def decided(self, database: Database, ids: Sequence[DecisionId]) -> dict[DecisionId, Decided]:
        rows = await database.fetch(queries.decisions, list(ids))
        return {
            row["id"]: Decided(
                row["id"], row["tenant"], row["payment"], Verdict(row["decision"], row["score"], tuple(row["reasons"]))
            )
            for row in rows
        }

    async def insert(self, tx: Transaction, scored: Sequence[Scored], now: datetime) -> set[DecisionId]:
        """Stores what is new; returns the ids that were. The others were decided by another replica meanwhile."""
        rows = await tx.fetch(
            queries.insert_decisions,
            [s.decided.id for s in scored],
            [s.decided.tenant for s in scored],
            [s.client_id for s in scored],
            [s.decided.payment for s in scored],
            [s.amount.minor for s in scored],
            [s.amount.currency for s in scored],
            [s.decided.verdict.decision for s in scored],
            [s.decided.verdict.score for s in scored],
            [" ".join(s.decided.verdict.reasons) for s in scored],
            now,
        )
        return {row["id"] for row in rows}

    async def lists(self, database: Database) -> list[ListEntry]:
        rows = await database.fetch(queries.list_entries)
        return [
            ListEntry(
                tenant=row["tenant"], outcome=row["outcome"], kind=row["kind"], value=row["value"], note=row["note"]
            )
            for row in rows
        ]

    async def put_list_entry(self, tx: Transaction, entry: ListEntry, now: datetime) -> None:
        await tx.execute(queries.put_list_entry, entry.tenant, entry.kind, entry.value, entry.outcome, entry.note, now)

    async def delete_list_entry(self, tx: Transaction, tenant: str, kind: str, value: str) -> bool:
        return await tx.fetchval(queries.delete_list_entry, tenant, kind, value) is not None


#: Adds to the current bucket of each window of one subject and returns the current and previous buckets:
#: count, sum and declines of each. KEYS[1] the subject's hash; ARGV count, sum, declines, then per window its bucket number.
#: A bucket that is two windows old is dropped; the hash lives as long as its widest window needs.
_ADD: Final = """
local out = {}
local names = {'c', 's', 'd'}
for w = 4, #ARGV do
  local bucket = tonumber(ARGV[w])
  local at = (w - 3) .. ':'
  local stored = redis.call('HMGET', KEYS[1], at .. 'b', at .. 'c', at .. 's', at .. 'd', at .. 'pc', at .. 'ps', at .. 'pd')
  local last = tonumber(stored[1] or '-1')
  for i = 1, 3 do
    local current, previous = tonumber(stored[1 + i] or '0'), tonumber(stored[4 + i] or '0')
    if last ~= bucket then
      previous = (last == bucket - 1) and current or 0
      current = 0
    end
    current = current + tonumber(ARGV[i])
    out[#out + 1] = current
    out[#out + 1] = previous
    redis.call('HSET', KEYS[1], at .. names[i], string.format('%.0f', current), at .. 'p' .. names[i], string.format('%.0f', previous))
  end
  redis.call('HSET', KEYS[1], at .. 'b', bucket)
end
redis.call('EXPIRE', KEYS[1], 172800)
return out
"""


class Tally(msgspec.Struct, frozen=True):
    """What one payment adds to one subject's counters. `subject` says whose, such as a card's fingerprint."""

    kind: Kind
    tenant: str
    subject: str
    currency: str
    count: int = 1
    sum: int = 0
    declines: int = 0


class Counters:
    """Sliding windows per subject, in Valkey. Sums are kept per currency: amounts of different ones don't add.

    Raises whatever the client raises when Valkey can't be reached; the use case decides what that means. Sums are
    doubles in the script: exact up to 2**53 minor units, far above any limit a rule sets.
    """

    def __init__(self, valkey: Any, prefix: str = "risk") -> None:
        self._valkey = valkey
        self._prefix = prefix
        self._script = valkey.register_script(_ADD)

    async def add(self, tallies: Sequence[Tally], now: datetime) -> list[Mapping[str, Window]]:
        """Counts each tally and gives, in order, its subject's windows with it included. One round trip for all."""
        if not tallies:
            return []
        epoch = now.timestamp()
        seconds = [window.total_seconds() for window in WINDOWS.values()]
        buckets = [int(epoch // width) for width in seconds]
        elapsed = [(epoch % width) / width for width in seconds]
        pipe = self._valkey.pipeline(transaction=False)
        for t in tallies:
            key = f"{self._prefix}:{t.tenant}:{t.kind}:{t.currency}:{t.subject}"
            await self._script(keys=[key], args=[t.count, t.sum, t.declines, *buckets], client=pipe)
        answers = await pipe.execute()
        return [self._windows(answer, elapsed) for answer in answers]

    @staticmethod
    def _windows(answer: Sequence[int], elapsed: Sequence[float]) -> Mapping[str, Window]:
        windows = {}
        for i, name in enumerate(WINDOWS):
            count, p_count, total, p_total, declines, p_declines = answer[6 * i : 6 * i + 6]
            windows[name] = Window(
                count=sliding(count, p_count, elapsed[i]),
                sum=sliding(total, p_total, elapsed[i]),
                declines=sliding(declines, p_declines, elapsed[i]),
            )
        return windows
