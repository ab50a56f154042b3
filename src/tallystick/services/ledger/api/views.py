"""Model to wire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from tallystick.contracts.ledger import messages as wire
from tallystick.contracts.ledger.messages import Reason, SignedMoney
from tallystick.contracts.ledger.problems import (
    AccountClosed,
    AccountFrozen,
    BookQuarantined,
    CeilingExceeded,
    ExceedsHold,
    ExceedsReversible,
    HoldNotOpen,
    InsufficientFunds,
    NothingToMove,
    NotReversible,
    PastLimitBroken,
    PeriodSealed,
    TransferExists,
    TransferNotFound,
    TransferOfAPayment,
    TransferRefused,
)
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.ids import AccountId, TransferId
from tallystick.kernel.money import CurrencyMismatch, MoneyWire
from tallystick.kernel.problem import Problem
from tallystick.services.ledger.model import (
    AccountRow,
    Balance,
    BookRow,
    Category,
    Chart,
    CurrencyTotal,
    EntryRow,
    Result,
    Rule,
    State,
    Transfer,
    balance,
)

_kind = partial(msgspec.convert, type=wire.AccountKind)
_encode = msgspec.json.Encoder().encode
_metadata = msgspec.json.Decoder(dict[str, str]).decode
_transfer_text = ids.transfers.text


def results(
    given: Sequence[wire.NewTransfer], found: Sequence[Result], receipt: str | None, book: str
) -> tuple[int, bytes]:
    """Status and body for `POST /v1/transfers`: 201 if anything is new. The request's own values are repeated as they were given."""
    new = False
    data = []
    for item, result in zip(given, found, strict=True):
        transfer = result.transfer
        text = item.id or _transfer_text(result.id)
        if transfer is None:
            data.append(
                wire.Transfer(
                    id=text,
                    status="rejected",
                    kind=item.kind,
                    reason=result.reason,
                    debit_account=item.debit_account,
                    credit_account=item.credit_account,
                    amount=item.amount,
                    available=_signed_or_none(result.available, result.currency),
                    required=_money_or_none(result.required, result.currency),
                    account=result.at_fault,
                    book=book,
                )
            )
            continue
        new = new or not result.existed
        data.append(
            wire.Transfer(
                id=text,
                status=result.status,
                kind=item.kind,
                debit_account=_named(item.debit_account, transfer.debit_account),
                credit_account=_named(item.credit_account, transfer.credit_account),
                amount=MoneyWire(str(transfer.amount), transfer.currency) if item.balancing else item.amount,
                asked=item.amount if item.balancing else None,
                expires_at=None if transfer.expires_at is None else rfc3339(transfer.expires_at),
                code=item.code,
                metadata=item.metadata,
                sequence=transfer.sequence,
                recorded_at=rfc3339(transfer.recorded_at),
                book=book,
            )
        )
    return 201 if new else 200, _encode(wire.Transfers(data=data, receipt=receipt))


def _named(said: str, account: AccountId) -> str:
    """An account in an answer is an id, even if the request named a path."""
    return said if said.startswith("acc_") else ids.accounts.text(account)


def single(found: Sequence[Result], request_id: str, book: str) -> tuple[int, bytes]:
    """Status and body for a single command: the transfer, or the problem that says why it was refused."""
    result = found[0]
    if result.transfer is None:
        problem = refusal(result)
        return problem.status, _encode(problem.document(request_id))
    return 200 if result.existed else 201, _encode(transfer(result.transfer, book))


def refusal(result: Result) -> Problem:
    """The problem for a refused command."""
    reason = result.reason
    said: dict[str, Any] = {"reason": reason}
    if result.available is not None and result.required is not None and result.currency is not None:
        said["available"] = {"amount": str(result.available), "currency": result.currency}
        said["required"] = {"amount": str(result.required), "currency": result.currency}
    if result.account is not None:
        said["account"] = result.at_fault
    if result.breached_on:
        said["breached_on"] = [day.isoformat() for day in result.breached_on]
    match reason:
        case Reason.HOLD_NOT_FOUND | Reason.TRANSFER_NOT_FOUND:
            return TransferNotFound()
        case Reason.HOLD_ALREADY_CAPTURED | Reason.HOLD_ALREADY_VOIDED | Reason.HOLD_EXPIRED:
            return HoldNotOpen(reason=reason)
        case Reason.EXCEEDS_HOLD:
            return ExceedsHold(**said)
        case Reason.EXCEEDS_REVERSIBLE:
            return ExceedsReversible(**said)
        case Reason.INSUFFICIENT_FUNDS:
            return InsufficientFunds(**said)
        case Reason.CEILING_EXCEEDED:
            return CeilingExceeded(**said)
        case Reason.ACCOUNT_FROZEN:
            return AccountFrozen(**said)
        case Reason.BOOK_QUARANTINED:
            return BookQuarantined(reason=reason)
        case Reason.NOTHING_TO_MOVE:
            return NothingToMove(**said)
        case Reason.PERIOD_SEALED:
            return PeriodSealed(reason=reason)
        case Reason.PAST_LIMIT_BROKEN:
            return PastLimitBroken(**said)
        case Reason.TRANSFER_OF_A_PAYMENT:
            return TransferOfAPayment(reason=reason)
        case Reason.NOT_REVERSIBLE:
            return NotReversible(reason=reason)
        case Reason.ACCOUNT_CLOSED:
            return AccountClosed(**said)
        case Reason.CURRENCY_MISMATCH:
            return CurrencyMismatch(
                "the amount is in another currency than an account of it, or than the transfer that it is about",
                **said,
            )
        case _ if reason is not None and (reason.startswith("exists_") or reason is Reason.ID_ALREADY_FAILED):
            return TransferExists("take a new id for another transfer", reason=reason)
        case _:
            return TransferRefused(**said)


def transfer(t: Transfer, book: str, state: State | None = None) -> wire.Transfer:
    """A transfer as it was recorded; with `state` also the state of its hold and its reversals."""
    hold = None if state is None else state.holds.get((t.book, t.id))
    reversal = None if state is None else state.reversals.get((t.book, t.id))
    return wire.Transfer(
        id=_transfer_text(t.id),
        status=t.status,
        kind=t.kind,
        debit_account=ids.accounts.text(t.debit_account),
        credit_account=ids.accounts.text(t.credit_account),
        amount=MoneyWire(str(t.amount), t.currency),
        target=None if t.target is None else _transfer_text(TransferId(t.target)),
        released=MoneyWire(str(t.released), t.currency) if t.released > 0 else None,
        expires_at=None if t.expires_at is None else rfc3339(t.expires_at),
        code=t.code,
        metadata=None if t.metadata is None else _metadata(t.metadata),
        sequence=t.sequence,
        recorded_at=rfc3339(t.recorded_at),
        book=book,
        transaction=None if t.transaction is None else ids.transactions.text(t.transaction),
        effective_at=None if t.effective_at is None else rfc3339(t.effective_at),
        asked=None if t.asked is None else MoneyWire(str(t.asked), t.currency),
        hold=None
        if hold is None
        else wire.HoldState(
            state=hold.state,
            captured=MoneyWire(str(hold.captured), t.currency),
            remaining=MoneyWire(str(hold.remaining), t.currency),
            expires_at=None if hold.expires_at is None else rfc3339(hold.expires_at),
        ),
        reversed=None if reversal is None else MoneyWire(str(reversal.reversed), t.currency),
    )


def known(state: State, now: datetime, book: str) -> wire.Transfer:
    """What is stored under one id: the transfer or its refusal. A hold that is due counts as expired even if it is not swept yet."""
    for key, found in state.transfers.items():
        hold = state.holds.get(key)
        if hold is not None and hold.state == "held" and hold.expires_at is not None and hold.expires_at <= now:
            hold.state, hold.remaining = "expired", 0
        return transfer(found, book, state)
    rejection = next(iter(state.rejections.values()))
    return wire.Transfer(
        id=_transfer_text(rejection.id),
        status="rejected",
        reason=Reason(rejection.reason),
        available=_signed_or_none(rejection.available, rejection.currency),
        required=_money_or_none(rejection.required, rejection.currency),
        account=rejection.account,
        breached_on=[day.isoformat() for day in rejection.breached_on],
        book=book,
    )


def posted(result: Result) -> wire.Posted:
    return wire.Posted(
        _transfer_text(result.id),
        result.status,
        0 if result.transfer is None else result.transfer.sequence,
        result.reason,
        None if result.available is None else str(result.available),
        None if result.required is None else str(result.required),
    )


def account(row: AccountRow) -> wire.Account:
    return wire.Account(
        id=ids.accounts.text(row.id),
        book=row.book_name,
        name=row.name,
        path=row.path,
        kind=_kind(row.kind),
        currency=row.currency,
        normal_side="debit" if row.normal_side == "debit" else "credit",
        floor=None if row.floor is None else str(row.floor),
        ceiling=None if row.ceiling is None else str(row.ceiling),
        code=row.code,
        metadata={} if row.metadata is None else _metadata(row.metadata),
        closed=row.closed,
        frozen=row.frozen,
        created_at=rfc3339(row.created_at),
        version=row.version,
        as_of=row.as_of,
        balance=of_balance(
            balance(
                row.normal_side == "debit",
                row.debits_pending,
                row.debits_posted,
                row.credits_pending,
                row.credits_posted,
            ),
            row.currency,
        ),
    )


def book(row: BookRow) -> wire.Book:
    return wire.Book(
        name=row.name,
        description=row.description,
        backdating="strict" if row.backdating == "strict" else "report",
        sealed_until=None if row.sealed_until is None else rfc3339(row.sealed_until),
        quarantined_at=None if row.quarantined_at is None else rfc3339(row.quarantined_at),
        quarantine_reason=row.quarantine_reason,
        shard=row.shard,
        sequence=row.sequence,
        revision=row.revision,
        created_at=rfc3339(row.created_at),
    )


def category(row: Category) -> wire.Category:
    return wire.Category(
        name=row.name, paths=list(row.paths), categories=list(row.categories), changed_at=rfc3339(row.changed_at)
    )


def category_total(row: CurrencyTotal) -> wire.CategoryTotal:
    return wire.CategoryTotal(
        currency=row.currency,
        accounts=row.accounts,
        debits=SignedMoney(amount=str(row.debits), currency=row.currency),
        credits=SignedMoney(amount=str(row.credits), currency=row.currency),
        balance=SignedMoney(amount=str(row.debits - row.credits), currency=row.currency),
    )


def chart(name: str, found: Chart, since: datetime | None) -> wire.Chart:
    return wire.Chart(
        book=name,
        version=found.version,
        mode=found.mode,
        rules=[rule(one) for one in found.rules],
        created_at=None if since is None else rfc3339(since),
    )


def rule(one: Rule) -> wire.ChartRule:
    return wire.ChartRule(
        pattern=one.pattern,
        kind=_kind(one.kind),
        normal_side=None if one.normal_side is None else "debit" if one.normal_side == "debit" else "credit",
        currencies=None if one.currencies is None else list(one.currencies),
        floor=None if one.floor is None else str(one.floor),
        ceiling=None if one.ceiling is None else str(one.ceiling),
    )


def metadata(kept: str | None) -> dict[str, str]:
    """Metadata in its wire form; the inverse of `commands.kept`, except that none is empty."""
    return {} if kept is None else _metadata(kept)


def entry(row: EntryRow, normal_side: str) -> wire.Entry:
    held = row.amount if row.kind == "hold" else -row.released
    return wire.Entry(
        transfer=_transfer_text(row.transfer),
        kind=row.kind,
        side="debit" if row.side == "debit" else "credit",
        other_account=ids.accounts.text(row.other),
        amount=MoneyWire(str(row.amount), row.currency),
        pending=SignedMoney(amount=str(held), currency=row.currency),
        balance=of_balance(
            balance(
                normal_side == "debit",
                row.debits_pending,
                row.debits_posted,
                row.credits_pending,
                row.credits_posted,
            ),
            row.currency,
        ),
        version=row.version,
        sequence=row.sequence,
        recorded_at=rfc3339(row.recorded_at),
        effective_at=rfc3339(row.effective_at),
        code=row.code,
        transaction=None if row.transaction is None else ids.transactions.text(row.transaction),
    )


def of_balance(found: Balance, currency: str) -> wire.Balance:
    return wire.Balance(
        posted=SignedMoney(amount=str(found.posted), currency=currency),
        pending=SignedMoney(amount=str(found.pending), currency=currency),
        available=SignedMoney(amount=str(found.available), currency=currency),
    )


def _signed_or_none(minor: int | None, currency: str | None) -> SignedMoney | None:
    return None if minor is None or currency is None else SignedMoney(amount=str(minor), currency=currency)


def _money_or_none(minor: int | None, currency: str | None) -> MoneyWire | None:
    return None if minor is None or currency is None else MoneyWire(str(minor), currency)
