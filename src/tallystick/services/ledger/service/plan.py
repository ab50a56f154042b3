"""A flush that is decided and not stored yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from tallystick.chassis.db import UniqueViolation, constraint_of
from tallystick.chassis.idempotency import Answer
from tallystick.kernel import ids
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import Decided, ProposalRow, Result, Stand, State, Unit
from tallystick.services.ledger.service.asks import Answered, Work
from tallystick.services.ledger.service.facts import posted_fact
from tallystick.services.ledger.store import MOVED, TAKEN, Store, Writing


class Stale(Exception):
    """An id or a key is not as it was known. Nothing of this try is stored."""


class Moved(Stale):
    """The books are not where they were: another replica writes to them too."""


class Unstored(Stale):
    """The flush that it was decided on was not stored."""


def stale(error: BaseException) -> Stale | None:
    """What an error of the database says of that, None if it is about something else."""
    constraint = constraint_of(error)
    if isinstance(error, UniqueViolation) or constraint in TAKEN or constraint == MOVED:
        return Moved() if constraint == MOVED else Stale()
    return None


class Plan(msgspec.Struct):
    """`known`: where the books stood that it was decided on, empty when their locks are held."""

    known: Mapping[int, Stand]
    now: datetime
    writing: Writing
    results: list[list[Result]]
    answers: list[Answered] = []
    proposals: list[ProposalRow] = []
    epoch: int = 0


def plannable(works: Sequence[Work]) -> bool:
    """Whether these can be decided as if all their ids and keys were new. What is dated back is judged by past days, which nobody has in
    memory, and of equal keys only one is new.
    """
    keys = [work.ask.entry.identity for work in works if work.ask.entry is not None]
    return len(set(keys)) == len(keys) and not any(work.ask.dated for work in works)


def planned(works: Sequence[Work], state: State, decided: Decided, now: datetime, known: Mapping[int, Stand]) -> Plan:
    """The plan of what was decided of these."""
    plan = Plan(known, now, Store.prepare(state, decided, known or None), decided.results)
    for work, results in zip(works, decided.results, strict=True):
        plan.answers.append(_answered(work, results, plan.writing, plan.proposals))
        if work.ask.entry is not None:
            plan.writing.about.append(work.ask.commands[0].id)
    return plan


def _answered(work: Work, results: list[Result], writing: Writing, proposals: list[ProposalRow]) -> Answered:
    """The answer, which is added to what is to be stored together with the fact."""
    ask, facts, stored = work.ask, writing.facts, writing.answers
    if ask.propose is not None and results[0].rules:
        proposed = ask.propose(work.book, results[0].rules)
        proposals.append(proposed.row)
        facts.append(proposed.fact)
        if ask.entry is not None:
            stored.append(Answer(ask.entry, proposed.status, proposed.body))
        return Answered(results, None, proposed.status, proposed.body)
    new = [result.transfer for result in results if result.transfer is not None and not result.existed]
    receipt = None
    if new:
        fact = posted_fact(ask.tenant, ask.actor, ask.trace, new)
        receipt = ids.facts.text(fact.id)
        facts.append(fact)
    if ask.entry is None or ask.render is None:
        return Answered(results, receipt)
    status, body = ask.render(results, receipt)
    stored.append(Answer(ask.entry, status, body))
    return Answered(results, receipt, status, body)


def unsure(units: Sequence[Unit], decided: Decided) -> bool:
    """Whether something was refused of which nothing is stored that would find out whether its id is in use: only a look under it tells. What is not
    pinned, that needs approvals, say, or that an account is frozen at the moment, may be a repeat of what was posted before; so may what was
    undone with others of its unit, and as a repeat it would have taken nothing from them; so may a transaction.
    """
    pinned = {rejection.id for rejection in decided.rejections}
    return any(
        result.status == "rejected" and (unit.header is not None or not (result.existed or result.id in pinned))
        for unit, results in zip(units, decided.results, strict=True)
        for result in results
    )


def short(results: Iterable[Sequence[Result]], state: State) -> dict[int, set[AccountId]]:
    """By book, the accounts that had too little for something while holds held some of theirs."""
    found: dict[int, set[AccountId]] = {}
    for unit in results:
        for result in unit:
            for named in result.lacking:
                account = state.accounts[named]
                if account.debits_pending or account.credits_pending:
                    found.setdefault(account.book, set()).add(account.id)
    return found
