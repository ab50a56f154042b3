"""A flush that is decided but not yet stored."""

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
    """The state differs from what the flush was decided on. Nothing of this attempt is stored."""


class Moved(Stale):
    """The books have moved on: another replica writes to them too."""


class Unstored(Stale):
    """The flush that this one was decided on was not stored."""


def stale(error: BaseException) -> Stale | None:
    """The Stale that a database error stands for; None if it is about something else."""
    constraint = constraint_of(error)
    if isinstance(error, UniqueViolation) or constraint in TAKEN or constraint == MOVED:
        return Moved() if constraint == MOVED else Stale()
    return None


class Plan(msgspec.Struct):
    """`known` is the stand of the books that it was decided on; empty when their locks are held."""

    known: Mapping[int, Stand]
    now: datetime
    writing: Writing
    results: list[list[Result]]
    answers: list[Answered] = []
    proposals: list[ProposalRow] = []
    epoch: int = 0


def plannable(works: Sequence[Work]) -> bool:
    """Whether these can be decided as if all their ids and keys were new. Not if one is dated back, since past days are not cached; nor if two
    have the same key, since only one of them can be new.
    """
    keys = [work.ask.entry.identity for work in works if work.ask.entry is not None]
    return len(set(keys)) == len(keys) and not any(work.ask.dated for work in works)


def planned(works: Sequence[Work], state: State, decided: Decided, now: datetime, known: Mapping[int, Stand]) -> Plan:
    """The plan that stores what was decided about these."""
    plan = Plan(known, now, Store.prepare(state, decided, known or None), decided.results)
    for work, results in zip(works, decided.results, strict=True):
        plan.answers.append(_answered(work, results, plan.writing, plan.proposals))
        if work.ask.entry is not None:
            plan.writing.about.append(work.ask.commands[0].id)
    return plan


def _answered(work: Work, results: list[Result], writing: Writing, proposals: list[ProposalRow]) -> Answered:
    """The answer. It is also added to `writing` together with the fact, or to `proposals` with the proposal, to be stored."""
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
    """Whether a refused command may be a repeat of one that was posted before, without anything being stored that would reveal it; then its id
    must be looked up. A pinned refusal is stored and so reveals it. Not so a refusal that is not pinned, for example because approvals are
    missing or an account is frozen at the moment. Nor a command that was undone together with its unit (as a repeat it would not have failed
    the others), nor a transaction.
    """
    pinned = {rejection.id for rejection in decided.rejections}
    return any(
        result.status == "rejected" and (unit.header is not None or not (result.existed or result.id in pinned))
        for unit, results in zip(units, decided.results, strict=True)
        for result in results
    )


def short(results: Iterable[Sequence[Result]], state: State) -> dict[int, set[AccountId]]:
    """By book, the accounts that had too little for a transfer while holds held some of their money."""
    found: dict[int, set[AccountId]] = {}
    for unit in results:
        for result in unit:
            for named in result.lacking:
                account = state.accounts[named]
                if account.debits_pending or account.credits_pending:
                    found.setdefault(account.book, set()).add(account.id)
    return found
