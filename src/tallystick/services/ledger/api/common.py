"""Helpers that the handlers share."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any, Final

import msgspec

from tallystick.chassis.idempotency import Entry
from tallystick.chassis.web import Request, cursor, invalid, read_cursor
from tallystick.kernel.clock import parse_rfc3339
from tallystick.kernel.problem import InvalidRequest
from tallystick.services.ledger.service import Ledger, Who

#: Parameters of a query that choose a page or its format, and not what is listed.
_OF_A_PAGE: Final = frozenset({"limit", "after", "format"})

_encode = msgspec.json.Encoder().encode


def who(request: Request[Any, Any]) -> Who:
    subject = request.subject
    return subject.tenant, subject.actor, request.trace_id


def instant(name: str, text: str | None) -> datetime | None:
    """A time (RFC 3339) in a request's field `name`. Raises InvalidRequest."""
    try:
        return None if text is None else parse_rfc3339(text)
    except ValueError as error:
        raise InvalidRequest(f"{name}: {error}") from None


def entry(ledger: Ledger, request: Request[Any, Any]) -> Entry | None:
    """The idempotency entry of the request, if it has a key. The ids in the path are part of its route, so a key belongs to one resource."""
    key = request.idempotency_key
    if key is None:
        return None
    subject, route = request.subject, request.route.format_map(request.path)
    return Entry(subject.tenant, subject.client_id, route, key, ledger.digester.digest(request.body))


def bound_cursor(request: Request[Any, Any], *key: str | int) -> str:
    """A cursor that only the list that `request` asks for accepts. For keys that mean another place elsewhere, such as a sequence, which belongs to
    a book.
    """
    return cursor(_question(request), *key)


def read_bound_cursor(request: Request[Any, Any], *kinds: type[str | int]) -> tuple[str | int, ...] | None:
    """The key in the request's cursor, or None on the first page. Raises InvalidRequest, also for a cursor of another list."""
    key = read_cursor(request.query.after, str, *kinds)
    if key is None:
        return None
    if key[0] != _question(request):
        raise invalid("/after", "not a cursor of this list")
    return key[1:]


def _question(request: Request[Any, Any]) -> str:
    """A digest of what is listed, the same for all its pages."""
    said = {name: value for name, value in msgspec.to_builtins(request.query).items() if name not in _OF_A_PAGE}
    return hashlib.blake2b(_encode((request.route.format_map(request.path), said)), digest_size=8).hexdigest()
