"""Parses form-encoded requests (RFC 6749, appendix B) strictly: anything ambiguous is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from tallystick.services.identity.model.refusals import Refusal

MAX_BYTES = 16 * 1024
MAX_PARAMETERS = 32
MAX_NAME = 64

_MEDIA = re.compile(r'^application/x-www-form-urlencoded(?:[ \t]*;[ \t]*charset="?utf-8"?)?[ \t]*$', re.IGNORECASE)
_RAW = re.compile(rb"^(?:[A-Za-z0-9._~*+$!'(),:;@/?=&-]|%[0-9A-Fa-f]{2})*$")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def parse_form(content_type: str | None, body: bytes, *, encoding: str | None = None) -> Mapping[str, str]:
    """The parameters by name. `encoding` is the header Content-Encoding, if there was one. Raises Refusal `invalid_request`.

    A parameter without a value counts as omitted, and none may be repeated (RFC 6749, 3.2). Unknown ones stay in the result; callers ignore
    them, as the RFC requires.
    """
    if content_type is None or not _MEDIA.match(content_type):
        raise _bad("The body must be application/x-www-form-urlencoded.", "media-type")
    if encoding is not None and encoding.lower() != "identity":
        raise _bad("The body must not be compressed.", "content-encoding")
    if len(body) > MAX_BYTES:
        raise _bad("The body is too large.", "size")
    if not _RAW.match(body):
        raise _bad("The body is not form-encoded.", "encoding")
    form: dict[str, str] = {}
    parts = body.split(b"&") if body else []
    if len(parts) > MAX_PARAMETERS:
        raise _bad("There are too many parameters.", "count")
    for part in parts:
        raw_name, _, raw_value = part.partition(b"=")
        name, value = _decoded(raw_name), _decoded(raw_value)
        if not name or len(name) > MAX_NAME:
            raise _bad("A parameter has no name, or one that is too long.", "name")
        if name in form:
            raise _bad("A parameter is there twice.", "duplicate")
        form[name] = value
    return {name: value for name, value in form.items() if value}


def required(form: Mapping[str, str], name: str) -> str:
    """A required parameter. `name` does not come from the client, so the answer may contain it. Raises Refusal."""
    try:
        return form[name]
    except KeyError:
        raise _bad(f"The parameter {name} is missing.", "missing") from None


def _decoded(raw: bytes) -> str:
    try:
        text = unquote_to_bytes(raw.replace(b"+", b" ")).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad("The body is not UTF-8.", "encoding") from error
    if _CONTROL.search(text):
        raise _bad("A parameter has control characters.", "encoding")
    return text


def _bad(description: str, reason: str) -> Refusal:
    return Refusal("invalid_request", description, reason=f"form-{reason}")
