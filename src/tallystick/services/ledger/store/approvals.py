"""Approval rules and proposals."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Final, NamedTuple

import msgspec

from tallystick.chassis.db import Database, Queries, Row, Transaction, arguments
from tallystick.kernel.ids import ProposalId
from tallystick.services.ledger.model import ApprovalRule, ProposalRow, Signed

queries: Final = Queries.load("tallystick.services.ledger", "approvals")

_rules = msgspec.json.Decoder(tuple[ApprovalRule, ...]).decode
_decisions = msgspec.json.Decoder(tuple[Signed, ...]).decode
_encode = msgspec.json.Encoder().encode


def approval_rules(text: str | None) -> tuple[ApprovalRule, ...]:
    """Decodes the rules from the book's row."""
    return () if text is None else _rules(text)


class OpenProposal(NamedTuple):
    id: ProposalId
    tenant: str
    status: str
    expires_at: datetime


class Proposals:
    async def approval_rules(self, source: Database | Transaction, book: int) -> tuple[ApprovalRule, ...]:
        return approval_rules(await source.fetchval(queries.rules, book))

    async def set_approval_rules(self, tx: Transaction, book: int, rules: Sequence[ApprovalRule]) -> None:
        await tx.execute(queries.set_rules, book, _encode(rules).decode() if rules else None)

    async def insert_proposals(self, tx: Transaction, rows: Sequence[ProposalRow]) -> None:
        columns = [
            (r.id, r.book, r.proposer, r.content, r.plan, r.digest, _encode(r.rules).decode(), r.trace, r.created_at, r.expires_at)
            for r in rows
        ]  # fmt: skip
        await tx.execute(queries.insert, *arguments(columns, 10))

    async def lock_proposal(self, tx: Transaction, proposal: ProposalId) -> None:
        await tx.execute(queries.lock, proposal)

    async def proposal(self, source: Database | Transaction, tenant: str, proposal: ProposalId) -> ProposalRow | None:
        row = await source.fetchrow(queries.get, proposal, tenant)
        return None if row is None else _proposal(row)

    async def proposals(  # noqa: PLR0917 - the query's arguments
        self, database: Database, book: int, before: ProposalId | None, status: str | None, now: datetime, limit: int
    ) -> list[ProposalRow]:
        return [_proposal(row) for row in await database.fetch(queries.page, book, before, status, now, limit)]

    async def insert_decision(self, tx: Transaction, proposal: ProposalId, signed: Signed) -> bool:
        """False when this approver has decided already."""
        args = (proposal, signed.approver, signed.decision, signed.at, signed.signature)
        return await tx.fetchval(queries.decide, *args) is not None

    async def become(  # noqa: PLR0917 - what is noted of it
        self,
        tx: Transaction,
        proposal: ProposalId,
        was: str,
        now_is: str,
        reason: str | None = None,
        account: str | None = None,
        breached_on: Sequence[date] = (),
    ) -> bool:
        return await tx.fetchval(queries.become, proposal, was, now_is, reason, account, breached_on) is not None

    async def open_proposals(
        self, database: Database, now: datetime, after: tuple[datetime, ProposalId], limit: int
    ) -> list[OpenProposal]:
        """Proposals to be posted or to be closed as expired, in the order of (expiry, id), after `after`."""
        return [OpenProposal(*row) for row in await database.fetch(queries.open, now, *after, limit)]


def _proposal(row: Row) -> ProposalRow:
    fields = dict(row.items())
    fields["rules"] = _rules(fields["rules"])
    fields["breached_on"] = tuple(fields["breached_on"])
    fields["decisions"] = _decisions(fields["decisions"])
    return ProposalRow(**fields)
