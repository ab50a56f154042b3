"""What was posted, once more by the naive rules: in its order, and with what was said of accounts and books meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from tallystick.services.ledger.model import Account, Command
from tests.services.ledger.support import Naive
from tests.simulation.clients import Place
from tests.simulation.server import Change

if TYPE_CHECKING:
    from tests.simulation.world import World

Values = dict[str, Any]
_SHORT = ("insufficient_funds", "ceiling_exceeded", "nothing_to_move")
_POSTED = ("post", "capture", "reverse")


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


def replayed(rules: Rules, transfers: list[Values]) -> tuple[Naive, dict[int, dict[Any, Any]] | str]:
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
        # All others are as they were.
        seen[row["sequence"]] = seen[row["sequence"] - 1] | {key: naive.sums(key) for key in (debit, credit)}
    for change in reversed(changes):
        rules.apply(change, naive)
    return naive, seen


def effective_sums(transfers: list[Values], account: Any, before: datetime) -> tuple[int, int]:
    """Posted debits and credits of what is effective before that."""
    sums = [0, 0]
    for row in transfers:
        if row["kind"] in _POSTED and (row["effective_at"] or row["recorded_at"]) < before:
            for side, name in enumerate(("debit_account", "credit_account")):
                sums[side] += row["amount"] if row[name] == account else 0
    return sums[0], sums[1]


def past(rules: Rules, transfers: list[Values]) -> Iterator[str]:
    """What is dated back breaks no limit at the end of any day that was over, as it was known then, in a book that is strict."""
    for row in transfers:
        if row["effective_at"] is None:
            continue
        if row["effective_at"] >= row["recorded_at"] or row["kind"] not in {"post", "reverse"}:
            yield f"past: {row} is not dated back"
        if rules.last("backdating", row["sequence"], rules.book["backdating"]) == "strict":
            for over in breached(rules, transfers, row):
                yield f"past: {row['sequence']} breaks a limit on {over}"


def breached(rules: Rules, transfers: list[Values], row: Values) -> set[date]:
    """The days at whose end a transaction that is dated back, of which this is the last transfer, breaks a limit, as was known then."""
    own = row["transaction"]
    unit = [row] if own is None else [one for one in transfers if one["transaction"] == own]
    if unit[-1]["sequence"] != row["sequence"]:
        return set()
    debited = Counter[Any]()
    for one in unit:
        debited[one["debit_account"]] += one["amount"]
        debited[one["credit_account"]] -= one["amount"]
    found = set()
    for key, change in debited.items():
        account = rules.accounts[key]
        floor, ceiling = rules.limits(key, row["sequence"])
        grows = (change > 0) == (account["normal_side"] == "debit")
        limit = ceiling if grows else floor
        if change == 0 or limit is None:
            continue
        day = row["effective_at"].date()
        while day < row["recorded_at"].date():
            day += timedelta(days=1)
            over = datetime.combine(day, time(), UTC)
            debits, credits_ = effective_sums(transfers[: row["sequence"]], account["id"], over)
            posted = debits - credits_ if account["normal_side"] == "debit" else credits_ - debits
            if posted > limit if grows else posted < limit:
                found.add(day - timedelta(days=1))
    return found


def blocked(world: World, place: Place, rules: Rules, transfers: list[Values]) -> Iterator[str]:
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
