"""What runs on one platform: every service, and the further shards that `tallystick up --shard` asked for."""

from __future__ import annotations

from tallystick.chassis.charter import Charter, load_all
from tallystick.fabric.shards import with_shards
from tallystick.local import state as states
from tallystick.local.layout import Layout


def deployments(layout: Layout) -> dict[str, Charter]:
    """Their charters by name, as of the platform's last start. Raises CharterError, LayoutError."""
    state = states.read(layout)
    return with_shards(load_all(), state.shards if state is not None else ())
