"""Transfers between books: their accounts, their ids, and the commands for each book. Pure.

Money that leaves a book is held for its transit account `transit:out:<the other book>:<currency>`. Money that arrives comes from
`transit:in:<the other book>:<currency>`. The hold's own row says where the money goes, so whoever finds it open can finish the transfer. The
money arrives under the hold's id. In the other book nothing else can come from a transit account under that id, since only these transfers may
touch transit accounts (`rules`).
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

from tallystick.contracts.ledger.messages import Reason
from tallystick.kernel.ids import AccountId, TransferId, hashed
from tallystick.services.ledger.model.paths import TRANSIT, account_ref
from tallystick.services.ledger.model.rows import NewAccount
from tallystick.services.ledger.model.values import Command, Transfer

#: The code of all transfers between books, except that the void of a refused one has the reason as its code.
CODE: Final = "interbook"

_ID: Final = b"tallystick.ledger.interbook:"

Ending = Literal["capture", "void"]


class BookAccount(msgspec.Struct, frozen=True):
    """An account of a book, by its id or its path."""

    book: str
    account: str


class Crossing(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer from one book to another: debits `source`, credits `destination`. `metadata` is JSON with sorted keys. `client` is the client
    that asked for it.
    """

    id: TransferId
    source: BookAccount
    destination: BookAccount
    amount: int
    currency: str
    client: str
    reference: str | None = None
    metadata: str | None = None


class Outcome(msgspec.Struct, frozen=True):
    """The final outcome in the other book: posted if `reason` is None, otherwise refused. `account` is the one at fault, if any: its id, or as it
    was named if it does not exist.
    """

    reason: str | None = None
    account: str | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a crossing. It is `in_flight` until its source book knows the outcome. If its hold was refused, there is nothing but its id, the
    reason and the account at fault.
    """

    id: TransferId
    state: Literal["in_flight", "posted", "rejected"]
    reason: str | None = None
    account: str | None = None
    crossing: Crossing | None = None
    hold: Transfer | None = None


class InFlight(NamedTuple):
    """An open hold on a transit account."""

    tenant: str
    book_name: str
    book: int
    hold: TransferId
    transit: AccountId


class _Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a hold says about its crossing, in its metadata."""

    to_book: str
    to_account: str
    from_book: str
    from_account: str
    client: str
    reference: str | None = None
    metadata: str | None = None


_encode: Final = msgspec.json.Encoder(order="sorted").encode
_kept: Final = msgspec.json.Decoder(dict[str, str]).decode


def transit_path(way: Literal["in", "out"], other: str, currency: str) -> str:
    return f"{TRANSIT}{way}:{other}:{currency}"


def transit_account(tenant: str, book: str, way: Literal["in", "out"], other: str, currency: str) -> NewAccount:
    """The transit account of a book: what it owes the other book (`out`), or what the other owes it (`in`). Its id is derived from its place."""
    path = transit_path(way, other, currency)
    return NewAccount(
        id=AccountId(hashed(_ID + f"account:{tenant}/{book}/{path}".encode())),
        name=f"in transit {'to' if way == 'out' else 'from'} {other}",
        path=path,
        kind="liability" if way == "out" else "asset",
        currency=currency,
        normal_side="credit" if way == "out" else "debit",
        floor=None,
        code=CODE,
        metadata=None,
    )


def departure(crossing: Crossing, transit: AccountId) -> Command:
    """The hold in the source book. It never expires: only its crossing ends it."""
    kept = _Kept(
        to_book=crossing.destination.book,
        to_account=crossing.destination.account,
        from_book=crossing.source.book,
        from_account=crossing.source.account,
        client=crossing.client,
        reference=crossing.reference,
        metadata=crossing.metadata,
    )
    said = {name: value for name, value in msgspec.structs.asdict(kept).items() if value is not None}
    return Command(
        kind="hold",
        id=crossing.id,
        debit=account_ref(crossing.source.account),
        credit=transit,
        amount=crossing.amount,
        currency=crossing.currency,
        code=CODE,
        metadata=_encode(said).decode(),
    )


def crossing_of(tenant: str, hold: Transfer) -> Crossing | None:
    """The crossing for which the hold was made. None for any other transfer, whatever its code and its metadata say."""
    try:
        said = msgspec.convert(_kept(hold.metadata or "{}"), _Kept)
    except msgspec.ValidationError:
        return None
    transit = transit_account(tenant, said.from_book, "out", said.to_book, hold.currency)
    if hold.kind != "hold" or hold.credit_account != transit.id:
        return None
    return Crossing(
        id=hold.id,
        source=BookAccount(said.from_book, said.from_account),
        destination=BookAccount(said.to_book, said.to_account),
        amount=hold.amount,
        currency=hold.currency,
        client=said.client,
        reference=said.reference,
        metadata=said.metadata,
    )


def arrival(crossing: Crossing, transit: AccountId) -> Command:
    """The post in the destination book; the same on every attempt."""
    said = {"from_book": crossing.source.book, "from_account": crossing.source.account}
    if crossing.reference is not None:
        said["reference"] = crossing.reference
    return Command(
        kind="post",
        id=crossing.id,
        debit=transit,
        credit=account_ref(crossing.destination.account),
        amount=crossing.amount,
        currency=crossing.currency,
        code=CODE,
        metadata=_encode(said).decode(),
    )


def ending(book: str, crossing: Crossing, outcome: Outcome, attempt: int = 0) -> Command:
    """The hold's capture, or its void with the reason as its code and the account at fault in its metadata. `attempt` selects another id, in case
    somebody used the first one for something else. The hold itself ensures that only one attempt succeeds.
    """
    kind: Ending = "capture" if outcome.reason is None else "void"
    key = f"{kind}:{book}:{attempt}:".encode() + crossing.id.bytes
    return Command(
        kind=kind,
        id=TransferId(hashed(_ID + key)),
        target=crossing.id,
        code=outcome.reason or CODE,
        metadata=None if outcome.account is None else _encode({"account": outcome.account}).decode(),
    )


def outcome_of(code: str | None, metadata: str | None) -> Outcome:
    """The outcome by the void that ended the hold: the inverse of `ending`."""
    return Outcome(code, _kept(metadata or "{}").get("account"))


#: Refusals that are not pinned to the id: asked again later, the answer may differ.
MOMENTARY: Final = frozenset({Reason.BOOK_QUARANTINED})
#: The hold has been ended, by another try.
ENDED: Final = frozenset({Reason.HOLD_ALREADY_CAPTURED, Reason.HOLD_ALREADY_VOIDED})


# ---- reconciliation -------------------------------------------------------------------------------------------------


class InTransit(msgspec.Struct, frozen=True):
    """One transit account: the minor units that went through it (`posted`) and that are held for it (`pending`)."""

    tenant: str
    book: str
    other: str
    way: str
    currency: str
    posted: int
    pending: int


Sums = dict[tuple[str, str, str, str], InTransit]


def by_way(rows: list[InTransit], way: str) -> Sums:
    """The rows of one direction, by tenant, source book, destination book and currency."""
    return {
        (row.tenant, *((row.book, row.other) if way == "out" else (row.other, row.book)), row.currency): row
        for row in rows
        if row.way == way
    }


def disagreements(before: list[InTransit], then: list[InTransit], after: list[InTransit]) -> list[str]:
    """Contradictions between the shards about the money between them. Empty when all is well, also under load.

    The arguments are three readings of all shards, one after the other. What was captured at the first had arrived by the second. What had arrived by
    the second is captured at the third, or still held. So out(before) <= in(then) <= out(after) + held(after); when nothing is in flight, they
    are equal.
    """
    left, came, still = by_way(before, "out"), by_way(then, "in"), by_way(after, "out")
    found = []
    for key in sorted(left.keys() | came.keys() | still.keys()):
        least = left[key].posted if key in left else 0
        most = still[key].posted + still[key].pending if key in still else 0
        here = came[key].posted if key in came else 0
        if not least <= here <= most:
            tenant, source, destination, currency = key
            found.append(
                f"{tenant}, {source} to {destination}: {here} {currency} came in, and between {least} and {most} went out"
            )
    return found
