"""Stores decisions and lists (PostgreSQL), and counts payments (Valkey)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from valkey.exceptions import ValkeyError

from tallystick.chassis import outbox
from tallystick.chassis.db import Database, Queries, Row, Transaction, UniqueViolation
from tallystick.chassis.outbox import Fact
from tallystick.contracts.risk.messages import ListEntry
from tallystick.kernel.ids import DecisionId
from tallystick.kernel.money import Money
from tallystick.kernel.problem import Unavailable
from tallystick.services.risk.model import WINDOWS, Decided, Kind, Verdict, Window, sliding

queries = Queries.load("tallystick.services.risk")


class Scored(msgspec.Struct, frozen=True):
    """A decision to be stored, with the client that asked for the payment."""

    decided: Decided
    client_id: str


class Store:
    """Decisions are inserted and never changed; only list entries are."""

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

    async def decide(self, database: Database, scored: Sequence[Scored], facts: Sequence[Fact], now: datetime) -> bool:
        """Store decisions and their facts in one round trip. False, and nothing is stored, if one of them was made before."""
        try:
            await database.execute(queries.decide, *_columns(scored), now, *outbox.columns(facts))
        except UniqueViolation as violation:
            if violation.constraint != "decision_pkey":
                raise
            return False
        return True

    async def insert(self, tx: Transaction, scored: Sequence[Scored], now: datetime) -> set[DecisionId]:
        """Store new decisions; returns their ids. The others were decided before."""
        rows = await tx.fetch(queries.insert_decisions, *_columns(scored), now)
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


def _columns(scored: Sequence[Scored]) -> list[list[Any]]:
    """Ordered by id, so that two replicas with the same decisions wait for each other instead of deadlocking."""
    scored = sorted(scored, key=lambda each: each.decided.id)
    return [
        [s.decided.id for s in scored],
        [s.decided.tenant for s in scored],
        [s.client_id for s in scored],
        [s.decided.payment for s in scored],
        [s.decided.amount.minor for s in scored],
        [s.decided.amount.currency for s in scored],
        [s.decided.verdict.decision for s in scored],
        [s.decided.verdict.score for s in scored],
        [" ".join(s.decided.verdict.reasons) for s in scored],
    ]


def _entry(row: Row) -> ListEntry:
    return ListEntry(
        tenant=row["tenant"], outcome=row["outcome"], kind=row["kind"], value=row["value"], note=row["note"]
    )


#: Seconds for all counters of a batch: a decision without counters is better than one that comes too late.
TIMEOUT: Final = 0.2
#: The most tallies in one script call: Valkey does nothing else while a script runs.
CHUNK: Final = 256

#: Seconds by which the clocks of Valkey and of the replicas may differ.
SKEW: Final = 10

#: Adds the tallies to their subjects' windows. The answer has, for each tally and window, the window's bucket, then the values in the
#: current and the previous bucket of: payments, the sum in the tally's currency, refusals.
#:
#: KEYS: one for each subject; it is read once and written once, however many tallies the subject has. ARGV: the tallies' events, 16 bytes
#: each; then, as MessagePack, the bucket of each window, its width in seconds, SKEW and, for each tally, the number of its key, currency,
#: count, sum and declines. The answer is MessagePack too.
#:
#: A subject's value is {the last events counted, 16 bytes each, {{bucket, {current}, {previous}}, ...}}. An event that is among the last
#: ones is answered, but not counted again.
#:
#: A caller whose clock is behind counts in the bucket that is there: two callers' buckets must not take turns, or each would drop what the
#: other has counted. Only when Valkey's clock says as well that this bucket is in the future, by more than SKEW, was the time set back. The
#: bucket is then the caller's, and all that was counted counts in it: it would otherwise gather until that future has come.
#:
#: Amounts are doubles: exact below 2**53, where they stop.
_ADD: Final = """
local asked = cmsgpack.unpack(ARGV[2])
local buckets, widths, skew, tallies = asked[1], asked[2], asked[3], asked[4]
local now = tonumber(redis.call('TIME')[1])
local states, changed, out, o = {}, {}, {}, 0
local function add(current, name, amount)
  if amount > 0 then current[name] = math.min((current[name] or 0) + amount, 9007199254740992) end
end
for k, key in ipairs(KEYS) do
  local stored = redis.call('GET', key)
  local state = stored and cmsgpack.unpack(stored) or {'', {}}
  for w, bucket in ipairs(buckets) do
    local window = state[2][w]
    if not window then
      state[2][w] = {bucket, {}, {}}
    elseif bucket > window[1] then
      state[2][w] = {bucket, {}, bucket == window[1] + 1 and window[2] or {}}
    elseif bucket < window[1] and window[1] * widths[w] > now + skew then
      for name, amount in pairs(window[3]) do add(window[2], name, amount) end
      state[2][w] = {bucket, window[2], {}}
    end
  end
  states[k] = state
end
local function counted(events, event)
  local at = events:find(event, 1, true)
  while at and at % 16 ~= 1 do at = events:find(event, at + 1, true) end
  return at
end
for at = 1, #tallies, 5 do
  local k, currency = tallies[at], tallies[at + 1]
  local state, event = states[k], ARGV[1]:sub((at - 1) / 5 * 16 + 1, (at + 4) / 5 * 16)
  local new = not counted(state[1], event)
  if new then
    state[1] = (state[1] .. event):sub(-256)
    changed[k] = true
  end
  for _, window in ipairs(state[2]) do
    local current, previous = window[2], window[3]
    if new then
      add(current, 'count', tallies[at + 2])
      add(current, currency, tallies[at + 3])
      add(current, 'declines', tallies[at + 4])
    end
    out[o + 1], out[o + 2], out[o + 3] = window[1], current.count or 0, previous.count or 0
    out[o + 4], out[o + 5] = current[currency] or 0, previous[currency] or 0
    out[o + 6], out[o + 7] = current.declines or 0, previous.declines or 0
    o = o + 7
  end
end
for k in pairs(changed) do redis.call('SET', KEYS[k], cmsgpack.pack(states[k]), 'EX', 172800) end
return cmsgpack.pack(out)
"""
_ANSWERS: Final = 7
_decode: Final = msgspec.msgpack.Decoder(list[int]).decode
_encode: Final = msgspec.msgpack.Encoder().encode


class CountersUnavailable(Unavailable):
    """Valkey does not answer. No caller gets this problem: risk decides without counters, gives the reason `velocity-unknown`, and denies large
    amounts.
    """

    slug, title = "counters-unavailable", "The velocity counters are not available"


class Tally(msgspec.Struct, frozen=True):
    """What one payment adds to the counters of one `subject`, such as a card's fingerprint.

    `event` identifies what is counted, a decision or a fact. If it comes again soon after, it is not counted again.
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
    """Sliding windows per subject, in Valkey, shared by all replicas. Sums are per currency: amounts of different currencies can't be added.

    The braces in the keys put all of them on one shard of a Valkey cluster, since a script can't span shards. The number after them is the
    version of the values' format.
    """

    def __init__(self, valkey: Any, prefix: str = "risk:{risk}:2") -> None:
        self._prefix = prefix
        self._script = valkey.register_script(_ADD)

    async def add(self, tallies: Sequence[Tally], now: datetime) -> list[Mapping[str, Window]]:
        """Count each tally. Returns, in order, its subject's windows, this tally included. Raises CountersUnavailable."""
        epoch = now.timestamp()
        widths = [int(window.total_seconds()) for window in WINDOWS.values()]
        buckets = [int(epoch // width) for width in widths]
        found: list[Mapping[str, Window]] = []
        try:
            async with asyncio.timeout(TIMEOUT):
                for start in range(0, len(tallies), CHUNK):
                    answers = _decode(await self._counted(tallies[start : start + CHUNK], buckets, widths))
                    step = _ANSWERS * len(widths)
                    found += [_windows(answers[i : i + step], epoch, widths) for i in range(0, len(answers), step)]
        except (ValkeyError, OSError, TimeoutError) as error:
            raise CountersUnavailable(context={"reason": type(error).__name__}) from error
        return found

    async def _counted(self, tallies: Sequence[Tally], buckets: Sequence[int], widths: Sequence[int]) -> bytes:
        keys: dict[str, int] = {}
        plan: list[Any] = []
        for t in tallies:
            key = keys.setdefault(f"{self._prefix}:{t.tenant}:{t.kind}:{t.subject}", len(keys) + 1)
            plan += (key, t.currency, t.count, t.sum, t.declines)
        answer: bytes = await self._script(
            keys=list(keys), args=[b"".join(t.event.bytes for t in tallies), _encode((buckets, widths, SKEW, plan))]
        )
        return answer


def _windows(answer: Sequence[int], epoch: float, widths: Sequence[int]) -> Mapping[str, Window]:
    windows = {}
    for i, (name, width) in enumerate(zip(WINDOWS, widths, strict=True)):
        bucket, count, p_count, total, p_total, declines, p_declines = answer[_ANSWERS * i : _ANSWERS * (i + 1)]
        if p_count or p_total or p_declines:
            elapsed = epoch / width - bucket
            count, total = sliding(count, p_count, elapsed), sliding(total, p_total, elapsed)
            declines = sliding(declines, p_declines, elapsed)
        windows[name] = Window(count, total, declines)
    return windows
