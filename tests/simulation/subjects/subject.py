"""The shape of a subject."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from tests.simulation.world import Replica, World


class Subject:
    """By itself it does nothing."""

    name: ClassVar[str]
    #: Kinds of what it did, as `reached` counts them: a run of many seeds has some of each.
    kinds: ClassVar[tuple[str, ...]] = ()

    def __init__(self, world: World) -> None:
        self.world = world

    def reached(self, kind: str) -> None:
        self.world.faults.reached[kind] += 1

    async def furnish(self) -> None:
        """Opens what it needs, while nothing breaks."""

    async def act(self, rng: random.Random) -> None:
        """One request of a client or an operator."""

    async def turn(self, replica: Replica) -> None:
        """What a replica's schedule does for it."""

    async def calm(self) -> None:
        """Takes away what would hinder the end, once nothing breaks any more."""

    def violations(self) -> Iterable[str]:
        """What is wrong when the run is over. Each begins with the name of the invariant that does not hold."""
        return ()
