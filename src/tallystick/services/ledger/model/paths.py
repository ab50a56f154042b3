"""Accounts' paths, and patterns over them: `customers:*:wallet`, `customers:**`. Pure text.

A path is 1 to 16 segments of 1 to 64 characters of A-Z a-z 0-9 _ . - with `:` between them, at most 512 characters in all; neither
`.` nor `..`, which clients take out of a URL.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from tallystick.contracts.ledger.messages import OWN
from tallystick.kernel import ids
from tallystick.kernel.ids import AccountId, InvalidId

_SEGMENT: Final = "[A-Za-z0-9_.-]{1,64}"
_PATH: Final = re.compile(rf"(?!acc_|[a-z]{{3}}_[0-9a-z]{{26}}\Z|\.{{1,2}}\Z){_SEGMENT}(?::{_SEGMENT}){{0,15}}")
_MAX: Final = 512
#: Comes right after `:` in the order of characters, so that all paths below `a:` are from `a:` to before `a;`.
_AFTER: Final = ";"


#: Accounts below this path are the ledger's own, for money between books: no chart rules them, no client opens them, changes them or moves money on
#: them.
TRANSIT: Final = "transit:"


def is_reserved(path: str | None) -> bool:
    """Whether an account there is the platform's own: no chart rules it, and no client opens, changes, freezes or closes it."""
    return path is not None and path.startswith((TRANSIT, OWN))


#: What was the platform's own is an account as any other in a copy of its book, below this.
_WAS: Final = "was-"


def was_reserved(path: str | None) -> bool:
    """Whether it is, or was in the book that this one is a copy of, or in the one that that one is a copy of."""
    while path is not None and path.startswith(_WAS):
        path = path.removeprefix(_WAS)
    return is_reserved(path)


def of_copy(path: str | None) -> str | None:
    """An account's path in a copy of its book. What comes from an earlier copy gives way too: the book may have gone on with accounts of the
    platform's at the old paths.
    """
    return f"{_WAS}{path}" if was_reserved(path) else path


def is_path(text: str) -> bool:
    return len(text) <= _MAX and _PATH.fullmatch(text) is not None


def account_ref(text: str) -> AccountId | str:
    """An account as a request names it: its id, or its path as text. Raises InvalidId."""
    if text.startswith("acc_"):
        return ids.accounts.parse(text)
    if not is_path(text):
        raise InvalidId("an account is named by its id (acc_...) or its path (such as customers:42:wallet)")
    return text


def account_text(account: AccountId | str | None) -> str | None:
    """An account as it was named: the inverse of `account_ref`."""
    return account if account is None or isinstance(account, str) else ids.accounts.text(account)


class Pattern(msgspec.Struct, frozen=True):
    """Which paths: those from `low` to before `high` in the order of characters that `regex` fits (one that Python and PostgreSQL read
    alike). A pattern without a wildcard is one path.
    """

    low: str
    high: str
    regex: str

    def fits(self, path: str) -> bool:
        return self.low <= path < self.high and re.search(self.regex, path) is not None


def pattern(text: str) -> Pattern:
    """`*` is one segment; `**`, only at the end, one or more. `text` is a well-formed pattern (see the messages)."""
    segments = text.split(":")
    literal: list[str] = []
    for segment in segments:
        if segment.startswith("*"):
            break
        literal.append(segment)
    parts = [_regex(segment) for segment in segments]
    head = ":".join(literal)
    if len(literal) == len(segments):
        low, high = head, head + "\x01"
    elif literal:
        low, high = head + ":", head + _AFTER
    else:
        low, high = "", "\x7f"
    return Pattern(low, high, f"^{':'.join(parts)}$")


def _regex(segment: str) -> str:
    if segment == "**":
        return "[^:]+(:[^:]+)*"
    return "[^:]+" if segment == "*" else segment.replace(".", "[.]")
