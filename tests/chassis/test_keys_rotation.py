"""Data keys by their age: successors, what old ones sealed brought along while others work, and old ones gone only when that is certain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tallystick.chassis import outbox
from tallystick.chassis.db import CheckViolation, Database, Query, parse
from tallystick.chassis.keys import (
    DataKeys,
    Forged,
    Keyring,
    KeyringError,
    LocalRoot,
    OwnKeyColumn,
    Shredded,
    TenantKeyColumn,
    root,
)
from tallystick.chassis.keys.envelope import parse as parse_blob
from tallystick.chassis.keys.rotation import GRACE
from tallystick.chassis.keys.store import Q as KEYS
from tallystick.kernel.clock import ManualClock
from tests.support.parts import ServiceDatabase

LIFE = timedelta(days=90)
DAY = timedelta(days=1)
TABLES = """
CREATE TABLE thing (id text PRIMARY KEY, tenant text NOT NULL, sealed bytea NOT NULL);
CREATE TRIGGER thing_key AFTER INSERT OR UPDATE OF sealed ON thing
    FOR EACH ROW EXECUTE FUNCTION sealed_under_living_key('sealed');
CREATE TABLE single (id text PRIMARY KEY, tenant text NOT NULL, sealed bytea);
GRANT SELECT, INSERT, UPDATE ON thing, single TO {role};
"""


def _queries(text: str) -> dict[str, Query]:
    return {query.name: query for query in parse(text, "test.sql")}


Q = _queries("""
-- name: under
-- A page.
SELECT id AS key, tenant, sealed FROM thing WHERE substring(sealed FROM 1 FOR 13) = $1 AND ($2::text IS NULL OR id > $2)
ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED;

-- name: left_over
-- How many.
SELECT count(*) FROM thing WHERE substring(sealed FROM 1 FOR 13) = $1;

-- name: save
-- New values.
UPDATE thing SET sealed = n.sealed FROM unnest($1::text[], $2::bytea[]) AS n (id, sealed) WHERE thing.id = n.id;

-- name: add
-- A row.
INSERT INTO thing VALUES ($1, $2, $3);

-- name: things
-- All.
SELECT id, tenant, sealed FROM thing ORDER BY id;

-- name: find
-- Singles.
SELECT s.id AS key, s.tenant, s.sealed FROM unnest($1::text[], $2::text[]) AS w (tenant, id)
JOIN single AS s ON s.id = w.id AND s.tenant = w.tenant WHERE s.sealed IS NOT NULL ORDER BY s.id FOR UPDATE OF s SKIP LOCKED;

-- name: save_singles
-- New values.
UPDATE single SET sealed = n.sealed FROM unnest($1::text[], $2::bytea[]) AS n (id, sealed) WHERE single.id = n.id;

-- name: add_single
-- A row.
INSERT INTO single VALUES ($1, $2, $3);

-- name: singles
-- All that have a value.
SELECT id, tenant, sealed FROM single WHERE sealed IS NOT NULL ORDER BY id;

-- name: lock_single
-- As who is about to destroy it.
SELECT id FROM single WHERE id = $1 FOR UPDATE;

-- name: empty_single
-- Destroyed.
UPDATE single SET sealed = NULL WHERE id = $1;
""")
THINGS = TenantKeyColumn(table="thing", name="sealed", under=Q["under"], left=Q["left_over"], save=Q["save"])
SINGLES = OwnKeyColumn(table="single", name="sealed", find=Q["find"], save=Q["save_singles"], text=str, parse=str)


@dataclass
class Setup:
    """A service's database with both kinds of columns. `replica()` is what one of its processes has."""

    service: ServiceDatabase
    database: Database
    path: Path
    clock: ManualClock = field(default_factory=lambda: ManualClock(datetime.now(UTC)))

    async def ring(self, cache_seconds: float = 300.0) -> Keyring:
        return await Keyring.open(
            self.database,
            lambda: LocalRoot.open(self.path),
            environment="test",
            service="vault",
            clock=self.clock,
            cache_seconds=cache_seconds,
            tells=True,
        )

    def data_keys(self, ring: Keyring, **options: Any) -> DataKeys:
        return DataKeys(self.database, ring, [THINGS, SINGLES], self.clock, LIFE, **{"page": 10, **options})

    async def add(self, ring: Keyring, key: str, tenant: str = "acme") -> None:
        sealed = await ring.seal(key.encode(), THINGS.aad(tenant, key))
        async with self.database.transaction() as tx:
            await tx.execute(Q["add"], key, tenant, sealed)

    async def add_single(self, ring: Keyring, key: str, tenant: str = "acme") -> None:
        async with self.database.transaction() as tx:
            (own,) = await ring.new_subject_keys(tx, [(tenant, key)])
            await tx.execute(Q["add_single"], key, tenant, own.seal(key.encode(), SINGLES.aad(tenant, key)))

    async def destroy_single(self, ring: Keyring, key: str, tenant: str = "acme") -> None:
        async with self.database.transaction() as tx:
            await tx.fetchrow(Q["lock_single"], key)
            await tx.execute(Q["empty_single"], key)
            await ring.shred(tx, tenant, [key])

    async def versions(self, table: str) -> set[int]:
        rows = await self.database.fetch(Q["things" if table == "thing" else "singles"])
        return {parse_blob(row["sealed"])[0].version for row in rows}

    async def check(self, ring: Keyring, things: int, singles: int = 0) -> None:
        """Everything is there and opens."""
        for name, column, count in (("things", THINGS, things), ("singles", SINGLES, singles)):
            rows = await self.database.fetch(Q[name])
            assert len(rows) == count
            opened = await ring.open_many([(row["sealed"], column.aad(row["tenant"], row["id"])) for row in rows])
            assert opened == [bytearray(row["id"].encode()) for row in rows]

    async def states(self, kind: str, tenant: str = "acme") -> list[str]:
        rows = await self.service.query(
            "SELECT state FROM data_key WHERE kind = $1 AND tenant = $2 ORDER BY subject, version", kind, tenant
        )
        return [row["state"] for row in rows]

    async def told(self) -> list[tuple[str, str, str, int, int | None]]:
        """What was told of keys, in its order: what, whose, of which kind, how many, which version."""
        facts = [
            outbox.decode(row["fact"])
            for row in await self.service.query("SELECT fact FROM outbox ORDER BY xid, position")
        ]
        assert {(each.actor, each.type.partition(".")[0]) for each in facts} <= {("vault", "vault")}
        return [
            (
                each.type.removeprefix("vault.keys."),
                each.tenant,
                each.data["kind"],
                each.data["keys"],
                each.data["version"],
            )
            for each in facts
        ]

    async def ask(self, tenant: str = "") -> None:
        """What an operator does, a moment later."""
        self.clock.advance(timedelta(seconds=1))
        await self.database.execute(KEYS.ask_for_rotation, tenant, self.clock.now())

    async def asked(self) -> list[str]:
        return [row["tenant"] for row in await self.database.fetch(KEYS.rotations_asked_for)]


@pytest.fixture
async def setup(chassis_database: ServiceDatabase, tmp_path: Path) -> AsyncIterator[Setup]:
    root.create(tmp_path / "root.key")
    connection = await chassis_database.connection()
    await connection.execute(TABLES.format(role=chassis_database.dsn.user))
    await connection.close()
    yield Setup(chassis_database, await chassis_database.open(), tmp_path / "root.key")


async def test_nothing_happens_before_the_age_and_all_of_it_after(setup: Setup) -> None:
    ring = await setup.ring()
    keys = setup.data_keys(ring)
    for n in range(25):
        await setup.add(ring, f"t{n:02}")
        await setup.add_single(ring, f"s{n:02}")
    setup.clock.advance(LIFE - DAY)
    await keys.look()
    assert await setup.states("tenant") == ["active"]
    assert set(await setup.states("subject")) == {"active"}
    setup.clock.advance(DAY + timedelta(minutes=1))
    await keys.look()
    assert (await setup.versions("thing"), await setup.versions("single")) == ({2}, {2})
    # Whoever has read a value before still opens it.
    assert await setup.states("tenant") == ["retired", "active"]
    assert await setup.states("subject") == ["retired", "active"] * 25
    setup.clock.advance(GRACE - timedelta(minutes=2))
    await keys.look()
    assert await setup.states("tenant") == ["retired", "active"]
    setup.clock.advance(timedelta(minutes=3))
    await keys.look()
    assert await setup.states("tenant") == ["destroyed", "active"]
    assert await setup.states("subject") == ["destroyed", "active"] * 25
    for each in (ring, await setup.ring()):
        await setup.check(each, 25, 25)
    # An auditor finds each rotation and each end in the log, by pages of ten where there are many.
    assert await setup.told() == [
        ("rotated", "acme", "tenant", 1, 2),
        *(("rotated", "acme", "value", count, None) for count in (10, 10, 5)),
        ("destroyed", "acme", "tenant", 1, 1),
        *(("destroyed", "acme", "value", count, None) for count in (10, 10, 5)),
    ]


async def test_who_asks_need_not_wait_for_the_age(setup: Setup) -> None:
    ring = await setup.ring()
    keys = setup.data_keys(ring)
    for tenant in ("acme", "other"):
        await setup.add(ring, f"t-{tenant}", tenant)
        await setup.add_single(ring, f"s-{tenant}", tenant)
    await setup.ask("acme")
    await keys.look()
    assert await setup.states("tenant") == await setup.states("subject") == ["retired", "active"]
    assert await setup.states("tenant", "other") == await setup.states("subject", "other") == ["active"]
    assert await setup.asked() == []
    await keys.look()
    assert await setup.states("tenant") == ["retired", "active"]
    # The service's own key is asked for with all others, and the request waits for it.
    await setup.ask()
    await keys.look()
    assert await setup.states("tenant", "other") == await setup.states("subject", "other") == ["retired", "active"]
    assert await setup.asked() == [""]
    assert await ring.keep_rotated(LIFE)
    assert not await ring.keep_rotated(LIFE)
    await keys.look()
    assert await setup.asked() == []
    await setup.check(await setup.ring(), 2, 2)


async def test_a_tenants_request_goes_page_by_page_and_leaves_the_others_alone(setup: Setup) -> None:
    ring = await setup.ring()
    for n in range(25):
        await setup.add_single(ring, f"a{n:02}")
        await setup.add_single(ring, f"o{n:02}", "other")
    await setup.ask("acme")
    await setup.data_keys(ring).look()
    assert await setup.states("subject") == ["retired", "active"] * 25
    assert await setup.states("subject", "other") == ["active"] * 25
    assert await setup.asked() == []


async def test_a_crash_at_any_page_loses_nothing_and_another_replica_goes_on(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = await setup.ring()
    for n in range(45):
        await setup.add(ring, f"t{n:02}")
        await setup.add_single(ring, f"s{n:02}")
    setup.clock.advance(LIFE + DAY)
    execute = type(setup.database).transaction
    crashes = 0
    for survives in range(1, 40):
        begun = 0

        def transaction(database: Database, **options: Any) -> Any:
            nonlocal begun
            begun += 1
            if begun > survives:  # noqa: B023
                raise ConnectionAbortedError
            return execute(database, **options)

        with monkeypatch.context() as patched:
            patched.setattr(Database, "transaction", transaction)
            try:
                # Each time another process, which knows nothing of the one before.
                await setup.data_keys(await setup.ring(cache_seconds=0.0)).look()
            except ConnectionAbortedError:
                crashes += 1
                continue
        break
    assert crashes > 3
    assert (await setup.versions("thing"), await setup.versions("single")) == ({2}, {2})
    setup.clock.advance(GRACE + timedelta(minutes=1))
    await setup.data_keys(await setup.ring()).look()
    assert "retired" not in {*await setup.states("tenant"), *await setup.states("subject")}
    await setup.check(await setup.ring(), 45, 45)


async def test_two_replicas_at_once_beside_writers_readers_and_who_destroys(setup: Setup) -> None:
    """Rotations asked for again and again, by two replicas that both think that they lead."""
    ring = await setup.ring(cache_seconds=0.3)
    for n in range(40):
        await setup.add(ring, f"t{n:02}")
        await setup.add_single(ring, f"s{n:02}")
    rings = [await setup.ring(cache_seconds=0.3) for _ in range(2)]
    stop = asyncio.Event()
    added = 0
    destroyed: list[str] = []

    async def write() -> None:
        nonlocal added
        while not stop.is_set():
            await setup.add(ring, f"x{added:03}")
            await setup.add_single(ring, f"y{added:03}")
            added += 1

    async def destroy() -> None:
        for n in range(0, 40, 2):
            await setup.destroy_single(ring, f"s{n:02}")
            destroyed.append(f"s{n:02}")

    async def read() -> None:
        while not stop.is_set():
            rows = await setup.database.fetch(Q["things"])
            opened = await ring.open_many([(row["sealed"], THINGS.aad(row["tenant"], row["id"])) for row in rows])
            assert opened == [bytearray(row["id"].encode()) for row in rows]
            rows = await setup.database.fetch(Q["singles"])
            gone = set(destroyed)
            opened = await ring.open_many([(row["sealed"], SINGLES.aad(row["tenant"], row["id"])) for row in rows])
            for row, value in zip(rows, opened, strict=True):
                assert value == bytearray(row["id"].encode()) or isinstance(value, Shredded)
                assert row["id"] not in gone or isinstance(value, Shredded)

    async def rotate(own: Keyring) -> None:
        for _ in range(4):
            await setup.ask()
            await setup.data_keys(own).look()
        await setup.data_keys(own).look()

    async with asyncio.TaskGroup() as group:
        others = [group.create_task(each()) for each in (write, read)]
        await asyncio.gather(*(rotate(own) for own in rings), destroy())
        stop.set()
        await asyncio.gather(*others)
    assert added > 0
    setup.clock.advance(GRACE + timedelta(minutes=1))
    last = setup.data_keys(await setup.ring())
    await last.look()
    setup.clock.advance(GRACE + timedelta(minutes=1))
    await last.look()
    assert await setup.states("tenant") == ["destroyed"] * (len(await setup.states("tenant")) - 1) + ["active"]
    await setup.check(await setup.ring(), 40 + added, 20 + added)
    rows = await setup.service.query(
        "SELECT subject FROM data_key WHERE kind = 'subject' AND wrapped IS NOT NULL AND subject = ANY($1)", destroyed
    )
    assert rows == []


async def test_a_subject_that_is_destroyed_while_its_key_gets_a_successor_stays_destroyed(setup: Setup) -> None:
    """Whichever of the two is first, also where the rows' own locks don't keep them apart."""
    ring = await setup.ring()
    await setup.add_single(ring, "s")
    (row,) = await setup.database.fetch(Q["singles"])
    value = (row["sealed"], SINGLES.aad("acme", "s"))

    async def shred() -> None:
        async with setup.database.transaction() as tx:
            await ring.shred(tx, "acme", ["s"])

    async with setup.database.transaction() as tx:
        (moved,) = await ring.succeed(tx, [value])
        assert isinstance(moved, bytes)
        late = asyncio.create_task(shred())
        await setup.service.waiting()
        await tx.execute(Q["save_singles"], ["s"], [moved])
    await late
    assert await setup.states("subject") == ["destroyed", "destroyed"]
    async with setup.database.transaction() as tx:
        assert await ring.succeed(tx, [value]) == [None]
        assert await ring.succeed(tx, [(moved, value[1])]) == [None]
    for blob in (value[0], moved):
        with pytest.raises(Shredded):
            await (await setup.ring()).open_sealed(blob, value[1])


async def test_what_is_about_to_be_destroyed_is_not_waited_for(setup: Setup) -> None:
    ring = await setup.ring()
    for key in ("a", "b"):
        await setup.add_single(ring, key)
    setup.clock.advance(LIFE + DAY)
    async with setup.database.transaction() as tx:
        await tx.fetchrow(Q["lock_single"], "a")
        async with asyncio.timeout(5):
            await setup.data_keys(await setup.ring()).look()
    assert await setup.versions("single") == {1, 2}
    await setup.data_keys(ring).look()
    assert await setup.versions("single") == {2}


async def test_who_slept_with_an_old_key_stores_nothing_under_it_once_it_is_gone(setup: Setup) -> None:
    """A replica that was paused between sealing and storing, for longer than anybody waits."""
    ring = await setup.ring()
    await setup.add(ring, "a")
    late = [await ring.seal(key, THINGS.aad("acme", key.decode())) for key in (b"b", b"c")]
    keys = setup.data_keys(await setup.ring())
    setup.clock.advance(LIFE + DAY)
    await keys.look()
    async with setup.database.transaction() as tx:  # in time: it is found when the key is counted, and brought along
        await tx.execute(Q["add"], "b", "acme", late[0])
    setup.clock.advance(GRACE + timedelta(minutes=1))
    await keys.look()
    assert await setup.versions("thing") == {2}
    assert await setup.states("tenant") == ["retired", "active"]
    setup.clock.advance(GRACE + timedelta(minutes=1))
    await keys.look()
    assert await setup.states("tenant") == ["destroyed", "active"]
    with pytest.raises(CheckViolation) as refused:
        async with setup.database.transaction() as tx:
            await tx.execute(Q["add"], "c", "acme", late[1])
    assert refused.value.constraint == "sealed_under_living_key"
    await setup.check(await setup.ring(), 2)


async def test_a_key_is_not_counted_while_a_value_under_it_is_being_stored(setup: Setup) -> None:
    ring = await setup.ring()
    await setup.add(ring, "a")
    late = await ring.seal(b"b", THINGS.aad("acme", "b"))
    keys = setup.data_keys(await setup.ring())
    setup.clock.advance(LIFE + DAY)
    await keys.look()
    setup.clock.advance(GRACE + timedelta(minutes=1))
    async with setup.database.transaction() as tx:
        await tx.execute(Q["add"], "b", "acme", late)
        looking = asyncio.create_task(keys.look())
        await setup.service.waiting()
    await looking
    assert await setup.states("tenant") == ["retired", "active"]
    (left,) = await setup.service.query("SELECT values_left, emptied_at FROM data_key WHERE state = 'retired'")
    assert (left["values_left"], left["emptied_at"]) == (1, None)
    await keys.look()
    assert await setup.versions("thing") == {2}
    await setup.check(await setup.ring(), 2)


async def test_a_value_that_does_not_open_keeps_its_key_and_holds_up_nobody(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    ring = await setup.ring()
    for n in range(12):
        await setup.add(ring, f"t{n:02}")
        await setup.add_single(ring, f"s{n:02}")
    for table, key in (("thing", "t03"), ("single", "s03")):
        await setup.service.query(
            f"UPDATE {table} SET sealed = set_byte(sealed, 50, get_byte(sealed, 50) # 1) WHERE id = $1", key
        )
    keys = setup.data_keys(ring)
    for ahead in (LIFE + DAY, GRACE * 2, GRACE * 2):
        setup.clock.advance(ahead)
        await keys.look()
    assert await setup.states("tenant") == ["retired", "active"]
    (left,) = await setup.service.query("SELECT values_left FROM data_key WHERE kind = 'tenant' AND state = 'retired'")
    assert left["values_left"] == 1
    assert sorted(await setup.states("subject")) == ["active"] * 12 + ["destroyed"] * 11
    assert await setup.versions("thing") == await setup.versions("single") == {1, 2}
    for name, column, damaged in (("things", THINGS, "t03"), ("singles", SINGLES, "s03")):
        rows = await setup.database.fetch(Q[name])
        opened = await ring.open_many([(row["sealed"], column.aad(row["tenant"], row["id"])) for row in rows])
        assert [row["id"] for row, one in zip(rows, opened, strict=True) if isinstance(one, KeyringError)] == [damaged]
        assert all(isinstance(one, (bytearray, Forged)) for one in opened)


async def test_a_look_ends_when_its_time_is_over_and_the_next_goes_on(setup: Setup) -> None:
    ring = await setup.ring()
    for n in range(20):
        await setup.add_single(ring, f"s{n:02}")
    setup.clock.advance(LIFE + DAY)
    await setup.data_keys(ring, seconds=0.0).look()
    assert await setup.versions("single") == {1}
    await setup.data_keys(ring, page=7).look()
    assert await setup.versions("single") == {2}


async def test_a_replica_that_knows_the_old_key_as_the_current_one_moves_nothing_back(setup: Setup) -> None:
    behind = await setup.ring()
    for n in range(5):
        await setup.add(behind, f"t{n}")
    other = await setup.ring()
    setup.clock.advance(LIFE + DAY)
    await other.rotate_tenant("acme")
    await setup.data_keys(behind).look()
    assert await setup.versions("thing") == {2}


async def test_keys_of_single_values_are_wrapped_anew_beside_a_rotation_of_the_service_key(setup: Setup) -> None:
    ring, other = await setup.ring(), await setup.ring()
    for n in range(60):
        await setup.add_single(ring, f"s{n:02}")
    setup.clock.advance(LIFE + DAY)
    await asyncio.gather(setup.data_keys(ring).look(), other.rotate_service_key())
    await other.rotate_service_key()
    assert await setup.versions("single") == {2}
    await setup.check(await setup.ring(), 0, 60)
