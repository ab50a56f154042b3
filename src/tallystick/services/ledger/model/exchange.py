"""Currency exchange: the legs of an exchange. Integers only, and every remainder is rounded in a stated way.

A seller gives an amount of one currency to a liquidity pool, which gives the other currency for it at a rate. The rate is a ratio of integers, minor
units bought per minor units sold, with a named rounding. A spread is a share of what was bought that is kept on an account of its own; it is
rounded down, in the buyer's favour. Nothing is lost: what is sold arrives whole, and what is bought plus the spread is exactly what the rate
gives.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model.values import MAX

Rounding = Literal["down", "up", "half_even", "half_up"]


class Ratio(msgspec.Struct, frozen=True):
    """`numerator` per `denominator`, both positive."""

    numerator: int
    denominator: int


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """`sold` minor units of `sell_currency` go from `seller` to `pool_sell`; the other currency goes from `pool_buy` to `buyer`. With a `spread`, that
    share of it (below one) goes to `spread_to` instead. Accounts are ids or paths.
    """

    sold: int
    sell_currency: str
    buy_currency: str
    seller: AccountId | str
    buyer: AccountId | str
    pool_sell: AccountId | str
    pool_buy: AccountId | str
    rate: Ratio
    rounding: Rounding
    spread: Ratio | None = None
    spread_to: AccountId | str | None = None


class Leg(msgspec.Struct, frozen=True):
    role: Literal["sell", "buy", "spread"]
    debit: AccountId | str
    credit: AccountId | str
    amount: int
    currency: str


class Worthless(ValueError):
    """The exchange gives less than one minor unit, or more than an amount can be."""


def legs(exchange: Exchange) -> list[Leg]:
    """Two legs, or three if there is a spread of at least one minor unit. Raises Worthless."""
    gross = rounded(exchange.sold * exchange.rate.numerator, exchange.rate.denominator, exchange.rounding)
    kept = 0
    if exchange.spread is not None:
        kept = gross * exchange.spread.numerator // exchange.spread.denominator
    net = gross - kept
    if net < 1:
        raise Worthless("nothing would be bought at this rate")
    if gross > MAX:
        raise Worthless("more would be bought than an amount can be")
    made = [
        Leg("sell", exchange.seller, exchange.pool_sell, exchange.sold, exchange.sell_currency),
        Leg("buy", exchange.pool_buy, exchange.buyer, net, exchange.buy_currency),
    ]
    if kept and exchange.spread_to is not None:
        made.append(Leg("spread", exchange.pool_buy, exchange.spread_to, kept, exchange.buy_currency))
    return made


_HALF: Final = 2


def rounded(numerator: int, denominator: int, rounding: Rounding) -> int:
    """The quotient of non-negative integers, rounded to an integer."""
    whole, rest = divmod(numerator, denominator)
    if rounding == "down" or rest == 0:
        return whole
    if rounding == "up":
        return whole + 1
    doubled = rest * _HALF
    if doubled == denominator and rounding == "half_even":
        return whole + whole % _HALF
    return whole + (doubled >= denominator)
