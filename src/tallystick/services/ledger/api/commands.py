"""Wire to model. Checks what a schema can't express, and names each mistake with its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from tallystick.contracts.ledger.messages import OWN, ChangeAccount, NewTransfer, OpenAccount, UnitTransfer
from tallystick.contracts.ledger.problems import InvalidUnit
from tallystick.kernel import ids
from tallystick.kernel.ids import AccountId, InvalidId, TransferId
from tallystick.kernel.money import Money, MoneyWire, currency, to_money
from tallystick.kernel.problem import InvalidRequest, Problem
from tallystick.services.ledger.model import AccountRow, Command, CommandKind, NewAccount, account_ref, limit_of

_sorted = msgspec.json.Encoder(order="sorted")

_parse_transfer = ids.transfers.parse


def kept(metadata: Mapping[str, str] | None) -> str | None:
    """Metadata as it is stored: JSON with sorted keys, so that equal metadata are equal texts. None if empty."""
    return _sorted.encode(metadata).decode() if metadata else None


def own_id(text: str) -> TransferId:
    """The id that a client made for a transfer. Raises InvalidId for a form that the platform derives: a client that used such an id first could
    block a transfer of the platform.
    """
    own = _parse_transfer(text)
    if ids.is_derived(own):
        raise InvalidId("ids of UUID version 8 are derived by the platform: make one of version 7")
    return own


def own_code(text: str | None) -> str | None:
    """The code that a client gave. Raises InvalidRequest for one that is reserved for the platform."""
    if text is not None and text.startswith(OWN):
        raise InvalidRequest(f"codes that begin with {OWN} are the platform's own")
    return text


def new_transfers(items: Sequence[NewTransfer]) -> list[Command]:
    """Raises InvalidAmount, UnknownCurrency, InvalidId or InvalidUnit, with the pointer of the item."""
    commands = []
    for place, item in enumerate(items):
        try:
            commands.append(_new_transfer(item))
        except Problem as problem:
            raise problem.at(f"/transfers/{place}") from None
    if items[-1].linked:
        raise InvalidUnit("the last transfer has no next to be linked to").at(f"/transfers/{len(items) - 1}/linked")
    return commands


def _new_transfer(item: NewTransfer) -> Command:
    if item.expires_in is not None and item.kind != "hold":
        raise InvalidUnit("only a hold expires")
    money = to_money(item.amount)
    return Command(
        kind=item.kind,
        id=ids.transfers.new() if item.id is None else own_id(item.id),
        debit=account_ref(item.debit_account),
        credit=account_ref(item.credit_account),
        amount=money.minor,
        currency=money.currency,
        expires_in=item.expires_in,
        code=own_code(item.code),
        metadata=kept(item.metadata),
        linked=item.linked,
        balancing=item.balancing,
    )


def unit(items: Sequence[UnitTransfer]) -> list[Command]:
    """As `new_transfers`, for the mesh."""
    commands = []
    for place, item in enumerate(items):
        try:
            commands.append(_unit_transfer(item))
        except Problem as problem:
            raise problem.at(f"/transfers/{place}") from None
    return commands


def _unit_transfer(item: UnitTransfer) -> Command:
    moves = item.kind in ("post", "hold")
    if moves != (item.debit_account is not None and item.credit_account is not None and item.amount is not None):
        raise InvalidUnit("a post or a hold has two accounts and an amount; the other kinds have not")
    if not moves and (item.debit_account is not None or item.credit_account is not None):
        raise InvalidUnit("the accounts of this kind are those of its target")
    if moves == (item.target is not None):
        raise InvalidUnit("an increase, a capture, a void and a reversal have a target; a post and a hold have none")
    if (
        (item.final and item.kind != "capture")
        or (item.expires_in is not None and item.kind not in ("hold", "increase"))
        or (item.amount is not None and item.kind == "void")
        or (item.amount is None and item.kind == "increase")
    ):
        raise InvalidUnit("only a capture is final, only a hold expires, a void has no amount and an increase has one")
    money = None if item.amount is None else to_money(item.amount)
    return Command(
        kind=item.kind,
        id=_parse_transfer(item.id),
        debit=None if item.debit_account is None else account_ref(item.debit_account),
        credit=None if item.credit_account is None else account_ref(item.credit_account),
        amount=None if money is None else money.minor,
        currency=None if money is None else money.currency,
        target=None if item.target is None else _parse_transfer(item.target),
        final=item.final,
        expires_in=item.expires_in,
        code=item.code,
        metadata=kept(item.metadata),
    )


def on_target(
    kind: CommandKind,
    target: TransferId,
    own: str | None,
    amount: MoneyWire | None = None,
    *,
    final: bool = False,
    expires_in: int | None = None,
) -> Command:
    """A capture, increase, void or reversal of `target`. `own` is the client's id for it, if it gave one. Raises InvalidAmount, UnknownCurrency and
    InvalidId.
    """
    money: Money | None = None
    if amount is not None:
        try:
            money = to_money(amount)
        except Problem as problem:
            raise problem.at("/amount") from None
    return Command(
        kind=kind,
        id=ids.transfers.new() if own is None else own_id(own),
        target=target,
        amount=None if money is None else money.minor,
        currency=None if money is None else money.currency,
        final=final,
        expires_in=expires_in,
    )


def account(given: OpenAccount, own: AccountId) -> NewAccount:
    """The account to open. Raises UnknownCurrency and InvalidAmount."""
    currency(given.currency)
    return NewAccount(
        id=own,
        name=given.name,
        path=given.path,
        kind=given.kind,
        currency=given.currency,
        normal_side=given.normal_side,
        floor=limit_of(given.floor, "/floor"),
        ceiling=limit_of(given.ceiling, "/ceiling"),
        code=given.code,
        metadata=kept(given.metadata),
    )


def changed(row: AccountRow, given: ChangeAccount) -> AccountRow:
    """The account with the fields that the request names changed. Raises InvalidAmount."""
    changes: dict[str, object] = {}
    if given.name is not msgspec.UNSET:
        changes["name"] = given.name
    if given.metadata is not msgspec.UNSET:
        changes["metadata"] = kept(given.metadata)
    if given.floor is not msgspec.UNSET:
        changes["floor"] = limit_of(given.floor, "/floor")
    if given.ceiling is not msgspec.UNSET:
        changes["ceiling"] = limit_of(given.ceiling, "/ceiling")
    return msgspec.structs.replace(row, **changes)
