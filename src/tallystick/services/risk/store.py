"""Where decisions and lists are kept (PostgreSQL) and where payments are counted (Valkey)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from valkey.exceptions import ValkeyError

from tallystick.chassis.db import Database, Queries, Row, Transaction
from tallystick.contracts.risk.messages import ListEntry
from tallystick.kernel.ids import DecisionId
from tallystick.kernel.money import Money
from tallystick.kernel.problem import Unavailable
from tallystick.services.risk.model import WINDOWS, Decided, Kind, Verdict, Window, sliding

queries = Queries.load("tallystick.services.risk")


class Scored(msgspec.Struct, frozen=True):
    """A decision on its way into the store, with what it was about."""

    decided: Decided
    client_id: str


class Store:
    """Decisions are inserted and never changed; a list entry is the only thing that is."""

    async def decided(self, database: Database, ids: Sequence[DecisionId]) -> dict[DecisionId, Decided]:
        rows = await database.fetch(queries.decisions, list(ids))
        return {
            row["id"]: Decided(
                row["id"],
                row["tenant"],
                row["payment"],
                Money(row["amount"], row["currency"]),
                Verdict(row["decision"], row["score"], tuple(row["reasons"])),
            )
            for row in rows
        }

    async def insert(self, tx: Transaction, scored: Sequence[Scored], now: datetime) -> set[DecisionId]:
        """Stores what is new; returns the ids that were. The others were decided before."""
        # In the order of their ids, so that two replicas with the same decisions wait for each other and don't deadlock.
        scored = sorted(scored, key=lambda each: each.decided.id)
        rows = await tx.fetch(
            queries.insert_decisions,
            [s.decided.id for s in scored],
            [s.decided.tenant for s in scored],
            [s.client_id for s in scored],
            [s.decided.payment for s in scored],
            [s.decided.amount.minor for s in scored],
            [s.decided.amount.currency for s in scored],
            [s.decided.verdict.decision for s in scored],
            [s.decided.verdict.score for s in scored],
            [" ".join(s.decided.verdict.reasons) for s in scored],
            now,
        )
        return {row["id"] for row in rows}

    async def list_version(self, database: Database) -> int:
        return int(await database.fetchval(queries.list_version))

    async def lists(self, database: Database) -> list[ListEntry]:
        return [_entry(row) for row in await database.fetch(queries.list_entries)]

    async def tenant_lists(self, database: Database, tenant: str) -> list[ListEntry]:
        return [_entry(row) for row in await database.fetch(queries.tenant_entries, tenant)]

    async def put_list_entry(self, tx: Transaction, entry: ListEntry, now: datetime) -> None:
        await tx.execute(queries.lists_changed)
        await tx.execute(queries.put_list_entry, entry.tenant, entry.kind, entry.value, entry.outcome, entry.note, now)

    async def delete_list_entry(self, tx: Transaction, tenant: str, kind: str, value: str) -> bool:
        await tx.execute(queries.lists_changed)
        return await tx.fetchval(queries.delete_list_entry, tenant, kind, value) is not None


def _entry(row: Row) -> ListEntry:
    return ListEntry(
        tenant=row["tenant"], outcome=row["outcome"], kind=row["kind"], value=row["value"], note=row["note"]
    )


#: Seconds for all counters of a batch: a decision without them is better than one that comes too late.
TIMEOUT: Final = 0.2
#: Tallies of one script call: Valkey does nothing else meanwhile.
CHUNK: Final = 256

#: Adds to each subject's windows and answers, for each window: the bucket that it is in, then for payments, for the sum in
#: the tally's currency and for refusals what the current and the previous bucket hold.
#:
#: KEYS: one a tally. ARGV: the number of windows, the bucket of each, then for each key event, currency, count, sum, declines.
#: A subject's value is {events = the last events that were counted, windows = {{bucket, {current}, {previous}}, ...}}; an event
#: that is among them is answered and not counted again. A caller whose clock is behind counts in the bucket that is there.
#: Amounts are doubles: they stop at 2**53, exact below.
_ADD: Final = """
local n = tonumber(ARGV[1])
local out = {}
for k, key in ipairs(KEYS) do
  local at = n + 1 + 5 * (k - 1)
  local event, currency = ARGV[at + 1], ARGV[at + 2]
  local add = {count = tonumber(ARGV[at + 3]), [currency] = tonumber(ARGV[at + 4]), declines = tonumber(ARGV[at + 5])}
  local stored = redis.call('GET', key)
  local state = stored and cmsgpack.unpack(stored) or {events = {}, windows = {}}
  local new = true
  for _, seen in ipairs(state.events) do
    if seen == event then new = false end
  end
  if new then
    table.insert(state.events, event)
    if #state.events > 16 then table.remove(state.events, 1) end
  end
  for w = 1, n do
    local bucket = tonumber(ARGV[1 + w])
    local window = state.windows[w] or {bucket, {}, {}}
    if bucket > window[1] then
      window = {bucket, {}, bucket == window[1] + 1 and window[2] or {}}
    end
    state.windows[w] = window
    local current, previous = window[2], window[3]
    if new then
      for name, amount in pairs(add) do
        if amount > 0 then current[name] = math.min((current[name] or 0) + amount, 9007199254740992) end
      end
    end
    out[#out + 1] = window[1]
    for _, name in ipairs({'count', currency, 'declines'}) do
      out[#out + 1] = current[name] or 0
      out[#out + 1] = previous[name] or 0
    end
  end
  if new then redis.call('SET', key, cmsgpack.pack(state), 'EX', 172800) end
end
return out
"""
_ANSWERS: Final = 7


class CountersUnavailable(Unavailable):
    slug, title = "counters-unavailable", "Payments can't be counted at the moment"


class Tally(msgspec.Struct, frozen=True):
    """What one payment adds to one subject's counters. `subject` says whose, such as a card's fingerprint.

    `event` is what is counted, a decision or a fact: told again soon after, it does not count again.
    """

    event: UUID
    kind: Kind
    tenant: str
    subject: str
    currency: str
    count: int = 1
    sum: int = 0
    declines: int = 0


class Counters:
    """Sliding windows per subject, in Valkey, for all replicas. Sums are per currency: amounts of different ones don't add.

    The braces in the keys put them all on one shard of a Valkey cluster: a script may not span shards.
    """

    def __init__(self, valkey: Any, prefix: str = "risk:{risk}") -> None:
        self._prefix = prefix
        self._script = valkey.register_script(_ADD)

    async def add(self, tallies: Sequence[Tally], now: datetime) -> list[Mapping[str, Window]]:
        """Counts each tally and gives, in order, its subject's windows with it included. Raises CountersUnavailable."""
        epoch = now.timestamp()
        widths = [window.total_seconds() for window in WINDOWS.values()]
        buckets = [int(epoch // width) for width in widths]
        found: list[Mapping[str, Window]] = []
        try:
            async with asyncio.timeout(TIMEOUT):
                for start in range(0, len(tallies), CHUNK):
                    chunk = tallies[start : start + CHUNK]
                    answers = await self._script(
                        keys=[f"{self._prefix}:{t.tenant}:{t.kind}:{t.subject}" for t in chunk],
                        args=[
                            len(buckets),
                            *buckets,
                            *(each for t in chunk for each in (t.event.bytes, t.currency, t.count, t.sum, t.declines)),
                        ],
                    )
                    step = _ANSWERS * len(widths)
                    found += [_windows(answers[i : i + step], epoch, widths) for i in range(0, len(answers), step)]
        except (ValkeyError, OSError, TimeoutError) as error:
            raise CountersUnavailable(context={"reason": type(error).__name__}) from error
        return found


def _windows(answer: Sequence[int], epoch: float, widths: Sequence[float]) -> Mapping[str, Window]:
    windows = {}
    for i, (name, width) in enumerate(zip(WINDOWS, widths, strict=True)):
        bucket, count, p_count, total, p_total, declines, p_declines = answer[_ANSWERS * i : _ANSWERS * (i + 1)]
        elapsed = epoch / width - bucket
        windows[name] = Window(
            count=sliding(count, p_count, elapsed),
            sum=sliding(total, p_total, elapsed),
            declines=sliding(declines, p_declines, elapsed),
        )
    return windows
