"""Turns the records of a file into accounts to open and units to post. Pure.

Ids are derived from the file's own, so that a repeated record is recognized. If a transfer or a transaction has an id of the ledger's form, it is
kept. Any other id, and the file's name for an account, is hashed together with the book's number and the kind of thing that it names.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

import msgspec

from tallystick.contracts.ledger.messages import (
    MAX_TEXT,
    OWN,
    AccountRecord,
    LegRecord,
    TransactionRecord,
    TransferRecord,
)
from tallystick.kernel import ids
from tallystick.kernel.clock import parse_rfc3339
from tallystick.kernel.ids import AccountId, TransactionId, TransferId
from tallystick.kernel.money import MAX_MINOR, MoneyWire, currency, to_money
from tallystick.kernel.problem import Problem
from tallystick.services.ledger.model.chart import limit_of
from tallystick.services.ledger.model.exchange import rounded
from tallystick.services.ledger.model.paths import TRANSIT, is_reserved, of_copy
from tallystick.services.ledger.model.rows import NewAccount
from tallystick.services.ledger.model.values import Command, Header, Transfer, Unit, leg_id, usual_kind

#: The accounts that opening balances come from, one for each currency.
OPENING: Final = "equity:opening-balances:"
OPENING_CODE: Final = "opening"

_HELD_NOW: Final = "what is dated back has no holds: what is held is held now"
_SEED: Final = b"tallystick.ledger.import:"
_sorted = msgspec.json.Encoder(order="sorted")
_encode = msgspec.json.Encoder().encode


class Unfit(Exception):
    """A record can't be applied. `field` is a JSON pointer into it."""

    def __init__(self, field: str | None, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field
        self.reason = reason
        self.detail = detail


def account_id(book: int, said: str) -> AccountId:
    """The id of the account that a file calls `said`."""
    return AccountId(_hashed("account", book, said))


def transfer_id(book: int, said: str) -> TransferId:
    """The id of the transfer that a file calls `said`. Raises InvalidId for a malformed `trf_` id."""
    return ids.transfers.parse(said) if said.startswith("trf_") else TransferId(_hashed("transfer", book, said))


def transaction_id(book: int, said: str) -> TransactionId:
    if said.startswith("txn_"):
        return ids.transactions.parse(said)
    return TransactionId(_hashed("transaction", book, said))


def opening_id(book: int, said: str) -> TransferId:
    return TransferId(_hashed("opening", book, said))


def _hashed(kind: str, book: int, said: str) -> TransferId:
    return TransferId(ids.hashed(_SEED + f"{kind}:{book}:{said}".encode()))


def called(record: AccountRecord) -> str:
    """The file's name for an account. Raises Unfit."""
    name = record.id or record.path
    if name is None:
        raise Unfit("/id", "id_missing", "an account has an id of the file's, or a path")
    return name


def new_account(record: AccountRecord, book: int, *, restoring: bool) -> NewAccount:
    """The account of a record. A restored account gets its limits only at the end, because they may have been different in the past. Raises Unfit."""
    try:
        currency(record.currency)
    except Problem as problem:
        raise Unfit("/currency", problem.slug, problem.detail) from None
    floor, ceiling = limit(record.floor, "/floor"), limit(record.ceiling, "/ceiling")
    instant(record.created_at, "/created_at")
    if is_reserved(record.path) and not restoring:
        raise Unfit("/path", "account-reserved", f"paths below {TRANSIT} and {OWN} are the platform's own")
    return NewAccount(
        id=account_id(book, called(record)),
        name=record.name,
        # In a copy of a book no money is in transit, so its transit accounts become ordinary ones.
        path=of_copy(record.path) if restoring else record.path,
        kind=record.kind or (usual_kind(record.normal_side) if restoring else None),
        currency=record.currency,
        normal_side=record.normal_side,
        floor=None if restoring else floor,
        ceiling=None if restoring else ceiling,
        code=record.code,
        metadata=_kept(record.metadata),
    )


def limit(text: str | None, field: str) -> int | None:
    """Minor units. Raises Unfit."""
    try:
        return limit_of(text, field)
    except Problem as problem:
        raise Unfit(field, problem.slug, problem.detail) from None


class Reader:
    """Turns the records of one import into units. `account` resolves a record's name for an account. `now` is when the import runs. `restoring`: the
    file is a book's own export.
    """

    def __init__(self, book: int, account: Callable[[str], AccountId | str], now: datetime, *, restoring: bool) -> None:
        self._book = book
        self._account = account
        self._now = now
        self._restoring = restoring
        #: What the rules can't re-derive for restored transfers: which of them were expiries, and the amounts asked of balancing ones.
        self._expired: set[TransferId] = set()
        #: Keyed by amount too, because of two records with one id the other one may have been refused.
        self._asked: dict[tuple[TransferId, int], int] = {}

    def as_it_was(self, transfer: Transfer) -> Transfer:
        """A restored transfer with what was decided by time and balances when it was first posted. Amounts and accounts are unchanged."""
        if transfer.kind == "void" and transfer.id in self._expired:
            return msgspec.structs.replace(transfer, kind="expire")
        asked = self._asked.get((transfer.id, transfer.amount)) if transfer.kind in ("post", "hold") else None
        return transfer if asked is None else msgspec.structs.replace(transfer, asked=asked)

    def opening(self, record: AccountRecord) -> Unit | None:
        """The unit that posts an account's opening balance; None if it has none. Raises Unfit."""
        if record.opening is None or int(record.opening.amount) == 0:
            return None
        own = called(record)
        minor = int(record.opening.amount)
        if record.opening.currency != record.currency:
            raise Unfit("/opening/currency", "currency_mismatch", "the opening balance is in the account's currency")
        if abs(minor) > MAX_MINOR:
            raise Unfit("/opening/amount", "invalid-amount", "an amount is at most 2^63 - 1 minor units")
        this = account_id(self._book, own)
        other = self._named(record.opening_account or OPENING + record.currency, "/opening_account")
        grows = (minor > 0) == (record.normal_side == "debit")
        command = Command(
            kind="post",
            id=opening_id(self._book, own),
            debit=this if grows else other,
            credit=other if grows else this,
            amount=abs(minor),
            currency=record.currency,
            code=OPENING_CODE,
            effective_at=instant(record.effective_at, "/effective_at"),
        )
        return Unit(self._book, [command], atomic=True)

    def unit(self, record: TransferRecord | TransactionRecord) -> Unit:
        """The unit of a record. Raises Unfit."""
        if isinstance(record, TransactionRecord):
            return self._transaction(record)
        if record.id is None:
            raise Unfit("/id", "id_missing", "a transfer has an id of the file's: without one it could be posted twice")
        own = self._own(record.id, "/id")
        command = self._command(record, own, None, None, "")
        return Unit(self._book, [command], atomic=False, restored=self._restoring)

    def _transaction(self, record: TransactionRecord) -> Unit:
        said = record.id or record.reference
        if said is None:
            raise Unfit("/id", "id_missing", "a transaction has an id of the file's, or a reference")
        try:
            own = transaction_id(self._book, said)
            reverses = None if record.reverses is None else transaction_id(self._book, record.reverses)
        except Problem as problem:
            raise Unfit("/id", problem.slug, problem.detail) from None
        effective = instant(record.effective_at, "/effective_at")
        if self._restoring:
            last = len(record.transfers) - 1
            since = self._since(effective, record.transfers[last], f"/transfers/{last}")
            effective = since if any(map(_moves, record.transfers)) else None
        elif effective is not None and not all(map(_is_datable, record.transfers)):
            raise Unfit("/effective_at", "invalid-unit", _HELD_NOW)
        commands = []
        for place, leg in enumerate(record.transfers):
            field = f"/transfers/{place}"
            if leg.effective_at is not None and not self._restoring:
                raise Unfit(f"{field}/effective_at", "invalid-unit", "a transaction is effective as a whole")
            leg_own = leg_id(own, place) if leg.id is None else self._own(leg.id, f"{field}/id")
            commands.append(self._command(leg, leg_own, own, effective, field))
        if len({command.id for command in commands}) < len(commands):
            raise Unfit("/transfers", "invalid-unit", "two transfers of a transaction have the same id")
        header = Header(
            id=own,
            reference=record.reference,
            description=record.description,
            metadata=_kept(record.metadata),
            effective_at=effective,
            reverses=reverses,
            exchanges=self._exchanges(record, commands),
        )
        return Unit(self._book, commands, atomic=True, header=header, restored=self._restoring)

    def _exchanges(self, record: TransactionRecord, commands: list[Command]) -> str | None:
        """The transaction's exchanges, with the ledger's ids of their legs. Raises Unfit for one that disagrees with its legs."""
        posts = {command.id: (command.amount, command.currency) for command in commands if command.kind == "post"}
        kept = []
        for place, one in enumerate(record.exchanges):
            field = f"/exchanges/{place}"
            legs = [self._id(said, f"{field}/transfers") for said in one.transfers]
            told = [
                self._amount(money, f"{field}/{name}")
                for name, money in (("sold", one.sold), ("bought", one.bought), ("spread", one.spread))
                if money is not None
            ]
            if [posts.get(leg) for leg in legs] != told:
                raise Unfit(
                    f"{field}/transfers", "invalid-unit", "these are not the legs that say what was sold and bought"
                )
            sold, *bought = [minor for minor, _ in filter(None, told)]
            if rounded(sold * one.rate.numerator, one.rate.denominator, one.rounding) != sum(bought):
                raise Unfit(f"{field}/rate", "invalid-unit", "this is not what the rate gives")
            kept.append(msgspec.structs.replace(one, transfers=[ids.transfers.text(leg) for leg in legs]))
        return _encode(kept).decode() if kept else None

    def _command(
        self, leg: LegRecord, own: TransferId, transaction: TransactionId | None, effective: datetime | None, at: str
    ) -> Command:
        moves = leg.kind in ("post", "hold")
        if moves != (leg.debit_account is not None and leg.credit_account is not None) and not self._restoring:
            raise Unfit(
                at + "/kind",
                "invalid-unit",
                "a post or a hold has two accounts; the other kinds have those of their target",
            )
        if moves == (leg.target is not None):
            raise Unfit(
                at + "/target", "invalid-unit", "what is done to a transfer has a target; a post and a hold have none"
            )
        if leg.amount is None and leg.kind in ("post", "hold", "increase"):
            raise Unfit(at + "/amount", "invalid-unit", f"a {leg.kind} has an amount")
        amount = self._amount(leg.amount, at + "/amount")
        draws, holds = leg.kind in ("void", "expire"), leg.kind in ("hold", "increase")
        if transaction is None:
            effective = instant(leg.effective_at, at + "/effective_at")
            if self._restoring:
                effective = self._since(effective, leg, at)
            elif effective is not None and not _is_datable(leg):
                raise Unfit(at + "/effective_at", "invalid-unit", _HELD_NOW)
        final = leg.final
        if self._restoring and leg.kind == "capture" and leg.released is not None and amount is not None:
            final = int(leg.released.amount) > amount[0]
        if self._restoring:
            self._remember(leg, own, amount, at)
        return Command(
            # Restored holds never count as due, so a restored expiry is decided as a void. `as_it_was` makes it an expiry again.
            kind="void" if leg.kind == "expire" else leg.kind,
            id=own,
            debit=self._named(leg.debit_account, at + "/debit_account") if moves and leg.debit_account else None,
            credit=self._named(leg.credit_account, at + "/credit_account") if moves and leg.credit_account else None,
            amount=None if amount is None or draws else amount[0],
            currency=None if amount is None or draws else amount[1],
            target=None if leg.target is None else self._id(leg.target, at + "/target"),
            final=final,
            expires_in=leg.expires_in if holds else None,
            expires_at=instant(leg.expires_at, at + "/expires_at") if holds and leg.expires_in is None else None,
            code=self._code(leg.code, at + "/code"),
            metadata=self._metadata(leg.metadata, at + "/metadata"),
            transaction=transaction,
            effective_at=effective if _moves(leg) else None,
        )

    def _remember(self, leg: LegRecord, own: TransferId, amount: tuple[int, str] | None, at: str) -> None:
        if leg.kind == "expire":
            self._expired.add(own)
        asked = self._amount(leg.asked, at + "/asked")
        if asked is not None and amount is not None and leg.kind in ("post", "hold"):
            if asked[0] < amount[0]:
                raise Unfit(at + "/asked", "invalid-amount", "no more was moved than was asked for")
            self._asked[own, amount[0]] = asked[0]

    def _since(self, effective: datetime | None, leg: LegRecord, at: str) -> datetime | None:
        """The effective time of a restored transfer. If it is in the future, because it was recorded by a clock ahead of this one: None, for now."""
        when = effective or instant(leg.effective_at or leg.recorded_at, at + "/recorded_at")
        return None if when is None or when >= self._now else when

    def _named(self, said: str, field: str) -> AccountId | str:
        try:
            return self._account(said)
        except Problem as problem:
            raise Unfit(field, problem.slug, problem.detail) from None

    def _id(self, said: str, field: str) -> TransferId:
        """The id of a transfer that the file names. Raises Unfit."""
        try:
            return transfer_id(self._book, said)
        except Problem as problem:
            raise Unfit(field, problem.slug, problem.detail) from None

    def _own(self, said: str, field: str) -> TransferId:
        """The id of a transfer that the file brings. Ids that the platform derived are accepted only when a book is restored. Raises Unfit."""
        own = self._id(said, field)
        if said.startswith("trf_") and ids.is_derived(own) and not self._restoring:
            raise Unfit(field, "invalid-id", "ids of UUID version 8 are derived by the platform")
        return own

    def _code(self, code: str | None, field: str) -> str | None:
        """The transfer's code. In a copy of a book, what a payment made is an ordinary transfer, so its code gets a prefix. Raises Unfit."""
        if code is None or not code.startswith(OWN):
            return code
        if not self._restoring:
            raise Unfit(field, "invalid-request", f"codes that begin with {OWN} are the platform's own")
        return f"was-{code}"[:64]

    def _metadata(self, metadata: dict[str, str] | None, field: str) -> str | None:
        """The transfer's metadata. Only the platform writes long texts, in transfers between books. Raises Unfit."""
        if metadata and not self._restoring and any(len(text) > MAX_TEXT for text in metadata.values()):
            raise Unfit(field, "invalid-request", f"a text has at most {MAX_TEXT} characters")
        return _kept(metadata)

    @staticmethod
    def _amount(wire: MoneyWire | None, field: str) -> tuple[int, str] | None:
        try:
            money = None if wire is None else to_money(wire)
        except Problem as problem:
            raise Unfit(field, problem.slug, problem.detail) from None
        return None if money is None else (money.minor, money.currency)


def _moves(leg: LegRecord) -> bool:
    """Whether the leg moves money, and so can have an effective time. Holds always count from now."""
    return leg.kind in ("post", "capture", "reverse")


def _is_datable(leg: LegRecord) -> bool:
    """Whether a client's file may date the leg back. A capture's effective time can only come from the book's own export."""
    return leg.kind in ("post", "reverse")


def instant(text: str | None, field: str) -> datetime | None:
    """An RFC 3339 time. Raises Unfit."""
    try:
        return None if text is None else parse_rfc3339(text)
    except ValueError as error:
        raise Unfit(field, "invalid-request", str(error)) from None


def _kept(metadata: dict[str, str] | None) -> str | None:
    return _sorted.encode(metadata).decode() if metadata else None
