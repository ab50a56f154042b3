"""Scopes: what a client is registered for, what it asks for, what it gets, and for how long."""

from __future__ import annotations

import re
from datetime import timedelta

from tallystick.contracts.identity.messages import MONEY_SCOPES, SCOPES
from tallystick.contracts.identity.problems import InvalidScope
from tallystick.services.identity.model.refusals import Refusal

#: RFC 6749, 3.3: printable ASCII but the quote and the backslash, one space between.
_SYNTAX = re.compile(r"^[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*$")

ORDINARY_LIFE = timedelta(seconds=300)
MONEY_LIFE = timedelta(seconds=120)


def registered(text: str) -> tuple[str, ...]:
    """The scopes of a registration, sorted, each once. Raises InvalidScope."""
    scopes = _split(text)
    if scopes is None:
        raise InvalidScope("scopes are separated by one space")
    if unknown := sorted(set(scopes) - SCOPES.keys()):
        raise InvalidScope(
            f"there is no scope {', '.join(unknown[:5])[:200]}; there are {', '.join(sorted(SCOPES))}",
            known=sorted(SCOPES),
        )
    if len(set(scopes)) != len(scopes):
        raise InvalidScope("a scope is there twice")
    return tuple(sorted(scopes))


def granted(requested: str | None, registration: tuple[str, ...]) -> tuple[str, ...]:
    """What a token gets: what was asked for, all of which must be registered; all that is registered when nothing was.

    Raises Refusal `invalid_scope`. More than was registered is refused rather than cut, so that a client never believes
    that it holds what it does not.
    """
    if requested is None:
        return registration
    scopes = _split(requested)
    if scopes is None or not set(scopes) <= set(registration):
        raise Refusal("invalid_scope", "The client is not registered for a scope that it asks for.")
    return tuple(sorted(set(scopes)))


def token_life(scopes: tuple[str, ...]) -> timedelta:
    """Short, and shorter for tokens that move money."""
    return MONEY_LIFE if MONEY_SCOPES.intersection(scopes) else ORDINARY_LIFE


def _split(text: str) -> list[str] | None:
    return text.split(" ") if _SYNTAX.match(text) else None
