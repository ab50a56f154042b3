"""The idempotency contract: same key and same input get the stored answer; the same key never has two effects.

The key is claimed in the transaction that stores the intent, and answered in the transaction that stores the outcome, business refusals
included. There is no way between: a crash leaves a claimed key with the id of its resource, from which the work is resumed.
(IETF draft "The Idempotency-Key HTTP Header Field".)
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from tallystick.chassis.db import Contended, Database, Queries, Row, Transaction, arguments
from tallystick.kernel.problem import Conflict, Problem, Unprocessable

Q: Final = Queries.load("tallystick.chassis", "idempotency")
RETENTION: Final = timedelta(days=30)
_FIELD_BYTES: Final = 8
_PAGE: Final = 1000

_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class KeyReused(Unprocessable):
    """The key was used for another input; the extension `fields` names what differs, as JSON pointers. A new request takes a new key."""

    slug, title = "idempotency-key-reused", "This idempotency key was used with another request"


class InProgress(Conflict):
    """The first is at work, or was cut off and is being taken up. Send the same again when `Retry-After` says: it gets the first one's answer."""

    slug, title, retryable = (
        "request-in-progress",
        "The first request with this idempotency key has no answer yet",
        True,
    )


@dataclass(frozen=True, slots=True)
class Digest:
    """Keyed hashes of an input: of the whole (32 bytes), and of each field (8 bytes each, by JSON pointer)."""

    whole: bytes
    fields: bytes

    def differing(self, stored_fields: bytes) -> list[str]:
        """JSON pointers of the fields that are not what they were, also those that are there only once."""
        mine, theirs = (msgspec.msgpack.decode(one, type=dict[str, bytes]) for one in (self.fields, stored_fields))
        return sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))


class Digester:
    """HMAC-SHA256 under the service's own key: from a plain hash a card number could be guessed."""

    __slots__ = ("_mac",)

    def __init__(self, key: bytes) -> None:
        if len(key) < 32:
            raise ValueError("the key of a digest has at least 32 bytes")
        # Copied for each hash: setting up the key costs more than hashing a field.
        self._mac = HMAC(key, SHA256())

    def digest(self, body: Any) -> Digest:
        """The digest of a decoded body: spelling, spaces and the order of keys make no difference. What has its default is no part of it, so
        that a field which a later release adds is none either.
        """
        plain = msgspec.to_builtins(body)
        hashes: dict[str, bytes] = {}
        self._walk(plain, "", hashes)
        return Digest(self._hash(_encode_sorted(plain)), msgspec.msgpack.encode(hashes))

    def _walk(self, value: Any, pointer: str, hashes: dict[str, bytes]) -> None:
        # Objects by member, lists as one: a batch of a thousand is a handful of hashes. A body without members has none that could differ.
        if isinstance(value, dict) and (value or not pointer):
            for name, member in value.items():
                self._walk(member, f"{pointer}/{str(name).replace('~', '~0').replace('/', '~1')}", hashes)
        else:
            hashes[pointer] = self._hash(pointer.encode() + b"\0" + _encode_sorted(value))[:_FIELD_BYTES]

    def _hash(self, text: bytes) -> bytes:
        mac = self._mac.copy()
        mac.update(text)
        return mac.finalize()


@dataclass(frozen=True, slots=True)
class Entry:
    """One key: whose, for which route (e.g. `POST /v1/payments`), with which input (None: where only the key matters, in `complete`)."""

    tenant: str
    client_id: str
    route: str
    key: str
    digest: Digest | None

    @property
    def identity(self) -> tuple[str, str, str, str]:
        return (self.tenant, self.client_id, self.route, self.key)

    @property
    def input(self) -> Digest:
        """The digest; ValueError without one."""
        if self.digest is None:
            raise ValueError("a key is claimed together with its input's digest")
        return self.digest


@dataclass(frozen=True, slots=True)
class Fresh:
    """The key is ours: do the work."""

    def raise_or_replay(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Replay:
    """It was answered: give this answer again, with `Idempotent-Replayed: true`."""

    status: int
    body: bytes
    resource: UUID | None

    def raise_or_replay(self) -> Replay:
        return self


@dataclass(frozen=True, slots=True)
class Running:
    """It was taken, and has no answer yet. `resource` is the id that was made for it."""

    resource: UUID | None

    def raise_or_replay(self) -> None:
        raise InProgress("ask again in a moment with the same key", headers={"Retry-After": "1"})


@dataclass(frozen=True, slots=True)
class Mismatch:
    """It was taken with another input."""

    fields: list[str]

    def raise_or_replay(self) -> None:
        raise KeyReused("take a new key for a new request", fields=self.fields)


Outcome: TypeAlias = Fresh | Replay | Running | Mismatch


@dataclass(frozen=True, slots=True)
class Answer:
    entry: Entry
    status: int
    body: bytes


class Claim:
    """The claim of many keys on its way through a statement: `claim`'s own, or one of a service that claims and stores the intent in
    the same round trip. Only `leaders` go into it, with `columns`; `outcomes` says what became of all of them.
    """

    __slots__ = ("_entries", "_first", "_resource", "leaders")

    def __init__(self, entries: Sequence[Entry], resource: Sequence[UUID | None]) -> None:
        """ValueError without one resource (or None) per entry."""
        if len(resource) != len(entries):
            raise ValueError("one resource (or None) per entry")
        self._entries = entries
        self._resource = resource
        self._first: dict[tuple[str, str, str, str], int] = {}
        for index, entry in enumerate(entries):
            self._first.setdefault(entry.identity, index)
        self.leaders = list(self._first.values())
        """Indexes of the entries that are asked for: of equal keys the first."""

    def columns(self) -> list[list[Any]]:
        """Tenant, client, route, key, digest, fields and resource of the leaders, each as a column."""
        entries, resource = self._entries, self._resource
        rows = [
            (*entries[index].identity, entries[index].input.whole, entries[index].input.fields, resource[index])
            for index in self.leaders
        ]
        return arguments(rows, 7)

    async def outcomes(self, places: Iterable[int], at: Database | Transaction) -> list[Outcome]:
        """One outcome per entry, in order; `places` (1..n) are those of the leaders that were taken. Only if there are others is it
        looked up (`at`) who has them. Raises Contended when that one is gone meanwhile.
        """
        entries = self._entries
        taken = {self.leaders[place - 1] for place in places}
        held = await _held(at, entries, [index for index in self.leaders if index not in taken])
        outcomes: list[Outcome] = []
        for index, entry in enumerate(entries):
            leader = self._first[entry.identity]
            if leader not in taken:
                outcomes.append(_judge(entry, *held[leader]))
            elif index == leader:
                outcomes.append(Fresh())
            else:
                own = entries[leader]
                outcomes.append(_judge(entry, own.input.whole, own.input.fields, Running(self._resource[leader])))
        return outcomes


async def claim(tx: Transaction, entries: Sequence[Entry], *, resource: Sequence[UUID | None]) -> list[Outcome]:
    """Take keys; one outcome per entry, in order. `resource[i]` is stored with entry i if it is Fresh.

    Of equal keys within one call the first decides; the others find it Running (or its answer, or a Mismatch).
    Raises Contended when another transaction holds a key for longer than the lock timeout: nothing is claimed then.
    """
    asked = Claim(entries, resource)
    rows = await tx.fetch(Q.claim, *asked.columns())
    return await asked.outcomes((row[0] for row in rows), tx)


async def look(source: Database | Transaction, entry: Entry) -> Replay | Running | Mismatch | None:
    """What `claim` would find under a key that was taken, without taking it; None when nobody has it."""
    row = await source.fetchrow(Q.claimed, *arguments([entry.identity], 4))
    if row is None:
        return None
    whole, fields, stored = _stored(row)
    return _judge(entry, whole, fields, stored)


async def complete(tx: Transaction, answers: Sequence[Answer]) -> list[bool]:
    """Store the answers of claimed keys, in the transaction of their outcome. False where an answer was stored already: that one stays."""
    rows = [(*answer.entry.identity, answer.status, answer.body) for answer in answers]
    stored = {row[0] for row in await tx.fetch(Q.complete, *arguments(rows, 6))}
    return [place in stored for place in range(1, len(answers) + 1)]


def answered(answers: Sequence[Answer], resource: Sequence[UUID | None]) -> list[list[Any]]:
    """Tenant, client, route, key, digest, fields, resource, status and body, each as a column: for a statement of a service that takes keys
    and stores their answers at once, because it was decided before it begins. It inserts them sorted by key, and undoes itself when somebody
    has one of them; then `claim` tells what there is. The keys are distinct.
    """
    rows = [
        (*answer.entry.identity, answer.entry.input.whole, answer.entry.input.fields, about, answer.status, answer.body)
        for answer, about in zip(answers, resource, strict=True)
    ]
    return arguments(rows, 9)


async def withdraw(tx: Transaction, tenant: str, resources: Sequence[UUID], instead: Problem) -> int:
    """Take back the answers that tell of these resources, in the transaction that makes them go; returns how many. Whatever is sent with
    their keys from then on gets `instead`: the digests of the inputs, hashes of what is to be gone, go as well.

    A service that calls it often has an index on `resource`: most have no use for one.
    """
    return await tx.execute(Q.withdraw, tenant, resources, instead.status, msgspec.json.encode(instead.document()))


async def purge(database: Database, now: datetime, retention: timedelta = RETENTION) -> int:
    """Forget answered keys older than `retention`; returns how many. For the schedule."""
    total = 0
    while True:
        gone = await database.execute(Q.purge, now - retention, _PAGE)
        total += gone
        if gone < _PAGE:
            return total


async def _held(
    at: Database | Transaction, entries: Sequence[Entry], indexes: list[int]
) -> dict[int, tuple[bytes, bytes, Running | Replay]]:
    if not indexes:
        return {}
    rows = await at.fetch(Q.claimed, *arguments((entries[index].identity for index in indexes), 4))
    held: dict[int, tuple[bytes, bytes, Running | Replay]] = {}
    for row in rows:
        held[indexes[row["place"] - 1]] = _stored(row)
    if len(held) != len(indexes):
        raise Contended("a key was forgotten while it was asked for; ask again")
    return held


def _stored(row: Row) -> tuple[bytes, bytes, Running | Replay]:
    answered = row["status"] is not None
    stored = Replay(row["status"], row["body"], row["resource"]) if answered else Running(row["resource"])
    return row["digest"], row["fields"], stored


def _judge(entry: Entry, whole: bytes, fields: bytes, stored: Running | Replay) -> Running | Replay | Mismatch:
    # Without a digest it was withdrawn: there is nothing left to compare with.
    if not whole or hmac.compare_digest(entry.input.whole, whole):
        return stored
    return Mismatch(entry.input.differing(fields))
