"""The idempotency contract: same key and same input get the stored answer; the same key never has two effects.

A key is claimed in the transaction that stores the intent, and its answer is stored in the transaction that stores the outcome,
business refusals included. So after a crash a key is either free, or claimed with the id of its resource, from which the work is
resumed, or answered. (IETF draft "The Idempotency-Key HTTP Header Field".)
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
    """The idempotency key was used before, with another input. `fields` names what differs, as JSON pointers. Use a new key for a new
    request.
    """

    slug, title = "idempotency-key-reused", "This idempotency key was used with another request"


class InProgress(Conflict):
    """The first request with this key is being processed, or was interrupted and is being resumed. Send the same request again after
    the time in `Retry-After`: it gets the first one's answer.
    """

    slug, title, retryable = (
        "request-in-progress",
        "The first request with this idempotency key has no answer yet",
        True,
    )


@dataclass(frozen=True, slots=True)
class Digest:
    """Keyed hashes of an input: `whole` of all of it (32 bytes), `fields` of each field (8 bytes each, by JSON pointer, as MessagePack)."""

    whole: bytes
    fields: bytes

    def differing(self, stored_fields: bytes) -> list[str]:
        """JSON pointers of the fields that differ, including those that only one of the inputs has."""
        mine, theirs = (msgspec.msgpack.decode(one, type=dict[str, bytes]) for one in (self.fields, stored_fields))
        return sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))


class Digester:
    """HMAC-SHA256 under a key of the service: a card number could be guessed from a plain hash."""

    __slots__ = ("_mac",)

    def __init__(self, key: bytes) -> None:
        if len(key) < 32:
            raise ValueError("the key of a digest has at least 32 bytes")
        # Copied for each hash, because setting up the key costs more than hashing a field.
        self._mac = HMAC(key, SHA256())

    def digest(self, body: Any) -> Digest:
        """The digest of a decoded body: spelling, spaces and the order of keys make no difference. Fields that have their default value
        are left out, so that a field which a later release adds does not change the digests of older requests.
        """
        plain = msgspec.to_builtins(body)
        hashes: dict[str, bytes] = {}
        self._walk(plain, "", hashes)
        return Digest(self._hash(_encode_sorted(plain)), msgspec.msgpack.encode(hashes))

    def _walk(self, value: Any, pointer: str, hashes: dict[str, bytes]) -> None:
        # Objects member by member, lists as a whole: a batch of a thousand needs a handful of hashes. An empty body has no fields.
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
    """One key: whose it is, for which route (e.g. `POST /v1/payments`), with which input. The digest may be None in `complete`, where
    only the key matters.
    """

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
        """The digest. Raises ValueError without one."""
        if self.digest is None:
            raise ValueError("a key is claimed together with its input's digest")
        return self.digest


@dataclass(frozen=True, slots=True)
class Fresh:
    """The key was free and is claimed now: do the work."""

    def raise_or_replay(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Replay:
    """The key has an answer: give it again, with `Idempotent-Replayed: true`."""

    status: int
    body: bytes
    resource: UUID | None

    def raise_or_replay(self) -> Replay:
        return self


@dataclass(frozen=True, slots=True)
class Running:
    """The key is claimed and has no answer yet. `resource` is the id that was made for it."""

    resource: UUID | None

    def raise_or_replay(self) -> None:
        raise InProgress("ask again in a moment with the same key", headers={"Retry-After": "1"})


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The key was claimed with another input, which differs in `fields`."""

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
    """A claim of many keys by one statement: that of `claim`, or one of a service's own that stores the intent in the same round trip.
    The statement gets the `columns` of the `leaders` only; `outcomes` then gives the outcome of every entry.
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
        """Indexes of the entries that are claimed: of entries with equal keys the first."""

    def columns(self) -> list[list[Any]]:
        """Tenant, client, route, key, digest, fields and resource of the leaders, each as a column."""
        entries, resource = self._entries, self._resource
        rows = [
            (*entries[index].identity, entries[index].input.whole, entries[index].input.fields, resource[index])
            for index in self.leaders
        ]
        return arguments(rows, 7)

    async def outcomes(self, places: Iterable[int], at: Database | Transaction) -> list[Outcome]:
        """One outcome per entry, in order. `places` (1..n) are the positions of the leaders whose keys were free. Only if others were
        not is it looked up, in `at`, what is stored under them. Raises Contended when that has been purged meanwhile.
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
    """Claim keys; one outcome per entry, in order. `resource[i]` is stored with entry i if that is Fresh.

    Of entries with equal keys in one call the first decides; the others find it Running, answered, or a Mismatch.
    Raises Contended when another transaction holds a key for longer than the lock timeout; then nothing is claimed.
    """
    asked = Claim(entries, resource)
    rows = await tx.fetch(Q.claim, *asked.columns())
    return await asked.outcomes((row[0] for row in rows), tx)


async def look(source: Database | Transaction, entry: Entry) -> Replay | Running | Mismatch | None:
    """What is stored under a key, without claiming it; None when the key is free."""
    row = await source.fetchrow(Q.claimed, *arguments([entry.identity], 4))
    if row is None:
        return None
    whole, fields, stored = _stored(row)
    return _judge(entry, whole, fields, stored)


class _Free(Exception):
    """Rolls a claim back."""


async def until_known(database: Database, entry: Entry) -> None:
    """Wait until nobody is claiming the key: a claim whose COMMIT got no answer may still be under way, and is not to be seen before it
    ends. Claims nothing. Raises Contended when that takes longer than the lock timeout.
    """
    try:
        async with database.transaction() as tx:
            if isinstance((await claim(tx, [entry], resource=[None]))[0], Fresh):
                raise _Free
    except _Free:
        pass


async def complete(tx: Transaction, answers: Sequence[Answer]) -> list[bool]:
    """Store the answers of claimed keys, in the transaction of their outcome. False for an entry that has an answer already, which
    stays.
    """
    rows = [(*answer.entry.identity, answer.status, answer.body) for answer in answers]
    stored = {row[0] for row in await tx.fetch(Q.complete, *arguments(rows, 6))}
    return [place in stored for place in range(1, len(answers) + 1)]


def answered(answers: Sequence[Answer], resource: Sequence[UUID | None]) -> list[list[Any]]:
    """Tenant, client, route, key, digest, fields, resource, status and body, each as a column: for a service whose outcomes are decided
    before it stores anything, so that one statement claims the keys and stores their answers. That statement must insert them
    sorted by key, and fail as a whole when one of them is taken; then `claim` says what is stored there. The keys must be distinct.
    """
    rows = [
        (*answer.entry.identity, answer.entry.input.whole, answer.entry.input.fields, about, answer.status, answer.body)
        for answer, about in zip(answers, resource, strict=True)
    ]
    return arguments(rows, 9)


async def withdraw(tx: Transaction, tenant: str, resources: Sequence[UUID], instead: Problem) -> int:
    """Replace the stored answers about these resources by `instead`, in the transaction that erases the resources; returns how many.
    Their digests, which are hashes of what is to be erased, go as well. So any request with one of these keys gets `instead` from
    then on, whatever its input.

    A service that calls this often should have an index on `resource`; the others have no use for one.
    """
    return await tx.execute(Q.withdraw, tenant, resources, instead.status, msgspec.json.encode(instead.document()))


async def purge(database: Database, now: datetime, retention: timedelta = RETENTION) -> int:
    """Delete answered keys older than `retention`; returns how many. Called by a schedule."""
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
    # The answer of a key without digest was withdrawn: there is nothing to compare the input with.
    if not whole or hmac.compare_digest(entry.input.whole, whole):
        return stored
    return Mismatch(entry.input.differing(fields))
