"""A replica of payments is killed, or paused, in the middle of payments: another goes on with them within seconds when it is dead, and
when it comes back nothing is doubled.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tallystick.cli.apiclient import Answer, ApiClient
from tallystick.kernel import ids
from tallystick.services.payments.model import LEASE, Role, request_id
from tests.system.conftest import PlatformUnderTest, replicated
from tests.system.stream import client_of, made, money

#: A dead process's work is taken up after 2 to 3 s. What is done sooner than a lease ends was not waited for that; the rest is for a busy machine.
WITHIN_SECONDS = 25
assert LEASE.total_seconds() > WITHIN_SECONDS
#: A replica that is paused so long has its lease still, and another would have taken up its work if it took it for dead.
PAUSE_SECONDS = 12
PAYMENTS = 8


@pytest.fixture(scope="module")
def pair() -> Iterator[PlatformUnderTest]:
    """A platform with two replicas of payments."""
    with replicated(payments=2) as one:
        yield one


@dataclass
class Underway:
    """Payments by card that stand before the acquirer, some on each replica."""

    api: ApiClient
    shop: str
    bodies: dict[str, Any]
    requests: dict[str, asyncio.Task[Answer]]
    rail: int

    def answer(self) -> None:
        """From now on the acquirer answers."""
        os.kill(self.rail, signal.SIGCONT)

    async def first(self) -> dict[str, Answer | BaseException]:
        """What the requests that began it were told in the end."""
        told = await asyncio.gather(*self.requests.values(), return_exceptions=True)
        return dict(zip(self.requests, told, strict=True))

    async def finals(self) -> dict[str, Any]:
        """The final answer to each, had by asking again with its key."""
        found = await asyncio.gather(*(made(self.api, "/v1/payments", body, key) for key, body in self.bodies.items()))
        return dict(zip(self.bodies, found, strict=True))


@asynccontextmanager
async def underway(platform: PlatformUnderTest, file: Path) -> AsyncIterator[Underway]:
    """The acquirer is paused until `answer`."""
    credentials = await asyncio.to_thread(client_of, platform, file)
    async with ApiClient(credentials, connections=2 * PAYMENTS, attempts=1) as api:
        name = file.stem
        account = {"name": "shop", "currency": "EUR", "normal_side": "credit"}
        shop = (await made(api, "/v1/accounts", account, f"{name}-shop"))["id"]
        card = {"type": "card", "card": {"number": "4242424242424242", "exp_month": 12, "exp_year": 2039}}
        token = (await made(api, "/v1/tokens", card, f"{name}-card"))["id"]
        bodies = {
            f"{name}-{n}": {
                "amount": money(100 + n),
                "source": {"type": "card", "token": token},
                "destination": {"account": shop},
                "reference": name,
            }
            for n in range(PAYMENTS)
        }
        rail = (await asyncio.to_thread(platform.pids))["rail"]
        os.kill(rail, signal.SIGSTOP)
        try:
            requests = {
                key: asyncio.create_task(api.request("POST", "/v1/payments", body, idempotency_key=key))
                for key, body in bodies.items()
            }
            await _stand_before_the_acquirer(api, shop, name)
            yield Underway(api, shop, bodies, requests, rail)
        finally:
            os.kill(rail, signal.SIGCONT)


async def _stand_before_the_acquirer(api: ApiClient, shop: str, reference: str) -> None:
    """All are stored, and the ledger has a hold for each."""
    async with asyncio.timeout(60):
        while True:
            listed = (await api.request("GET", f"/v1/payments?reference={reference}")).json()["data"]
            holds = (await api.request("GET", f"/v1/accounts/{shop}/entries")).json()["data"]
            if len(listed) == PAYMENTS and len(holds) == PAYMENTS:
                return
            await asyncio.sleep(0.1)


async def still_at_work(platform: PlatformUnderTest) -> int:
    async with platform.superuser("payments") as connection:
        return int(await connection.fetchval("SELECT count(*) FROM payment WHERE resume_at IS NOT NULL"))


async def give_up_sessions(platform: PlatformUnderTest) -> None:
    """As the server does with a client that the network has cut off."""
    gone = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'payments-0'"
    async with platform.superuser("payments") as connection:
        assert await connection.fetchval(gone) > 0


async def until_done(platform: PlatformUnderTest, within: float) -> None:
    async with asyncio.timeout(within):
        while await still_at_work(platform):
            await asyncio.sleep(0.1)


async def nothing_is_doubled(platform: PlatformUnderTest, work: Underway, finals: dict[str, Any]) -> None:
    """One payment for each key, which is as it was answered; the shop and the acquirer have each amount once."""
    assert await work.finals() == finals, "the answers stay"
    assert {final["status"] for final in finals.values()} == {"settled"}
    for told in (await work.first()).values():
        if isinstance(told, Answer) and told.status == 201:
            assert told.json() in finals.values()
    reference = next(iter(work.bodies.values()))["reference"]
    listed = (await work.api.request("GET", f"/v1/payments?reference={reference}")).json()["data"]
    assert sorted(listed, key=lambda each: each["id"]) == sorted(finals.values(), key=lambda each: each["id"])
    wanted = sum(int(body["amount"]["amount"]) for body in work.bodies.values())
    balance = (await work.api.request("GET", f"/v1/accounts/{work.shop}")).json()["balance"]
    assert (int(balance["posted"]["amount"]), int(balance["pending"]["amount"])) == (wanted, 0)
    named = {ids.rail_requests.text(request_id(ids.payments.parse(each["id"]), Role.AUTHORIZE)) for each in listed}
    with closing(sqlite3.connect(f"file:{platform.data / 'rail.sqlite'}?mode=ro", uri=True)) as rail:
        rows = rail.execute('SELECT request_id, authorized, captured, voided, refunded FROM "authorization"').fetchall()
    at_rail = sorted(row[1:] for row in rows if row[0] in named)
    assert at_rail == sorted((100 + n, 100 + n, 0, 0) for n in range(PAYMENTS))


def test_a_killed_replica_is_taken_over_in_seconds(pair: PlatformUnderTest, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with underway(pair, tmp_path / "killed.json") as work:
            os.kill((await asyncio.to_thread(pair.pids))["payments-0"], signal.SIGKILL)
            began = monotonic()
            work.answer()
            first = await work.first()
            cut_off = [key for key, told in first.items() if not isinstance(told, Answer) or told.status != 201]
            assert cut_off, "none of the payments was on the replica that was killed"
            finals = await work.finals()
            took = monotonic() - began
            print(f"{len(cut_off)} of {PAYMENTS} cut off, the last answered after {took:.1f} s")
            assert took < WITHIN_SECONDS
            await nothing_is_doubled(pair, work, finals)

    asyncio.run(scenario())
    pair.until_ready()
    pair.verified()


@pytest.mark.parametrize("how", ["lease", "sessions"])
def test_a_paused_replica_that_comes_back_does_no_harm(pair: PlatformUnderTest, tmp_path: Path, how: str) -> None:
    """Others wait for the end of its lease while its sessions stand; when the server has given them up, they don't. In both cases it comes
    back in the middle of payments that are done.
    """

    async def scenario() -> None:
        pids = await asyncio.to_thread(pair.pids)
        replica, supervisor = pids["payments-0"], pids["supervisor"]
        async with underway(pair, tmp_path / f"{how}.json") as work:
            os.kill(supervisor, signal.SIGSTOP)  # it would end a replica that hangs
            os.kill(replica, signal.SIGSTOP)
            try:
                work.answer()
                if how == "sessions":
                    await give_up_sessions(pair)
                    await until_done(pair, WITHIN_SECONDS)
                else:
                    await asyncio.sleep(PAUSE_SECONDS)
                    assert await still_at_work(pair) > 0, "it may come back at any moment, and has its lease"
                    await until_done(pair, 120)
            finally:
                os.kill(replica, signal.SIGCONT)
                os.kill(supervisor, signal.SIGCONT)
            finals = await work.finals()
            await asyncio.sleep(2)  # it does what it had in mind when it was paused
            await nothing_is_doubled(pair, work, finals)
        assert (await asyncio.to_thread(pair.pids))["payments-0"] == replica

    asyncio.run(scenario())
    pair.until_ready()
    pair.verified()
