"""How OAuth says no (RFC 6749, section 5.2): a code for machines, a sentence for people, and a reason for our own books."""

from __future__ import annotations

from typing import Final, Literal

Code = Literal[
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "unsupported_token_type",
    "invalid_scope",
    "invalid_target",
    "invalid_dpop_proof",
    "temporarily_unavailable",
]


class Refusal(Exception):
    """An OAuth error. `description` goes to the caller, ASCII without quotes and backslashes (RFC 6749, 5.2).

    `reason` stays inside: it is counted and logged. It is a fixed word of ours, never a part of what came in.
    """

    def __init__(
        self,
        code: Code,
        description: str,
        *,
        reason: str = "",
        status: int = 400,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code}: {reason or description}")
        self.code = code
        self.description = description
        self.reason = reason or code
        self.status = status
        self.headers = headers or {}


METHOD: Final = "private_key_jwt"
"""The one way in which a client authenticates (RFC 7523)."""

#: Schemes that a client may have tried (IANA's registry). What is none of them may be a secret, and a challenge is read by all that log answers.
_SCHEMES: Final = {name.lower(): name for name in ("Basic", "Bearer", "Digest", "DPoP", "Negotiate")}


class AuthenticationFailed(Refusal):
    """`invalid_client`. One answer for an unknown client, a wrong key and a bad signature, so that it tells nothing apart.

    A 401 has a challenge in any case (RFC 9110, 15.5.2), under the `scheme` of the header Authorization if the client tried that
    (RFC 6749, 5.2). No scheme stands for an assertion in the form, so the method's name has to do otherwise.
    """

    def __init__(self, reason: str, client: str | None = None, *, scheme: str = METHOD) -> None:
        super().__init__(
            "invalid_client",
            "The client could not be authenticated by private_key_jwt.",
            reason=reason,
            status=401,
            headers={
                "WWW-Authenticate": f'{_SCHEMES.get(scheme.lower(), METHOD)} realm="this server takes {METHOD} only"'
            },
        )
        self.client = client
        """Whom the request claimed to be, if there is such a client: for the failure counts."""
