"""What may be written to a log or a span: keys on an allow-list, and values that do not look like a secret.

There are two guards because neither is enough: an allow-list does not stop a card number in an allowed field, and patterns don't
match every secret. Neither replaces care where something is logged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from tallystick.kernel.luhn import luhn
from tallystick.kernel.numbers import IBAN_LENGTHS, card_in, iban_ok, ibans

MAX_TEXT = 2_000
MAX_ITEMS = 50

#: Keys of names, counts, states and ids, never of something that a customer typed. Services add theirs with `allow`.
_allowed = {
    *("event", "level", "service", "replica", "trace", "route", "status", "caller", "client", "tenant"),
    *("action", "resource", "slug", "detail", "pointer", "error", "reason"),
    *("count", "size", "limit", "rate", "attempt", "attempts", "delay_ms", "age_ms"),
    *("name", "version", "state", "source", "target", "subject", "stream", "consumer", "first", "last", "seq"),
    *("fact", "facts", "type", "sequence", "position", "pid", "socket", "path", "method", "peer", "code"),
    *("signed", "epoch", "constraint", "asks", "delivery", "step", "effect"),
    *(
        "payment",
        "transfer",
        "account",
        "book",
        "fault",
        "proposal",
        "import",
        "refund",
        "token",
        "kid",
        "schedule",
        "task",
        "query",
        "sqlstate",
    ),
    *(
        "errors",
        "policies",
        "problem",
        "decision",
        "part",
        "ready",
        "logger",
        "message",
        "batch",
        "replayed",
    ),
    *("made", "moved", "behind", "destroyed", "column"),
}

_DIGITS = re.compile(r"(?<!\d)\d(?:[ \-.]?\d){11,}")
_GROUPS = re.compile(r"\d+")
#: For `blot`: digits with anything but letters between them, and whatever has the letters and digits of an IBAN.
_MANY_DIGITS = re.compile(r"\d(?:[\W_]{0,3}\d){11,}")
_IBAN_LIKE = re.compile(r"(?=([A-Za-z]{2}[\W_]{0,3}[0-9](?:[\W_]{0,3}[A-Za-z0-9]){12,40}))")
_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)*")
_KEY = re.compile(r"-----BEGIN [^-]*-----.*?(?:-----END [^-]*-----|\Z)", re.DOTALL)


def allow(*keys: str) -> None:
    """Allow a service's own keys. A key must say what its value is, which `data` or `body` does not. Raises ValueError for those."""
    if bad := {"data", "body", "headers", "payload", "request", "response", "value", "args"} & set(keys):
        msg = f"{sorted(bad)} say nothing about what they hold"
        raise ValueError(msg)
    _allowed.update(keys)


def allowed(key: str) -> bool:
    return key in _allowed


def readable(text: str) -> str:
    """`text` in a form that UTF-8 can encode: a lone surrogate (from a JSON escape or a file name) becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def mask(text: str) -> str:
    """`text` with everything masked that looks like a card number, an IBAN, a token or a private key; shortened, and `readable`."""
    text = readable(text)
    if len(text) < 12:
        return text
    cut = len(text) > MAX_TEXT
    if cut:
        # Search a little more than is shown: half of a number at the end would not be recognised.
        text = text[: MAX_TEXT + 100]
    if "eyJ" in text:
        text = _TOKEN.sub("[token]", text)
    if "-----BEGIN" in text:
        text = _KEY.sub("[key]", text)
    for begin, end in reversed(list(ibans(text))):
        text = f"{text[:begin]}[iban]{text[end:]}"
    text = _DIGITS.sub(_mask_digits, text)
    return text[:MAX_TEXT] + "…" if cut else text


def blot(text: str) -> str:
    """Like `mask`, for a client's text that an answer repeats. There every long run of digits is masked, because none is missed."""
    text = mask(text)
    shown, done = "", 0
    for found in _IBAN_LIKE.finditer(text):
        word = re.sub(r"[\W_]", "", found[1]).upper()
        length = IBAN_LENGTHS.get(word[:2], len(word) + 1)
        if found.start() >= done and length <= len(word) and iban_ok(word[:length]):
            shown += text[done : found.start()] + "[iban]"
            done = found.end(1)
    return _MANY_DIGITS.sub("[number]", shown + text[done:])


def clean(value: Any) -> Any:
    """A value as it may be written: plain, bounded and masked. Of an object only the type is named."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(10**12) < value < 10**12 else _clean_long(value)
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, BaseException):
        return type(value).__name__
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(item) for item in list(value)[:MAX_ITEMS]]
    return named(value)


def named(value: object) -> str:
    return f"<{type(value).__name__}>"


def fields(given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The allowed fields, cleaned, and the names of the others."""
    kept = {key: clean(value) for key, value in given.items() if key in _allowed}
    return kept, sorted(key for key in given if key not in _allowed)


def stack(error: BaseException, limit: int = 30) -> list[str]:
    """The types and code places of an exception and its causes, innermost call first. Without messages and values, because a driver's
    message quotes the row that was refused.
    """
    lines: list[str] = []
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen and len(lines) < limit:
        seen.add(id(link))
        lines.append(type(link).__qualname__)
        lines.extend(reversed(_frames(link.__traceback__)))
        if isinstance(link, BaseExceptionGroup):
            for inner in link.exceptions[:5]:
                lines.extend(stack(inner, limit - len(lines)))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return lines[:limit]


def _frames(traceback: TracebackType | None) -> list[str]:
    found: list[str] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        found.append(f"  {readable(code.co_filename)}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return found


def _mask_digits(found: re.Match[str]) -> str:
    # `\d` matches the digits of every script, and `int` reads them all.
    text = found.group()
    groups = [
        group if group.isascii() else "".join(str(int(digit)) for digit in group) for group in _GROUPS.findall(text)
    ]
    digits = "".join(groups)
    # A card number may be surrounded by other digits: a year, a code, an amount.
    if len(digits) > 19 or (len(digits) > 12 and luhn(digits)) or card_in(groups):
        return "[number]"
    return text


def _clean_long(value: int) -> int | str:
    digits = str(abs(value)) if abs(value) < 10**40 else "9" * 40
    return "[number]" if len(digits) > 19 or luhn(digits) else value
