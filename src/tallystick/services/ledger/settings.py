"""The settings of the ledger: which shard it is, and which others there are."""

from __future__ import annotations

from tallystick.chassis import settings


class Settings(settings.Settings, frozen=True, kw_only=True):
    """The chassis' settings, and no others. The shard `default` is home: it knows where every book is."""

    @property
    def others(self) -> list[str]:
        """The ledger's other shards."""
        return [name for name in self.all_shards if name != self.shard]
