"""The interface between the chassis and a service's `app.py`: the `Runtime` that it gets and the `Wiring` that it returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from tallystick.kernel.clock import Clock
from tallystick.kernel.deployment import HOME, deployment

if TYPE_CHECKING:
    from valkey.asyncio import Valkey

    from tallystick.chassis.auth.authenticator import Authenticator
    from tallystick.chassis.auth.cedar import Authorizer
    from tallystick.chassis.bus import Bus, Subscription
    from tallystick.chassis.cache import Cache
    from tallystick.chassis.call import Client
    from tallystick.chassis.charter import Charter
    from tallystick.chassis.db import Database
    from tallystick.chassis.keys import Keyring, SealedColumn
    from tallystick.chassis.limits import Limits
    from tallystick.chassis.settings import Settings
    from tallystick.chassis.web import Endpoint

T = TypeVar("T")
S = TypeVar("S", bound="Settings")


class NotOpened(RuntimeError):
    """The service uses a part that its environment does not name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Scheduled work: `run(service)` is called `every` so often. `exclusive`: at one replica at a time.

    A run may take as long as `every`, and at least a minute. One that fails is logged; the next run is the retry.
    """

    name: str
    every: timedelta
    run: Callable[[Any], Awaitable[None]]
    exclusive: bool = True

    def __post_init__(self) -> None:
        if self.every <= timedelta(0):
            msg = f"schedule {self.name}: every= is positive"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """A wired service: its use cases (`service`), and all that calls them: `endpoints`, `subscriptions` and `schedules`.

    `sealed` are its columns with sealed values. `tasks` run as long as the process; one that ends stops the process. `close` is awaited
    after everything has drained. `ready` adds conditions to readiness, by name.
    """

    service: Any
    endpoints: Sequence[Endpoint]
    subscriptions: Sequence[Subscription] = ()
    schedules: Sequence[Schedule] = ()
    sealed: Sequence[SealedColumn] = ()
    tasks: Sequence[Callable[[], Awaitable[None]]] = ()
    ready: dict[str, Callable[[], bool]] = field(default_factory=dict)
    close: Callable[[], Awaitable[None]] | None = None


class Runtime:
    """What a service gets. The chassis opens the parts that the environment names before `wire` is called, and closes them after the
    last request. Using a part that is not named raises `NotOpened`, which says what is missing.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        charter: Charter,
        clock: Clock,
        client: Callable[[str, str], Client] | None = None,
        database: Database | None = None,
        bus: Bus | None = None,
        valkey: Valkey | None = None,
        keyring: Keyring | None = None,
        authenticator: Authenticator | None = None,
        authorizer: Authorizer | None = None,
        limits: Limits | None = None,
        cache: Cache | None = None,
    ) -> None:
        self.settings = settings
        self.charter = charter
        self.clock = clock
        self._client = client
        self._clients: dict[str, Client] = {}
        self._database = database
        self._bus = bus
        self._valkey = valkey
        self._keyring = keyring
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._limits = limits
        self._cache = cache

    @property
    def name(self) -> str:
        """The deployment's name, which is that of its database, its role and its subject on the bus."""
        return self.settings.deployment

    def has(self, part: str) -> bool:
        """Whether a part (`database`, `bus`, `valkey`, `keyring`, `authenticator`, `authorizer`) was named and is open."""
        return getattr(self, f"_{part}") is not None

    def settings_as(self, kind: type[S]) -> S:
        """The settings as the service's own type (`services/<name>/settings.py`)."""
        if not isinstance(self.settings, kind):
            msg = f"the settings of {self.name} are {type(self.settings).__name__}, not {kind.__name__}"
            raise TypeError(msg)
        return self.settings

    def client(self, target: str, shard: str = HOME) -> Client:
        """The client for another service or one of its shards; the same one for each call. The charter must name the target in `[calls]`."""
        key = deployment(target, shard)
        if key not in self._clients:
            self._clients[key] = _opened(self._client, "calls", "TALLYSTICK_MESH_DIR")(target, shard)
        return self._clients[key]

    @property
    def database(self) -> Database:
        return _opened(self._database, "the database", "TALLYSTICK_DATABASE_HOST and TALLYSTICK_DATABASE_NAME")

    @property
    def bus(self) -> Bus:
        return _opened(self._bus, "the bus", "TALLYSTICK_NATS_URL")

    @property
    def valkey(self) -> Valkey:
        return _opened(self._valkey, "Valkey", "TALLYSTICK_VALKEY_SOCKET")

    @property
    def keyring(self) -> Keyring:
        return _opened(self._keyring, "its key ring", "TALLYSTICK_ROOT_KEY_FILE")

    @property
    def authenticator(self) -> Authenticator:
        return _opened(self._authenticator, "authentication", "TALLYSTICK_VALKEY_SOCKET")

    def authenticate_with(self, authenticator: Authenticator) -> None:
        """Set the authenticator, which is made last because it needs other parts."""
        self._authenticator = authenticator

    @property
    def authorizer(self) -> Authorizer:
        return _opened(self._authorizer, "authorisation", "policy.cedar")

    @property
    def limits(self) -> Limits:
        return _opened(self._limits, "limits", "[limits] in its charter")

    @property
    def cache(self) -> Cache:
        return _opened(self._cache, "the cache", "TALLYSTICK_VALKEY_SOCKET")


def _opened(part: T | None, what: str, needs: str) -> T:
    if part is None:
        msg = f"this service uses {what}, but its environment does not name it: set {needs}"
        raise NotOpened(msg)
    return part
