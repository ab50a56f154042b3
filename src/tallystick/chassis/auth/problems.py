"""The ways authentication says no. Each one's `headers` go out with the answer: RFC 9449 section 7.1 (DPoP), RFC 6750 section 3 (Bearer,
which here means a token that is bound to a certificate, RFC 8705 section 3).
"""

from typing import Literal

from tallystick.kernel.problem import Forbidden, Unauthenticated, Unavailable

#: RFC 9864 names Ed25519 outright; `EdDSA` is the older name of the same in JOSE.
PROOF_ALGORITHMS = ("ES256", "PS256", "EdDSA", "Ed25519")

#: How a token is presented: with a proof by its key, or over a connection with its certificate.
Scheme = Literal["DPoP", "Bearer"]


def challenge(scheme: Scheme, **parts: str | None) -> dict[str, str]:
    """`WWW-Authenticate`: what went wrong, under the scheme that was used. The DPoP scheme is named in any case, and first: it is taken
    everywhere.
    """
    algorithms = f'algs="{" ".join(PROOF_ALGORITHMS)}"'
    told = ", ".join(f'{name}="{value}"' for name, value in parts.items() if value)
    if scheme == "Bearer":
        return {"WWW-Authenticate": f"DPoP {algorithms}, Bearer {told}".rstrip()}
    return {"WWW-Authenticate": f"DPoP {told}, {algorithms}" if told else f"DPoP {algorithms}"}


class CredentialsRefused(Unauthenticated):
    """401. `reason` is a fixed text of ours: never a part of the token, so that nothing of it reaches a log or an answer."""

    def __init__(
        self, error: Literal["invalid_token", "invalid_dpop_proof"] | None, reason: str, scheme: Scheme = "DPoP"
    ) -> None:
        told = challenge(scheme, error=error, error_description=reason if error else None)
        super().__init__(reason, headers=told, error=error or "missing_token")


def missing_token(
    scheme: Scheme = "DPoP", reason: str = "This endpoint needs a sender-constrained access token."
) -> CredentialsRefused:
    """A request without any credential, or with a scheme that is not taken, gets no error code (RFC 6750 section 3.1). `Bearer` where a
    certificate came with it.
    """
    return CredentialsRefused(None, reason, scheme)


def invalid_token(reason: str, scheme: Scheme = "DPoP") -> CredentialsRefused:
    return CredentialsRefused("invalid_token", reason, scheme)


def invalid_proof(reason: str) -> CredentialsRefused:
    return CredentialsRefused("invalid_dpop_proof", reason)


class InsufficientScope(Forbidden):
    """The token is good, what it was granted isn't enough: `scope` is what lacks. Ask for it with the next token; a client that is not
    registered for it needs another registration.
    """

    slug = "insufficient-scope"
    title = "The access token lacks a scope"

    def __init__(self, scope: str, scheme: Scheme = "DPoP") -> None:
        super().__init__(
            f"This needs the scope {scope}.",
            headers=challenge(scheme, error="insufficient_scope", scope=scope),
            scope=scope,
        )


class RevocationFeedStale(Unavailable):
    """News of revoked tokens stopped coming, so nothing but reads is done on the word of a token. Send the same again later; the operator
    looks at the bus and at identity.
    """

    slug = "revocation-feed-stale"
    title = "Revocations can't be checked at the moment"


class ReplayCheckUnavailable(Unavailable):
    """The store of seen proofs (Valkey) is out of reach, so a proof can't be shown to be fresh, and nothing but reads is done. Send the
    same again later, with a new proof. Tokens that are bound to a certificate go on.
    """

    slug = "replay-check-unavailable"
    title = "The proof of possession can't be checked at the moment"


class IdentityUnavailable(Unavailable):
    """The keys and revocations that authentication rests on were not received yet. Send the same again."""

    slug = "identity-unavailable"
    title = "Tokens can't be checked at the moment"
