"""What must be true when a run is over, whatever happened in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec

from tallystick.services.ledger.model import MICROSECOND, Account, Command
from tests.services.ledger.support import Naive
from tests.simulation.clients import CLIENT, ROUTE, Answer, Intention, Place
from tests.simulation.server import Change, Server
from tests.support.history import _Bounds

if TYPE_CHECKING:
    from tests.simulation.world import World

Values = dict[str, Any]
_SHORT = ("insufficient_funds", "ceiling_exceeded", "nothing_to_move")
_POSTED = ("post", "capture", "reverse")
_TOTALS = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")


def violations(world: World) -> list[str]:
    """Each begins with the name of the invariant that does not hold."""
    found = []
    for shard in world.shards.values():
        server = shard.server
        if server.deadlocks:
            found.append("deadlock: transactions waited in a circle")
        for book in server.tables["book"].values():
            if book["shard"] == shard.name:
                transfers = [row for row in server.tables["transfer"].values() if row["book"] == book["id"]]
                transfers.sort(key=lambda row: row["sequence"])
                found += _book(world, server, book, transfers)
    found += _answers(world)
    return found


def _book(world: World, server: Server, book: Values, transfers: list[Values]) -> Iterator[str]:
    tables = server.tables
    numbers = [row["sequence"] for row in transfers]
    if numbers != list(range(1, book["sequence"] + 1)):
        yield f"sequence: book {book['id']} is at {book['sequence']} and has {numbers}"
        return
    if any(one["recorded_at"] > two["recorded_at"] for one, two in pairwise(transfers)):
        yield "time: a later transfer is recorded as earlier"
    accounts = {row["id"]: row for row in tables["account"].values() if row["book"] == book["id"]}
    changes = [change for change in server.changes if change.book == book["id"]]
    rules = Rules(book, accounts, changes)
    naive, seen = _replayed(rules, transfers)
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
    place = (book["tenant"], book["name"])
    yield from _drawn(tables, book["id"], naive)
    yield from _transactions(tables, book["id"], transfers)
    yield from _past(rules, transfers)
    yield from _blocked(world, place, rules, transfers)
    yield from _facts(tables, book)
    yield from _in_time(world, place, transfers, seen)
    said = {command.code for one in world.clients.intentions for command in one.commands}
    codes = Counter(row["code"] for row in transfers if row["code"] in said)
    if codes and max(codes.values()) > 1:
        yield f"twice: {[code for code, many in codes.items() if many > 1]}"


class Rules:
    """What the rules read of a book besides its transfers, as of each number: from what was stored of it, and when."""

    def __init__(self, book: Values, accounts: dict[Any, Values], changes: Sequence[Change]) -> None:
        self.book, self.accounts, self.changes = book, accounts, changes

    def naive(self) -> Naive:
        """The naive rules over no transfers yet, with accounts as they were opened."""
        made = Naive({key: self._opened(key, row) for key, row in self.accounts.items()})
        # The replicas' clocks may be behind the one that the world began by.
        made.last = datetime.min.replace(tzinfo=UTC)
        return made

    def _opened(self, key: Any, row: Values) -> Account:
        floor, ceiling = self.limits(key, 0)
        return Account(
            id=key,
            book=1,
            currency=row["currency"],
            debit_normal=row["normal_side"] == "debit",
            floor=floor,
            closed=False,
            version=0,
            debits_pending=0,
            debits_posted=0,
            credits_pending=0,
            credits_posted=0,
            ceiling=ceiling,
            transit=(row["path"] or "").startswith("transit:"),
        )

    @staticmethod
    def apply(change: Change, naive: Naive) -> None:
        if change.kind in {"closed", "frozen"}:
            setattr(naive.accounts[change.said[0]], change.kind, change.said[1])
        elif change.kind == "limits":
            account = naive.accounts[change.said[0]]
            account.floor, account.ceiling = change.said[1:3]

    def limits(self, account: Any, sequence: int) -> tuple[int | None, int | None]:
        """Floor and ceiling that counted for the transfer with this number."""
        row = self.accounts[account]
        found: tuple[int | None, int | None] = (row["floor"], row["ceiling"])
        for change in reversed(self.changes):
            if change.kind == "limits" and change.said[0] == account:
                if change.sequence < sequence:
                    return change.said[1:3]  # type: ignore[no-any-return]
                found = change.said[3:5]
        return found

    def last(self, kind: str, sequence: int, default: Any) -> Any:
        """What was said last of this kind before the transfer with this number."""
        said = [change.said for change in self.changes if change.kind == kind and change.sequence < sequence]
        return said[-1] if said else default


def _replayed(rules: Rules, transfers: list[Values]) -> tuple[Naive, dict[int, dict[Any, Any]] | str]:
    """The naive rules over what was posted, in its order, and over what was said of accounts meanwhile; and all accounts' sums after each number."""
    naive = rules.naive()
    changes = list(reversed(rules.changes))
    seen = {0: {key: naive.sums(key) for key in naive.accounts}}
    for row in transfers:
        while changes and changes[-1].sequence < row["sequence"]:
            rules.apply(changes.pop(), naive)
        moves, balancing = row["kind"] in {"post", "hold"}, row["asked"] is not None
        expires_in = (
            None if row["expires_at"] is None else int((row["expires_at"] - row["recorded_at"]).total_seconds())
        )
        command = Command(
            kind=row["kind"],
            id=row["id"],
            debit=row["debit_account"] if moves else None,
            credit=row["credit_account"] if moves else None,
            amount=None if row["kind"] in {"void", "expire"} else row["asked" if balancing else "amount"],
            currency=row["currency"],
            target=row["target"],
            final=row["kind"] == "capture" and row["released"] > row["amount"],
            expires_in=expires_in,
            balancing=balancing,
        )
        both = [naive.accounts[row[f"{side}_account"]] for side in ("debit", "credit")]
        thawed = [one for one in both if row["kind"] == "capture" and any(each.transit for each in both) and one.frozen]
        for one in thawed:
            one.frozen = False  # what has arrived in another book has left this one
        if not naive.apply(command, row["recorded_at"]):
            return naive, f"rules: {row['kind']} at {row['sequence']} would have been refused"
        for one in thawed:
            one.frozen = True
        _, amount, released, debit, credit = naive.posted[-1]
        if (amount, released, debit, credit) != tuple(
            row[name] for name in ("amount", "released", "debit_account", "credit_account")
        ):
            return naive, f"rules: {row['kind']} at {row['sequence']} would have been {amount}, {released}"
        seen[row["sequence"]] = {key: naive.sums(key) for key in naive.accounts}
    for change in reversed(changes):
        rules.apply(change, naive)
    return naive, seen


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


def _effective(transfers: list[Values], account: Any, before: datetime) -> tuple[int, int]:
    """Posted debits and credits of what is effective before that."""
    sums = [0, 0]
    for row in transfers:
        if row["kind"] in _POSTED and (row["effective_at"] or row["recorded_at"]) < before:
            for side, name in enumerate(("debit_account", "credit_account")):
                sums[side] += row["amount"] if row[name] == account else 0
    return sums[0], sums[1]


def _past(rules: Rules, transfers: list[Values]) -> Iterator[str]:
    """What is dated back breaks no limit at the end of any day that was over, as it was known then, in a book that is strict."""
    for row in transfers:
        if row["effective_at"] is None:
            continue
        if row["effective_at"] >= row["recorded_at"] or row["kind"] not in {"post", "reverse"}:
            yield f"past: {row} is not dated back"
        if rules.last("backdating", row["sequence"], rules.book["backdating"]) == "strict":
            for over in breached(rules, transfers, row):
                yield f"past: {row['sequence']} breaks a limit before {over}"


def breached(rules: Rules, transfers: list[Values], row: Values) -> list[datetime]:
    """The ends of days at which a transfer that is dated back breaks a limit."""
    found = []
    for side in ("debit", "credit"):
        account = rules.accounts[row[f"{side}_account"]]
        floor, ceiling = rules.limits(account["id"], row["sequence"])
        grows = account["normal_side"] == side
        limit = ceiling if grows else floor
        if limit is None:
            continue
        day = row["effective_at"].date()
        while day < row["recorded_at"].date():
            day += timedelta(days=1)
            over = datetime.combine(day, time(), UTC)
            debits, credits_ = _effective(transfers[: row["sequence"]], account["id"], over)
            posted = debits - credits_ if account["normal_side"] == "debit" else credits_ - debits
            if posted > limit if grows else posted < limit:
                found.append(over)
    return found


def _blocked(world: World, place: Place, rules: Rules, transfers: list[Values]) -> Iterator[str]:
    """Nobody was refused, or moved less than was asked for, because of a hold that had expired by the book's time."""
    tables, number = world.tables(place), rules.book["id"]
    for one in world.clients.intentions:
        for command in one.commands if one.place == place else ():
            row = tables["transfer"].get((number, command.id))
            no = tables["rejection"].get((number, command.id))
            if row is not None and (row["asked"] or 0) > row["amount"]:
                known, now = transfers[: row["sequence"] - 1], row["recorded_at"]
            elif no is not None and no["reason"] in _SHORT and no["after"] and command.kind in {"post", "hold"}:
                known = transfers[: no["after"]]
                now = known[-1]["recorded_at"]
            else:
                continue
            bounds = [
                (side, named)
                for side, named in (("debit", command.debit), ("credit", command.credit))
                if rules.limits(named, len(known) + 1)[rules.accounts[named]["normal_side"] == side] is not None
            ]
            # Of two the other one may be the cause of a refusal.
            if row is not None or len(bounds) == 1:
                for hold in (hold for side, named in bounds for hold in _due(known, side, named, now)):
                    yield f"blocked: {one.number} {command} by {hold}, which had expired"


def _due(known: list[Values], side: str, account: Any, now: datetime) -> Iterator[Values]:
    """Holds that had expired and still held something of the account."""
    for hold in known:
        if hold["kind"] == "hold" and hold[f"{side}_account"] == account:
            drawn = [row for row in known if row["target"] == hold["id"]]
            expiries = [row["expires_at"] for row in [hold, *drawn] if row["expires_at"] is not None]
            left = hold["amount"] - sum(row["released"] for row in drawn)
            if left and expiries and expiries[-1] <= now:
                yield hold


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
        numbers = [number_of[command.id] for command in one.commands if command.id in number_of]
        # An answer that nothing was done may be older than a later attempt that did something; then only the sending counts.
        posted = any(answer.status != "rejected" for answers in one.answers for answer in answers)
        effects += [(one, number) for number in numbers]
        for number in numbers:
            bounds.began.append((one.first_sent, number - 1))
            if posted:
                bounds.ended.append((one.first_answer, number))
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
            d, c = _effective(transfers[:at], read.row.id, until)
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
        if one.bodies and (stored is None or stored["body"] not in one.bodies):
            yield f"key: the answer of {one.number} is not the one that is stored"
        for place, command in enumerate(one.commands):
            row = tables["transfer"].get((book, command.id))
            refusal = tables["rejection"].get((book, command.id))
            for answers in one.answers:
                if (no := _contradicts(answers[place], row, refusal)) is not None:
                    yield f"answer: {one.number}.{place} {command.kind} was told {answers[place]}, but {no}"
            if row is not None and (no := _differs(command, row)) is not None:
                yield f"said: {one.number}.{place} has another {no}: {command} is {row}"
        row = None if one.header is None else tables["transaction"].get((book, one.header.id))
        if one.header is not None and row is not None:
            header = msgspec.structs.asdict(one.header)
            if {name: row[name] for name in header} != header:
                yield f"said: {one.number} has another header: {row}"
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
            refused = [answers[place].reason for place in places if answers[place].status == "rejected"]
            culprits = [reason for reason in refused if reason != "linked_transfer_failed"]
            if refused and (len(refused), len(culprits)) != (len(places), 1):
                yield f"{'atomic' if one.atomic else 'chain'}: of {one.number} {list(places)} was told {answers}"
