"""Handlers of transfers between books: one small function per row of the endpoint table."""

from __future__ import annotations

import msgspec

from tallystick.chassis.web import Reply, Request
from tallystick.contracts.ledger import messages as wire
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.money import MoneyWire, to_money
from tallystick.services.ledger.api import commands
from tallystick.services.ledger.api.common import entry
from tallystick.services.ledger.api.handlers import BookQuery
from tallystick.services.ledger.model import BookAccount, Crossing, Told, account_ref
from tallystick.services.ledger.service import Ledger

_metadata = msgspec.json.Decoder(dict[str, str]).decode


async def create(ledger: Ledger, request: Request[wire.NewInterbookTransfer]) -> Reply[wire.InterbookTransfer]:
    body, subject = request.body, request.subject
    money = to_money(body.amount)
    crossing = Crossing(
        id=ids.transfers.new() if body.id is None else commands.own_id(body.id),
        source=_place(body.source),
        destination=_place(body.destination),
        amount=money.minor,
        currency=money.currency,
        client=subject.client_id,
        reference=body.reference,
        metadata=commands.kept(body.metadata),
    )
    told = await ledger.interbook.transfer(
        subject.tenant, subject.actor, request.trace_id, crossing, entry(ledger, request)
    )
    return Reply(_told(told))


async def get(ledger: Ledger, request: Request[None, BookQuery]) -> Reply[wire.InterbookTransfer]:
    found = ids.transfers.parse(request.path["id"])
    return Reply(_told(await ledger.interbook.get(request.subject.tenant, found, request.query.book)))


# ---- between shards -------------------------------------------------------------------------------------------------


async def look_for(ledger: Ledger, request: Request[wire.LookForBook]) -> Reply[wire.FoundBook]:
    subject = (await request.subjects([request.body.token]))[0]
    await ledger.interbook.has_book(subject.tenant, request.body.book, subject.client_id)
    return Reply(wire.FoundBook(request.body.book, ledger.poster.shard))


async def arrive(ledger: Ledger, request: Request[wire.Arrive]) -> Reply[wire.Arrived]:
    body = request.body
    subject = (await request.subjects([body.token]))[0]
    money = to_money(body.amount)
    outcome = await ledger.interbook.arrive(
        subject.tenant,
        Crossing(
            id=ids.transfers.parse(body.id),
            source=_place(body.source),
            destination=_place(body.destination),
            amount=money.minor,
            currency=money.currency,
            client=subject.client_id,
            reference=body.reference,
        ),
    )
    return Reply(wire.Arrived(None if outcome.reason is None else wire.Reason(outcome.reason), outcome.account))


def _place(given: wire.BookAccount) -> BookAccount:
    """Raises InvalidId."""
    account_ref(given.account)
    return BookAccount(given.book, given.account)


def _told(told: Told) -> wire.InterbookTransfer:
    crossing, hold = told.crossing, told.hold
    if crossing is None or hold is None:
        return wire.InterbookTransfer(
            id=ids.transfers.text(told.id), status=told.state, reason=told.reason, account=told.account
        )
    return wire.InterbookTransfer(
        id=ids.transfers.text(told.id),
        status=told.state,
        reason=told.reason,
        account=told.account,
        source=wire.BookAccount(book=crossing.source.book, account=crossing.source.account),
        destination=wire.BookAccount(book=crossing.destination.book, account=crossing.destination.account),
        amount=MoneyWire(str(crossing.amount), crossing.currency),
        reference=crossing.reference,
        metadata=None if crossing.metadata is None else _metadata(crossing.metadata),
        recorded_at=rfc3339(hold.recorded_at),
    )
