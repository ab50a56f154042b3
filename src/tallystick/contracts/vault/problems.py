"""The ways in which the vault says no. None of them repeats a number, in whole or in part."""

from __future__ import annotations

from tallystick.kernel.problem import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    NotFound,
    RateLimited,
    Unavailable,
    Unprocessable,
    Upstream,
)


class InvalidCardNumber(InvalidRequest):
    """12 to 19 digits, not all of them zeros, with the right check digit. Ask the card's holder again."""

    slug, title = "invalid-card-number", "This is not a card number"


class CardExpired(Unprocessable):
    """Its month is over, or more than 20 years away. Ask the card's holder again."""

    slug, title = "card-expired", "The card has expired, or its expiry date is too far away"


class InvalidIban(InvalidRequest):
    """Two letters of a country, two check digits and the account, as long as that country has them. Ask the account's holder again."""

    slug, title = "invalid-iban", "This is not an IBAN"


class TooManyAlike(RateLimited):
    """So many numbers with the same six and four digits come from who tries them, until the fingerprint is the right one. Until the next
    day (UTC) none that looks like them is taken; `Retry-After` says how long that is.
    """

    slug, title = "too-many-numbers-alike", "Too many new numbers that look like this one were brought today"


class TokenNotFound(NotFound):
    """No token of the tenant has this id."""

    slug, title = "token-not-found", "There is no such token, or not for you"


class TokenDestroyed(Conflict):
    """It was deleted, and nothing of the number is kept. Ask for the number again."""

    slug, title, status = "token-destroyed", "The token was destroyed, and the number with it", 410


class RevealNotRecorded(Unavailable):
    """The log did not prove in time that the reveal was recorded, so nothing is shown. Send the same again when audit is there."""

    slug, title = "reveal-not-recorded", "The reveal could not be recorded in time; nothing was shown"


class DestinationNotAllowed(Forbidden):
    """The operator's list of destinations has not this one, or not with this method, path or header. The operator mends the list."""

    slug, title = "destination-not-allowed", "The vault does not send this request to this destination"


class InvalidForward(InvalidRequest):
    """The body asks for a field that the token does not have, or is too large; or the request id is under way with another content. The
    detail says which.
    """

    slug, title = "invalid-forward", "The request to be forwarded does not fit its token"


class NotForwarded(Upstream):
    """Nothing reached the destination: it may be sent again, also under another id."""

    slug, title, status = "not-forwarded", "The destination could not be reached; nothing was sent", 503


class ForwardOutcomeUnknown(DeadlineExceeded):
    """The destination may have acted. Ask it for the request's id, or send the same id again."""

    slug, title = "forward-outcome-unknown", "The destination did not answer; it may have acted all the same"


class AnswerRefused(DeadlineExceeded):
    """The destination answered with something that is not passed on: it acted, and what it said is not known. Send the same id again."""

    slug, title, status = "forward-answer-refused", "The destination's answer can't be passed on", 502


FORWARD_PROBLEMS = (
    TokenNotFound,
    TokenDestroyed,
    DestinationNotAllowed,
    InvalidForward,
    NotForwarded,
    ForwardOutcomeUnknown,
    AnswerRefused,
)
