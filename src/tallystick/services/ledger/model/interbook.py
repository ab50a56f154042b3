"""Transfers between books: the names, the ids and what each book is told. Pure.

What leaves a book is held for its transit account `transit:out:<the other book>:<currency>`; what arrives comes from
`transit:in:<the other book>:<currency>`. The hold's own row says where the money goes, so whoever finds it open can finish it. It arrives under
the hold's id, which the other book has for nothing else: only these transfers may touch transit accounts (`rules`).
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

from tallystick.contracts.ledger.messages import Reason
from tallystick.kernel.ids import AccountId, TransferId, hashed
from tallystick.services.ledger.model.paths import TRANSIT, account_ref
from tallystick.services.ledger.model.rows import NewAccount
from tallystick.services.ledger.model.values import Command, Transfer

#: The code of all transfers that move money between books. What a refusal was for is the code of the void.
CODE: Final = "interbook"

_ID: Final = b"tallystick.ledger.interbook:"

Ending = Literal["capture", "void"]


class BookAccount(msgspec.Struct, frozen=True):
    """An account (by its id or its path) of a book."""

    book: str
    account: str


class Crossing(msgspec.Struct, frozen=True, kw_only=True):
    """Money that goes from one book to another: debits `source`, credits `destination`. `metadata` is JSON with sorted keys. `client` is for
    whom it is done.
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
    """What became of it in the other book, for ever: posted if `reason` is None, else refused. `account` is the one at fault, if one was, by its id,
    or as it was named if it is not there.
    """

    reason: str | None = None
    account: str | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A crossing as it stands. `state` is `in_flight` while it is not known, or not yet told to its book, what became of it. One whose hold was
    refused has left nothing but its id, the reason and the account at fault.
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
    """What a hold says of its crossing, in its metadata."""

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
    """The transit account of a book: what it owes to the other (`out`), or what the other owes it (`in`). Its id follows from its place."""
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
    """The hold in the source's book. Without expiry: nobody but its crossing ends it."""
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
    """What the hold was made for; None for any other transfer, whatever its code and its metadata say."""
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
    """The post in the destination's book, the same in each try."""
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
    """The hold's capture, or its void with the reason as its code and the account at fault in its metadata. `attempt`: another id, when somebody
    took the first for something else; the hold itself sees to it that only one counts.
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
    """What became of it by the void that it ended with: the inverse of `ending`."""
    return Outcome(code, _kept(metadata or "{}").get("account"))


#: Refusals of the other book that its id is not pinned to: asked again later, the answer may be another.
MOMENTARY: Final = frozenset({Reason.BOOK_QUARANTINED})
#: The hold has been ended, by another try.
ENDED: Final = frozenset({Reason.HOLD_ALREADY_CAPTURED, Reason.HOLD_ALREADY_VOIDED})


# ---- reconciliation -------------------------------------------------------------------------------------------------


class InTransit(msgspec.Struct, frozen=True):
    """One transit account: minor units that are held for it and that went through it."""

    tenant: str
    book: str
    other: str
    way: str
    currency: str
    posted: int
    pending: int


Sums = dict[tuple[str, str, str, str], InTransit]


def by_way(rows: list[InTransit], way: str) -> Sums:
    """Keyed by tenant, the book that the money leaves, the one that it comes to, and the currency."""
    return {
        (row.tenant, *((row.book, row.other) if way == "out" else (row.other, row.book)), row.currency): row
        for row in rows
        if row.way == way
    }


def disagreements(before: list[InTransit], then: list[InTransit], after: list[InTransit]) -> list[str]:
    """What the shards say of the money between them and can't all be right about; empty when all is well, also under load.

    Each argument is what all shards said, in three readings one after the other. What had been captured at the first had arrived at the second;
    what had arrived at the second is captured at the third, or still held. So out(before) <= in <= out(after) + held(after), and when nothing is in flight they are equal.
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
