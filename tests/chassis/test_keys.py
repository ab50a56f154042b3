"""The key ring on a real database: what opens, what does not, and rotation and shredding while others work."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.chassis import outbox
from tallystick.chassis.db import Database
from tallystick.chassis.keys import (
    Aad,
    Forged,
    Keyring,
    KeyringError,
    LocalRoot,
    Malformed,
    RootError,
    Shredded,
    UnknownKey,
    root,
)
from tallystick.chassis.keys.envelope import HEADER_BYTES, fields
from tallystick.chassis.keys.envelope import parse as parse_blob
from tallystick.kernel.clock import ManualClock
from tests.support.parts import ServiceDatabase

NUMBER = b"4556737586899855"
OPENED = bytearray(NUMBER)
"""As `open_many` gives it: in a buffer."""
HERE = Aad("acme", "token", "sealed", "tok_1")


def version(blob: bytes) -> int:
    """Of the key that it is sealed under."""
    return parse_blob(blob)[0].version


class Setup:
    """A database and a root key file; `ring()` is what a replica's start does."""

    def __init__(self, service: ServiceDatabase, database: Database, path: Path) -> None:
        self.service = service
        self.database = database
        self.path = path
        root.create(path)

    async def ring(
        self, *, service: str = "vault", environment: str = "test", cache_seconds: float = 300.0, tells: bool = True
    ) -> Keyring:
        return await Keyring.open(
            self.database,
            lambda: LocalRoot.open(self.path),
            environment=environment,
            service=service,
            cache_seconds=cache_seconds,
            tells=tells,
        )

    async def told(self) -> list[tuple[str, Any]]:
        """The facts of keys, in their order: type and content."""
        rows = await self.service.query("SELECT fact FROM outbox ORDER BY xid, position")
        return [(fact.type, fact.data) for fact in (outbox.decode(row["fact"]) for row in rows)]

    async def states(self, kind: str) -> list[str]:
        rows = await self.service.query("SELECT state FROM data_key WHERE kind = $1 ORDER BY version", kind)
        return [row["state"] for row in rows]


@pytest.fixture
async def setup(chassis_database: ServiceDatabase, tmp_path: Path) -> AsyncIterator[Setup]:
    yield Setup(chassis_database, await chassis_database.open(), tmp_path / "root.key")


async def test_round_trip_across_restarts(setup: Setup) -> None:
    blob = await (await setup.ring()).seal(NUMBER, HERE)
    assert NUMBER not in blob
    ring = await setup.ring()
    assert await ring.open_sealed(blob, HERE) == NUMBER
    assert parse_blob(await ring.seal(NUMBER, HERE))[0] == parse_blob(blob)[0]


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "other"},
        {"table": "other"},
        {"column": "other"},
        {"row": "tok_2"},
        {"table": "tokens", "column": "ealed"},
    ],
    ids=str,
)
async def test_a_value_opens_only_where_it_belongs(setup: Setup, change: dict[str, str]) -> None:
    ring = await setup.ring()
    blob = await ring.seal(NUMBER, HERE)
    await ring.seal(NUMBER, Aad("other", "token", "sealed", "tok_1"))
    with pytest.raises(Forged):
        await ring.open_sealed(blob, dataclasses.replace(HERE, **change))


def test_a_place_is_written_as_it_was_when_the_first_values_were_sealed() -> None:
    written = b"\0\4test\0\5vault\0\4acme\0\5token\0\6sealed\0\5tok_1\0\1" + b"1"
    assert HERE.bytes("test", "vault") == written


async def test_other_service_and_environment(setup: Setup) -> None:
    ring = await setup.ring()
    await ring.seal(NUMBER, HERE)
    for other in ({"service": "identity"}, {"environment": "production"}):
        with pytest.raises(RootError, match="not wrapped by this root key"):
            await setup.ring(**other)  # type: ignore[arg-type]  # one of the two


async def test_wrong_root_is_refused_and_changes_nothing(setup: Setup, tmp_path: Path) -> None:
    blob = await (await setup.ring()).seal(NUMBER, HERE)
    right, setup.path = setup.path, tmp_path / "wrong.key"
    root.create(setup.path)
    before = await setup.service.query("SELECT * FROM data_key")
    with pytest.raises(RootError):
        await setup.ring()
    assert await setup.service.query("SELECT * FROM data_key") == before
    setup.path = right
    assert await (await setup.ring()).open_sealed(blob, HERE) == NUMBER


async def test_every_byte_counts(setup: Setup) -> None:
    ring = await setup.ring()
    blob = await ring.seal(NUMBER, HERE)
    changed = []
    for at in range(len(blob)):
        damaged = bytearray(blob)
        damaged[at] ^= 1
        changed.append((bytes(damaged), HERE))
    for at, opened in enumerate(await ring.open_many(changed)):
        expected = Malformed if at < 3 else UnknownKey if at < HEADER_BYTES else Forged
        assert isinstance(opened, expected), at


@pytest.mark.parametrize("blob", [b"", b"T", b"\x54\x01\x01" + bytes(40), NUMBER * 8])
async def test_not_a_sealed_value(setup: Setup, blob: bytes) -> None:
    with pytest.raises(Malformed):
        await (await setup.ring()).open_sealed(blob, HERE)


async def test_bad_ones_do_not_spoil_a_batch(setup: Setup) -> None:
    ring = await setup.ring()
    blobs = [await ring.seal(plain, HERE) for plain in (b"a", b"b")]
    opened = await ring.open_many([(blobs[0], HERE), (b"x", HERE), (blobs[1], HERE)])
    assert opened[0] == bytearray(b"a")
    assert isinstance(opened[1], Malformed)
    assert opened[2] == bytearray(b"b")


async def test_wrapped_keys_can_not_be_swapped_between_rows(setup: Setup) -> None:
    """Who can write to the table still can't make one tenant's values open under another's key."""
    ring = await setup.ring()
    blob = await ring.seal(NUMBER, HERE)
    await ring.seal(NUMBER, Aad("evil", "token", "sealed", "tok_1"))
    connection = await setup.service.connection()
    await connection.execute(
        "UPDATE data_key SET wrapped = (SELECT wrapped FROM data_key WHERE tenant = 'evil') WHERE tenant = 'acme'"
    )
    await connection.close()
    with pytest.raises(Forged):
        await (await setup.ring()).open_sealed(blob, HERE)


async def test_check_value_is_verified(setup: Setup) -> None:
    ring = await setup.ring()
    blob = await ring.seal(NUMBER, HERE)
    connection = await setup.service.connection()
    await connection.execute("UPDATE data_key SET check_value = $1 WHERE tenant = 'acme'", bytes(16))
    await connection.close()
    with pytest.raises(Forged, match="check value"):
        await (await setup.ring()).open_sealed(blob, HERE)


async def test_two_replicas_start_at_once(setup: Setup) -> None:
    rings = await asyncio.gather(*(setup.ring() for _ in range(6)))
    blobs = await asyncio.gather(*(ring.seal(NUMBER, HERE) for ring in rings))
    for ring in rings:
        assert await ring.open_many([(blob, HERE) for blob in blobs]) == [OPENED] * 6
        assert ring.mac("p", b"x") == rings[0].mac("p", b"x")
    assert await setup.states("service") == ["active"]
    assert await setup.states("tenant") == ["active"]


async def test_derived_keys_are_apart(setup: Setup) -> None:
    ring = await setup.ring()
    names = [("fingerprint", "acme"), ("fingerprint", "other"), ("idempotency", "acme"), ("fingerprint", "")]
    keys = [ring.derive(*name) for name in names]
    assert len(set(keys)) == len(names)
    assert [(await setup.ring()).derive(*name) for name in names] == keys
    assert all(len(key) == 32 for key in keys)


@given(st.lists(st.text(max_size=5), max_size=4), st.lists(st.text(max_size=5), max_size=4))
def test_no_two_places_share_an_encoding(one: list[str], other: list[str]) -> None:
    assert (fields(*one) == fields(*other)) == (one == other)


# ---- rotation


async def test_tenant_rotation(setup: Setup) -> None:
    ring = await setup.ring()
    old = await ring.seal(NUMBER, HERE)
    await ring.rotate_tenant("acme")
    new = await ring.seal(NUMBER, HERE)
    assert version(new) == version(old) + 1
    assert await ring.open_many([(old, HERE), (new, HERE)]) == [OPENED, OPENED]
    move = await ring.moves(parse_blob(old)[0], "acme")
    moved = move(old, HERE)
    assert version(moved) == version(new)
    assert await ring.open_sealed(moved, HERE) == NUMBER
    with pytest.raises(Forged):
        move(old, dataclasses.replace(HERE, row="tok_2"))
    assert await setup.states("tenant") == ["retired", "active"]


async def test_two_replicas_that_rotate_one_after_the_other_by_what_they_knew_before_leave_an_active_key(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that comes later takes its version for the current one: it must not retire the other's and make none."""
    late, other = await setup.ring(cache_seconds=0.0), await setup.ring(cache_seconds=0.0)
    old = await late.seal(NUMBER, HERE)
    known = await late._fetch_tenant_key("acme")
    await other.rotate_tenant("acme")
    with monkeypatch.context() as patched:

        async def before(_: str) -> Any:
            return known

        patched.setattr(late, "_fetch_tenant_key", before)
        await late.rotate_tenant("acme")
    assert await setup.states("tenant") == ["retired", "active"]

    await other.rotate_service_key()
    await late._store._add_service_key(await LocalRoot.open(setup.path), 2)
    assert (await setup.states("service"))[-1] == "active"
    for ring in (late, other, await setup.ring()):
        assert await ring.open_many([(old, HERE), (await ring.seal(NUMBER, HERE), HERE)]) == [OPENED, OPENED]


async def test_service_key_rotation_under_load(setup: Setup) -> None:
    """Two replicas make subject keys and open values while a third one rotates twice: nothing is lost."""
    makers = [await setup.ring(cache_seconds=0.0) for _ in range(2)]
    rotator = await setup.ring()
    made: list[tuple[bytes, Aad]] = []
    stop = asyncio.Event()

    async def make(ring: Keyring, name: str) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            subject = f"{name}-{count}"
            aad = Aad("acme", "t", "c", subject)
            async with setup.database.transaction() as tx:
                (key,) = await ring.new_subject_keys(tx, [("acme", subject)])
            made.append((key.seal(NUMBER, aad), aad))
            assert await ring.open_sealed(*made[-1]) == NUMBER

    async with asyncio.TaskGroup() as group:
        for i, ring in enumerate(makers):
            group.create_task(make(ring, f"r{i}"))
        for _ in range(2):
            before = len(made)
            while len(made) < before + 40:
                await asyncio.sleep(0.01)
            await rotator.rotate_service_key()
        stop.set()
    # A key made while the last rotation passed by may still hang on the version before: the next run brings it along.
    await rotator.rotate_service_key()
    ring = await setup.ring()
    assert await ring.open_many(made) == [OPENED] * len(made)
    states = await setup.states("service")
    assert states[-1] == "active"
    assert "destroyed" in states
    rows = await setup.service.query(
        "SELECT FROM data_key AS k JOIN data_key AS s ON s.kind = 'service' AND s.version = k.wrapped_by"
        " WHERE k.wrapped IS NOT NULL AND s.state = 'destroyed'"
    )
    assert rows == []


async def test_a_service_key_is_rotated_when_its_life_is_over_and_not_before(setup: Setup) -> None:
    clock = ManualClock(datetime.now(UTC))
    ring = await Keyring.open(
        setup.database, lambda: LocalRoot.open(setup.path), environment="test", service="vault", clock=clock, tells=True
    )
    blob = await ring.seal(NUMBER, HERE)
    clock.advance(timedelta(days=89))
    assert not await ring.keep_rotated(timedelta(days=90))
    assert await setup.states("service") == ["active"]
    assert await setup.told() == [], "the first one is no rotation"
    clock.advance(timedelta(days=1, minutes=1))
    assert await ring.keep_rotated(timedelta(days=90))
    assert await setup.states("service") == ["destroyed", "active"]
    assert await ring.open_sealed(blob, HERE) == NUMBER
    assert await (await setup.ring()).open_sealed(blob, HERE) == NUMBER
    assert await setup.told() == [
        ("vault.keys.rotated", {"kind": "service", "keys": 1, "version": 2}),
        ("vault.keys.destroyed", {"kind": "service", "keys": 1, "version": 1}),
    ]


async def test_a_service_that_runs_follows_a_rotation_of_the_root(setup: Setup) -> None:
    ring = await setup.ring()
    blob = await ring.seal(NUMBER, HERE)
    root.rotate(setup.path)
    assert not await ring.keep_rotated(timedelta(days=90))
    root.forget(setup.path, 1)
    assert await (await setup.ring()).open_sealed(blob, HERE) == NUMBER
    assert await setup.told() == [("vault.keys.rewrapped", {"kind": "service", "keys": 1, "version": 1})]


async def test_root_rotation(setup: Setup) -> None:
    ring = await setup.ring(tells=False)
    blob = await ring.seal(NUMBER, HERE)
    root.rotate(setup.path)
    assert await (await setup.ring(tells=False)).open_sealed(blob, HERE) == NUMBER
    assert await setup.told() == [], "who tells nothing tells nothing of its keys: nobody would hear it"
    root.forget(setup.path, 1)
    assert await (await setup.ring()).open_sealed(blob, HERE) == NUMBER


# ---- shredding


async def test_shredding(setup: Setup) -> None:
    ring = await setup.ring()
    places = [Aad("acme", "t", "c", f"s{i}") for i in range(3)]
    async with setup.database.transaction() as tx:
        keys = await ring.new_subject_keys(tx, [("acme", aad.row) for aad in places])
    blobs = [key.seal(NUMBER, aad) for key, aad in zip(keys, places, strict=True)]
    assert await ring.open_many(list(zip(blobs, places, strict=True))) == [OPENED] * 3
    async with setup.database.transaction() as tx:
        assert await ring.shred(tx, "other", ["s1"]) == 0
    async with setup.database.transaction() as tx:
        assert await ring.shred(tx, "acme", ["s1"]) == 1
        assert await ring.shred(tx, "acme", ["s1"]) == 0
    for each in (ring, await setup.ring()):
        opened = await each.open_many(list(zip(blobs, places, strict=True)))
        assert isinstance(opened[1], Shredded)
        assert (opened[0], opened[2]) == (OPENED, OPENED)
    (row,) = await setup.service.query("SELECT * FROM data_key WHERE subject = 's1'")
    assert row["wrapped"] is None
    assert row["destroyed_at"] is not None


async def test_who_reads_before_the_commit_caches_nothing_beyond_it(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = await setup.ring()
    aad = Aad("acme", "t", "c", "s")
    async with setup.database.transaction() as tx:
        (key,) = await ring.new_subject_keys(tx, [("acme", "s")])
    blob = key.seal(NUMBER, aad)
    found, go_on = asyncio.Event(), asyncio.Event()
    find = ring._store.find

    async def slowly(headers: Any) -> Any:
        answer = await find(headers)
        found.set()
        await go_on.wait()
        return answer

    async with setup.database.transaction() as tx:
        assert await ring.shred(tx, "acme", ["s"]) == 1
        assert await ring.open_sealed(blob, aad) == NUMBER  # not yet, as far as others can see
        ring._cache.clear()
        with monkeypatch.context() as patched:
            patched.setattr(ring._store, "find", slowly)
            late = asyncio.create_task(ring.open_sealed(blob, aad))
            await found.wait()
    with pytest.raises(Shredded):
        await ring.open_sealed(blob, aad)
    go_on.set()
    assert await late == NUMBER  # it was asked for before
    with pytest.raises(Shredded):
        await ring.open_sealed(blob, aad)


async def test_a_key_that_was_cached_before_the_commit_is_dropped_by_it(setup: Setup) -> None:
    ring = await setup.ring()
    aad = Aad("acme", "t", "c", "s")
    async with setup.database.transaction() as tx:
        (key,) = await ring.new_subject_keys(tx, [("acme", "s")])
    blob = key.seal(NUMBER, aad)
    async with setup.database.transaction() as tx:
        await ring.shred(tx, "acme", ["s"])
        assert await ring.open_sealed(blob, aad) == NUMBER
    with pytest.raises(Shredded):
        await ring.open_sealed(blob, aad)


async def test_a_shredded_value_from_an_old_backup_dies_with_the_root_version(setup: Setup) -> None:
    """A backup holds the wrapped key: restored, the value is readable until the root version it hangs on is forgotten."""
    ring = await setup.ring()
    aad = Aad("acme", "t", "c", "s")
    async with setup.database.transaction() as tx:
        (key,) = await ring.new_subject_keys(tx, [("acme", "s")])
    blob = key.seal(NUMBER, aad)
    backup = [tuple(row) for row in await setup.service.query("SELECT * FROM data_key")]

    async def restore() -> None:
        connection = await setup.service.connection()
        await connection.execute("DELETE FROM data_key")
        await connection.copy_records_to_table("data_key", records=backup)
        await connection.close()

    async with setup.database.transaction() as tx:
        await ring.shred(tx, "acme", ["s"])
    await restore()
    assert await (await setup.ring()).open_sealed(blob, aad) == NUMBER
    root.rotate(setup.path)
    root.forget(setup.path, 1)
    with pytest.raises(RootError, match="version 1"):
        await setup.ring()


async def test_a_subject_key_of_a_transaction_undone_is_gone(setup: Setup) -> None:
    ring = await setup.ring()
    aad = Aad("acme", "t", "c", "s")
    blob = b""
    with pytest.raises(RuntimeError, match="undone"):
        async with setup.database.transaction() as tx:
            (key,) = await ring.new_subject_keys(tx, [("acme", "s")])
            blob = key.seal(NUMBER, aad)
            raise RuntimeError("undone")
    with pytest.raises(UnknownKey):
        await ring.open_sealed(blob, aad)


async def test_a_subjects_key_seals_one_value(setup: Setup) -> None:
    ring = await setup.ring()
    async with setup.database.transaction() as tx:
        (key,) = await ring.new_subject_keys(tx, [("acme", "s")])
    key.seal(NUMBER, Aad("acme", "t", "c", "s"))
    with pytest.raises(KeyringError, match="seals one value"):
        key.seal(NUMBER, Aad("acme", "t", "c", "s"))


async def test_a_subject_has_one_key(setup: Setup) -> None:
    ring = await setup.ring()
    async with setup.database.transaction() as tx:
        await ring.new_subject_keys(tx, [("acme", "s")])
    with pytest.raises(KeyringError, match="has a key already"):
        async with setup.database.transaction() as tx:
            await ring.new_subject_keys(tx, [("acme", "s")])


async def test_the_service_can_not_delete_or_revive_keys(setup: Setup) -> None:
    await setup.ring()
    connection = await setup.service.connection(superuser=True)
    rows = await connection.fetch(
        "SELECT privilege_type FROM information_schema.table_privileges WHERE table_name = 'data_key' AND grantee = $1",
        setup.service.dsn.user,
    )
    await connection.close()
    assert {row["privilege_type"] for row in rows} == {"SELECT", "INSERT"}
