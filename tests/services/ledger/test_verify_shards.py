"""What `tallystick verify` says of several shards: nothing when all is well, and the fault when one is planted."""

from __future__ import annotations

from tallystick.local.verify import shards as checks
from tallystick.local.verify.source import Source
from tests.services.ledger.shards import HERE, TENANT, THERE, Shards
from tests.services.ledger.test_interbook import second_server, shards, there
from tests.support.snapshots import snapshots

__all__ = ["second_server", "shards", "there"]

LEDGERS = ("ledger", "ledger-eu")


def opened(made: Shards) -> Source:
    return snapshots(dict(zip(LEDGERS, (made.databases[HERE], made.databases[THERE]), strict=True)))


async def directory(made: Shards) -> tuple[list[str], str]:
    async with opened(made) as source:
        return await checks.directory(source, LEDGERS)


async def transit(made: Shards) -> tuple[list[str], str]:
    async with opened(made) as source:
        return await checks.transit(source, LEDGERS)


async def test_shards_that_agree(shards: Shards) -> None:
    assert (await shards.send(shards.crossing(30))).state == "posted"
    assert (await shards.send(shards.crossing(20, back=True))).state == "posted"
    shards.ways[THERE].lost = 1
    assert (await shards.send(shards.crossing(7))).state == "in_flight"
    assert await directory(shards) == ([], "1 book")
    assert await transit(shards) == ([], "4 accounts, 7 minor units in flight")


async def test_a_book_that_two_shards_keep_is_a_fault(shards: Shards) -> None:
    eu = shards.databases[THERE]
    for name, said in (("asia", "none"), ("main", HERE)):
        row = "INSERT INTO book (tenant, name, shard, created_at, recorded_at) VALUES ($1, $2, $3, now(), now())"
        await eu.query(row, TENANT, name, THERE)
        found, _ = await directory(shards)
        assert f"{TENANT}, {name}: kept by the shard {THERE}, but home names {said}" in found


async def test_money_that_came_out_of_nothing_is_a_fault(shards: Shards) -> None:
    """As after a restored backup of one of the two: what had left is still there."""
    await shards.send(shards.crossing(30))
    connection = await shards.databases[HERE].connection(superuser=True)
    try:
        await connection.execute("SET session_replication_role = replica")
        await connection.execute("UPDATE account SET credits_posted = 0 WHERE path LIKE 'transit:out:%'")
    finally:
        await connection.close()
    found, _ = await transit(shards)
    assert found == [f"{TENANT}, main to eu: 30 EUR came in, and between 0 and 0 went out"]
