"""Revocations: the map, the numbers that tell of a hole, and the way over a real bus."""

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import nats
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.chassis.auth import Revocation, RevocationFeed, Snapshot, Subject
from tallystick.chassis.auth.revocation import QUIET_AFTER, Revoked
from tallystick.chassis.auth.tokens import Verified
from tallystick.chassis.bus import REVOCATIONS
from tallystick.chassis.telemetry.logs import captured
from tallystick.kernel.problem import Upstream
from tests.support.parts import NatsServer


def token(
    name: str = "t1", client: str = "cli_1", kid: str = "k1", issued_at: float = 1000, txn: str = "x"
) -> Verified:
    subject = Subject(
        tenant="acme",
        client_id=client,
        scopes=frozenset(),
        token_id=name,
        actor=client,
        expires_at=datetime(2030, 1, 1, tzinfo=UTC),
    )
    return Verified(subject, kid, (name, txn), issued_at, 1e12)


class Source:
    """Identity's list, and whether it can be had."""

    def __init__(self) -> None:
        self.epoch = 0
        self.entries: list[Revocation] = []
        self.down = False
        self.fetched = 0
        self.during: list[bytes] = []
        self.feed: RevocationFeed | None = None

    async def fetch(self) -> Snapshot:
        self.fetched += 1
        if self.down:
            raise Upstream("down")
        answer = Snapshot(self.epoch, list(self.entries))
        await asyncio.sleep(0)
        if self.feed is not None:
            for message in self.during:
                self.feed.receive(message)
        return answer

    def revoke(self, kind: Any = "jti", name: str = "t1") -> bytes:
        self.epoch += 1
        entry = Revocation(self.epoch, kind, name, int(time.time()) + 300)
        self.entries.append(entry)
        return json.dumps({"epoch": entry.epoch, "kind": entry.kind, "id": entry.id, "until": entry.until}).encode()

    def heartbeat(self) -> bytes:
        return json.dumps({"epoch": self.epoch, "kind": "heartbeat"}).encode()


def new(source: Source) -> tuple[RevocationFeed, list[float]]:
    now = [1000.0]
    feed = RevocationFeed(source.fetch, monotonic=lambda: now[0])
    source.feed = feed
    return feed, now


# ---- the map ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "hit", "miss"),
    [
        ("jti", "t1", token(), token("t2")),
        ("jti", "a1", token(txn="a1"), token(txn="a2")),
        ("client", "cli_1", token(), token(client="cli_2")),
        ("kid", "k1", token(), token(kid="k2")),
        ("all-before", "1000", token(issued_at=999), token(issued_at=1000)),
        ("all-before", "1000.5", token(issued_at=1000), token(issued_at=1001)),
    ],
)
def test_each_kind_hits_what_it_names_and_nothing_else(kind: Any, name: str, hit: Verified, miss: Verified) -> None:
    revoked = Revoked()
    assert not revoked.concerns(hit)
    revoked.add(kind, name, 2**40)
    assert revoked.concerns(hit)
    assert not revoked.concerns(miss)


def test_kinds_have_names_of_their_own() -> None:
    revoked = Revoked()
    revoked.add("client", "same", 2**40)
    assert not revoked.concerns(token("same", kid="same", txn="same"))


def test_work_that_goes_on_without_the_client_does_not_end_with_it() -> None:
    """But it ends with its own token, its key, and when everything does."""
    work = msgspec.structs.replace(token(), background=True)
    revoked = Revoked()
    revoked.add("client", "cli_1", 2**40)
    assert revoked.concerns(token())
    assert not revoked.concerns(work)
    for kind, name in (("jti", "t1"), ("kid", "k1"), ("all-before", "1001")):
        revoked = Revoked()
        revoked.add(kind, name, 2**40)  # type: ignore[arg-type]
        assert revoked.concerns(work)


def test_forgets_only_after_the_time_and_keeps_the_longer_one() -> None:
    revoked = Revoked()
    revoked.add("jti", "t1", 1000)
    revoked.add("jti", "t1", 500)
    revoked.forget(1000)
    assert revoked.concerns(token())
    revoked.forget(1061)
    assert not revoked.concerns(token())


# ---- the numbers -----------------------------------------------------------------------------------------------------


async def test_before_the_first_list_there_is_no_news() -> None:
    feed, _ = new(Source())
    assert not feed.loaded
    assert feed.stale
    feed.receive(Source().heartbeat())
    assert feed.stale


async def test_age_is_that_of_the_last_message_that_follows() -> None:
    source = Source()
    feed, now = new(source)
    await feed.fetch()
    now[0] += 9
    assert feed.age() == 9
    feed.receive(source.heartbeat())
    assert feed.age() == 0
    now[0] += 9
    feed.receive(source.revoke())
    assert feed.age() == 0
    assert feed.concerns(token())
    now[0] += 10
    assert not feed.stale
    now[0] += 0.1
    assert feed.stale


async def test_a_hole_is_not_news_until_the_list_was_fetched() -> None:
    source = Source()
    feed, now = new(source)
    await feed.fetch()
    source.revoke("client", "cli_1")  # its message is lost
    now[0] += 5
    feed.receive(source.heartbeat())
    assert feed.age() == 5
    assert feed._behind.is_set()
    assert not feed.concerns(token())
    await feed.fetch()
    assert feed.concerns(token())
    assert feed.age() == 0
    feed.receive(source.heartbeat())
    assert not feed._behind.is_set()


async def test_a_hole_before_a_revocation_takes_that_one_all_the_same() -> None:
    source = Source()
    feed, _ = new(source)
    await feed.fetch()
    source.revoke("client", "cli_9")
    feed.receive(source.revoke("jti", "t1"))
    assert feed.concerns(token())
    assert feed._behind.is_set()


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff",
        b"{}",
        b"[]",
        b'{"epoch": "1", "kind": "jti", "id": "t", "until": 1}',
        b'{"epoch": 1, "kind": "tenant", "id": "t", "until": 1}',
        b'{"epoch": 1, "kind": "all-before", "id": "yesterday", "until": 1}',
        b'{"epoch": 1, "kind": "all-before", "id": "nan", "until": 1}',
    ],
)
async def test_what_can_not_be_read_counts_as_missed(message: bytes) -> None:
    source = Source()
    feed, _ = new(source)
    await feed.fetch()
    with captured() as lines:
        feed.receive(message)
    assert feed._behind.is_set()
    assert lines[0]["event"] == "auth.revocation_unreadable"


async def test_what_comes_while_the_list_is_fetched_is_not_lost() -> None:
    source = Source()
    feed, _ = new(source)
    await feed.fetch()
    early = Source()
    source.during = [early.revoke("jti", "t1"), early.revoke("jti", "t2")]
    await feed.fetch()
    assert feed.concerns(token("t1"))
    assert feed.concerns(token("t2"))
    assert feed._epoch == 2
    assert not feed._behind.is_set()


async def test_a_restored_database_lowers_the_number() -> None:
    source = Source()
    feed, now = new(source)
    for _ in range(5):
        source.revoke()
    await feed.fetch()
    source.epoch = 3
    now[0] += 5
    feed.receive(source.heartbeat())
    assert feed.age() == 5
    await feed.fetch()
    feed.receive(source.revoke("client", "cli_1"))
    assert feed.concerns(token())
    assert not feed._behind.is_set()


async def test_a_list_that_can_not_be_had_changes_nothing() -> None:
    source = Source()
    feed, now = new(source)
    source.revoke()
    await feed.fetch()
    source.down = True
    now[0] += 11
    with pytest.raises(Upstream):
        await feed.fetch()
    assert feed.stale
    assert feed.concerns(token())


@settings(max_examples=100)
@given(st.lists(st.sampled_from(["revoke", "lose", "late", "heartbeat", "fetch", "doubled"]), max_size=40))
def test_fresh_means_complete(events: list[str]) -> None:
    """Whatever is lost, late or doubled: a feed that says it has just heard all knows every revocation up to then."""

    async def play() -> None:
        source = Source()
        feed, now = new(source)
        await feed.fetch()
        late: list[bytes] = []
        last = source.heartbeat()
        names: list[str] = []
        for number, event in enumerate(events):
            now[0] += 1
            if event in {"revoke", "lose", "late"}:
                names.append(f"n{number}")
                last = source.revoke("jti", names[-1])
                if event == "revoke":
                    feed.receive(last)
                elif event == "late":
                    late.append(last)
            elif event == "heartbeat":
                feed.receive(source.heartbeat())
                for message in late:
                    feed.receive(message)
                late.clear()
            elif event == "doubled":
                feed.receive(last)
            elif feed._behind.is_set():
                await feed.fetch()
            if feed.age() == 0:
                assert all(feed.concerns(token(name)) for name in names)
            assert all(feed.concerns(token(name)) for name in names) or feed.age() > 0

    asyncio.run(play())


# ---- over the bus ----------------------------------------------------------------------------------------------------


async def until(condition: Any, seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_over_the_bus_and_without_it(nats_server: NatsServer) -> None:
    """A revocation arrives at once; one whose message was lost arrives by the heartbeat; with the bus silent by polling."""
    login = {"user": nats_server.ADMIN, "password": nats_server.password().reveal()}
    identity, service = await nats.connect(nats_server.url, **login), await nats.connect(nats_server.url, **login)
    source, now = Source(), [0.0]
    feed = RevocationFeed(source.fetch, monotonic=lambda: now[0])

    async def received(message: Any) -> None:
        feed.receive(message.data)

    await service.subscribe(REVOCATIONS, cb=received)
    await service.flush()
    running = asyncio.create_task(feed.run())
    try:
        await until(lambda: feed.loaded)
        fetched = source.fetched
        await identity.publish(REVOCATIONS, source.revoke("jti", "t1"))
        await until(lambda: feed.concerns(token("t1")))
        assert source.fetched == fetched

        source.revoke("client", "cli_7")
        await identity.publish(REVOCATIONS, source.heartbeat())
        await until(lambda: feed.concerns(token("t7", client="cli_7")))
        assert source.fetched == fetched + 1

        source.revoke("kid", "k7")
        now[0] += QUIET_AFTER + 0.1
        await until(lambda: feed.concerns(token("t7", kid="k7")))
        assert not feed.stale
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await identity.close()
        await service.close()


async def test_keeps_trying_and_says_so_once() -> None:
    source = Source()
    source.down = True
    feed = RevocationFeed(source.fetch)
    with captured() as lines:
        running = asyncio.create_task(feed.run())
        await until(lambda: source.fetched >= 3)
        assert feed.stale
        source.down = False
        await until(lambda: feed.loaded)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [line["event"] for line in lines] == ["auth.revocations_not_fetched", "auth.revocations_fetched"]
