"""Two shards of the ledger on one platform: money between their books, through the edge and the mesh, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tallystick.cli.apiclient import ApiClient, EdgeUnreachable
from tallystick.cli.credentials import Credentials
from tallystick.kernel import ids
from tests.system.conftest import EVERY_SCOPE, PlatformUnderTest, running
from tests.system.stream import client_of, money
from tests.system.test_hostile_mesh import by_socket

EU = {"Tallystick-Shard": "eu"}
BOOKS = ("main", "europe")
FUNDS = 1_000_000
#: Transfers side by side, and how many there are when the shard is killed and at the end.
SIDE_BY_SIDE, HALF, ALL = 12, 150, 300


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PlatformUnderTest, Credentials]]:
    """A platform with the shard `eu`, and a client of it. The book `europe` is open there, with a bank and a funded wallet as in `main`."""
    with running("--shard", "eu") as one:
        opened = one.cli("ledger", "open-book", "europe", "--shard", "eu", "--json")
        assert (opened.status, opened.json["shard"]) == (0, "eu"), opened
        credentials = client_of(one, tmp_path_factory.mktemp("shards") / "shards.json", EVERY_SCOPE)
        asyncio.run(_furnish(credentials))
        yield one, credentials


async def _furnish(credentials: Credentials) -> None:
    async with ApiClient(credentials) as api:
        for book in BOOKS:
            for path, side, floor in (("bank", "debit", None), ("wallet", "credit", "0")):
                account = {"name": path, "path": path, "currency": "EUR", "normal_side": side, "floor": floor}
                made = await api.request("POST", "/v1/accounts", {**account, "book": book})
                assert made.status == 201, made.body
            await _post(api, book, FUNDS, f"fund {book}")


async def _post(api: ApiClient, book: str, amount: int, key: str) -> Any:
    """From the bank to the wallet of one book."""
    transfer = {"kind": "post", "debit_account": "bank", "credit_account": "wallet", "amount": money(amount)}
    posted = await api.request("POST", "/v1/transfers", {"book": book, "transfers": [transfer]}, idempotency_key=key)
    assert posted.status == 201, posted.body
    return posted.json()


@dataclass
class Crossings:
    """Transfers between the two books, each by its own id; every seventh is for an account that is not there."""

    api: ApiClient
    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter)

    async def send(self, upto: int) -> None:
        """So many more, some side by side."""
        places = asyncio.Semaphore(SIDE_BY_SIDE)

        async def one(number: int) -> None:
            async with places:
                await self._one(number)

        await asyncio.gather(*(one(number) for number in range(len(self.asked), upto)))

    async def _one(self, number: int) -> None:
        source, destination = BOOKS if number % 2 else reversed(BOOKS)
        body: dict[str, Any] = {
            "id": ids.transfers.text(ids.transfers.new()),
            "from": {"book": source, "account": "wallet"},
            "to": {"book": destination, "account": "nobody" if number % 7 == 0 else "wallet"},
            "amount": money(number + 1),
        }
        self.asked[body["id"]] = body
        try:
            answer = await self.api.request("POST", "/v1/interbook_transfers", body, idempotency_key=body["id"])
        except EdgeUnreachable:
            self.answered["unreachable"] += 1
        else:
            assert answer.ok or answer.json()["retryable"], answer.body
            self.answered[answer.json()["status"] if answer.ok else answer.slug] += 1

    async def ends(self, body: dict[str, Any]) -> dict[str, Any]:
        """How it stands when it has come to rest. What was never taken is asked again, with the same id and key."""
        path = f"/v1/interbook_transfers/{body['id']}?book={body['from']['book']}"
        async with asyncio.timeout(90):
            while True:
                answer = await self.api.request("GET", path)
                if answer.status == 404:
                    await self.api.request("POST", "/v1/interbook_transfers", body, idempotency_key=body["id"])
                elif answer.ok and answer.json()["status"] != "in_flight":
                    return dict(answer.json())
                await asyncio.sleep(0.2)


def test_two_ledgers_run(sharded: tuple[PlatformUnderTest, Credentials]) -> None:
    platform, _ = sharded
    found = platform.status()
    assert found["shards"] == ["eu"]
    assert {"ledger", "ledger-eu"} <= {service["name"] for service in found["services"]}
    assert platform.cli("status").out.count("shards of the ledger: default, eu") == 1
    again = platform.cli("up", "--shard", "us")
    assert (again.status, "other settings than --shard us (it has default, eu)" in again.err) == (1, True), again
    looked = platform.cli("ledger", "check", "--json").json
    assert sorted(one["book"] for one in looked["books"] if one["tenant"] == "default") == sorted(BOOKS)


async def _facts_of_the_shard(credentials: Credentials) -> None:
    async with ApiClient(credentials) as api:
        hook = {"url": "https://localhost:1/hook", "events": ["transfers.posted"]}
        made = await api.request("POST", "/v1/webhook_endpoints", hook, idempotency_key="hook")
        assert made.status == 201, made.body
        receipt = (await _post(api, "europe", 5, "heard"))["receipt"]
        async with asyncio.timeout(60):
            while not (proof := await api.request("GET", f"/v1/audit/receipts/{receipt}")).ok:
                await asyncio.sleep(0.2)
            assert proof.body.startswith(b"c2sp.org/tlog-proof")
            path = f"/v1/webhook_endpoints/{made.json()['id']}/deliveries"
            while receipt not in {one["event"] for one in (await api.request("GET", path)).json()["data"]}:
                await asyncio.sleep(0.2)


def test_what_the_shard_tells_is_heard(sharded: tuple[PlatformUnderTest, Credentials]) -> None:
    """By audit, which gives a receipt of it, and by notify, which has it for the webhooks."""
    asyncio.run(_facts_of_the_shard(sharded[1]))


async def _a_request_for_the_wrong_shard(credentials: Credentials) -> None:
    async with ApiClient(credentials) as api:
        home = {"Tallystick-Shard": "default"}
        told = await api.request("GET", "/v1/accounts?book=europe", headers=home)
        assert (told.status, told.slug, told.json()["shard"]) == (421, "book-elsewhere", "eu")
        assert (await api.request("GET", "/v1/accounts?book=europe", headers=EU)).ok
        assert (await api.request("GET", "/v1/accounts?book=europe")).attempts == 2
        unknown = await api.request("GET", "/v1/accounts?book=europe", headers={"Tallystick-Shard": "us"})
        assert (unknown.status, unknown.slug) == (400, "invalid-request")
        early = await api.request("POST", "/v1/books", {"name": "asia"}, headers=EU)
        assert (early.status, early.slug) == (400, "invalid-request"), "home does not name this shard for it"
        taken = await api.request("POST", "/v1/books", {"name": "main"}, headers=EU)
        assert (taken.status, taken.json()["shard"]) == (421, "default")


def test_a_client_names_the_shard_or_is_told(sharded: tuple[PlatformUnderTest, Credentials]) -> None:
    asyncio.run(_a_request_for_the_wrong_shard(sharded[1]))


def test_a_file_comes_into_a_book_of_the_shard(sharded: tuple[PlatformUnderTest, Credentials], tmp_path: Path) -> None:
    """Its import is named by an id alone, which home does not know: the command stays with the shard that took it."""
    platform, _ = sharded
    file = tmp_path / "accounts.csv"
    file.write_text(
        "id,path,name,currency,normal_side,opening\n1,assets:till,Till,EUR,debit,\n2,people:1,One,EUR,credit,7.50\n"
    )
    for name, status in (("europe", 0), ("nowhere", 1)):
        brought = platform.cli("ledger", "import", str(file), "--book", name, "--json")
        assert brought.status == status, brought
    out = tmp_path / "export.jsonl"
    assert platform.cli("ledger", "export", "--out", str(out), "--book", "europe").status == 0
    assert b"people:1" in out.read_bytes()
    shown = platform.cli("ledger", "balance", "people:1", "--book", "europe", "--json").json
    assert shown["balance"]["posted"]["amount"] == "750"


async def _ways_to_the_shard(mesh: Path) -> None:
    assert {file.parent.name for file in mesh.glob("*/ledger-eu.sock")} == {"in", "ledger", "operator"}
    assert {file.stem for file in (mesh / "ledger-eu").glob("*.sock")} == {"identity", "ledger"}
    step = "/internal/arrivals"
    for caller, target, path in (
        ("operator", "ledger-eu", step),
        ("payments", "ledger", step),
        ("ledger", "ledger-eu", "/internal/transfers"),
        ("ledger-eu", "ledger", "/internal/transfers"),
        ("ledger-eu", "ledger", "/internal/books/check"),
    ):
        answer = await by_socket(mesh / caller / f"{target}.sock", "POST", path, body={})
        assert answer.status == 403, (caller, target, path)
    # a ledger gets in, and is asked for whose money it is
    for caller, target in (("ledger", "ledger-eu"), ("ledger-eu", "ledger")):
        answer = await by_socket(mesh / caller / f"{target}.sock", "POST", step, body={})
        assert answer.status == 400, (caller, target)


def test_nobody_but_a_ledger_reaches_the_shards_step(sharded: tuple[PlatformUnderTest, Credentials]) -> None:
    from tallystick.local.layout import Layout

    asyncio.run(_ways_to_the_shard(Layout(sharded[0].data).mesh))


async def _cross_while_it_is_killed(platform: PlatformUnderTest, credentials: Credentials) -> Crossings:
    async with ApiClient(credentials, timeout=10) as api:
        crossings = Crossings(api)
        await crossings.send(HALF)
        assert set(crossings.answered) <= {"posted", "rejected"}
        pid = platform.pids()["ledger-eu-0"]
        sending = asyncio.create_task(crossings.send(ALL))
        while len(crossings.asked) < HALF + SIDE_BY_SIDE * 2:
            await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        await sending
        await asyncio.to_thread(platform.until_ready)
        ends = await asyncio.gather(*(crossings.ends(body) for body in crossings.asked.values()))
        balance = dict.fromkeys(BOOKS, FUNDS)
        for end in ends:
            asked = crossings.asked[end["id"]]
            assert end["status"] == ("rejected" if asked["to"]["account"] == "nobody" else "posted"), end
            if end["status"] == "posted":
                balance[asked["from"]["book"]] -= int(asked["amount"]["amount"])
                balance[asked["to"]["book"]] += int(asked["amount"]["amount"])
        balance["europe"] += 5  # from `_facts_of_the_shard`
        for book in BOOKS:
            held = (await api.request("GET", f"/v1/accounts/wallet?book={book}")).json()["balance"]
            assert int(held["posted"]["amount"]) == int(held["available"]["amount"]) == balance[book], book
        return crossings


def test_all_end_when_the_shard_is_killed_in_the_middle(
    sharded: tuple[PlatformUnderTest, Credentials], record_property: Any
) -> None:
    platform, credentials = sharded
    crossings = asyncio.run(_cross_while_it_is_killed(platform, credentials))
    assert len(crossings.asked) == ALL
    record_property("answered", dict(crossings.answered))
    print(f"{ALL} transfers between shards: {dict(crossings.answered)}")
    assert set(crossings.answered) - {"posted", "rejected"}, "the kill was noticed"
    wanted = {"ledger-eu.debits_equal_credits", "ledger-eu = its facts", "books = directory", "shards = each other"}
    assert wanted <= platform.verified()


def test_it_goes_on_with_the_same_shards(sharded: tuple[PlatformUnderTest, Credentials]) -> None:
    platform, credentials = sharded
    platform.stop()
    platform.options = ()
    platform.start()
    assert platform.status()["shards"] == ["eu"]

    async def read() -> int:
        async with ApiClient(credentials) as api:
            return (await api.request("GET", "/v1/accounts/wallet?book=europe")).status

    assert asyncio.run(read()) == 200
