"""The noes of notify."""

from __future__ import annotations

from typing import Final

from tallystick.kernel.problem import SITE, Conflict, InvalidRequest, NotFound

#: Where all events are listed.
EVENTS: Final = f"{SITE}/reference/facts/"


class WebhookEndpointNotFound(NotFound):
    """It was deleted, or is another tenant's. `GET /v1/webhook_endpoints` has those that there are."""

    slug, title = "webhook-endpoint-not-found", "There is no such webhook endpoint"


class DeliveryNotFound(NotFound):
    """The endpoint has no such delivery, or it is older than 90 days. `GET /v1/webhook_endpoints/{id}/deliveries` has those that there are."""

    slug, title = "delivery-not-found", "There is no such delivery"


class InvalidUrl(InvalidRequest):
    """`https://host[:port]/path` with a public host, without user and fragment; the detail says what is wrong. The sandbox takes `http` and this machine too."""

    slug, title = "invalid-webhook-url", "Webhooks can't be sent to this URL"


class UnknownWebhookEvent(InvalidRequest):
    """All events, and what each means, are on the page [Facts and webhook events](../reference/facts.md)."""

    slug, title = "unknown-webhook-event", "No webhook event is called that"


class TooManyEndpoints(Conflict):
    """`limit` is how many a tenant may have. Delete one that is not needed."""

    slug, title = "too-many-webhook-endpoints", "A tenant has at most so many webhook endpoints"


class WebhookEndpointDisabled(Conflict):
    """It answered `410 Gone`, or too many attempts failed. `POST /v1/webhook_endpoints/{id}/enable`, then replay."""

    slug, title = "webhook-endpoint-disabled", "This webhook endpoint is disabled; enable it first"
