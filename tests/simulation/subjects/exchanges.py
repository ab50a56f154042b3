"""One currency for another, between other transfers of the same accounts, dated back at times, and reversed as a whole."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import msgspec

from tallystick.contracts.ledger.messages import MAIN, NewTransaction
from tallystick.contracts.ledger.messages.transactions import Liquidity, NewExchange, Rate, Spread, TransactionItem
from tallystick.contracts.ledger.problems import ExchangeWorthless
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.ids import AccountId, TransactionId
from tallystick.kernel.money import AmountWire
from tallystick.services.ledger.api.transactions import assembled
from tests.simulation.clients import Intention, Place
from tests.simulation.subjects.subject import Subject

SOLD, BOUGHT = "EUR", "USD"


@dataclass
class Deal:
    """What was asked for, and the intention that it became."""

    intention: Intention
    exchange: NewExchange
    sold: int
    others: int


class Exchanges(Subject):
    name = "exchanges"
    kinds = ("exchanged", "exchanged_with_spread", "exchange_refused", "exchange_undone")
    deals: list[Deal]
    ours: dict[Place, dict[str, AccountId]]

    async def furnish(self) -> None:
        """Pools of both currencies, the second of which has something, and somebody who has a little of it."""
        self.deals, self.ours = [], {}
        for tenant in self.world.tenants:
            place = (tenant, MAIN)
            self.ours[place] = {
                name: await self.world.open_account(place, side, floor, currency=currency)
                for name, side, floor, currency in (
                    ("sell", "debit", None, SOLD), ("buy", "credit", -400, BOUGHT), ("buyer", "credit", 0, BOUGHT), ("spread", "credit", 0, BOUGHT),
                )
            }  # fmt: skip

    async def act(self, rng: random.Random) -> None:
        world, clients = self.world, self.world.clients
        if self.deals and rng.random() < 0.2:
            await clients.tell(rng.choice(self.deals).intention, rng)
            return
        place = rng.choice(list(self.ours))
        ours = {name: ids.accounts.text(account) for name, account in self.ours[place].items()}
        seller, other = (ids.accounts.text(one) for one in rng.sample(world.accounts[place], 2))
        if rng.random() < 0.5:
            seller = ids.accounts.text(world.accounts[place][1])  # who always has something
        sold = rng.randint(1, 60)
        spread = Spread(rng.randint(1, 9), rng.choice([10, 100]), ours["spread"]) if rng.random() < 0.5 else None
        exchange = NewExchange(
            sell=AmountWire(str(sold), SOLD),
            from_=seller,
            to=ours["buyer"],
            buy_currency=BOUGHT,
            rate=Rate(rng.choice([1, 3, 107, 1085]), rng.choice([1, 2, 100, 1000])),
            rounding=rng.choice(["down", "up", "half_even", "half_up"]),
            liquidity=Liquidity(ours["sell"], ours["buy"]),
            spread=spread,
        )
        items = [TransactionItem(kind="exchange", exchange=exchange)]
        if rng.random() < 0.3 and other != seller:
            amount = AmountWire(str(rng.randint(1, 30)), SOLD)
            move = TransactionItem(kind="post", debit_account=seller, credit_account=other, amount=amount)
            items.insert(rng.randint(0, 1), move)
        asked = NewTransaction(
            id=ids.transactions.text(TransactionId(world.uuid())),
            transfers=items,
            effective_at=rfc3339(world.past(rng)) if rng.random() < 0.2 else None,
        )
        try:
            header, commands = assembled(asked)
        except ExchangeWorthless:
            return
        number = len(clients.intentions)
        commands = [msgspec.structs.replace(one, code=f"{number}-{rng.getrandbits(32)}") for one in commands]
        key = f"key-{number}" if rng.random() < 0.5 else None
        deal = Deal(clients.want(place, commands, atomic=True, key=key, header=header), exchange, sold, len(items) - 1)
        self.deals.append(deal)
        await clients.tell(deal.intention, rng)

    def violations(self) -> Iterable[str]:
        """What is sold arrives whole; what is bought and kept back is what the rate gives, by another reckoning; and nobody else has any of it."""
        for deal in self.deals:
            place = deal.intention.place
            legs = [
                row
                for row in self.world.tables(place)["transfer"].values()
                if deal.intention.header is not None and row["transaction"] == deal.intention.header.id
            ]
            if not legs:
                self.reached("exchange_refused")
                continue
            self.reached("exchanged_with_spread" if deal.exchange.spread is not None else "exchanged")
            yield from self._wrong(deal, legs)
        undone = {
            row["reverses"]
            for shard in self.world.shards.values()
            for row in shard.server.tables["transaction"].values()
        }
        for deal in self.deals:
            if deal.intention.header is not None and deal.intention.header.id in undone:
                self.reached("exchange_undone")

    def _wrong(self, deal: Deal, legs: list[dict[str, Any]]) -> Iterator[str]:
        exchange, ours = deal.exchange, self.ours[deal.intention.place]
        gross = self._rounded(
            Fraction(deal.sold * exchange.rate.numerator, exchange.rate.denominator), exchange.rounding
        )
        spread = exchange.spread
        kept = 0 if spread is None else math.floor(Fraction(gross * spread.numerator, spread.denominator))
        moved = Counter[AccountId]()
        for row in legs:
            moved[row["debit_account"]] -= row["amount"]
            moved[row["credit_account"]] += row["amount"]
        right = {"sell": deal.sold, "buy": -gross, "buyer": gross - kept, "spread": kept}
        found = {name: moved[account] for name, account in ours.items()}
        if found != right:
            yield f"exchange: {deal.intention.number} moved {found}, and {right} is what was asked for"
        if len(legs) != deal.others + 2 + bool(kept):
            yield f"exchange: {deal.intention.number} has {len(legs)} legs"

    @staticmethod
    def _rounded(value: Fraction, how: str) -> int:
        """`round` is half to even."""
        if how == "half_even":
            return round(value)
        return {"down": math.floor(value), "up": math.ceil(value)}.get(how, math.floor(value + Fraction(1, 2)))
