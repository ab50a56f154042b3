"""The noes of notify."""

from __future__ import annotations

from tallystick.kernel.problem import Conflict, InvalidRequest, NotFound


class WebhookEndpointNotFound(NotFound):
    slug, title = "webhook-endpoint-not-found", "There is no such webhook endpoint"


class DeliveryNotFound(NotFound):
    slug, title = "delivery-not-found", "There is no such delivery"


class InvalidUrl(InvalidRequest):
    slug, title = "invalid-webhook-url", "Webhooks can't be sent to this URL"


class TooManyEndpoints(Conflict):
    slug, title = "too-many-webhook-endpoints", "A tenant has at most so many webhook endpoints"


class WebhookEndpointDisabled(Conflict):
    slug, title = "webhook-endpoint-disabled", "This webhook endpoint is disabled; enable it first"
