"""Charts that change while accounts are opened, changed and closed: no open account is ever there together with a chart that forbids it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from tallystick.contracts.ledger.problems import (
    AccountClosed,
    AccountExists,
    AccountHasHolds,
    AccountLimitBroken,
    AccountPathTaken,
    ChartOrphansAccounts,
    NotInChart,
)
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import Chart, NewAccount
from tallystick.services.ledger.model.chart import Mode, Rule
from tests.simulation.clients import CLIENT, Place
from tests.simulation.subjects.subject import Subject

#: The book that has charts, besides the main one.
CHARTED: Final = "charted"
_NO: Final = (AccountClosed, AccountHasHolds, AccountLimitBroken, AccountPathTaken, ChartOrphansAccounts, NotInChart)
#: Without a key a repeat is compared with what is stored, and the chart may have come to fill what it leaves out in another way.
_OPEN_NO: Final = (*_NO, AccountExists)
_A, _A_CAPPED = Rule("a:{id:int}", "liability"), Rule("a:{id:int}", "liability", ceiling=50)
_B, _B_ASSET = Rule("b:{id}", "liability"), Rule("b:{id}", "asset")
_CHARTS: Final[tuple[tuple[Mode, tuple[Rule, ...]], ...]] = (
    ("strict", (_A,)), ("strict", (_A, _B)), ("strict", (_A_CAPPED, _B)), ("open", (_B_ASSET,)), ("open", ()),
)  # fmt: skip


class Charts(Subject):
    name = "charts"
    kinds = ("charts", "ChartOrphansAccounts", "NotInChart", "charted_together")
    opened: dict[str, list[AccountId]]

    async def furnish(self) -> None:
        self.opened = {}
        for tenant in self.world.tenants:
            home = self.world.shards[self.world.home].replicas[0]
            await home.ledger.books.open((tenant, CLIENT, None), CHARTED, None, "strict")
            self.opened[tenant] = [
                await self.world.open_account((tenant, CHARTED), "credit", None, path=path, ceiling=50)
                for path in ("a:0", "b:x")
            ]

    async def act(self, rng: random.Random) -> None:
        """Sets a chart, most often together with somebody who opens, changes or closes what it may forbid."""
        place = rng.choice(self.world.tenants), CHARTED
        if rng.random() < 0.3:
            await self._touch(rng, place)
        else:
            self.reached("charted_together")
            await self.world.gather(
                self._set(rng, place), self._touch(rng, place, rng.uniform(0, 0.01)), self._move(rng, place)
            )

    async def _set(self, rng: random.Random, place: Place) -> None:
        mode, rules = rng.choice(_CHARTS)
        await self.world.clients.until_answered(
            place,
            lambda replica: replica.ledger.books.set_chart(
                (place[0], CLIENT, None), place[1], lambda version: Chart(version, mode, rules)
            ),
            rng,
            f"chart {mode} {len(rules)}",
            _NO,
        )

    async def _touch(self, rng: random.Random, place: Place, after: float = 0.0) -> None:
        await self.world.rest(after)
        who, chance = (place[0], CLIENT, None), rng.random()
        own = rng.choice(self.opened[place[0]])
        clients = self.world.clients
        if chance < 0.6:
            ceiling = rng.choice([None, 50, 80])
            path = f"{rng.choice('ab')}:{rng.randint(1, 10**9)}"
            new = NewAccount(
                id=AccountId(self.world.uuid()), name="an account", currency="EUR", normal_side="credit", floor=None, code=None, metadata=None,
                path=path, kind=None, ceiling=ceiling,
            )  # fmt: skip
            row = await clients.until_answered(
                place,
                lambda replica: replica.ledger.accounts.open(*who, new, book=place[1]),
                rng,
                f"open {path}",
                _OPEN_NO,
            )
            if row is not None:
                self.opened[place[0]].append(new.id)
        elif chance < 0.8:
            ceiling = rng.choice([50, 80])
            await clients.until_answered(
                place,
                lambda replica: replica.ledger.accounts.change(
                    who, own, lambda row: msgspec.structs.replace(row, ceiling=ceiling), place[1]
                ),
                rng,
                f"ceiling {ceiling}",
                _NO,
            )
        else:
            await clients.until_answered(
                place, lambda replica: replica.ledger.accounts.close(*who, own, place[1]), rng, "close", _NO
            )

    async def _move(self, rng: random.Random, place: Place) -> None:
        """Somebody who moves money at that moment."""
        accounts, clients = self.opened[place[0]], self.world.clients
        move = clients.move(rng, (place[0], "main"), len(clients.intentions), "post")
        debit, credit = rng.sample(accounts, 2)
        move = msgspec.structs.replace(move, debit=debit, credit=credit, amount=1)
        await clients.say(clients.want(place, [move], atomic=True, key=None), rng)

    def violations(self) -> Iterable[str]:
        """What was stored, in its order: at each moment every open account is one that the chart of that moment allows."""
        for place, _, _, changes in self.world.books():
            accounts: dict[Any, dict[str, Any]] = {}
            chart: dict[str, Any] | None = None
            for change in changes:
                said = change.said
                if change.kind == "opened":
                    accounts[said["id"]] = dict(said)
                elif change.kind == "limits":
                    accounts[said[0]] |= {"floor": said[1], "ceiling": said[2]}
                elif change.kind == "closed":
                    del accounts[said[0]]
                elif change.kind == "chart":
                    self.reached("charts")
                    if said["version"] != (1 if chart is None else chart["version"] + 1):
                        yield f"chart: {said['version']} came after {chart}"
                    chart = said
                if chart is not None and change.kind in {"opened", "limits", "chart"}:
                    for row in accounts.values():
                        if not _allows(chart, row):
                            yield f"chart: {place} has {row['path']}, {row['ceiling']} after {change.kind}: {chart}"


def _allows(chart: dict[str, Any], row: dict[str, Any]) -> bool:
    """What the few charts here say, without patterns."""
    if row["path"] is None or row["path"].startswith(("transit:", "tallystick:")):
        return chart["mode"] == "open" or row["path"] is not None
    for rule in msgspec.json.decode(chart["rules"]):
        if row["path"].startswith(rule["pattern"][:2]):
            capped = rule.get("ceiling")
            fits = capped is None or (row["ceiling"] is not None and row["ceiling"] <= capped)
            return bool(row["kind"] == rule["kind"] and fits)
    return bool(chart["mode"] == "open")
