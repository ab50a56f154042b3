"""What must be true when a run is over, whatever happened in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from tallystick.services.ledger.model import MICROSECOND, Command
from tests.services.ledger.support import Naive
from tests.simulation.clients import CLIENT, ROUTE, Answers, Intention, Place
from tests.simulation.replay import Rules, blocked, effective_sums, past, replayed
from tests.simulation.server import Change
from tests.support.history import _Bounds

if TYPE_CHECKING:
    from tests.simulation.world import World

Values = dict[str, Any]
_SHORT = ("insufficient_funds", "ceiling_exceeded", "nothing_to_move")
_POSTED = ("post", "capture", "reverse")
#: Refusals after which the same id may be posted yet.
NOT_PINNED = ("approval_required",)
#: The same of some kinds only: what goes on with a hold may come again when the account is thawed.
OF_THE_MOMENT = (("account_frozen", "capture"), ("account_frozen", "increase"))
_TOTALS = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")


def violations(world: World) -> list[str]:
    """Each begins with the name of the invariant that does not hold."""
    found = []
    if any(shard.server.deadlocks for shard in world.shards.values()):
        found.append("deadlock: transactions waited in a circle")
    for place, book, transfers, changes in world.books():
        found += _book(world, place, book, transfers, changes)
    found += _answers(world)
    return found


def _book(world: World, place: Place, book: Values, transfers: list[Values], changes: list[Change]) -> Iterator[str]:
    tables = world.tables(place)
    numbers = [row["sequence"] for row in transfers]
    if numbers != list(range(1, book["sequence"] + 1)):
        yield f"sequence: book {book['id']} is at {book['sequence']} and has {numbers}"
        return
    if any(one["recorded_at"] > two["recorded_at"] for one, two in pairwise(transfers)):
        yield "time: a later transfer is recorded as earlier"
    accounts = {row["id"]: row for row in tables["account"].values() if row["book"] == book["id"]}
    rules = Rules(book, accounts, changes)
    naive, seen = replayed(rules, transfers)
    if isinstance(seen, str):
        yield seen
        return
    for row in accounts.values():
        if tuple(row[name] for name in _TOTALS) != naive.sums(row["id"]):
            yield f"totals: account {row['id']}"
        if row["floor"] is not None and naive.available(row["id"]) < row["floor"]:
            yield f"floor: account {row['id']}"
        if row["ceiling"] is not None and naive.incoming(row["id"]) > row["ceiling"]:
            yield f"ceiling: account {row['id']}"
    for currency in {row["currency"] for row in accounts.values()}:
        sums = [sum(row[name] for row in accounts.values() if row["currency"] == currency) for name in _TOTALS]
        if sums[0] != sums[2] or sums[1] != sums[3]:
            yield f"conservation: {currency} {sums}"
    yield from _drawn(tables, book["id"], naive)
    yield from _transactions(tables, book["id"], transfers)
    yield from past(rules, transfers)
    yield from blocked(world, place, rules, transfers)
    yield from _facts(tables, book)
    yield from _in_time(world, place, transfers, seen)
    said = {command.code for one in world.clients.intentions for command in one.commands}
    codes = Counter(row["code"] for row in transfers if row["code"] in said)
    if codes and max(codes.values()) > 1:
        yield f"twice: {[code for code, many in codes.items() if many > 1]}"


def _drawn(tables: dict[str, Any], book: int, naive: Naive) -> Iterator[str]:
    for hold in tables["hold"].values():
        if hold["book"] != book:
            continue
        _, first, *_ = naive._original(hold["id"]) or (None, 0)
        children = naive._children(hold["id"])
        whole = first + sum(amount for child, amount, *_ in children if child.kind == "increase")
        captured = sum(amount for child, amount, *_ in children if child.kind == "capture")
        off = sum(released for child, _, released, *_ in children if child.kind != "increase")
        kept = tuple(hold[name] for name in ("amount", "captured", "remaining", "expires_at"))
        right = (whole, captured, whole - off, naive.expiries[hold["id"]])
        if kept != right or (hold["state"] == "held") != (whole > off):
            yield f"hold: {hold}, and it would be {right}"
    undone: Counter[Any] = Counter()
    for command, amount, *_ in naive.posted:
        if command.kind == "reverse":
            undone[command.target] += amount
    reversed_ = {row["id"]: row["reversed"] for row in tables["reversal"].values() if row["book"] == book}
    if reversed_ != undone:
        yield f"reversal: {reversed_}, and {undone} was reversed"
    both = {key for key in tables["rejection"] if key in tables["transfer"]}
    if both:
        yield f"refused and posted: {both}"


def _transactions(tables: dict[str, Any], book: int, transfers: list[Values]) -> Iterator[str]:
    """A transaction is all of the transfers with its numbers, and they are nobody else's. What undoes one leaves nothing of it on any account."""
    made: dict[Any, list[Values]] = {}
    for row in transfers:
        if row["transaction"] is not None:
            made.setdefault(row["transaction"], []).append(row)
    rows = {row["id"]: row for row in tables["transaction"].values() if row["book"] == book}
    if made.keys() != rows.keys():
        yield f"transaction: {set(rows)} are kept, and there are transfers of {set(made)}"
        return
    undone: Counter[Any] = Counter()
    for own, row in rows.items():
        legs = made[own]
        if [leg["sequence"] for leg in legs] != list(range(row["first"], row["last"] + 1)):
            yield f"transaction: {row} has {legs}"
        if row["recorded_at"] != legs[-1]["recorded_at"] or {leg["effective_at"] for leg in legs} != {
            row["effective_at"]
        }:
            yield f"transaction: the times of {row} are not those of {legs}"
        if row["reverses"] is not None:
            undone[row["reverses"]] += 1
            if _moved(made[row["reverses"]]) != {account: -moved for account, moved in _moved(legs).items()}:
                yield f"undone: {row} leaves something of what it reverses"
    if any(many > 1 for many in undone.values()):
        yield f"undone: more than once: {undone}"


def _moved(legs: list[Values]) -> dict[Any, int]:
    """Debits less credits, by account."""
    found: Counter[Any] = Counter()
    for leg in legs:
        found[leg["debit_account"]] += leg["amount"]
        found[leg["credit_account"]] -= leg["amount"]
    return found


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


def _in_time(world: World, place: Place, transfers: list[Values], seen: dict[int, dict[Any, Any]]) -> Iterator[str]:
    """Nothing is numbered before what had ended before it was asked for; no balance is older than what was known when it was asked."""
    number_of = {row["id"]: row["sequence"] for row in transfers}
    bounds = _Bounds()
    effects = []
    for one in world.clients.intentions:
        if one.place != place:
            continue
        for nth, command in enumerate(one.commands):
            number = number_of.get(command.id)
            if number is None:
                continue
            effects.append((one, number))
            bounds.began.append((one.first_sent, number - 1))
            # An answer that nothing was done may be older than a later attempt that did something; then only the sending counts.
            if (told := one.first_told(nth)) < inf:
                bounds.ended.append((told, number))
    reads = [read for read in world.clients.seen if read.place == place]
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
        at = read.row.as_of
        dp, d, cp, c = seen[at][read.row.id]
        if read.effective is not None:
            # As it is known now; what was held then, as it was recorded then.
            until = read.effective + MICROSECOND
            d, c = effective_sums(transfers[:at], read.row.id, until)
            dp, _, cp, _ = seen[sum(row["recorded_at"] < until for row in transfers[:at])][read.row.id]
        if (read.row.debits_posted, read.row.credits_posted) != (d, c):
            yield f"balance: {read}"
        # Of now, expired holds are not counted before they are swept.
        held = (read.row.debits_pending, read.row.credits_pending)
        if held != (dp, cp) if read.effective is not None else held[0] > dp or held[1] > cp:
            yield f"pending: {read}"
    tables, book = world.tables(place), world.number(place)
    for look in world.clients.found:
        if look.place != place:
            continue
        kept = tables["transaction"].get((book, look.id))
        if look.transfers is None:
            if kept is not None and kept["last"] <= bounds.low(look.sent):
                yield f"stale: {look}"
            continue
        row, legs = look.transfers
        right = [] if kept is None else [values for values in transfers if values["transaction"] == look.id]
        if msgspec.structs.asdict(row) != kept or [msgspec.structs.asdict(leg) for leg in legs] != right:
            yield f"transaction: {look} is not {kept}"


def _answers(world: World) -> Iterator[str]:
    for one in world.clients.intentions:
        tables, book = world.tables(one.place), world.number(one.place)
        if len(one.bodies) > 1:
            yield f"key: {one.number} has {len(one.bodies)} answers under one key"
        stored = tables["idempotency"].get((one.place[0], CLIENT, ROUTE, one.key))
        if len(one.proposals) > 1 and one.key is not None:
            yield f"key: {one.number} has {len(one.proposals)} proposals under one key"
        if (
            one.key is not None
            and (said := one.bodies | one.proposals)
            and (stored is None or stored["body"] not in said)
        ):
            yield f"key: the answer of {one.number} is not the one that is stored"
        for place, command in enumerate(one.commands):
            row = tables["transfer"].get((book, command.id))
            refusal = tables["rejection"].get((book, command.id))
            for answers in one.answers:
                if (no := _contradicts(one, answers, place, row, refusal)) is not None:
                    yield f"answer: {one.number}.{place} {command.kind} was told {answers.each[place]}, but {no}"
            if row is not None and (no := _differs(command, row)) is not None:
                yield f"said: {one.number}.{place} has another {no}: {command} is {row}"
        row = None if one.header is None else tables["transaction"].get((book, one.header.id))
        if one.header is not None and row is not None:
            header = msgspec.structs.asdict(one.header)
            if {name: row[name] for name in header} != header:
                yield f"said: {one.number} has another header: {row}"
        yield from _whole(one, book, tables)


def _contradicts(
    one: Intention, answers: Answers, place: int, row: Values | None, refusal: Values | None
) -> str | None:
    """What is kept that the answer denies, or the other way round."""
    answer = answers.each[place]
    if answer.status != "rejected":
        if row is None:
            return "it is not there"
        return None if row["sequence"] == answer.sequence else f"it has the number {row['sequence']}"
    if answer.reason == "linked_transfer_failed":
        return None
    if answer.reason in NOT_PINNED or (answer.reason, one.commands[place].kind) in OF_THE_MOMENT:
        # It may have been posted later, not earlier.
        if row is not None and answers.sent > one.first_told(place):
            return f"somebody had been told before that it was posted at {row['sequence']}"
        return None
    if row is not None:
        return f"it was posted at {row['sequence']}"
    if refusal is None or refusal["reason"] != answer.reason:
        return f"{refusal} is what is pinned"
    return None


def _differs(command: Command, row: Values) -> str | None:
    """What is not as the command says. One that is balancing moved something, up to what it asked for."""
    said: Values = {
        "kind": command.kind,
        "target": command.target,
        "transaction": command.transaction,
        "effective_at": command.effective_at,
        "code": command.code,
        "asked": command.amount if command.balancing else None,
    }
    if command.kind in {"post", "hold"}:
        said |= {"debit_account": command.debit, "credit_account": command.credit}
    if command.amount is not None and not command.balancing:
        said["amount"] = command.amount
    if command.expires_in is not None:
        said["expires_at"] = row["recorded_at"] + timedelta(seconds=command.expires_in)
    if command.kind == "increase":
        said["released"] = -row["amount"]
    return next((name for name, value in said.items() if row[name] != value), None)


def _whole(one: Intention, book: int, tables: dict[str, Any]) -> Iterator[str]:
    """Of each unit and each chain there is all or nothing, and whoever was told so was told which of them was refused."""
    for places in one.wholes():
        there = [(book, one.commands[place].id) in tables["transfer"] for place in places]
        if any(there) and not all(there):
            yield f"{'atomic' if one.atomic else 'chain'}: of {one.number} only a part is there: {there}"
        for answers in one.answers:
            each = answers.each
            refused = [each[place].reason for place in places if each[place].status == "rejected"]
            culprits = [reason for reason in refused if reason != "linked_transfer_failed"]
            if set(culprits) == {"approval_required"} and len(culprits) == len(places):
                continue  # it is said of the whole
            if refused and (len(refused), len(culprits)) != (len(places), 1):
                yield f"{'atomic' if one.atomic else 'chain'}: of {one.number} {list(places)} was told {answers}"
