"""Which events go where, how they are signed, and when they are tried again. Pure."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Any, Final
from uuid import UUID

import msgspec
from standardwebhooks.webhooks import Webhook as Signer
from yarl import URL

from tallystick.chassis.egress import blocked, literal
from tallystick.contracts.notify.messages import URL_FORM, DeliveryStatus, Webhook
from tallystick.contracts.notify.problems import EVENTS, InvalidUrl, UnknownWebhookEvent
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.ids import DeliveryId, EndpointId, FactId
from tallystick.kernel.patterns import matches

#: Pauses before the second, third ... attempt (Standard Webhooks 1.0, "retry schedule"); after the last one it has failed.
SCHEDULE: Final = tuple(timedelta(seconds=s) for s in (5, 60, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400))
MAX_ATTEMPTS: Final = len(SCHEDULE) + 1
#: Each pause is extended by up to this share, so that deliveries that failed together are not retried together.
JITTER: Final = 0.2
#: The longest Retry-After of an endpoint that is respected.
MAX_RETRY_AFTER: Final = timedelta(hours=24)
MAX_ENDPOINTS: Final = 50
#: Why a delivery failed that waited for an endpoint, or was under way to it, when that was disabled.
DISABLED: Final = "the endpoint was disabled"

#: The characters that a URL can have (RFC 3986 section 2).
_URL_TEXT: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_URL_FORM: Final = re.compile(URL_FORM)


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    id: EndpointId
    tenant: str
    url: str
    events: tuple[str, ...]
    description: str
    sealed_secret: bytes
    disabled_reason: str | None
    created_at: datetime


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    id: DeliveryId
    tenant: str
    endpoint: EndpointId
    fact: FactId
    type: str
    body: bytes
    status: DeliveryStatus = "pending"
    attempts: int = 0
    created_at: datetime
    next_at: datetime | None
    delivered_at: datetime | None = None
    last_status: int | None = None
    last_error: str | None = None


class Answer(msgspec.Struct, frozen=True):
    """The outcome of an attempt: an HTTP status, or why there was none. `retry_after`: the pause that the endpoint asked for."""

    status: int | None
    error: str | None = None
    retry_after: timedelta | None = None


def event_type(fact_type: str) -> str:
    """`payments.payment.settled` -> `payment.settled`: tenants need not know our services."""
    return fact_type.partition(".")[2]


def wants(patterns: Sequence[str], event: str) -> bool:
    """Whether an endpoint listens to an event."""
    return matches(patterns, event)


def check_events(patterns: Sequence[str], events: Sequence[str]) -> None:
    """Raises UnknownWebhookEvent for the first pattern that matches none of `events` (all that exist): nothing would ever be sent for it."""
    for place, pattern in enumerate(patterns):
        if any(wants((pattern,), event) for event in events):
            continue
        kinds = sorted({event.partition(".")[0] + ".*" for event in events})
        near = get_close_matches(pattern, kinds if pattern.endswith(".*") else [*events, *kinds], n=1)
        nearest = f'; the nearest is "{near[0]}"' if near else ""
        raise UnknownWebhookEvent(f'no event is called "{pattern}"{nearest}. All events: {EVENTS}').at(
            f"/events/{place}"
        )


def body(fact: FactId, event: str, at: datetime, data: dict[str, Any]) -> bytes:
    return msgspec.json.encode(Webhook(ids.facts.text(fact), event, rfc3339(at), data))


def new_secret() -> str:
    """`whsec_` and 32 random bytes."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def headers(secret: str, delivery: Delivery, now: datetime) -> dict[str, str]:
    """The headers of one attempt. `webhook-id` is the same for all attempts, so that receivers recognise a repeat."""
    message = ids.facts.text(delivery.fact)
    return {
        "webhook-id": message,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Signer(secret).sign(message, now, delivery.body.decode()),
        "content-type": "application/json",
    }


def check_url(text: str, *, private: bool) -> str:
    """The URL, normalised. Raises InvalidUrl. Plain http and private addresses only where the operator allows them."""
    if _URL_TEXT.fullmatch(text) is None:
        # Parsers disagree about other characters: some drop line feeds, some take a backslash for a slash.
        raise InvalidUrl(
            "a URL is printable ASCII without spaces, quotes and backslashes; anything else is percent-encoded"
        )
    try:
        url = URL(text)
        again = URL(str(url))  # the stored text is parsed again for each attempt, with the same result
        same = str(again) == str(url) and (again.raw_host, again.port) == (url.raw_host, url.port)
        host, port = _host(url, bracketed=text.partition("://")[2].startswith("[")), url.port
    except (ValueError, IndexError) as error:  # the latter for brackets without a host
        raise InvalidUrl("this is not a URL") from error
    if _URL_FORM.fullmatch(text) is None or not host or not port or not same:
        raise InvalidUrl("a webhook URL is https://host[:port]/path, without user and fragment")
    if private:
        return str(url)
    if url.scheme != "https":
        raise InvalidUrl("webhooks go by https only")
    if (literal(host) and blocked(host)) or host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        raise InvalidUrl("webhooks go to public addresses only")
    return str(url)


def _host(url: URL, *, bracketed: bool) -> str:
    """The host to connect to, without the root's dot; empty if there is none. Raises InvalidUrl, and ValueError for bad Punycode."""
    host = (url.raw_host or "").rstrip(".")
    if host and (url.host is None or "%" in host):
        raise InvalidUrl("a webhook's host has neither a zone nor escapes")
    if bracketed or literal(host):
        try:
            ip_address(host)
        except ValueError as error:
            raise InvalidUrl("a webhook's host is a name, or an address in its usual form") from error
    return host


def given_up(delivery: Delivery, reason: str) -> Delivery:
    """The delivery as failed, because there is no endpoint to send it to."""
    return msgspec.structs.replace(delivery, status="failed", next_at=None, last_error=reason)


def dropped(tried: Delivery) -> Delivery:
    """The delivery after an attempt during which its endpoint was disabled: there is no further one."""
    return given_up(tried, DISABLED) if tried.status == "pending" else tried


def first_id(at: datetime) -> DeliveryId:
    """The smallest id that could have been made at `at`: ids sort by time (UUIDv7)."""
    return DeliveryId(UUID(int=int(at.timestamp() * 1000) << 80))


def after(delivery: Delivery, answer: Answer, now: datetime, jitter: float) -> tuple[Delivery, str | None]:
    """The delivery after an attempt, and the reason to disable its endpoint, if there is one. `jitter` is a random number from 0 to 1."""
    attempts = delivery.attempts + 1
    tried = msgspec.structs.replace(
        delivery, attempts=attempts, last_status=answer.status, last_error=answer.error, next_at=None
    )
    if answer.status is not None and 200 <= answer.status < 300:
        return msgspec.structs.replace(tried, status="delivered", delivered_at=now), None
    if answer.status == 410:
        return msgspec.structs.replace(tried, status="failed"), "the endpoint answered 410 Gone"
    if attempts >= MAX_ATTEMPTS:
        return msgspec.structs.replace(tried, status="failed"), None
    pause = SCHEDULE[attempts - 1] * (1 + JITTER * jitter)
    if answer.retry_after is not None and answer.status in (429, 502, 503, 504):
        pause = max(pause, min(answer.retry_after, MAX_RETRY_AFTER))
    return msgspec.structs.replace(tried, next_at=now + pause), None
