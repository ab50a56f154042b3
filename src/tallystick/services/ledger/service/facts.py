"""The facts about posted transfers: one per unit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from tallystick.chassis.outbox import Fact
from tallystick.contracts.ledger.messages import LISTED, TransferLine, TransfersPosted, canonical_line
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.ids import TransferId
from tallystick.services.ledger.model import Transfer


def posted_fact(tenant: str, actor: str, trace: str | None, transfers: Sequence[Transfer]) -> Fact:
    """The fact of one unit: its first few transfers in full, and a hash over all."""
    first, last = transfers[0], transfers[-1]
    lines = [_line(transfer) for transfer in transfers[:LISTED]]
    told = TransfersPosted(
        book=first.book,
        first=first.sequence,
        last=last.sequence,
        count=len(transfers),
        sha256=transfers_digest(transfers),
        transfers=lines,
        transaction=None if first.transaction is None else ids.transactions.text(first.transaction),
    )
    return Fact(
        id=ids.facts.new(),
        type="ledger.transfers.posted",
        tenant=tenant,
        actor=actor,
        resource=lines[0].id,
        at=first.recorded_at,
        trace=trace,
        data=msgspec.structs.asdict(told),
    )


def transfers_digest(transfers: Iterable[Transfer]) -> str:
    """SHA-256, in hex, over the canonical lines of `transfers` in the order of their sequence."""
    lines = [
        canonical_line(
            t.sequence,
            t.id.hex,
            t.kind,
            "" if t.target is None else t.target.hex,
            t.debit_account.hex,
            t.credit_account.hex,
            t.amount,
            t.released,
            t.currency,
            "" if t.effective_at is None else rfc3339(t.effective_at),
        )
        for t in transfers
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _line(t: Transfer) -> TransferLine:
    return TransferLine(
        sequence=t.sequence,
        id=ids.transfers.text(t.id),
        kind=t.kind,
        debit_account=ids.accounts.text(t.debit_account),
        credit_account=ids.accounts.text(t.credit_account),
        amount=str(t.amount),
        currency=t.currency,
        target=None if t.target is None else ids.transfers.text(TransferId(t.target)),
        released=str(t.released) if t.released else None,
        effective_at=None if t.effective_at is None else rfc3339(t.effective_at),
        expires_at=None if t.expires_at is None else rfc3339(t.expires_at),
    )
