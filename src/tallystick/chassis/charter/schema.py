"""The schema of `charter.toml`: its sections and what a value in them may be."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from tallystick.kernel.deployment import service_of

FILE = "charter.toml"

#: The people who run the platform, by its command line: the only caller that is no service and has no charter.
#: A service that lets the operator call it says so by `[callers] operator = [...]`.
OPERATOR = "operator"
OPERATOR_TIMEOUT_MS = 15_000

#: The upper bounds, in milliseconds, of the buckets in which every service counts its requests by duration. `slo.p99_ms` is one of
#: them: of any other duration the metrics could not say how many requests took longer.
DURATION_BOUNDS_MS = (1, 2.5, 5, 10, 25, 50, 100, 150, 200, 250, 300, 500, 1000, 2500, 5000, 10_000)

DataClass = Literal["public", "internal", "personal", "cardholder", "sensitive-authentication", "secret"]
DATA_CLASSES: tuple[str, ...] = ("public", "internal", "personal", "cardholder", "sensitive-authentication", "secret")
ABOUT_PEOPLE = ("personal", "cardholder", "sensitive-authentication")

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]*$", min_length=2, max_length=30)]
Text = Annotated[str, msgspec.Meta(min_length=3, max_length=600)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Millis = Annotated[int, msgspec.Meta(ge=1, le=120_000)]
Action = Annotated[
    str, msgspec.Meta(pattern=r"^(GET|POST|PUT|PATCH|DELETE) /internal(/[a-z0-9_.-]+|/\{[a-z_]+\})+$", max_length=200)
]
"""One mesh row of the callee's endpoint table: `POST /internal/transfers`, `GET /internal/receipts/{id}`."""
Keyed = Annotated[str, msgspec.Meta(pattern=r"^(/[a-z0-9_.-]+|/\{[a-z_]+\})+$", max_length=200)]
FactType = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]*(\.([a-z][a-z0-9_-]*|\*))+$", max_length=100)]
Happened = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$", max_length=80)]
"""A fact without the name of its service, the past tense last: `payment.settled`."""
Prefix = Annotated[str, msgspec.Meta(pattern=r"^(/[A-Za-z0-9._-]+)+$", max_length=100)]
Retention = Annotated[
    str,
    msgspec.Meta(pattern=r"^([1-9][0-9]* (day|days|month|months|year|years)|until erased|for ever)$", max_length=40),
]


class _Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the schema: immutable, and unknown keys are refused."""


class Service(_Struct, frozen=True, kw_only=True):
    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]*$", min_length=2, max_length=20)]
    purpose: Text
    owner: Text


class Data(_Struct, frozen=True, kw_only=True, rename={"data_class": "class"}):
    """A category of data that the service holds. The GDPR Art. 30 record is made from these."""

    data_class: DataClass
    subject: Text
    """Whose data it is: `cardholders`, `the tenant`, `nobody`."""
    purpose: Text
    basis: Literal["contract", "legal obligation", "legitimate interests", "consent", "none needed"]
    retention: Retention
    """How long it is kept. After a number of days the service deletes it by itself. A number of years is how long it must be kept; nothing
    erases it after that. `until erased`: until somebody deletes it (a tenant its token or endpoint, an operator an entry of a list) or it is retired."""
    protection: Text
    recipients: tuple[str, ...] = ()
    """Who receives it outside the platform (the acquirer, the tenant's own webhook)."""


class Keys(_Struct, frozen=True, kw_only=True):
    """The service's key ring. A service without this section has none."""

    suite: Literal["XAES-256-GCM"]
    rotation_days: Annotated[int, msgspec.Meta(ge=1, le=366)]
    """The age at which the service key, which wraps all others, is rotated."""
    data_rotation_days: Annotated[int, msgspec.Meta(ge=1, le=366)] = 365
    """The age at which a key that seals data is rotated, and the data that it sealed is sealed anew."""
    purposes: Annotated[dict[str, Text], msgspec.Meta(min_length=1)]


class Call(_Struct, frozen=True, kw_only=True):
    """What this service may call at another, how long it waits, and what it does when there is no answer."""

    actions: Annotated[tuple[Action, ...], msgspec.Meta(min_length=1)]
    timeout_ms: Millis
    retries: Annotated[int, msgspec.Meta(ge=0, le=3)]
    when_down: Literal["fail-closed", "degrade", "queue"]
    degrade_up_to_euro: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Only where `when_down` is `degrade`: amounts of up to so many euro, or about as much in another currency, proceed without an answer."""
    note: Text
    """What `when_down` means in this case."""


class Told(_Struct, frozen=True, kw_only=True):
    """A type of fact that the service tells: `[tells] "payment.settled"` of payments is `payments.payment.settled` on the bus."""

    means: Text
    """What has happened, explained for consumers and for receivers of webhooks."""
    message: Annotated[str, msgspec.Meta(pattern=r"^[A-Z][A-Za-z0-9]*$", max_length=60)] | None = None
    """The type of its `data`: a struct of the service's `contracts/<name>/messages`. If left out, it has none."""


class Consumption(_Struct, frozen=True, kw_only=True):
    """Facts of another service that this one consumes."""

    types: Annotated[tuple[FactType, ...], msgspec.Meta(min_length=1)]
    purpose: Text


class EdgePath(_Struct, frozen=True, kw_only=True):
    """`prefix` and everything below it, by whole path segments, is reachable from outside."""

    prefix: Prefix
    rate: Name
    """A rate class of `[limits.rates]`."""
    keyed: tuple[Keyed, ...] = ()
    """The paths below it that accept an Idempotency-Key: the edge may retry a POST with such a key when a replica dies."""


class Edge(_Struct, frozen=True, kw_only=True):
    paths: tuple[EdgePath, ...] = ()
    per_second: Positive = 20_000
    """The edge's coarse limit for this service, for all clients together; the fine limits are per subject."""
    burst: Positive = 20_000


class Rate(_Struct, frozen=True, kw_only=True):
    """A token bucket per subject."""

    per_second: Positive
    burst: Positive


class Limits(_Struct, frozen=True, kw_only=True):
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1024, le=16 << 20)]
    """For a request from the edge."""
    max_mesh_body_bytes: Annotated[int, msgspec.Meta(ge=1024, le=64 << 20)] = 4 << 20
    """For a request from another service, which is a batch of many requests, each with its transaction token."""
    max_in_flight: Positive
    """Requests that one replica handles at once."""
    max_queue: Annotated[int, msgspec.Meta(ge=0)]
    """Requests that wait at one replica; one more is refused."""
    max_connections: Positive = 1024
    """The proxy's connections to all replicas of this service."""
    request_timeout_ms: Millis = 15_000
    """The time after which the edge gives up."""
    database_connections: Annotated[int, msgspec.Meta(ge=1, le=64)]
    """The pool of one replica."""
    lock_timeout_ms: Millis = 2_000
    statement_timeout_ms: Millis = 5_000
    transaction_timeout_ms: Millis = 10_000
    rates: dict[Name, Rate] = {}


class Slo(_Struct, frozen=True, kw_only=True):
    """What the service promises (service level objectives). Alerts and dashboards are derived from it; what is counted, and what as a
    failure, is in docs/adr/0044.
    """

    availability_percent: Annotated[float, msgspec.Meta(ge=99, lt=100)]
    """The share of requests that are not answered with 5xx. Much below 99 the fastest alert could not fire even if all of them failed."""
    p99_ms: Millis
    """The time within which 99 of 100 requests are answered: one of the bounds by which durations are counted (an error lists them)."""
    window_days: Annotated[int, msgspec.Meta(ge=1, le=90)] = 28
    """The days over which both are promised. The error budget is what may fail or be late in this time."""


class Scale(_Struct, frozen=True, kw_only=True):
    """On one machine nothing limits a process's processors. `cpu_millis` and `cpu_target_percent` are the plan for clusters, which are not
    rendered yet.
    """

    min_replicas: Positive
    """How many run by default."""
    max_replicas: Positive
    """How many may be asked for (`tallystick up --replicas`). PostgreSQL allows the service's role the connections of so many."""
    cpu_millis: Positive
    """The processor time that a replica is planned to need, in thousandths of a core."""
    memory_mib: Positive
    """The memory that a replica is planned to need. `tallystick status` shows what it takes, and warns above."""
    cpu_target_percent: Annotated[int, msgspec.Meta(ge=10, le=100)] = 70
    """The part of `cpu_millis` above which another replica is to be started."""
    shards: bool = False
    """Whether the service may have several shards, each with its own data, which call each other."""


class Control(_Struct, frozen=True, kw_only=True):
    """A requirement of a regulation that this service helps to meet, and the check that proves it."""

    regulation: Text
    requirement: Text
    how: Text
    proof: Annotated[str, msgspec.Meta(pattern=r"^tests/[a-z0-9_/]+\.py(::[A-Za-z_][A-Za-z0-9_]*)?$", max_length=200)]
    """A test, as a pytest node: `tests/fabric/test_conformance.py::test_callers`."""


class Charter(_Struct, frozen=True, kw_only=True):
    service: Service
    data: Annotated[dict[Name, Data], msgspec.Meta(min_length=1)]
    keys: Keys | None = None
    callers: dict[Name, tuple[Action, ...]] = {}
    calls: dict[Name, Call] = {}
    tells: dict[Happened, Told] = {}
    consumes: dict[Name, Consumption] = {}
    edge: Edge = Edge()
    limits: Limits
    slo: Slo
    scale: Scale
    controls: tuple[Control, ...] = ()

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def facts(self) -> dict[str, Told]:
        """The facts that it tells, by their whole types. A shard tells what its service tells."""
        return {f"{service_of(self.name)}.{happened}": told for happened, told in self.tells.items()}
