"""What is asked of the ledger's writing side, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from tallystick.chassis.idempotency import Entry
from tallystick.chassis.outbox import Fact
from tallystick.contracts.ledger.messages import MAIN
from tallystick.kernel.problem import Problem
from tallystick.services.ledger.model import ApprovalRule, Command, Due, Header, ProposalRow, Result, Unit, expiry_id

#: Turns results and the receipt into the answer to be stored: status and body.
Render = Callable[[Sequence[Result], str | None], tuple[int, bytes]]


class Proposed(msgspec.Struct, frozen=True):
    """A transaction that waits for approvals instead of being posted: its record, the answer, and the fact that tells it."""

    row: ProposalRow
    status: int
    body: bytes
    fact: Fact


#: Makes the proposal of a transaction of this book (its number), once it is known which rules it needs approvals for.
Propose = Callable[[int, Sequence[ApprovalRule]], Proposed]


class Ask(msgspec.Struct, frozen=True):
    """One request: commands of one tenant's book, all or none if `atomic`; a transaction if there is a `header`, which becomes a proposal by
    `propose` if it needs approvals and is not `approved`. With an `entry` its answer is stored as `render` says.
    `crossing`: it is part of a transfer between books. `payments`: it is of payments. `due`: it gives
    back what was taken before.
    """

    tenant: str
    actor: str
    trace: str | None
    commands: Sequence[Command]
    atomic: bool
    entry: Entry | None = None
    render: Render | None = None
    book: str = MAIN
    header: Header | None = None
    crossing: bool = False
    approved: bool = False
    propose: Propose | None = None
    payments: bool = False
    due: bool = False

    @property
    def dated(self) -> bool:
        return self.header is not None and self.header.effective_at is not None


class Work(msgspec.Struct, frozen=True):
    """An ask whose book is known by its number."""

    book: int
    ask: Ask

    @property
    def unit(self) -> Unit:
        ask = self.ask
        return Unit(self.book, ask.commands, ask.atomic, ask.header, ask.crossing, ask.approved, ask.payments, ask.due)


class Answered(msgspec.Struct, frozen=True):
    """`receipt` is the fact's id if anything was new. `status` and `body` are there if the ask had an `entry`."""

    results: Sequence[Result]
    receipt: str | None
    status: int = 0
    body: bytes = b""
    replayed: bool = False


class GuardRefused(Problem):
    """The database's own checks came to another conclusion than the rules. Nothing was stored, and a person must look."""

    slug, title = "ledger-guard-refused", "The ledger refused to store what it had decided"


def expiries(due: Iterable[Due]) -> list[Work]:
    """The sweep of these holds, in their order."""
    by_book: dict[int, tuple[str, list[Command]]] = {}
    for tenant, number, hold in due:
        command = Command(kind="expire", id=expiry_id(number, hold), target=hold)
        by_book.setdefault(number, (tenant, []))[1].append(command)
    return [
        Work(number, Ask(tenant, "ledger", None, commands, atomic=False))
        for number, (tenant, commands) in by_book.items()
    ]
