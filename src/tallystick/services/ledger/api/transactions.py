"""Transactions: wire to model and back, and one small function per row of the table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

import msgspec

from tallystick.chassis.web import Reply, Request
from tallystick.contracts.ledger import messages as wire
from tallystick.contracts.ledger.messages import Reason
from tallystick.contracts.ledger.problems import ExchangeWorthless, InvalidUnit
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.ids import TransactionId, TransferId
from tallystick.kernel.money import MoneyWire, currency, to_money
from tallystick.kernel.problem import Problem
from tallystick.services.ledger.api import views
from tallystick.services.ledger.api.approvals import proposal
from tallystick.services.ledger.api.commands import kept, own_code, own_id
from tallystick.services.ledger.api.common import entry, instant, who
from tallystick.services.ledger.api.handlers import BookQuery
from tallystick.services.ledger.model import (
    Command,
    Exchange,
    Header,
    Leg,
    Ratio,
    Result,
    TransactionRow,
    Transfer,
    Worthless,
    account_ref,
    leg_id,
    legs,
)
from tallystick.services.ledger.service import Ask, Ledger, Plan

_encode = msgspec.json.Encoder().encode
_metadata = msgspec.json.Decoder(dict[str, str]).decode
_exchanges = msgspec.json.Decoder(list[wire.Exchanged]).decode


# ---- wire to model --------------------------------------------------------------------------------------------------


def assembled(body: wire.NewTransaction) -> tuple[Header, list[Command]]:
    """The transaction's header and its transfers; exchanges become their legs. Ids that the client did not give are derived from the transaction's.

    Raises InvalidAmount, UnknownCurrency, InvalidId, InvalidUnit or ExchangeWorthless, with the pointer of the item.
    """
    own = ids.transactions.new() if body.id is None else ids.transactions.parse(body.id)
    effective = instant("effective_at", body.effective_at)
    made: list[Command] = []
    exchanged: list[wire.Exchanged] = []
    for place, item in enumerate(body.transfers):
        try:
            new = list(_item(item, own, len(made), exchanged))
            if effective is not None and any(command.kind != "post" for command in new):
                raise InvalidUnit("what is dated back has no holds: what is held is held now")
        except Problem as problem:
            raise problem.at(f"/transfers/{place}") from None
        made += [msgspec.structs.replace(command, transaction=own, effective_at=effective) for command in new]
    if len({command.id for command in made}) < len(made):
        raise InvalidUnit("two transfers of a transaction have the same id")
    header = Header(
        id=own,
        reference=body.reference,
        description=body.description,
        metadata=kept(body.metadata),
        effective_at=effective,
        exchanges=_encode(exchanged).decode() if exchanged else None,
    )
    return header, made


def _item(
    item: wire.TransactionItem, own: TransactionId, place: int, exchanged: list[wire.Exchanged]
) -> Iterator[Command]:
    if (item.kind == "exchange") != (item.exchange is not None):
        raise InvalidUnit("an exchange, and nothing else, says what is exchanged")
    if item.exchange is not None:
        if any(
            one is not None
            for one in (item.debit_account, item.credit_account, item.amount, item.id, item.expires_in)
        ) or item.balancing:  # fmt: skip
            raise InvalidUnit("the accounts and amounts of an exchange are inside of it")
        yield from _exchange(item, item.exchange, own, place, exchanged)
        return
    if item.debit_account is None or item.credit_account is None or item.amount is None:
        raise InvalidUnit("a post or a hold has two accounts and an amount")
    if item.expires_in is not None and item.kind != "hold":
        raise InvalidUnit("only a hold expires")
    money = to_money(item.amount)
    yield Command(
        kind="hold" if item.kind == "hold" else "post",
        id=leg_id(own, place) if item.id is None else own_id(item.id),
        debit=account_ref(item.debit_account),
        credit=account_ref(item.credit_account),
        amount=money.minor,
        currency=money.currency,
        expires_in=item.expires_in,
        code=own_code(item.code),
        metadata=kept(item.metadata),
        balancing=item.balancing,
    )


def _exchange(
    item: wire.TransactionItem, given: wire.NewExchange, own: TransactionId, place: int, exchanged: list[wire.Exchanged]
) -> Iterator[Command]:
    sell = to_money(given.sell)
    currency(given.buy_currency)
    if sell.currency == given.buy_currency:
        raise InvalidUnit("one currency is exchanged for another")
    spread = given.spread
    if spread is not None and spread.numerator >= spread.denominator:
        raise InvalidUnit("a spread is a share below one")
    if sell.minor < 1:
        raise ExchangeWorthless("nothing is sold")
    asked = Exchange(
        sold=sell.minor,
        sell_currency=sell.currency,
        buy_currency=given.buy_currency,
        seller=account_ref(given.from_),
        buyer=account_ref(given.to),
        pool_sell=account_ref(given.liquidity.sell),
        pool_buy=account_ref(given.liquidity.buy),
        rate=Ratio(given.rate.numerator, given.rate.denominator),
        rounding=given.rounding,
        spread=None if spread is None else Ratio(spread.numerator, spread.denominator),
        spread_to=None if spread is None else account_ref(spread.account),
    )
    try:
        made = legs(asked)
    except Worthless as no:
        raise ExchangeWorthless(str(no)) from None
    commands = [_leg(leg, leg_id(own, nth), item) for nth, leg in enumerate(made, place)]
    amounts = {leg.role: MoneyWire(str(leg.amount), leg.currency) for leg in made}
    exchanged.append(
        wire.Exchanged(
            sold=amounts["sell"],
            bought=amounts["buy"],
            spread=amounts.get("spread"),
            rate=given.rate,
            rounding=given.rounding,
            transfers=[ids.transfers.text(command.id) for command in commands],
        )
    )
    yield from commands


def _leg(leg: Leg, own: TransferId, item: wire.TransactionItem) -> Command:
    return Command(
        kind="post",
        id=own,
        debit=leg.debit,
        credit=leg.credit,
        amount=leg.amount,
        currency=leg.currency,
        code=own_code(item.code),
        metadata=kept(item.metadata),
    )


def undone(
    body: wire.ReverseTransaction, row: TransactionRow, transfers: Sequence[Transfer]
) -> tuple[Header, list[Command]]:
    """The reversal of a transaction: each of its transfers in full, the last first."""
    own = ids.transactions.new() if body.id is None else ids.transactions.parse(body.id)
    effective = instant("effective_at", body.effective_at)
    header = Header(
        id=own,
        reference=body.reference,
        description=body.description,
        metadata=kept(body.metadata),
        effective_at=effective,
        reverses=row.id,
    )
    return header, [
        Command(
            kind="reverse",
            id=leg_id(own, place),
            target=each.id,
            amount=each.amount,
            currency=each.currency,
            transaction=own,
            effective_at=effective,
        )
        for place, each in enumerate(reversed(transfers))
    ]


# ---- model to wire --------------------------------------------------------------------------------------------------


def view(
    header: Header | TransactionRow, transfers: Sequence[Transfer], book: str, breached_on: Sequence[date] = ()
) -> wire.Transaction:
    last = transfers[-1]
    return wire.Transaction(
        id=ids.transactions.text(header.id),
        book=book,
        transfers=[views.transfer(each, book) for each in transfers],
        first=transfers[0].sequence,
        last=last.sequence,
        recorded_at=rfc3339(last.recorded_at),
        effective_at=rfc3339(header.effective_at or last.recorded_at),
        reference=header.reference,
        description=header.description,
        metadata={} if header.metadata is None else _metadata(header.metadata),
        reverses=None if header.reverses is None else ids.transactions.text(header.reverses),
        exchanges=[] if header.exchanges is None else _exchanges(header.exchanges),
        breached_on=[day.isoformat() for day in breached_on],
    )


def rendered(header: Header, results: Sequence[Result], book: str, request_id: str) -> tuple[int, bytes]:
    """Status and body: the transaction, or the problem that says which transfer was refused, and why."""
    transfers = [result.transfer for result in results if result.transfer is not None]
    if len(transfers) < len(results):
        place, culprit = next(
            (place, result)
            for place, result in enumerate(results)
            if result.transfer is None and result.reason is not Reason.LINKED_TRANSFER_FAILED
        )
        problem = views.refusal(culprit)
        document = {
            **problem.document(request_id),
            "transfer": {"place": place, "id": ids.transfers.text(culprit.id)},
        }
        return problem.status, _encode(document)
    days = sorted({day for result in results for day in result.breached_on})
    new = any(not result.existed for result in results)
    return 201 if new else 200, _encode(view(header, transfers, book, days))


# ---- the rows -------------------------------------------------------------------------------------------------------


async def create(ledger: Ledger, request: Request[wire.NewTransaction]) -> Reply[wire.Transaction]:
    header, made = assembled(request.body)
    return await _post(ledger, request, header, made, request.body.book)


async def reverse(ledger: Ledger, request: Request[wire.ReverseTransaction]) -> Reply[wire.Transaction]:
    body = request.body
    target = ids.transactions.parse(request.path["id"])
    row, transfers = await ledger.transactions.get(request.subject.tenant, body.book, target)
    header, made = undone(body, row, transfers)
    return await _post(ledger, request, header, made, body.book, request.path["id"])


async def _post(
    ledger: Ledger,
    request: Request[wire.NewTransaction] | Request[wire.ReverseTransaction],
    header: Header,
    made: list[Command],
    book: str,
    *about: str,
) -> Reply[wire.Transaction]:
    tenant, actor, trace = who(request)

    def render(results: Sequence[Result], _receipt: str | None) -> tuple[int, bytes]:
        return rendered(header, results, book, request.trace_id)

    propose = ledger.approvals.draft(
        who(request),
        book,
        Plan(header, tuple(made)),
        lambda: _encode({"reverses": about[0], **msgspec.to_builtins(request.body)} if about else request.body),
        request.subject.client_id,
        lambda row: _encode(proposal(row)),
    )
    answered = await ledger.transactions.post(
        Ask(
            tenant,
            actor,
            trace,
            made,
            atomic=True,
            entry=entry(ledger, request),
            render=render,
            book=book,
            header=header,
            propose=propose,
        )
    )
    return Reply.raw(answered.body, answered.status, replayed=answered.replayed)


async def get(ledger: Ledger, request: Request[None, BookQuery]) -> Reply[wire.Transaction]:
    book = request.query.book
    own = ids.transactions.parse(request.path["id"])
    row, transfers = await ledger.transactions.get(request.subject.tenant, book, own)
    return Reply(view(row, transfers, book))
