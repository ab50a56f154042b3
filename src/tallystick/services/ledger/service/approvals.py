"""Maker-checker: approval rules, proposals, and their outcomes.

A transaction that needs approvals is stored as a proposal, in the database transaction that answers its request. Its last approval marks it as
approved. Then it is posted under the ids that it was given when it was proposed. If the process dies in between, the schedule posts it; the
ids ensure that it is posted once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.auth import Refused, Subject, attributable, statement
from tallystick.chassis.db import Database, Transaction
from tallystick.chassis.outbox import Fact, Outbox
from tallystick.contracts.ledger.messages import STATEMENT_TYPE, ApprovalsChanged, ProposalFact, Reason
from tallystick.contracts.ledger.problems import (
    InvalidDecision,
    NotAnApprover,
    ProposalClosed,
    ProposalNotFound,
)
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import ProposalId
from tallystick.kernel.problem import Problem
from tallystick.services.ledger.model import (
    EPOCH,
    ApprovalRule,
    BookRow,
    Command,
    Header,
    ProposalRow,
    Signed,
    account_ref,
    account_text,
    agreed,
    digest,
    may_approve,
)
from tallystick.services.ledger.service.asks import Ask, Propose, Proposed
from tallystick.services.ledger.service.books import Books, Who
from tallystick.services.ledger.service.poster import Poster
from tallystick.services.ledger.store import Proposals

#: Proposals that the schedule reads at a time.
PAGE: Final = 100
_FIRST: Final = (EPOCH, ProposalId(UUID(int=0)))

_encode = msgspec.json.Encoder().encode


class Plan(msgspec.Struct, frozen=True):
    """What a proposal would post."""

    header: Header
    commands: tuple[Command, ...]


_ACCOUNTS: Final = ("debit", "credit")
#: A command as it is stored: accounts by their wire ids or their paths. Fields added after a plan was stored get their default.
_Kept: Any = msgspec.defstruct(
    "_Kept",
    [
        (field.name, str | None if field.name in _ACCOUNTS else field.type, field.default)
        for field in msgspec.structs.fields(Command)
    ],
    kw_only=True,
)
_plan = msgspec.json.Decoder(
    msgspec.defstruct("_KeptPlan", [("header", Header), ("commands", tuple[_Kept, ...])])
).decode


def kept(plan: Plan) -> str:
    commands = [
        msgspec.structs.asdict(command) | {name: account_text(getattr(command, name)) for name in _ACCOUNTS}
        for command in plan.commands
    ]
    return _encode({"header": plan.header, "commands": commands}).decode()


def planned(text: str) -> Plan:
    """The plan that `kept` wrote."""
    found: Any = _plan(text)
    return Plan(
        found.header,
        tuple(
            Command(
                **msgspec.structs.asdict(each)
                | {
                    name: None if getattr(each, name) is None else account_ref(getattr(each, name))
                    for name in _ACCOUNTS
                }
            )
            for each in found.commands
        ),
    )


class Approvals:
    def __init__(  # noqa: PLR0917 - its parts
        self, database: Database, proposals: Proposals, outbox: Outbox, clock: Clock, poster: Poster, books: Books
    ) -> None:
        self._database = database
        self._proposals = proposals
        self._outbox = outbox
        self._clock = clock
        self._poster = poster
        self._books = books

    # ---- rules ------------------------------------------------------------------------------------------------------

    async def rules(self, tenant: str, name: str) -> tuple[ApprovalRule, ...]:
        """Raises BookNotFound."""
        return await self._proposals.approval_rules(self._database, await self._poster.book(tenant, name))

    async def set_rules(self, who: Who, name: str, rules: Sequence[ApprovalRule]) -> None:
        """Sets the rules of a book. Pending proposals keep the rules under which they were made. Raises BookNotFound, BookQuarantined."""

        async def store(tx: Transaction, number: int) -> None:
            await self._proposals.set_approval_rules(tx, number, rules)

        def said(book: BookRow) -> ApprovalsChanged:
            return ApprovalsChanged(book=book.id, name=book.name, rules=len(rules))

        await self._books.revise(who, name, "ledger.approvals.changed", said, store)

    # ---- proposals --------------------------------------------------------------------------------------------------

    def draft(  # noqa: PLR0917 - what a proposal consists of
        self,
        who: Who,
        book: str,
        plan: Plan,
        content: Callable[[], bytes],
        proposer: str,
        render: Callable[[ProposalRow], bytes],
    ) -> Propose:
        """A function that makes the transaction's proposal if it turns out to need approvals. `content` encodes the request as JSON; it is a
        function because most transactions need no approval.
        """
        tenant, actor, trace = who

        def propose(number: int, rules: Sequence[ApprovalRule]) -> Proposed:
            now, own = self._clock.now(), ids.proposals.new()
            text, whole = content().decode(), kept(plan)
            row = ProposalRow(
                id=own,
                book=number,
                tenant=tenant,
                book_name=book,
                proposer=proposer,
                content=text,
                plan=whole,
                digest=digest(ids.proposals.text(own), book, text, whole),
                rules=tuple(rules),
                status="pending",
                reason=None,
                trace=trace,
                created_at=now,
                expires_at=now + timedelta(seconds=min(rule.expires_in for rule in rules)),
                decisions=(),
            )
            return Proposed(row, 202, render(row), self._fact(row, "ledger.proposal.created", actor, trace))

        return propose

    async def get(self, tenant: str, proposal: ProposalId) -> ProposalRow:
        """Raises ProposalNotFound."""
        row = await self._proposals.proposal(self._database, tenant, proposal)
        if row is None:
            raise ProposalNotFound
        return row.at(self._clock.now())

    async def page(
        self, tenant: str, book: str, before: ProposalId | None, status: str | None, limit: int
    ) -> list[ProposalRow]:
        """Newest first. Raises BookNotFound."""
        now = self._clock.now()
        number = await self._poster.book(tenant, book)
        return [
            row.at(now) for row in await self._proposals.proposals(self._database, number, before, status, now, limit)
        ]

    async def decide(
        self,
        subject: Subject,
        trace: str | None,
        proposal: ProposalId,
        decision: Literal["approve", "reject"],
        signature: str,
    ) -> ProposalRow:
        """Stores the decision. The last approval posts the transaction. Repeating a decision is harmless.

        Raises ProposalNotFound, NotAnApprover, InvalidDecision, ProposalClosed.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            await self._proposals.lock_proposal(tx, proposal)
            row = await self._proposals.proposal(tx, subject.tenant, proposal)
            if row is None:
                raise ProposalNotFound
            row = row.at(now)
            self._check(row, subject, decision, signature, now)
            if not any((one.approver, one.decision) == (subject.client_id, decision) for one in row.decisions):
                row = await self._store_decision(tx, row, Signed(subject.client_id, decision, now, signature), trace)
        if row.status == "approved":
            return await self._carry_out(row)
        return row

    async def resume(self) -> None:
        """Posts approved proposals that were not posted, and closes expired ones. What fails is tried again on the next turn."""
        now, after = self._clock.now(), _FIRST
        while found := await self._proposals.open_proposals(self._database, now, after, PAGE):
            for one in found:
                await self._resume(await self.get(one.tenant, one.id), one.status)
            after = found[-1].expires_at, found[-1].id

    async def _resume(self, row: ProposalRow, status: str) -> None:
        if status == "approved":
            try:
                await self._carry_out(row)
            except Problem as problem:
                telemetry.log.warning("ledger.proposal.waits", proposal=ids.proposals.text(row.id), slug=problem.slug)
        elif row.status == "expired":
            async with self._database.transaction() as tx:
                if await self._proposals.become(tx, row.id, "pending", "expired"):
                    await self._tell(tx, row, "ledger.proposal.expired", "ledger", None)

    @staticmethod
    def _check(row: ProposalRow, subject: Subject, decision: str, signature: str, now: datetime) -> None:
        if not may_approve(row.rules, subject.client_id, row.proposer):
            raise NotAnApprover("the rules name others, and who proposes does not approve")
        try:
            payload = statement(signature, typ=STATEMENT_TYPE, jkt=subject.jkt)
        except Refused as refused:
            raise InvalidDecision(f"the signature is not good: {refused.reason}") from None
        mine = next((one for one in row.decisions if one.approver == subject.client_id), None)
        if mine is not None and mine.decision == decision:
            return
        if not agreed(payload, row, decision, now):
            raise InvalidDecision("what was signed is not this decision on this proposal, or was not signed just now")
        if row.status != "pending" or mine is not None:
            raise ProposalClosed(
                "it has been decided" if mine is None else "you have decided about it", proposal_status=row.status
            )
        try:
            attributable(signature)
        except Refused as refused:
            raise InvalidDecision(f"the signature is not good: {refused.reason}") from None

    async def _store_decision(
        self, tx: Transaction, row: ProposalRow, signed: Signed, trace: str | None
    ) -> ProposalRow:
        await self._proposals.insert_decision(tx, row.id, signed)
        row = msgspec.structs.replace(row, decisions=(*row.decisions, signed))
        if signed.decision == "reject":
            await self._proposals.become(tx, row.id, "pending", "rejected")
            await self._tell(tx, row, "ledger.proposal.rejected", signed.approver, trace)
            return msgspec.structs.replace(row, status="rejected")
        await self._tell(tx, row, "ledger.proposal.approved", signed.approver, trace)
        if row.missing:
            return row
        await self._proposals.become(tx, row.id, "pending", "approved")
        return msgspec.structs.replace(row, status="approved")

    async def _carry_out(self, row: ProposalRow) -> ProposalRow:
        """Posts an approved proposal and stores the outcome. Raises as `Poster.post`; then the schedule tries again."""
        plan = planned(row.plan)
        ask = Ask(
            row.tenant,
            row.proposer,
            row.trace,
            plan.commands,
            atomic=True,
            book=row.book_name,
            header=plan.header,
            approved=True,
        )
        answered = await self._poster.post(ask)
        # Its other transfers were refused only because of this one.
        refused = next(
            (one for one in answered.results if one.reason not in {None, Reason.LINKED_TRANSFER_FAILED}), None
        )
        days = tuple(sorted({day for result in answered.results for day in result.breached_on}))
        status: Literal["posted", "refused"] = "posted" if refused is None else "refused"
        reason, account = (None, None) if refused is None else (str(refused.reason), refused.at_fault)
        row = msgspec.structs.replace(row, status=status, reason=reason, account=account, breached_on=days)
        async with self._database.transaction() as tx:
            if await self._proposals.become(tx, row.id, "approved", status, reason, account, days):
                kind = "ledger.proposal.posted" if refused is None else "ledger.proposal.refused"
                await self._tell(tx, row, kind, "ledger", row.trace)
        return row

    async def _tell(self, tx: Transaction, row: ProposalRow, kind: str, actor: str, trace: str | None) -> None:
        await self._outbox.append(tx, [self._fact(row, kind, actor, trace)])

    def _fact(self, row: ProposalRow, kind: str, actor: str, trace: str | None) -> Fact:
        own = ids.proposals.text(row.id)
        return Fact(
            id=ids.facts.new(),
            type=kind,
            tenant=row.tenant,
            actor=actor,
            resource=own,
            at=self._clock.now(),
            trace=trace,
            data=msgspec.to_builtins(
                ProposalFact(
                    proposal=own,
                    book=row.book,
                    digest=row.digest,
                    proposer=row.proposer,
                    breached_on=[day.isoformat() for day in row.breached_on],
                )
            ),
        )
