"""What the ledger is told by its environment: which shard it is, and which others there are."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from tallystick.chassis import settings
from tallystick.contracts.ledger.messages import HOME, ShardName


class Settings(settings.Settings, frozen=True, kw_only=True):
    """The chassis' own settings, and the shard's."""

    shard: ShardName = HOME
    """This ledger's name among the shards. The one called `default` knows where every book is."""
    shards: Annotated[str, Meta(pattern=r"^([a-z0-9][a-z0-9-]{0,62}(,|$))*$", max_length=2000)] = ""
    """The other shards, with commas between them. The mesh keeps a socket `ledger-<shard>.sock` for each."""

    @property
    def others(self) -> list[str]:
        return [name for name in self.shards.split(",") if name and name != self.shard]
