"""Answers to requests: new ones, stored ones that are replayed, and refusals, which are stored as well."""

from __future__ import annotations

import msgspec

from tallystick.chassis import idempotency, telemetry
from tallystick.chassis.db import Transaction
from tallystick.chassis.idempotency import Answer, Entry, Outcome
from tallystick.kernel.problem import Problem
from tallystick.services.payments.model import Waiting


class Made(msgspec.Struct, frozen=True):
    """An answer: status, body, and whether it is the stored answer of an earlier request. `status` 202: the work goes on."""

    status: int
    body: bytes
    replayed: bool = False


def replayed(outcome: Outcome) -> Made:
    """The stored answer. Raises InProgress when there is none yet, KeyReused when the key was used for another request."""
    stored = outcome.raise_or_replay()
    if stored is None:
        msg = "a fresh key has no answer to give again"
        raise RuntimeError(msg)
    return Made(stored.status, stored.body, replayed=True)


async def pinned(tx: Transaction, entry: Entry, refusal: Problem) -> Made:
    """Stores a refusal as the answer: the same key gets it again, whatever happens in between."""
    body = msgspec.json.encode(refusal.document(telemetry.trace_id()))
    await idempotency.complete(tx, [Answer(entry, refusal.status, body)])
    return Made(refusal.status, body)


def waiting(entry: Entry) -> Waiting:
    """The request behind `entry`, to be stored with the payment or refund that it waits for."""
    return Waiting(entry.route, entry.key, entry.client_id)
