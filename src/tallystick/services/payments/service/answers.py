"""What a request is answered: afresh, again as it was stored, or with a refusal that is stored as well."""

from __future__ import annotations

import msgspec

from tallystick.chassis import idempotency, telemetry
from tallystick.chassis.db import Transaction
from tallystick.chassis.idempotency import Answer, Entry, Outcome
from tallystick.kernel.problem import Problem
from tallystick.services.payments.model import Waiting


class Made(msgspec.Struct, frozen=True):
    """An answer: its bytes, and whether it is an earlier request's. `status` 202 means that the work goes on."""

    status: int
    body: bytes
    replayed: bool = False


def replayed(outcome: Outcome) -> Made:
    """The stored answer; raises the problem when there is none to give."""
    stored = outcome.raise_or_replay()
    if stored is None:
        msg = "a fresh key has no answer to give again"
        raise RuntimeError(msg)
    return Made(stored.status, stored.body, replayed=True)


async def pinned(tx: Transaction, entry: Entry, refusal: Problem) -> Made:
    """A refusal is an answer too: the same key gets the same one, whatever happens in between."""
    body = msgspec.json.encode(refusal.document(telemetry.trace_id()))
    await idempotency.complete(tx, [Answer(entry, refusal.status, body)])
    return Made(refusal.status, body)


def waiting(entry: Entry) -> Waiting:
    return Waiting(entry.route, entry.key, entry.client_id)
