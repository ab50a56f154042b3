"""What handlers have in common."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tallystick.chassis.idempotency import Entry
from tallystick.chassis.web import Request
from tallystick.kernel.clock import parse_rfc3339
from tallystick.kernel.problem import InvalidRequest
from tallystick.services.ledger.service import Ledger, Who


def who(request: Request[Any, Any]) -> Who:
    subject = request.subject
    return subject.tenant, subject.actor, request.trace_id


def instant(name: str, text: str | None) -> datetime | None:
    """A time (RFC 3339) that a request names. Raises InvalidRequest."""
    try:
        return None if text is None else parse_rfc3339(text)
    except ValueError as error:
        raise InvalidRequest(f"{name}: {error}") from None


def entry(ledger: Ledger, request: Request[Any, Any]) -> Entry | None:
    """The claim of the request's idempotency key, if it brought one. The path's ids are part of the route: a key belongs to one of them."""
    key = request.idempotency_key
    if key is None:
        return None
    subject, route = request.subject, request.route.format_map(request.path)
    return Entry(subject.tenant, subject.client_id, route, key, ledger.digester.digest(request.body))
