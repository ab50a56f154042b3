"""The problems of notify."""

from __future__ import annotations

from typing import Final

from tallystick.kernel.problem import SITE, Conflict, InvalidRequest, NotFound

#: Where all events are listed.
EVENTS: Final = f"{SITE}/reference/facts/"


class WebhookEndpointNotFound(NotFound):
    """The webhook endpoint does not exist, was deleted, or belongs to another tenant. `GET /v1/webhook_endpoints` lists yours."""

    slug, title = "webhook-endpoint-not-found", "Webhook endpoint not found"


class DeliveryNotFound(NotFound):
    """The endpoint has no such delivery, or the delivery is older than 90 days. `GET /v1/webhook_endpoints/{id}/deliveries` lists those
    that are kept.
    """

    slug, title = "delivery-not-found", "Delivery not found"


class InvalidUrl(InvalidRequest):
    """A webhook's URL is `https://host[:port]/path` with a public host, without user info and fragment. The detail says what is wrong.
    The sandbox also accepts `http` and addresses of the local machine.
    """

    slug, title = "invalid-webhook-url", "Invalid webhook URL"


class UnknownWebhookEvent(InvalidRequest):
    """No event has this name. The page [Facts and webhook events](../reference/facts.md) lists all events with their meaning."""

    slug, title = "unknown-webhook-event", "Unknown webhook event"


class TooManyEndpoints(Conflict):
    """The tenant has as many webhook endpoints as are allowed (`limit`). Delete one that is no longer needed."""

    slug, title = "too-many-webhook-endpoints", "Too many webhook endpoints"


class WebhookEndpointDisabled(Conflict):
    """The endpoint was disabled because it answered `410 Gone`. Enable it by
    `POST /v1/webhook_endpoints/{id}/enable`, then replay the delivery.
    """

    slug, title = "webhook-endpoint-disabled", "This webhook endpoint is disabled; enable it first"
