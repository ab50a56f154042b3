"""What must be true when a run is over, whatever happened in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from tallystick.services.ledger.model import Account, Command
from tests.services.ledger.support import Naive
from tests.support.history import _Bounds

if TYPE_CHECKING:
    from tests.simulation.world import Answer, Intention, World

Values = dict[str, Any]
_TOTALS = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")


def violations(world: World) -> list[str]:
    """Each begins with the name of the invariant that does not hold."""
    tables = world.server.tables
    found = ["deadlock: transactions waited in a circle"] if world.server.deadlocks else []
    for book in tables["book"].values():
        transfers = sorted(
            (row for row in tables["transfer"].values() if row["book"] == book["id"]), key=lambda row: row["sequence"]
        )
        found += _book(world, book, transfers)
    found += _answers(world)
    return found


def _book(world: World, book: Values, transfers: list[Values]) -> Iterator[str]:
    tables = world.server.tables
    numbers = [row["sequence"] for row in transfers]
    if numbers != list(range(1, book["sequence"] + 1)):
        yield f"sequence: book {book['id']} is at {book['sequence']} and has {numbers}"
        return
    if any(one["recorded_at"] > two["recorded_at"] for one, two in pairwise(transfers)):
        yield "time: a later transfer is recorded as earlier"
    accounts = {row["id"]: row for row in tables["account"].values() if row["book"] == book["id"]}
    naive, seen = _replayed(accounts, transfers)
    if isinstance(seen, str):
        yield seen
        return
    for row in accounts.values():
        if tuple(row[name] for name in _TOTALS) != naive.sums(row["id"]):
            yield f"totals: account {row['id']}"
        if row["floor"] is not None and naive.available(row["id"]) < row["floor"]:
            yield f"floor: account {row['id']}"
    sums = [sum(row[name] for row in accounts.values()) for name in _TOTALS]
    if sums[0] != sums[2] or sums[1] != sums[3]:
        yield f"conservation: {sums}"
    yield from _drawn(tables, book["id"], naive)
    yield from _facts(tables, book)
    yield from _in_time(world, book, transfers, seen)
    for tenant, account, as_of in world.closed:
        if tenant == book["tenant"] and any(
            account in (row["debit_account"], row["credit_account"]) for row in transfers[as_of:]
        ):
            yield f"closed: something moved on {account} after {as_of}"
    codes = Counter(row["code"] for row in transfers if row["kind"] != "expire")
    if codes and max(codes.values()) > 1:
        yield f"twice: {[code for code, many in codes.items() if many > 1]}"


def _replayed(accounts: dict[Any, Values], transfers: list[Values]) -> tuple[Naive, dict[int, dict[Any, Any]] | str]:
    """The naive rules over what was posted, in its order; and all accounts' sums after each number."""
    naive = Naive(
        {
            key: Account(key, 1, row["currency"], row["normal_side"] == "debit", row["floor"], False, 0, 0, 0, 0, 0)
            for key, row in accounts.items()
        }
    )
    naive.last = datetime.min.replace(tzinfo=UTC)  # the replicas' clocks may be behind the one that the world began by
    seen = {0: {key: naive.sums(key) for key in accounts}}
    for row in transfers:
        moves = row["kind"] in {"post", "hold"}
        expires_in = (
            None if row["expires_at"] is None else int((row["expires_at"] - row["recorded_at"]).total_seconds())
        )
        command = Command(
            kind=row["kind"],
            id=row["id"],
            debit=row["debit_account"] if moves else None,
            credit=row["credit_account"] if moves else None,
            amount=None if row["kind"] in {"void", "expire"} else row["amount"],
            currency=row["currency"],
            target=row["target"],
            final=row["kind"] == "capture" and row["released"] > row["amount"],
            expires_in=expires_in,
        )
        if not naive.apply(command, row["recorded_at"]):
            return naive, f"rules: {row['kind']} at {row['sequence']} would have been refused"
        _, amount, released, debit, credit = naive.posted[-1]
        if (amount, released, debit, credit) != tuple(
            row[name] for name in ("amount", "released", "debit_account", "credit_account")
        ):
            return naive, f"rules: {row['kind']} at {row['sequence']} would have been {amount}, {released}"
        seen[row["sequence"]] = {key: naive.sums(key) for key in accounts}
    return naive, seen


def _drawn(tables: dict[str, Any], book: int, naive: Naive) -> Iterator[str]:
    for hold in tables["hold"].values():
        if hold["book"] != book:
            continue
        children = naive._children(hold["id"])
        captured = sum(amount for child, amount, *_ in children if child.kind == "capture")
        left = hold["amount"] - sum(released for _, _, released, *_ in children)
        if (hold["captured"], hold["remaining"]) != (captured, left) or (hold["state"] == "held") != (left > 0):
            yield f"hold: {hold}, and {captured} was captured and {left} is left"
    undone: Counter[Any] = Counter()
    for command, amount, *_ in naive.posted:
        if command.kind == "reverse":
            undone[command.target] += amount
    kept = {row["id"]: row["reversed"] for row in tables["reversal"].values() if row["book"] == book}
    if kept != undone:
        yield f"reversal: {kept}, and {undone} was reversed"
    both = {key for key in tables["rejection"] if key in tables["transfer"]}
    if both:
        yield f"refused and posted: {both}"


def _facts(tables: dict[str, Any], book: Values) -> Iterator[str]:
    """Every transfer was told once, in facts that cover the numbers without a gap."""
    told = []
    for row in tables["outbox"].values():
        if row["type"] != "ledger.transfers.posted":
            continue
        data = msgspec.json.decode(row["fact"])["data"]
        if data["book"] == book["id"]:
            told.append((data["first"], data["last"], data["count"]))
    reached = 0
    for first, last, count in sorted(told):
        if first != reached + 1 or last - first + 1 != count:
            yield f"facts: {sorted(told)}"
            return
        reached = last
    if reached != book["sequence"]:
        yield f"facts: told up to {reached}, the book is at {book['sequence']}"


def _in_time(world: World, book: Values, transfers: list[Values], seen: dict[int, dict[Any, Any]]) -> Iterator[str]:
    """Nothing is numbered before what had ended before it was asked for; no balance is older than what was known when it was asked."""
    number_of = {row["id"]: row["sequence"] for row in transfers}
    bounds = _Bounds()
    effects = []
    for one in world.intentions:
        if one.tenant != book["tenant"]:
            continue
        numbers = [number_of[command.id] for command in one.commands if command.id in number_of]
        # An answer that nothing was done may be older than a later attempt that did something; then only the sending counts.
        posted = any(answer.status != "rejected" for answers in one.answers for answer in answers)
        effects += [(one, number) for number in numbers]
        for number in numbers:
            bounds.began.append((one.first_sent, number - 1))
            if posted:
                bounds.ended.append((one.first_answer, number))
    reads = [read for read in world.seen if read.tenant == book["tenant"]]
    for read in reads:
        bounds.ended.append((read.got, read.row.as_of))
        bounds.began.append((read.sent, read.row.as_of))
    bounds.ready()
    for one, number in effects:
        if bounds.low(one.first_sent) >= number:
            yield f"order: {one.number} at {number} was passed before it was sent"
    for read in reads:
        if not bounds.low(read.sent) <= read.row.as_of <= bounds.high(read.got):
            yield f"stale: {read}"
        dp, d, cp, c = seen[read.row.as_of][read.row.id]
        if (read.row.debits_posted, read.row.credits_posted) != (d, c):
            yield f"balance: {read}"
        # Expired holds are not counted before they are swept.
        if read.row.debits_pending > dp or read.row.credits_pending > cp:
            yield f"pending: {read}"


def _answers(world: World) -> Iterator[str]:
    tables = world.server.tables
    number = {book["tenant"]: book["id"] for book in tables["book"].values()}
    for one in world.intentions:
        book = number.get(one.tenant)
        if len(one.bodies) > 1:
            yield f"key: {one.number} has {len(one.bodies)} answers under one key"
        stored = tables["idempotency"].get((one.tenant, "cli_sim", "POST /v1/transfers", one.key))
        if one.bodies and (stored is None or stored["body"] not in one.bodies):
            yield f"key: the answer of {one.number} is not the one that is stored"
        for place, command in enumerate(one.commands):
            row = tables["transfer"].get((book, command.id))
            refusal = tables["rejection"].get((book, command.id))
            for answers in one.answers:
                if (no := _contradicts(answers[place], row, refusal)) is not None:
                    yield f"answer: {one.number}.{place} {command.kind} was told {answers[place]}, but {no}"
        yield from _whole(one, book, tables)


def _contradicts(answer: Answer, row: Values | None, refusal: Values | None) -> str | None:
    """What is kept that the answer denies, or the other way round."""
    if answer.status != "rejected":
        if row is None:
            return "it is not there"
        return None if row["sequence"] == answer.sequence else f"it has the number {row['sequence']}"
    if answer.reason == "linked_transfer_failed":
        return None
    if row is not None:
        return f"it was posted at {row['sequence']}"
    if refusal is None or refusal["reason"] != answer.reason:
        return f"{refusal} is what is pinned"
    return None


def _whole(one: Intention, book: int | None, tables: dict[str, Any]) -> Iterator[str]:
    if not one.atomic:
        return
    there = [(book, command.id) in tables["transfer"] for command in one.commands]
    if any(there) and not all(there):
        yield f"atomic: of {one.number} only a part is there: {there}"
