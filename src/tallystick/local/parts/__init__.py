"""The real parts on one machine, from their wheels: PostgreSQL, NATS JetStream, Valkey and Envoy, each a child process of the supervisor."""

from typing import Protocol

from tallystick.local.parts.identity import NoIdentity
from tallystick.local.parts.nats import Nats
from tallystick.local.parts.postgres import Postgres
from tallystick.local.parts.process import Child, ProcessFailed
from tallystick.local.parts.valkey import Valkey, ValkeyUser


class Part(Protocol):
    """What the supervisor needs to know of a part. It may be started again, on the same data, after it stopped or crashed."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str:
        """What is installed: asked for when it has been started."""

    @property
    def pid(self) -> int | None: ...
    async def start(self) -> None: ...
    async def ready(self) -> bool: ...
    async def stop(self) -> None: ...
    async def exited(self) -> int: ...


__all__ = ["Child", "Nats", "NoIdentity", "Part", "Postgres", "ProcessFailed", "Valkey", "ValkeyUser"]
