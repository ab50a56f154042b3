"""Webhook endpoints and deliveries as tenants see them, and the webhook itself (Standard Webhooks 1.0)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tallystick.kernel.clock import InstantWire
from tallystick.kernel.ids import DeliveryIdWire, EndpointIdWire, FactIdWire

EventPattern = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[a-z_]+(\.[a-z_]+)*(\.\*)?)$(?!\n)",
        max_length=100,
        description="an event type such as payment.settled, all of a kind such as payment.*, or *",
    ),
]


DeliveryStatus = Literal["pending", "delivered", "failed"]


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


#: A URL without user info and fragment. The pattern is for the document alone; the URL is checked as a whole, with a problem of its own.
URL_FORM = r"^[Hh][Tt][Tt][Pp][Ss]?://[^/?#@]+([/?][^#]*)?$"


class CreateEndpoint(_Message, frozen=True, omit_defaults=True):
    """Where to send events, and which."""

    url: Annotated[str, Meta(min_length=8, max_length=2000, extra_json_schema={"format": "uri", "pattern": URL_FORM})]
    events: Annotated[list[EventPattern], Meta(min_length=1, max_length=50)]
    description: Annotated[str, Meta(max_length=200)] = ""


class WebhookEndpoint(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """`secret` (`whsec_...`) is in the answer to the creation, and in no other."""

    id: EndpointIdWire
    url: str
    events: list[str]
    description: str
    status: Literal["enabled", "disabled"]
    created_at: InstantWire
    disabled_reason: str | None = None
    secret: str | None = None


class Delivery(_Message, frozen=True, kw_only=True, omit_defaults=True):
    """One event on its way to one endpoint. `attempts` have been made; the next one, if any, is at `next_attempt_at`."""

    id: DeliveryIdWire
    event: FactIdWire
    type: str
    status: DeliveryStatus
    attempts: int
    created_at: InstantWire
    delivered_at: InstantWire | None = None
    next_attempt_at: InstantWire | None = None
    last_status: int | None = None
    last_error: str | None = None


class EndpointsQuery(_Message, frozen=True):
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    after: EndpointIdWire | None = None


class DeliveriesQuery(_Message, frozen=True):
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    after: DeliveryIdWire | None = None
    status: DeliveryStatus | None = None


class Webhook(msgspec.Struct, frozen=True):
    """The body that an endpoint receives. `id` is the fact's: an event has the same id however often it is sent."""

    id: str
    type: str
    """The event: the fact's type without the name of its service."""
    timestamp: str
    """When it happened (RFC 3339). When this attempt was made is in the header `webhook-timestamp`."""
    data: dict[str, Any]


class DeliveryReplayed(_Message, frozen=True):
    """What notify tells about a delivery that a client asked to be sent again."""

    delivery: DeliveryIdWire
