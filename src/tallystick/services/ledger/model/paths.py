"""Paths of accounts, and patterns over them: `customers:*:wallet`, `customers:**`. Pure text.

A path is 1 to 16 segments separated by `:`, each of 1 to 64 characters of A-Z a-z 0-9 _ . -, with at most 512 characters in all. It can't be
`.` or `..`, because clients remove those from a URL.
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
#: The character after `:`, so that the paths below `a:` are those from `a:` to before `a;`.
_AFTER: Final = ";"


#: Accounts below this path are the ledger's own and serve transfers between books. No chart applies to them, and no client can open or change them,
#: or move money on them.
TRANSIT: Final = "transit:"


def is_reserved(path: str | None) -> bool:
    """Whether an account at the path is the platform's own: no chart applies to it, and no client can open, change, freeze or close it."""
    return path is not None and path.startswith((TRANSIT, OWN))


#: In a copy of a book, the accounts that were the platform's own are ordinary accounts, with this prefix.
_WAS: Final = "was-"


def was_reserved(path: str | None) -> bool:
    """Whether an account at the path is the platform's own, or was in a book of which this one is a copy (or a copy of a copy)."""
    while path is not None and path.startswith(_WAS):
        path = path.removeprefix(_WAS)
    return is_reserved(path)


def of_copy(path: str | None) -> str | None:
    """An account's path in a copy of its book. Paths from an earlier copy are prefixed again, since their book may meanwhile have new accounts of
    the platform's whose paths become the same in this copy.
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
    """The account as it was named: the inverse of `account_ref`."""
    return account if account is None or isinstance(account, str) else ids.accounts.text(account)


class Pattern(msgspec.Struct, frozen=True):
    """A set of paths: those from `low` to before `high`, in the order of characters, that match `regex`. The regex means the same to Python and to
    PostgreSQL. A pattern without a wildcard is one path.
    """

    low: str
    high: str
    regex: str

    def fits(self, path: str) -> bool:
        return self.low <= path < self.high and re.search(self.regex, path) is not None


def pattern(text: str) -> Pattern:
    """The pattern of a text. `*` is one segment; `**`, at the end only, is one or more. `text` is well-formed (see the messages)."""
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
