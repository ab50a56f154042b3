"""The problems of authentication. Their `headers` carry the challenge: RFC 9449 section 7.1 for DPoP, RFC 6750 section 3 for
Bearer, which here means a token that is bound to a certificate (RFC 8705 section 3).
"""

from typing import Literal

from tallystick.kernel.problem import Forbidden, Unauthenticated, Unavailable

#: `Ed25519` (RFC 9864) and `EdDSA` are the newer and the older JOSE name of the same algorithm.
PROOF_ALGORITHMS = ("ES256", "PS256", "EdDSA", "Ed25519")

#: How a token is presented: DPoP with a proof by its key, Bearer over a connection with its certificate.
Scheme = Literal["DPoP", "Bearer"]


def challenge(scheme: Scheme, **parts: str | None) -> dict[str, str]:
    """The header `WWW-Authenticate`: what went wrong, under the scheme that was used. DPoP is always named, and first, because it is
    accepted everywhere.
    """
    algorithms = f'algs="{" ".join(PROOF_ALGORITHMS)}"'
    told = ", ".join(f'{name}="{value}"' for name, value in parts.items() if value)
    if scheme == "Bearer":
        return {"WWW-Authenticate": f"DPoP {algorithms}, Bearer {told}".rstrip()}
    return {"WWW-Authenticate": f"DPoP {told}, {algorithms}" if told else f"DPoP {algorithms}"}


class CredentialsRefused(Unauthenticated):
    """401. `reason` is a fixed text of ours and never part of the token, so that nothing of it reaches a log or an answer."""

    def __init__(
        self, error: Literal["invalid_token", "invalid_dpop_proof"] | None, reason: str, scheme: Scheme = "DPoP"
    ) -> None:
        told = challenge(scheme, error=error, error_description=reason if error else None)
        super().__init__(reason, headers=told, error=error or "missing_token")


def missing_token(
    scheme: Scheme = "DPoP", reason: str = "This endpoint needs a sender-constrained access token."
) -> CredentialsRefused:
    """For a request without credentials, or with a scheme that is not accepted: it gets no error code (RFC 6750 section 3.1).
    `scheme` is `Bearer` where a certificate came with the request.
    """
    return CredentialsRefused(None, reason, scheme)


def invalid_token(reason: str, scheme: Scheme = "DPoP") -> CredentialsRefused:
    return CredentialsRefused("invalid_token", reason, scheme)


def invalid_proof(reason: str) -> CredentialsRefused:
    return CredentialsRefused("invalid_dpop_proof", reason)


class InsufficientScope(Forbidden):
    """The token is valid, but it was not granted the `scope` that this needs. Ask for that scope with the next token. A client that is
    not registered for it has to be registered anew.
    """

    slug = "insufficient-scope"
    title = "The access token lacks a required scope"

    def __init__(self, scope: str, scheme: Scheme = "DPoP") -> None:
        super().__init__(
            f"This needs the scope {scope}.",
            headers=challenge(scheme, error="insufficient_scope", scope=scope),
            scope=scope,
        )


class RevocationFeedStale(Unavailable):
    """The service has had no news of revoked tokens for ten seconds, so it answers reads only. Send the same request again later. The
    operator should look at the bus and at identity.
    """

    slug = "revocation-feed-stale"
    title = "Revocations can't be checked at the moment"


class ReplayCheckUnavailable(Unavailable):
    """The store of used proofs (Valkey) can't be reached. Whether a proof is new can't be checked, so only reads are answered. Send the
    same request again later, with a new proof. Tokens that are bound to a certificate are not affected.
    """

    slug = "replay-check-unavailable"
    title = "The proof of possession can't be checked at the moment"


class IdentityUnavailable(Unavailable):
    """The service has not received the keys and revocations yet that it needs to check tokens. Send the same request again."""

    slug = "identity-unavailable"
    title = "Tokens can't be checked at the moment"
