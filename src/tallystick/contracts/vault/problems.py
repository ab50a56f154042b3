"""The problems of the vault. None of them repeats a number, in whole or in part."""

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
    """A card number has 12 to 19 digits, not all of them zeros, and a valid check digit. Ask the cardholder for the number again."""

    slug, title = "invalid-card-number", "Invalid card number"


class CardExpired(Unprocessable):
    """The card's expiry month has passed, or is more than 20 years away. Ask the cardholder for the date again."""

    slug, title = "card-expired", "The card has expired, or its expiry date is too far away"


class InvalidIban(InvalidRequest):
    """An IBAN has two letters for the country, two check digits and the account, in the length that the country uses. Ask the account's
    holder for it again.
    """

    slug, title = "invalid-iban", "Invalid IBAN"


class TooManyAlike(RateLimited):
    """Too many new card numbers with the same first six and last four digits were sent today. Somebody who knows these digits could try
    the others, until a fingerprint matches. Until the next day (UTC) no new number with these digits is accepted; `Retry-After` says
    how many seconds that is.
    """

    slug, title = "too-many-numbers-alike", "Too many new numbers with the same visible digits today"


class TokenNotFound(NotFound):
    """The tenant has no token with this id."""

    slug, title = "token-not-found", "Token not found"


class TokenDestroyed(Conflict):
    """The token was deleted, and the number with it. Ask for the number again, and make a new token."""

    slug, title, status = "token-destroyed", "The token was destroyed, and the number with it", 410


class RevealNotRecorded(Unavailable):
    """The audit log did not prove in time that the reveal was recorded, so the number is not shown. Send the same request again when audit
    is available.
    """

    slug, title = "reveal-not-recorded", "The reveal could not be recorded in time; nothing was shown"


class DestinationNotAllowed(Forbidden):
    """The operator's list of destinations does not contain this one, or not with this method, path or header. The operator has to add it
    to the list.
    """

    slug, title = "destination-not-allowed", "The vault does not send this request to this destination"


class InvalidForward(InvalidRequest):
    """The body asks for a field that the token does not have, or it is too large; or a request with the same id and other content is in
    progress. The detail says which.
    """

    slug, title = "invalid-forward", "The request to be forwarded does not fit its token"


class NotForwarded(Upstream):
    """The destination was not reached. The request may be sent again, under the same id or another one."""

    slug, title, status = "not-forwarded", "The destination could not be reached; nothing was sent", 503


class ForwardOutcomeUnknown(DeadlineExceeded):
    """The destination did not answer and may have acted. Ask it about the request's id, or send the request again under the same id."""

    slug, title = "forward-outcome-unknown", "The destination did not answer; it may have acted all the same"


class AnswerRefused(DeadlineExceeded):
    """The destination acted, but its answer can't be passed on, so what it said is not known. Send the request again under the same id."""

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
