"""Lists: `?limit=1..200&after=cursor`, answered by a `Page`.

A cursor says where the last page ended, by a key that inserts don't move (an id, a sequence). It is opaque to clients and
checked like all other input, but it is neither a secret nor a permission: queries stay scoped by tenant.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import msgspec

from tallystick.chassis.web.decode import invalid
from tallystick.chassis.web.messages import Page

T = TypeVar("T")

#: A cursor may hold the longest path of an account, 512 characters.
MAX_CURSOR = 700

#: The cursor to continue after, as a query parameter.
After = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CURSOR, description="`next` of the page before")]


class Paging(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The query of a list; a service adds its filters as further fields of a subclass."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50
    after: After | None = None


def cursor(*key: str | int) -> str:
    """An opaque cursor for a key such as `(sequence,)` or `(created_at, id)`."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).rstrip(b"=").decode()


def read_cursor(after: str | None, *kinds: type[str | int]) -> tuple[str | int, ...] | None:
    """The key in a cursor, of exactly these types, or None on the first page. Raises InvalidRequest."""
    if after is None:
        return None
    try:
        raw = base64.b64decode(after + "=" * (-len(after) % 4), altchars=b"-_", validate=True)
        key = msgspec.json.decode(raw, type=list[str | int])
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise invalid("/after", "not a cursor of this list") from None
    if [type(part) for part in key] != list(kinds) or not all(map(_storable, key)):
        raise invalid("/after", "not a cursor of this list")
    return tuple(key)


def _storable(part: str | int) -> bool:
    """Whether a database column could hold it: sequences are non-negative bigints, texts have no NUL."""
    return "\0" not in part if isinstance(part, str) else 0 <= part < 1 << 63


def page(found: Sequence[T], limit: int, key: Callable[[T], tuple[str | int, ...]]) -> Page[T]:
    """A page of at most `limit` items, out of a query for `limit + 1` rows: the extra row only says that there are more."""
    data = list(found[:limit])
    more = len(found) > limit
    return Page(data=data, has_more=more, next=cursor(*key(data[-1])) if more else None)
