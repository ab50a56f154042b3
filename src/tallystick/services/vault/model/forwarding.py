"""Decides what may be sent where, fills numbers into requests, and masks them in answers.

A destination is chosen by name from the operator's list. Nothing in a request can add a destination or widen one.
"""

from __future__ import annotations

import base64
import html
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta

from tallystick.chassis.egress import blocked, literal
from tallystick.contracts.vault.messages import MAX_FORWARD_BYTES, Outgoing
from tallystick.contracts.vault.problems import AnswerRefused, DestinationNotAllowed, InvalidForward

_PLACEHOLDER: Final = re.compile(r"\{\{\s*([a-z_.]*)\s*\}\}")
_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e]{0,500}")
#: Headers that frame a message or carry credentials: only the vault sets them.
_OURS: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect", "cookie"}
    | {"authorization", "proxy-authorization", "accept-encoding"}
)
#: Names that a template may use.
FIELDS: Final = frozenset({"card.number", "card.exp_month", "card.exp_year", "bank_account.iban"})

Seconds = Annotated[float, Meta(gt=0, le=60)]


class Destination(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of the operator's allow-list.

    Either `host` (and `port`, `scheme`), or `socket`, the path of a Unix socket. `paths` are prefixes at whole segments.
    `private` allows `host` to have an address that is not on the public internet. `usual_seconds`: how long a batch waits for an answer from
    here before it is called pending. `authorization_file` holds the value of the Authorization header.
    """

    methods: Annotated[tuple[Literal["GET", "POST", "PUT"], ...], Meta(min_length=1)]
    paths: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^/[A-Za-z0-9/._~-]*$", max_length=200)], ...], Meta(min_length=1)
    ]
    host: Annotated[str, Meta(pattern=r"^[a-z0-9.:-]+$", max_length=253)] | None = None
    port: Annotated[int, Meta(ge=1, le=65535)] = 443
    scheme: Literal["https", "http"] = "https"
    socket: Path | None = None
    private: bool = False
    headers: tuple[str, ...] = ()
    ca_file: Path | None = None
    authorization_file: Path | None = None
    max_in_flight: Annotated[int, Meta(ge=1, le=1024)] = 64
    usual_seconds: Seconds = 0.25
    timeout_seconds: Seconds = 30.0

    def __post_init__(self) -> None:
        if (self.host is None) == (self.socket is None):
            raise ValueError("a destination has either a host or a socket")
        if self.host is not None and self.scheme == "http" and not self.private:
            raise ValueError("card data travels over the internet by https only")
        if bad := [name for name in self.headers if name.lower() in _OURS or not _HEADER.fullmatch(name)]:
            raise ValueError(f"headers that can't be allowed: {bad}")
        if self.host is not None and not self.private and literal(self.host) and blocked(self.host):
            raise ValueError("this address is not on the public internet: set private = true if that is meant")


def allow(destination: Destination | None, request: Outgoing) -> Destination:
    """The destination, if it takes this request. Raises DestinationNotAllowed."""
    if destination is None:
        raise DestinationNotAllowed("there is no such destination on the operator's list")
    if request.method not in destination.methods:
        raise DestinationNotAllowed("this destination does not take this method")
    path = request.path.partition("?")[0]
    if "//" in path or any(segment in (".", "..") for segment in path.split("/")):
        raise DestinationNotAllowed("this is not a plain path")
    if not any(path == p or path.startswith(p.rstrip("/") + "/") for p in destination.paths):
        raise DestinationNotAllowed("this destination does not take this path")
    allowed = {name.lower() for name in destination.headers}
    for name, value in request.headers.items():
        if name.lower() not in allowed or _HEADER_VALUE.fullmatch(value) is None:
            raise DestinationNotAllowed("this destination does not take one of these headers")
    return destination


class Template:
    """A body with placeholders for a token's values. It is parsed without the values, so that it is checked before anything is decrypted."""

    __slots__ = ("_parts",)

    def __init__(self, body: str | None) -> None:
        """Raises InvalidForward for an unknown or malformed placeholder."""
        self._parts = _PLACEHOLDER.split(body or "")
        if unknown := set(self._parts[1::2]) - FIELDS:
            raise InvalidForward(f"a template has no such field: {', '.join(sorted(unknown))[:100]}")
        # "}}" may end nested JSON objects, but "{{" always begins a placeholder.
        if any("{{" in text for text in self._parts[::2]):
            raise InvalidForward(
                "a placeholder in the template is not closed, or its name has characters other than a-z, _ and ."
            )

    @property
    def fields(self) -> frozenset[str]:
        return frozenset(self._parts[1::2])

    def fill(self, values: Mapping[str, bytes | bytearray]) -> bytearray:
        """The body with the values filled in, in a buffer that can be wiped. Raises InvalidForward if the token lacks a value."""
        if missing := self.fields - values.keys():
            raise InvalidForward(f"the token has no {', '.join(sorted(missing))}")
        filled = bytearray()
        for at, part in enumerate(self._parts):
            filled += values[part] if at % 2 else part.encode()
        if len(filled) > MAX_FORWARD_BYTES:
            wipe(filled)
            raise InvalidForward(f"a forwarded body has at most {MAX_FORWARD_BYTES} bytes")
        return filled


def wipe(*buffers: bytearray) -> None:
    """Overwrite buffers. Copies that libraries made are out of reach (see the README)."""
    for buffer in buffers:
        buffer[:] = bytes(len(buffer))


def conceal(body: bytes, number: bytes | bytearray) -> tuple[str, bool]:
    """The answer's text with the number masked, and whether it contained the number.

    The number's characters may be separated by spaces, dashes and dots. If the number is still there in another form (escaped, in base64 or
    hex, nested in each other, spread over fields) it can't be masked reliably: AnswerRefused. This catches what acquirers echo; it can't stop
    an acquirer that wants to leak the number. No regular expression is made from the number: the `re` module would cache it.
    """
    if not number:
        return _text(body), False
    plain = bytes(number)
    masked = body
    if plain in body.translate(None, _SEPARATORS).upper():
        masked = _mask(body, plain)
    text = _text(masked)
    if _disguised(text, plain):
        raise AnswerRefused("the answer holds the number in an encoded form")
    return text, masked is not body


def _mask(body: bytes, number: bytes) -> bytes:
    """`body` with six and four characters left of each occurrence of the number."""
    shown = number[:6] + b"*" * (len(number) - 10) + number[-4:]
    places = [at for at, byte in enumerate(body) if byte not in _SEPARATORS]
    compact = body.translate(None, _SEPARATORS).upper()
    masked = bytearray()
    done = 0
    found = compact.find(number)
    while found >= 0:
        last = found + len(number) - 1
        masked += body[done : places[found]] + shown
        done = places[last] + 1
        found = compact.find(number, last + 1)
    return bytes(masked + body[done:])


def _text(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise AnswerRefused("the answer is not text") from None
    if "\x00" in text:
        raise AnswerRefused("the answer is not text")
    return text


def _disguised(text: str, number: bytes) -> bool:
    card = number.isdigit()
    masks, drop = (_CARD_MASKS, _NOT_DIGITS) if card else (_IBAN_MASKS, _NOT_ALPHANUMERIC)
    # Digits before and after a mask do not belong together: answers show six and four digits, often more than once.
    return any(
        number in masks.sub("*", coat).upper().encode("utf-8", "replace").translate(None, drop) for coat in _coats(text)
    )


def _coats(text: str) -> Iterator[str]:
    """The forms in which the text may be read: unescaped, and decoded, layer by layer, up to `_LAYERS` deep."""
    layer, seen = [text], {text}
    for _ in range(_LAYERS):
        below: list[str] = []
        for each in layer:
            plain = _plain(each)
            yield plain
            for found in (plain, *_decoded(plain)):
                yield found
                # Only what reads as text is decoded further: most words are not base64, and there would be no end.
                if found not in seen and len(_PRINTABLE.sub("", found)) * 2 < len(found):
                    seen.add(found)
                    below.append(found)
        layer = below


def _plain(text: str) -> str:
    """Undo one layer of escapes (JSON, C, HTML, URL), and normalise digits of other widths."""
    text = _ESCAPE.sub(_unescape, unicodedata.normalize("NFKC", text))
    if "&" in text:
        text = html.unescape(text)
    if "%" in text:
        text = unquote_to_bytes(text.encode("utf-8", "replace")).decode("utf-8", "replace")
    return text


def _unescape(found: re.Match[str]) -> str:
    if found[1] or found[2]:
        return chr(int(found[1] or found[2], 16))
    return " " if found[3] in "nrt" else found[3]


def _decoded(text: str) -> Iterator[str]:
    """Long words decoded from base64 or hex, at every possible offset."""
    words = "".join(text.split())
    for word in _BASE64.findall(words.replace("+", "-").replace("/", "_")):
        for offset in range(4):
            rest = word[offset : len(word) - ((len(word) - offset) % 4 == 1)]
            yield base64.b64decode(rest + "=" * (-len(rest) % 4), b"-_").decode("latin-1")
    for word in _HEX.findall(words):
        pairs = _NOT_HEX.sub("", word)
        for offset in range(2):
            yield bytes.fromhex(pairs[offset : offset + (len(pairs) - offset) // 2 * 2]).decode("latin-1")


_SEPARATORS: Final = b" .-"
_NOT_DIGITS: Final = bytes(byte for byte in range(256) if not (0x30 <= byte <= 0x39 or byte == 0x2A))
_NOT_ALPHANUMERIC: Final = bytes(byte for byte in _NOT_DIGITS if not 0x41 <= byte <= 0x5A)
_PRINTABLE: Final = re.compile(r"[\x20-\x7e\s]+")
_CARD_MASKS: Final = re.compile("[*#xX\u2022\u25cf]{2,}")
_IBAN_MASKS: Final = re.compile("[*#\u2022\u25cf]{2,}")
_ESCAPE: Final = re.compile(r"""\\(?:u\{?([0-9a-fA-F]{4})\}?|x([0-9a-fA-F]{2})|([nrt/"'\\]))""")
_BASE64: Final = re.compile(r"[A-Za-z0-9_-]{16,}")
_HEX: Final = re.compile(r"(?:(?:0x)?[0-9a-fA-F]{2}[:,;.-]?){12,}")
_NOT_HEX: Final = re.compile(r"0x|[^0-9a-fA-F]")
#: How many layers of encoding are searched.
_LAYERS: Final = 5
