"""The revocation feed: every service that checks tokens learns of a revocation in well under a second.

A revocation is a row with the next epoch, written in the transaction of its cause, and is published after the commit. Epochs have no gaps, and
the heartbeat publishes the newest one each second, so a service that missed one notices and asks for the snapshot. Nothing is lost if this
process dies between the commit and the publication.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.db import Transaction
from tallystick.contracts.identity.messages import Revocation
from tallystick.contracts.identity.messages import Revocations as Snapshot
from tallystick.kernel.clock import Clock
from tallystick.services.identity.model.revocations import Revoked
from tallystick.services.identity.store import Store

Publish = Callable[[bytes], Awaitable[None]]
Announce = Callable[[], Awaitable[None]]


class Revocations:
    def __init__(self, store: Store, clock: Clock, publish: Publish) -> None:
        self._store = store
        self._clock = clock
        self._publish = publish
        self._told: int | None = None

    async def record(self, tx: Transaction, revoked: Revoked) -> Announce:
        """Store a revocation. Returns a function that publishes it; the caller awaits that after its transaction has committed, never before."""
        epoch = await self._store.insert_revocation(tx, revoked)

        async def announce() -> None:
            if epoch is None:
                return
            try:
                await self._publish(_message(epoch, revoked))
            except Exception as error:  # noqa: BLE001  # whatever is wrong with the bus, the heartbeat publishes it within a second or so
                telemetry.log.warning("revocation.publish_failed", epoch=epoch, error=type(error).__name__)

        return announce

    async def heartbeat(self) -> None:
        """Run each second by one replica: publish what may have been missed, then the newest epoch.

        The newest epoch is read from the database. While another replica ran this, revocations may have been added and already deleted; and a
        restored database may be at an earlier epoch.
        """
        newest = await self._store.current_epoch()
        self._told = newest if self._told is None else min(self._told, newest)
        while missed := await self._store.revocations_since(self._told):
            for epoch, revoked in missed:
                await self._publish(_message(epoch, revoked))
                self._told = epoch
        self._told = max(self._told, newest)
        await self._publish(msgspec.json.encode({"epoch": self._told, "kind": "heartbeat"}))

    async def snapshot(self) -> Snapshot:
        epoch, revoked = await self._store.revocations(self._clock.now())
        return Snapshot(epoch=epoch, revocations=[_revocation(number, each) for number, each in revoked])

    async def forget(self) -> None:
        """Delete revocations of which no token can still be valid."""
        await self._store.forget_revocations(self._clock.now())


def _revocation(epoch: int, revoked: Revoked) -> Revocation:
    # Rounded up: remembering it a second longer is safe.
    return Revocation(epoch=epoch, kind=revoked.kind, id=revoked.id, until=int(revoked.until.timestamp()) + 1)


def _message(epoch: int, revoked: Revoked) -> bytes:
    return msgspec.json.encode(_revocation(epoch, revoked))
