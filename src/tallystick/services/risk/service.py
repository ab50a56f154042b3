"""Risk's use cases: decide on payments, count issuers' refusals, manage the lists."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.db import Database, Transaction
from tallystick.chassis.outbox import Fact, Outbox
from tallystick.contracts.risk.messages import DecisionMade, DecisionsMade, ListChanged, ListEntry
from tallystick.contracts.risk.problems import DecisionIsForAnotherPayment, InvalidListValue, NotListed
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import DecisionId, FactId
from tallystick.kernel.money import Money
from tallystick.kernel.problem import Problem
from tallystick.services.risk.model import (
    DEFAULT_RULES,
    Decided,
    Features,
    Kind,
    Outcome,
    Rule,
    Window,
    decide,
    listable,
)
from tallystick.services.risk.store import Counters, CountersUnavailable, Scored, Store, Tally

#: The most decisions in one fact, which keeps it far below the limit of a fact's size (`MAX_FACT_BYTES`).
MAX_IN_FACT = 100


_UNMETERED = telemetry.counter("risk_unmetered", "Payments decided without velocities because Valkey did not answer")


class Case(msgspec.Struct, frozen=True):
    """One payment to decide on. `card` is a keyed fingerprint; `account` is the paying account of a book transfer."""

    id: DecisionId
    tenant: str
    client_id: str
    payment: str
    amount: Money
    card: str | None = None
    account: str | None = None

    def subjects(self) -> list[tuple[Kind, str]]:
        found: list[tuple[Kind, str]] = [("client", self.client_id)]
        if self.card is not None:
            found.append(("card", self.card))
        if self.account is not None:
            found.append(("account", self.account))
        return found


class Declined(msgspec.Struct, frozen=True):
    """An issuer's refusal of a card. Many of them in a short time mean that somebody is trying out numbers."""

    fact: FactId
    tenant: str
    card: str
    currency: str


class Risk:
    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        counters: Counters,
        outbox: Outbox,
        clock: Clock,
        rules: Sequence[Rule] = DEFAULT_RULES,
    ) -> None:
        self._database = database
        self._store = store
        self._counters = counters
        self._outbox = outbox
        self._clock = clock
        self._rules = rules
        self._listed: dict[tuple[str, str, str], Outcome] = {}
        self._version = -1
        self._refreshing = asyncio.Lock()

    async def decide(self, cases: Sequence[Case]) -> list[Decided | Problem]:
        """One decision per case, in order. An earlier decision stands, and the new verdict on it is discarded.

        So a repeated case costs a little more, but new ones, which are most, need no look for earlier decisions.
        """
        if not cases:
            return []
        new: dict[DecisionId, Case] = {}
        for case in cases:
            new.setdefault(case.id, case)
        known = await self._score(list(new.values()))
        return [self._answer(case, known[case.id]) for case in cases]

    @staticmethod
    def _answer(case: Case, decided: Decided) -> Decided | Problem:
        if (decided.tenant, decided.payment, decided.amount) != (case.tenant, case.payment, case.amount):
            return DecisionIsForAnotherPayment("ask with the id that was made for this payment")
        return decided

    async def _score(self, cases: Sequence[Case]) -> dict[DecisionId, Decided]:
        now = self._clock.now()
        windows = await self._count(cases)
        scored = []
        for case in cases:
            listed = [
                (outcome, kind)
                for kind, value in case.subjects()
                if (outcome := self._listed.get((case.tenant, kind, value))) is not None
            ]
            seen = None if windows is None else windows[case.id]
            verdict = decide(Features(case.amount, seen, listed), self._rules)
            scored.append(Scored(Decided(case.id, case.tenant, case.payment, case.amount, verdict), case.client_id))
        if await self._store.decide(self._database, scored, self._facts(scored), now):
            return {s.decided.id: s.decided for s in scored}
        return await self._decide_again(scored, now)

    async def _decide_again(self, scored: Sequence[Scored], now: datetime) -> dict[DecisionId, Decided]:
        """Store and tell the new decisions; return the earlier ones for the others."""
        async with self._database.transaction() as tx:
            stored = await self._store.insert(tx, scored, now)
            await self._outbox.append(tx, self._facts([s for s in scored if s.decided.id in stored]))
        found = {s.decided.id: s.decided for s in scored if s.decided.id in stored}
        if before := [s.decided.id for s in scored if s.decided.id not in found]:
            found |= await self._store.decided(self._database, before)
        return found

    async def _count(self, cases: Sequence[Case]) -> dict[DecisionId, dict[tuple[Kind, str], Window]] | None:
        """The windows of each case, or None if Valkey does not answer: the rules then say what is still allowed."""
        plan = [
            (case, kind, Tally(case.id, kind, case.tenant, subject, case.amount.currency, sum=case.amount.minor))
            for case in cases
            for kind, subject in case.subjects()
        ]
        try:
            answers = await self._counters.add([tally for _, _, tally in plan], self._clock.now())
        except CountersUnavailable as problem:
            _UNMETERED.inc(len(cases))
            telemetry.log.warning("risk.counters.unavailable", **problem.context)
            return None
        seen: dict[DecisionId, dict[tuple[Kind, str], Window]] = {case.id: {} for case in cases}
        for (case, kind, _), windows in zip(plan, answers, strict=True):
            for name, window in windows.items():
                seen[case.id][kind, name] = window
        return seen

    def _facts(self, scored: Sequence[Scored]) -> list[Fact]:
        """One fact per tenant and batch."""
        by_tenant: dict[str, list[Scored]] = {}
        for each in scored:
            by_tenant.setdefault(each.decided.tenant, []).append(each)
        at = self._clock.now()
        return [
            Fact(
                id=ids.facts.new(),
                type="risk.decisions.made",
                tenant=tenant,
                actor="risk",
                resource=ids.decisions.text(mine[start].decided.id),
                at=at,
                data=msgspec.to_builtins(
                    DecisionsMade([_told(each.decided) for each in mine[start : start + MAX_IN_FACT]])
                ),
            )
            for tenant, mine in by_tenant.items()
            for start in range(0, len(mine), MAX_IN_FACT)
        ]

    async def learn(self, declined: Sequence[Declined]) -> None:
        """Count refusals by issuers. Raises CountersUnavailable. A refusal that is told again soon after counts once."""
        tallies = [Tally(d.fact, "card", d.tenant, d.card, d.currency, count=0, declines=1) for d in declined]
        if tallies:
            await self._counters.add(tallies, self._clock.now())

    async def refresh_lists(self) -> None:
        """Reload the lists from the database if they have changed. Each replica looks every second."""
        # One at a time: an older answer must not replace the lists after a change of our own.
        async with self._refreshing:
            version = await self._store.list_version(self._database)
            if version != self._version:
                entries = await self._store.lists(self._database)
                self._listed = {(e.tenant, e.kind, e.value): e.outcome for e in entries}
                self._version = version

    async def lists(self, tenant: str) -> list[ListEntry]:
        return await self._store.tenant_lists(self._database, tenant)

    async def put_list_entry(self, entry: ListEntry) -> None:
        """Add or change an entry. It applies here at once, on the other replicas within a second. Raises InvalidListValue."""
        if not listable(entry.kind, entry.value):
            raise InvalidListValue(f"this does not name one {entry.kind}")
        async with self._database.transaction() as tx:
            await self._store.put_list_entry(tx, entry, self._clock.now())
            await self._tell(tx, entry.tenant, ListChanged(entry.kind, entry.value, entry.outcome))
        await self.refresh_lists()

    async def delete_list_entry(self, tenant: str, kind: str, value: str) -> None:
        """Remove an entry. Raises NotListed."""
        async with self._database.transaction() as tx:
            if not await self._store.delete_list_entry(tx, tenant, kind, value):
                raise NotListed
            await self._tell(tx, tenant, ListChanged(kind, value, "removed"))
        await self.refresh_lists()

    async def _tell(self, tx: Transaction, tenant: str, changed: ListChanged) -> None:
        fact = Fact(
            id=ids.facts.new(),
            type="risk.list.changed",
            tenant=tenant,
            actor="operator",
            resource="risk-lists",
            at=self._clock.now(),
            data=msgspec.to_builtins(changed),
        )
        await self._outbox.append(tx, [fact])


def _told(decided: Decided) -> DecisionMade:
    verdict = decided.verdict
    return ids.decisions.text(decided.id), decided.payment, verdict.decision, verdict.score, list(verdict.reasons)
