"""All that arrives at notify by HTTP: endpoints and their deliveries."""

from __future__ import annotations

from typing import Any

import msgspec

from tallystick.chassis.idempotency import Entry
from tallystick.chassis.web import Endpoint, Page, Reply, Request
from tallystick.contracts.notify import messages as wire
from tallystick.contracts.notify.problems import (
    DeliveryNotFound,
    InvalidUrl,
    TooManyEndpoints,
    UnknownWebhookEvent,
    WebhookEndpointDisabled,
    WebhookEndpointNotFound,
)
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.services.notify import model
from tallystick.services.notify.service import Actor, Notify, Order


async def create(notify: Notify, request: Request[wire.CreateEndpoint]) -> Reply[Any]:
    subject, body = request.subject, request.body
    entry = None
    if request.idempotency_key is not None:
        digest = notify.digester.digest(body)
        entry = Entry(subject.tenant, subject.client_id, request.route, request.idempotency_key, digest)
    order = Order(actor=_actor(request), url=body.url, events=body.events, description=body.description, entry=entry)
    made = await notify.endpoints.create(order)
    return Reply.raw(made.body, made.status, replayed=made.replayed)


async def list_(notify: Notify, request: Request[None, wire.EndpointsQuery]) -> Reply[Page[wire.WebhookEndpoint]]:
    query = request.query
    after = None if query.after is None else ids.webhook_endpoints.parse(query.after)
    found = await notify.endpoints.list(request.subject.tenant, after, query.limit + 1)
    page = [_endpoint(each) for each in found[: query.limit]]
    more = len(found) > query.limit
    return Reply(Page(data=page, has_more=more, next=page[-1].id if more else None))


async def get(notify: Notify, request: Request) -> Reply[wire.WebhookEndpoint]:
    return Reply(_endpoint(await notify.endpoints.get(request.subject.tenant, _id(request))))


async def delete(notify: Notify, request: Request) -> Reply[None]:
    await notify.endpoints.delete(_actor(request), _id(request))
    return Reply(None, status=204)


async def enable(notify: Notify, request: Request) -> Reply[wire.WebhookEndpoint]:
    return Reply(_endpoint(await notify.endpoints.enable(_actor(request), _id(request))))


async def deliveries(notify: Notify, request: Request[None, wire.DeliveriesQuery]) -> Reply[Page[wire.Delivery]]:
    query = request.query
    after = None if query.after is None else ids.deliveries.parse(query.after)
    found = await notify.deliveries.list(
        request.subject.tenant, _id(request), after=after, status=query.status, limit=query.limit + 1
    )
    page = [_delivery(each) for each in found[: query.limit]]
    more = len(found) > query.limit
    return Reply(Page(data=page, has_more=more, next=page[-1].id if more else None))


async def replay(notify: Notify, request: Request) -> Reply[wire.Delivery]:
    delivery = ids.deliveries.parse(request.path["delivery"])
    return Reply(_delivery(await notify.deliveries.replay(_actor(request), _id(request), delivery)))


def _actor(request: Request[Any, Any]) -> Actor:
    return Actor(request.subject.tenant, request.subject.client_id, request.trace_id)


def render(endpoint: model.Endpoint, secret: str) -> bytes:
    """The answer to an endpoint's creation: the one that holds its secret."""
    return msgspec.json.encode(_endpoint(endpoint, secret))


def _id(request: Request[Any, Any]) -> ids.EndpointId:
    return ids.webhook_endpoints.parse(request.path["id"])


def _endpoint(e: model.Endpoint, secret: str | None = None) -> wire.WebhookEndpoint:
    return wire.WebhookEndpoint(
        id=ids.webhook_endpoints.text(e.id),
        url=e.url,
        events=list(e.events),
        description=e.description,
        status="enabled" if e.disabled_reason is None else "disabled",
        created_at=rfc3339(e.created_at),
        disabled_reason=e.disabled_reason,
        secret=secret,
    )


def _delivery(d: model.Delivery) -> wire.Delivery:
    return wire.Delivery(
        id=ids.deliveries.text(d.id),
        event=ids.facts.text(d.fact),
        type=d.type,
        status=d.status,
        attempts=d.attempts,
        created_at=rfc3339(d.created_at),
        delivered_at=None if d.delivered_at is None else rfc3339(d.delivered_at),
        next_attempt_at=None if d.next_at is None else rfc3339(d.next_at),
        last_status=d.last_status,
        last_error=d.last_error,
    )


_NOT_FOUND = (WebhookEndpointNotFound, ids.InvalidId)

ENDPOINTS = (
    Endpoint(
        "POST", "/v1/webhook_endpoints", create, scope="webhooks:write", action="writeEndpoint", resource="Endpoint",
        body=wire.CreateEndpoint, answer=wire.WebhookEndpoint, status=201, idempotency="optional", rate="write",
        problems=(InvalidUrl, UnknownWebhookEvent, TooManyEndpoints, WebhookEndpointNotFound), summary="Be told about events at a URL of your own",
    ),
    Endpoint(
        "GET", "/v1/webhook_endpoints", list_, scope="webhooks:write", action="readEndpoint", resource="Endpoint",
        query=wire.EndpointsQuery, answer=Page[wire.WebhookEndpoint], rate="read", problems=(ids.InvalidId,),
        summary="Webhook endpoints, newest first",
    ),
    Endpoint(
        "GET", "/v1/webhook_endpoints/{id}", get, scope="webhooks:write", action="readEndpoint", resource="Endpoint",
        answer=wire.WebhookEndpoint, rate="read", problems=_NOT_FOUND, segments={"id": ids.EndpointIdWire}, summary="One webhook endpoint",
    ),
    Endpoint(
        "DELETE", "/v1/webhook_endpoints/{id}", delete, scope="webhooks:write", action="writeEndpoint",
        resource="Endpoint", status=204, rate="write", problems=_NOT_FOUND,
        segments={"id": ids.EndpointIdWire}, summary="Forget a webhook endpoint and what is on its way to it",
    ),
    Endpoint(
        "POST", "/v1/webhook_endpoints/{id}/enable", enable, scope="webhooks:write", action="writeEndpoint",
        resource="Endpoint", answer=wire.WebhookEndpoint, rate="write", problems=_NOT_FOUND,
        segments={"id": ids.EndpointIdWire}, summary="Send again to an endpoint that was disabled",
    ),
    Endpoint(
        "GET", "/v1/webhook_endpoints/{id}/deliveries", deliveries, scope="webhooks:write", action="readEndpoint",
        resource="Endpoint", query=wire.DeliveriesQuery, answer=Page[wire.Delivery], rate="read", problems=_NOT_FOUND,
        segments={"id": ids.EndpointIdWire}, summary="What was sent to an endpoint, newest first",
    ),
    Endpoint(
        "POST", "/v1/webhook_endpoints/{id}/deliveries/{delivery}/replay", replay, scope="webhooks:write",
        action="writeEndpoint", resource="Endpoint", answer=wire.Delivery, status=202, rate="write",
        problems=(*_NOT_FOUND, DeliveryNotFound, WebhookEndpointDisabled), segments={"id": ids.EndpointIdWire, "delivery": ids.DeliveryIdWire}, summary="Send a delivery again",
    ),
)  # fmt: skip
