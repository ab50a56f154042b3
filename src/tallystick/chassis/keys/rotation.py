"""Rotation of data keys by age: making successors, re-sealing values, and destroying the old keys.

Each look does what is due, in pages of one transaction each, for at most `LOOK_SECONDS`; the next look continues. What is due follows
from the stored keys and values alone. So a look can be interrupted anywhere, and two at the same time do no more than one:

* An old tenant key gets a successor for new values. The values that it sealed are found by their header, and re-sealed.
* An old subject key gets a successor in the transaction that re-seals its one value.
* A retired key is destroyed when no value has been under it for `GRACE`, so that whoever has just read a value can still open it. For
  a tenant key the values are counted once more under a lock beside which no value can be stored (`sealed_under_living_key`). So the
  count is certain, even if a replica slept for long with the old key in memory. A subject key seals one value, once, so there is
  nothing to count.

A value that does not open stays as it is, and so does its key; that is logged as an error.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from tallystick.chassis import telemetry
from tallystick.chassis.keys.columns import OwnKeyColumn, SealedColumn, TenantKeyColumn
from tallystick.chassis.keys.envelope import Header, KeyringError
from tallystick.chassis.keys.store import Q
from tallystick.chassis.keys.told import KeysFact
from tallystick.kernel.clock import Clock

if TYPE_CHECKING:
    from tallystick.chassis.db import Database, Query, Row, Transaction
    from tallystick.chassis.keys.keyring import Keyring

GRACE: Final = timedelta(hours=1)
#: Less than the minute that every run of a schedule may take.
LOOK_SECONDS: Final = 45.0
_PAGE: Final = 200
#: A place before every key, in the order of their age.
_FIRST: Final = (datetime.min.replace(tzinfo=UTC), b"", 0)

_MOVED: Final = telemetry.counter("keys_values_moved", "Values sealed anew under a newer data key", ["column"])
_DESTROYED: Final = telemetry.counter(
    "keys_destroyed", "Older data keys that were destroyed, as nothing was sealed under them any more"
)
_BEHIND: Final = telemetry.gauge(
    "keys_values_behind", "Values still sealed under a data key that has a successor or is due for one"
)


class DataKeys:
    """The data keys of one service and what is sealed under them. `life`: the age at which a key gets a successor."""

    def __init__(
        self,
        database: Database,
        ring: Keyring,
        columns: Sequence[SealedColumn],
        clock: Clock,
        life: timedelta,
        *,
        page: int = _PAGE,
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self._database = database
        self._ring = ring
        self._under_tenants = [each for each in columns if isinstance(each, TenantKeyColumn)]
        self._under_own = [each for each in columns if isinstance(each, OwnKeyColumn)]
        self._clock = clock
        self._life = life
        self._page = page
        self._seconds = seconds
        self._ends = 0.0

    async def look(self) -> None:
        """Do what is due, as far as the time allows. Called by a schedule; one replica at a time is enough."""
        self._ends = time.monotonic() + self._seconds
        begun = self._clock.now()
        due = begun - self._life
        made = await self._rotate_tenants(due, begun)
        moved = 0
        destroyed = 0
        for row in await self._database.fetch(Q.retired_tenant_keys, begun - GRACE):
            old = Header(row["key_id"], row["version"])
            if row["values_left"] is None:  # count once before the first page, so that progress can be shown
                await self._settle(old, row["tenant"])
            moved += await self._empty(old, row["tenant"])
            if self._late():
                break
            destroyed += await self._settle(old, row["tenant"])
        renewed = await self._renew(Q.due_subjects, due, begun)
        for row in await self._database.fetch(Q.rotations_asked_for):
            if row["tenant"]:
                renewed += await self._renew(Q.due_subjects_of, row["tenant"], row["asked_at"], begun)
        destroyed += await self._destroy_emptied()
        done = [row["tenant"] for row in await self._database.fetch(Q.forget_rotations_done)]
        behind = int(await self._database.fetchval(Q.values_behind, due))
        _BEHIND.set(behind)
        _DESTROYED.inc(destroyed)
        if made or moved or renewed or destroyed or done:
            telemetry.log.info(
                "keys.data-keys", made=made + renewed, moved=moved + renewed, behind=behind, destroyed=destroyed
            )

    async def _rotate_tenants(self, due: datetime, begun: datetime) -> int:
        made = 0
        while not self._late() and (rows := await self._database.fetch(Q.due_tenants, due, self._page, begun)):
            for row in rows:
                await self._ring.rotate_tenant(row["tenant"])
            made += len(rows)
        return made

    async def _empty(self, old: Header, tenant: str) -> int:
        """Brings what a retired key holds to the tenant's current one."""
        try:
            move = await self._ring.moves(old, tenant)
        except KeyringError as error:
            telemetry.log.error("keys.unreadable", tenant=tenant, version=old.version, error=error)
            return 0
        moved = 0
        for column in self._under_tenants:
            after = None
            while not self._late():
                async with self._database.transaction() as tx:
                    rows = await tx.fetch(column.under, old.bytes(), after, self._page)
                    changed: list[tuple[Any, bytes]] = []
                    for row in rows:
                        try:
                            changed.append((row["key"], move(row["sealed"], column.aad(row["tenant"], row["key"]))))
                        except KeyringError as error:
                            _tell(column, row, error)
                    await _save(tx, column, changed)
                    if changed:
                        await tx.execute(Q.note_values_moved, old.key_id, old.version, len(changed))
                if not rows:
                    break
                _MOVED.labels(_name(column)).inc(len(changed))
                moved += len(changed)
                after = rows[-1]["key"]
        return moved

    async def _settle(self, old: Header, tenant: str) -> int:
        """Count the values under a retired key, while none can be added, and destroy the key if there has been none for long enough."""
        now = self._clock.now()
        async with self._database.transaction() as tx:
            row = await tx.fetchrow(Q.retired_key_for_update, old.key_id, old.version)
            if row is None:  # another replica has destroyed it
                return 0
            left = sum([int(await tx.fetchval(column.left, old.bytes())) for column in self._under_tenants])
            if left or row["emptied_at"] is None or row["emptied_at"] > now - GRACE:
                await tx.execute(Q.note_values_left, old.key_id, old.version, left, now)
                return 0
            await self._ring.tell_destroyed(tx, KeysFact("tenant", 1, old.version), tenant)
            return await tx.execute(Q.destroy_key, old.key_id, old.version, now)

    async def _renew(self, query: Query, *due: Any) -> int:
        """Re-seal values that have keys of their own, where the query says that these keys are due."""
        renewed = 0
        after = _FIRST
        while not self._late() and (rows := await self._database.fetch(query, *due, *after, self._page)):
            for column in self._under_own:
                renewed += await self._renew_page(column, [(row["tenant"], row["subject"]) for row in rows])
            after = (rows[-1]["created_at"], rows[-1]["key_id"], rows[-1]["version"])
        return renewed

    async def _renew_page(self, column: OwnKeyColumn, owners: Sequence[tuple[str, str]]) -> int:
        async with self._database.transaction() as tx:
            keys = [column.parse(subject) for _, subject in owners]
            rows = await tx.fetch(column.find, [tenant for tenant, _ in owners], keys)
            values = [(row["sealed"], column.aad(row["tenant"], row["key"])) for row in rows]
            changed: list[tuple[Any, bytes]] = []
            for row, sealed in zip(rows, await self._ring.succeed(tx, values), strict=True):
                if isinstance(sealed, KeyringError):
                    _tell(column, row, sealed)
                elif sealed is not None:
                    changed.append((row["key"], sealed))
            await _save(tx, column, changed)
        _MOVED.labels(_name(column)).inc(len(changed))
        return len(changed)

    async def _destroy_emptied(self) -> int:
        destroyed = 0
        now = self._clock.now()
        while not self._late():
            async with self._database.transaction() as tx:
                gone = await tx.fetch(Q.destroy_emptied_subject_keys, now - GRACE, now, self._page)
                for tenant, count in Counter(row["tenant"] for row in gone).items():
                    await self._ring.tell_destroyed(tx, KeysFact("value", count), tenant)
            if not gone:
                break
            destroyed += len(gone)
        return destroyed

    def _late(self) -> bool:
        return time.monotonic() >= self._ends


async def _save(tx: Transaction, column: SealedColumn, changed: Sequence[tuple[Any, bytes]]) -> None:
    if changed:
        stored = await tx.execute(column.save, [key for key, _ in changed], [sealed for _, sealed in changed])
        if stored != len(changed):
            msg = f"{_name(column)}: {len(changed)} values were sealed anew and {stored} stored"
            raise RuntimeError(msg)


def _name(column: SealedColumn) -> str:
    return f"{column.table}.{column.name}"


def _tell(column: SealedColumn, row: Row, error: KeyringError) -> None:
    telemetry.log.error("keys.unreadable", column=_name(column), resource=column.text(row["key"]), error=error)
