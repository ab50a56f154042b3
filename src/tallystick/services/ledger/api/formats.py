"""Answers in other formats than JSON: content negotiation, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from tallystick.chassis.web import Reply, Request

CSV: Final = "text/csv"
XML: Final = "application/xml"

#: Characters with which a spreadsheet takes a cell for a formula (OWASP, "CSV injection").
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def asked_for(request: Request[Any, Any], said: str | None, offered: Mapping[str, str]) -> str:
    """The format: what the query says, otherwise what the Accept header prefers among those offered (media type -> format), otherwise `json`.

    A media type that isn't offered is not an error (RFC 9110 section 12.5.1 leaves that to the server): the answer is JSON then.
    """
    if said is not None:
        return said
    best, liked = "json", 0
    for part in request.headers.get("accept", "").split(",")[:32]:
        media, *parameters = [text.strip().lower() for text in part.split(";")]
        found = "json" if media == "application/json" else offered.get(media)
        weight = _weight(parameters)
        if found is not None and weight > liked:
            best, liked = found, weight
    return best


def _weight(parameters: Sequence[str]) -> int:
    """The weight in thousandths (RFC 9110 section 12.4.2); 1000 if there is none, 0 if it is malformed."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            whole, _, rest = value.partition(".")
            if whole == "1":
                return 1000
            return int(rest[:3].ljust(3, "0")) if whole == "0" and rest[:3].isdecimal() and rest.isascii() else 0
    return 1000


def csv_reply(
    header: Sequence[str], rows: Iterable[Sequence[str | None]], *, name: str, as_of: int, link: str | None = None
) -> Reply[Any]:
    """RFC 4180: a header line, CRLF, quotes where needed, in UTF-8. The caller makes text cells safe (`text`)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows([["" if cell is None else cell for cell in row] for row in rows])
    return file_reply(
        out.getvalue().encode(), "text/csv; charset=utf-8; header=present", name=name, as_of=as_of, link=link
    )


def file_reply(content: bytes, media: str, *, name: str, as_of: int, link: str | None = None) -> Reply[Any]:
    """A file to download as `name`. The sequence and the next page, which JSON has in fields, are in headers."""
    headers = {
        "content-type": media,
        "content-disposition": f'attachment; filename="{name}"',
        "tallystick-as-of": str(as_of),
    }
    if link is not None:
        headers["link"] = f'<{link}>; rel="next"'
    return Reply.raw(content, headers=headers)


def text(cell: str | None) -> str | None:
    """Text that people typed, made safe for spreadsheets: an apostrophe before what would begin a formula."""
    return f"'{cell}" if cell is not None and cell.startswith(_FORMULA) else cell


def next_page(query: msgspec.Struct, after: str | None) -> str | None:
    """The address of the next page, relative to this one: the same query with another cursor (RFC 8288)."""
    if after is None:
        return None
    said = {name: value for name, value in msgspec.to_builtins(query).items() if value is not None}
    return "?" + urlencode(said | {"after": after})
