"""What identity takes back, known here within a second: an in-memory map that each request asks.

Identity tells each revocation once on the bus and says its epoch (how many there were) every second. A number that doesn't follow
means that something was missed: then, and every minute, and each second while the bus is silent, the whole list is fetched.
Entries are only ever added until they expire, so late, doubled and reordered messages do no harm.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.auth.tokens import Verified
from tallystick.kernel.problem import Problem

STALE_AFTER: Final = 10.0  # seconds without news, then nothing but reads is done
QUIET_AFTER: Final = 3.0  # seconds without news, then the list is fetched instead
REFRESH: Final = 60.0  # seconds between fetches when all is well

Kind = Literal["jti", "client", "kid", "all-before"]


class Revocation(msgspec.Struct, frozen=True):
    """`until`: Unix seconds after which no token that this concerns can still be valid. `all-before`: `id` is the Unix time."""

    epoch: int
    kind: Kind
    id: str
    until: int


class Snapshot(msgspec.Struct, frozen=True):
    epoch: int
    revocations: list[Revocation]


class _Message(msgspec.Struct, frozen=True):
    epoch: int
    kind: Literal["jti", "client", "kid", "all-before", "heartbeat"]
    id: str = ""
    until: int = 0


_message = msgspec.json.Decoder(_Message)


class Revoked:
    """The map itself, without I/O. Times are Unix seconds."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], int] = {}
        self._all_before = float("-inf")
        #: How often something was taken back that is not one token or one client: a key, or all that was issued before a time.
        self.swept = 0

    def add(self, kind: Kind, id: str, until: int) -> None:  # noqa: A002 - the field's name in the feed
        """Raises ValueError for an `all-before` whose id isn't a time."""
        if kind == "all-before":
            instant = float(id)
            if not math.isfinite(instant):
                raise ValueError("not a Unix time")
            self.swept += instant > self._all_before
            self._all_before = max(self._all_before, instant)
        else:
            key = (kind, id)
            self.swept += kind == "kid" and key not in self._until
            self._until[key] = max(until, self._until.get(key, until))

    def forget(self, now: float) -> None:
        self._until = {key: until for key, until in self._until.items() if until + 60 > now}  # clocks differ

    def concerns(self, token: Verified) -> bool:
        """A revoked client gets nothing done any more; but what it began with a good token has to end, or its payers' money would
        stay held. So its revocation does not concern what identity gives to services for that; a token id, a key or `all-before` do.
        """
        until = self._until
        return token.issued_at < self._all_before or bool(
            until
            and (
                any(("jti", each) in until for each in token.ids)
                or (not token.background and ("client", token.subject.client_id) in until)
                or ("kid", token.kid) in until
            )
        )

    def __len__(self) -> int:
        return len(self._until)


class RevocationFeed:
    """The map and how it is kept up to date. `receive` takes the bus's messages, `run` fetches when it has to."""

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Snapshot]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._wall = wall
        self._revoked = Revoked()
        self._epoch = -1  # all up to this one are in the map
        self._told = -1  # the highest one that anybody spoke of
        self._heard_at = float("-inf")
        self._fetched_at = float("-inf")
        self._meanwhile: list[int] | None = None  # epochs heard while the list is being fetched
        self._behind = asyncio.Event()
        self.loaded = False

    def age(self) -> float:
        """Seconds since the last proof that nothing was missed: a message that follows, or a fetched list."""
        return self._monotonic() - self._heard_at

    @property
    def stale(self) -> bool:
        return self.age() > STALE_AFTER

    def concerns(self, token: Verified) -> bool:
        return self._revoked.concerns(token)

    @property
    def swept(self) -> int:
        """Another number than before: tokens of all sorts may be good no more, also those that are at hand to be passed on."""
        return self._revoked.swept

    def receive(self, data: bytes) -> None:
        """One message from the bus. What can't be read counts as missed."""
        try:
            message = _message.decode(data)
            if message.kind != "heartbeat":
                self._revoked.add(message.kind, message.id, message.until)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
            telemetry.log.error("auth.revocation_unreadable", size=len(data))
            self._behind.set()
            return
        if message.kind == "heartbeat":
            self._follows(message.epoch, message.epoch)
        else:
            if self._meanwhile is not None:
                self._meanwhile.append(message.epoch)
            self._follows(message.epoch - 1, message.epoch)

    def _follows(self, before: int, epoch: int) -> None:
        self._told = max(self._told, epoch)
        if before > self._epoch:
            self._behind.set()
        elif before == self._epoch and self.loaded:
            self._epoch = epoch
            if epoch == self._told:  # else a late message closed one hole, and another is still open
                self._heard_at = self._monotonic()

    async def fetch(self) -> None:
        """Take the whole list. Raises what the fetch raised, ValueError for one that makes no sense."""
        self._behind.clear()
        self._meanwhile = []
        asked_at = self._monotonic()
        try:
            snapshot = await self._fetch()
        finally:
            meanwhile, self._meanwhile = self._meanwhile, None
        for entry in snapshot.revocations:
            self._revoked.add(entry.kind, entry.id, entry.until)
        self._revoked.forget(self._wall())
        # The list's epoch is the truth even when it is lower than ours (a restored database). What came in meanwhile follows it.
        self._epoch = snapshot.epoch
        for epoch in sorted(meanwhile):
            if epoch > self._epoch + 1:
                self._behind.set()
                break
            self._epoch = max(epoch, self._epoch)
        self._told = max([self._epoch, *meanwhile])
        self._heard_at = self._fetched_at = asked_at
        self.loaded = True

    async def run(self) -> None:
        """Keep the map up to date until cancelled."""
        failed = False
        while True:
            since = self._monotonic() - self._fetched_at
            if self._behind.is_set() or not self.loaded or self.age() > QUIET_AFTER or since > REFRESH:
                try:
                    async with asyncio.timeout(5.0):
                        await self.fetch()
                except (Problem, TimeoutError, OSError, ValueError) as error:
                    self._behind.set()
                    if not failed:
                        telemetry.log.warning(
                            "auth.revocations_not_fetched",
                            error=error,
                            age_ms=round(self.age() * 1000) if self.loaded else None,
                        )
                    failed = True
                    await asyncio.sleep(0.5)
                    continue
                if failed:
                    telemetry.log.info("auth.revocations_fetched")
                failed = False
            try:
                async with asyncio.timeout(1.0):
                    await self._behind.wait()
                await asyncio.sleep(0.05)  # a burst of holes is one fetch
            except TimeoutError:
                pass
