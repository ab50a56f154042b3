"""Identity's revocations, known here within a second: a map in memory that is consulted for each request.

Identity publishes each revocation once on the bus, and every second its epoch, which counts the revocations so far. An epoch
that does not follow the last one means that a message was missed. Then, and every minute, and every few seconds while the bus
is silent, the whole list is fetched. Entries are only added, and stay until they expire, so late, repeated and reordered messages
do no harm.
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

STALE_AFTER: Final = 10.0  # seconds without news after which only reads are served
QUIET_AFTER: Final = 3.0  # seconds without news after which the list is fetched instead
REFRESH: Final = 60.0  # seconds between fetches while news arrives

Kind = Literal["jti", "client", "kid", "all-before"]


class Revocation(msgspec.Struct, frozen=True):
    """`until`: Unix seconds after which no token that this concerns can still be valid. Of kind `all-before` the `id` is a Unix time:
    tokens that were issued before are revoked.
    """

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
    """The map, without I/O. Times are Unix seconds."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], int] = {}
        self._all_before = float("-inf")
        #: Counts the revocations of many tokens at once: of a key, or of all that was issued before a time.
        self.generation = 0

    def add(self, kind: Kind, id: str, until: int) -> None:  # noqa: A002 - the field's name in the feed
        """Raises ValueError for an `all-before` whose id isn't a time."""
        if kind == "all-before":
            instant = float(id)
            if not math.isfinite(instant):
                raise ValueError("not a Unix time")
            self.generation += instant > self._all_before
            self._all_before = max(self._all_before, instant)
        else:
            key = (kind, id)
            self.generation += kind == "kid" and key not in self._until
            self._until[key] = max(until, self._until.get(key, until))

    def forget(self, now: float) -> None:
        # A minute late: identity's clock may differ from ours.
        self._until = {key: until for key, until in self._until.items() if until + 60 > now}

    def concerns(self, token: Verified) -> bool:
        """Whether the token is revoked.

        A revoked client can start nothing new. What it started with a valid token has to be finished, or its payers' money would
        stay held: so a client's revocation does not concern the tokens that identity gives to services for that (`background`).
        The revocation of a token id, of a key and `all-before` do concern them.
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
    """The map, kept up to date. `receive` takes the bus's messages, `run` fetches the list when it has to."""

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
        self._epoch = -1  # every revocation up to this one is in the map
        self._highest = -1  # the highest epoch heard of
        self._heard_at = float("-inf")
        self._fetched_at = float("-inf")
        self._meanwhile: list[int] | None = None  # epochs received while the list is being fetched
        self._behind = asyncio.Event()
        self.loaded = False

    def age(self) -> float:
        """Seconds since nothing was known to be missing: since a message whose epoch follows, or a fetch of the list."""
        return self._monotonic() - self._heard_at

    @property
    def stale(self) -> bool:
        return self.age() > STALE_AFTER

    def concerns(self, token: Verified) -> bool:
        return self._revoked.concerns(token)

    @property
    def generation(self) -> int:
        """Changes when many tokens were revoked at once: cached tokens whose claims are not known may be among them."""
        return self._revoked.generation

    def receive(self, data: bytes) -> None:
        """Take one message from the bus. An unreadable one counts as missed."""
        try:
            message = _message.decode(data)
            if message.kind != "heartbeat":
                self._revoked.add(message.kind, message.id, message.until)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
            telemetry.log.error("auth.revocation_unreadable", size=len(data))
            self._behind.set()
            return
        if message.kind == "heartbeat":
            self._advance(message.epoch, message.epoch)
        else:
            if self._meanwhile is not None:
                self._meanwhile.append(message.epoch)
            self._advance(message.epoch - 1, message.epoch)

    def _advance(self, before: int, epoch: int) -> None:
        """Note that `epoch` was heard of, and move to it if nothing is missing between: `before` is the one that it follows."""
        self._highest = max(self._highest, epoch)
        if before > self._epoch:
            self._behind.set()
        elif before == self._epoch and self.loaded:
            self._epoch = epoch
            if epoch == self._highest:  # otherwise a late message filled one gap, and another is still open
                self._heard_at = self._monotonic()

    async def fetch(self) -> None:
        """Fetch the whole list. Raises what the fetch raises, and ValueError for a list that makes no sense."""
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
        # The list's epoch counts even where it is lower than ours, as after a restore of identity's database. Messages that arrived
        # during the fetch may follow it.
        self._epoch = snapshot.epoch
        for epoch in sorted(meanwhile):
            if epoch > self._epoch + 1:
                self._behind.set()
                break
            self._epoch = max(epoch, self._epoch)
        self._highest = max([self._epoch, *meanwhile])
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
                await asyncio.sleep(0.05)  # one fetch for a burst of gaps
            except TimeoutError:
                pass
