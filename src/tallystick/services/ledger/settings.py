"""What the ledger is told by its environment: which shard it is, and which others there are."""

from __future__ import annotations

from tallystick.chassis import settings


class Settings(settings.Settings, frozen=True, kw_only=True):
    """The chassis' own settings. The shard called `default` knows where every book is."""

    @property
    def others(self) -> list[str]:
        """The ledger's other shards."""
        return [name for name in self.all_shards if name != self.shard]
