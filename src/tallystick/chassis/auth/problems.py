"""The ways authentication says no. Each one's `headers` go out with the answer (RFC 9449 section 7.1, RFC 6750 section 3)."""

from typing import Literal

from tallystick.kernel.problem import Forbidden, Unauthenticated, Unavailable

#: RFC 9864 names Ed25519 outright; `EdDSA` is the older name of the same in JOSE.
PROOF_ALGORITHMS = ("ES256", "PS256", "EdDSA", "Ed25519")


def challenge(error: str | None = None, description: str | None = None, **more: str) -> dict[str, str]:
    """`WWW-Authenticate` for the DPoP scheme. A request without any credential gets no error code (RFC 6750 section 3.1)."""
    parts = {"error": error, "error_description": description, **more, "algs": " ".join(PROOF_ALGORITHMS)}
    return {"WWW-Authenticate": "DPoP " + ", ".join(f'{name}="{value}"' for name, value in parts.items() if value)}


class CredentialsRefused(Unauthenticated):
    """401. `reason` is a fixed text of ours: never a part of the token, so that nothing of it reaches a log or an answer."""

    def __init__(self, error: Literal["invalid_token", "invalid_dpop_proof"] | None, reason: str) -> None:
        super().__init__(reason, headers=challenge(error, reason if error else None), error=error or "missing_token")


def missing_token() -> CredentialsRefused:
    return CredentialsRefused(None, "This endpoint needs a DPoP-bound access token.")


def invalid_token(reason: str) -> CredentialsRefused:
    return CredentialsRefused("invalid_token", reason)


def invalid_proof(reason: str) -> CredentialsRefused:
    return CredentialsRefused("invalid_dpop_proof", reason)


class InsufficientScope(Forbidden):
    """403: the token is good, what it was granted isn't enough."""

    slug = "insufficient-scope"
    title = "The access token lacks a scope"

    def __init__(self, scope: str) -> None:
        super().__init__(
            f"This needs the scope {scope}.", headers=challenge("insufficient_scope", None, scope=scope), scope=scope
        )


class RevocationFeedStale(Unavailable):
    """503: news of revoked tokens stopped coming, so money doesn't move on the word of a token."""

    slug = "revocation-feed-stale"
    title = "Revocations can't be checked at the moment"


class ReplayCheckUnavailable(Unavailable):
    """503: the store of seen proofs is out of reach, so a proof can't be shown to be fresh."""

    slug = "replay-check-unavailable"
    title = "The proof of possession can't be checked at the moment"


class IdentityUnavailable(Unavailable):
    """503: the keys or revocations that authentication rests on were never received."""

    slug = "identity-unavailable"
    title = "Tokens can't be checked at the moment"
