"""A fact: something that happened, told once. Its encoding is stored in the outbox, sent over the bus and hashed into the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final

import msgspec

from tallystick.kernel import ids
from tallystick.kernel.clock import parse_rfc3339, rfc3339
from tallystick.kernel.deployment import service_of
from tallystick.kernel.ids import FactId

#: The tenant of facts about the platform itself. No tenant may have this name.
PLATFORM: Final = "platform"
MAX_FACT_BYTES: Final = 64 * 1024


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened: who (`actor`, a client or a service) did what (`type`, `<service>.<thing>.<past tense>`) to which
    `resource` of which tenant. `data` holds ids, amounts and states; never what a person typed. `trace` is the request's trace id.
    """

    id: FactId
    type: str
    tenant: str
    actor: str
    resource: str
    at: datetime
    trace: str | None = None
    data: dict[str, Any] = {}


class _Wire(msgspec.Struct, frozen=True):
    id: str
    type: str
    tenant: str
    actor: str
    resource: str
    at: str
    trace: str | None
    data: dict[str, Any]


class Head(msgspec.Struct, frozen=True):
    """The members that say which fact this is and whose; the rest is not decoded. Empty where the fact does not have them."""

    id: str = ""
    type: str = ""
    tenant: str = ""


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(_Wire)
#: Raises ValueError for what is no JSON object, or has something other than texts in these members.
head: Final = msgspec.json.Decoder(Head).decode


def tells(teller: str, type_: str) -> bool:
    """Whether `teller` may tell facts of this type: the type begins with the service's name. A shard tells what its service may tell."""
    return type_.partition(".")[0] == service_of(teller)


def encode(fact: Fact) -> bytes:
    """The only encoding of a fact: these bytes are stored, sent and hashed. Raises ValueError when it is too large."""
    raw = _encoder.encode(
        _Wire(
            ids.facts.text(fact.id),
            fact.type,
            fact.tenant,
            fact.actor,
            fact.resource,
            rfc3339(fact.at),
            fact.trace,
            fact.data,
        )
    )
    if len(raw) > MAX_FACT_BYTES:
        raise ValueError(
            f"a fact of type {fact.type} has {len(raw)} bytes; at most {MAX_FACT_BYTES} are told, the rest is looked up"
        )
    return raw


def decode(raw: bytes) -> Fact:
    """The inverse of `encode`. Raises msgspec.DecodeError, InvalidId or ValueError for what `encode` can't have made."""
    wire = _decoder.decode(raw)
    return Fact(
        id=ids.facts.parse(wire.id),
        type=wire.type,
        tenant=wire.tenant,
        actor=wire.actor,
        resource=wire.resource,
        at=parse_rfc3339(wire.at),
        trace=wire.trace,
        data=wire.data,
    )


@dataclass(frozen=True)
class Delivered:
    """A fact as it arrived: number `seq` of `service`. `raw` is its exact encoding, which the audit log hashes.

    Only the `head` is decoded. `fact` decodes the rest when a handler asks for it, and raises what `decode` raises.
    """

    service: str
    seq: int
    head: Head
    raw: bytes

    @property
    def id(self) -> FactId:
        return ids.facts.parse(self.head.id)

    @property
    def tenant(self) -> str:
        return self.head.tenant

    @cached_property
    def fact(self) -> Fact:
        return decode(self.raw)
