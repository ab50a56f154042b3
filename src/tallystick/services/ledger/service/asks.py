"""Requests to the ledger's write path, and their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

import msgspec

from tallystick.chassis import idempotency
from tallystick.chassis.db import Transaction
from tallystick.chassis.idempotency import Entry, Fresh, Replay
from tallystick.chassis.outbox import Fact
from tallystick.contracts.ledger.messages import MAIN
from tallystick.kernel.problem import Problem
from tallystick.services.ledger.model import ApprovalRule, Command, Due, Header, ProposalRow, Result, Unit, expiry_id

#: Turns results and the receipt into the answer to be stored: status and body.
Render = Callable[[Sequence[Result], str | None], tuple[int, bytes]]


class Proposed(msgspec.Struct, frozen=True):
    """A transaction that waits for approvals instead of being posted: its record, the answer, and the fact."""

    row: ProposalRow
    status: int
    body: bytes
    fact: Fact


#: Makes the proposal of a transaction, given its book's number and the rules that demand approvals.
Propose = Callable[[int, Sequence[ApprovalRule]], Proposed]


class Ask(msgspec.Struct, frozen=True):
    """One request: commands for one book of a tenant.

    - `atomic`: all or none.
    - `header`: the commands are a transaction. If it needs approvals and is not `approved`, `propose` makes it a proposal.
    - `entry`: the idempotency key under which the answer that `render` makes is stored.
    - `crossing`: it is part of a transfer between books.
    - `payments`: it comes from the payments service.
    - `due`: it gives back what was taken before.
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
    """An ask with the number of its book."""

    book: int
    ask: Ask

    @property
    def unit(self) -> Unit:
        ask = self.ask
        return Unit(self.book, ask.commands, ask.atomic, ask.header, ask.crossing, ask.approved, ask.payments, ask.due)


class Answered(msgspec.Struct, frozen=True):
    """`receipt` is the fact's id, if anything new was posted. `status` and `body` are set if the ask had an `entry`."""

    results: Sequence[Result]
    receipt: str | None
    status: int = 0
    body: bytes = b""
    replayed: bool = False


class GuardRefused(Problem):
    """The database's own checks disagree with the rules. Nothing was stored. A person must look: the log has `ledger.guard.refused` with the
    request's id.
    """

    slug, title = "ledger-guard-refused", "The ledger refused to store what it had decided"


def expiries(due: Iterable[Due]) -> list[Work]:
    """The asks that release these expired holds, in order."""
    by_book: dict[int, tuple[str, list[Command]]] = {}
    for tenant, number, hold in due:
        command = Command(kind="expire", id=expiry_id(number, hold), target=hold)
        by_book.setdefault(number, (tenant, []))[1].append(command)
    return [
        Work(number, Ask(tenant, "ledger", None, commands, atomic=False))
        for number, (tenant, commands) in by_book.items()
    ]


async def taken(tx: Transaction, entry: Entry, resource: UUID | None) -> Answered | None:
    """Claims a key for something to be opened or announced, or returns the answer stored under it. Raises the idempotency contract's problems."""
    outcome = (await idempotency.claim(tx, [entry], resource=[resource]))[0]
    if isinstance(outcome, Replay):
        return Answered((), None, outcome.status, outcome.body, replayed=True)
    outcome.raise_or_replay()
    return None


async def claim(tx: Transaction, asks: list[Ask], answers: list[Answered | Exception | None], *, again: bool) -> None:
    """Claims the keys of asks that have no answer yet, and fills in answers for keys that were used: stored answers, and problems."""
    keyed = [
        (place, ask.entry, ask) for place, ask in enumerate(asks) if ask.entry is not None and answers[place] is None
    ]
    if not keyed:
        return
    outcomes = await idempotency.claim(
        tx, [entry for _, entry, _ in keyed], resource=[ask.commands[0].id for _, _, ask in keyed]
    )
    for (place, _, _), outcome in zip(keyed, outcomes, strict=True):
        if isinstance(outcome, Fresh):
            continue
        if isinstance(outcome, Replay):
            # After an unknown COMMIT the stored answer is our own, not a replay.
            answers[place] = Answered((), None, outcome.status, outcome.body, replayed=not again)
            continue
        try:
            outcome.raise_or_replay()
        except Problem as problem:
            answers[place] = problem
