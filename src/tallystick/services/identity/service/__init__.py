"""Identity's use cases, by subject.

`authentication` (RFC 7523), `tokens` (RFC 6749, 7009, 7662, 8705, 9068, 9449), `transactions` (RFC 8693, transaction tokens),
`signing` (RFC 7517), `revocations`, `administration`, `failures`, `metadata` (RFC 8414, 9728).
"""

from __future__ import annotations

from dataclasses import dataclass

from tallystick.services.identity.service.administration import Administration
from tallystick.services.identity.service.authentication import ClientAuthentication
from tallystick.services.identity.service.failures import FailureLog
from tallystick.services.identity.service.revocations import Revocations
from tallystick.services.identity.service.signing import SigningKeys
from tallystick.services.identity.service.tokens import AccessTokens
from tallystick.services.identity.service.transactions import TransactionTokens


@dataclass(frozen=True, slots=True)
class Identity:
    """The wired use cases."""

    issuer: str
    mtls_origin: str
    authentication: ClientAuthentication
    tokens: AccessTokens
    transactions: TransactionTokens
    keys: SigningKeys
    revocations: Revocations
    administration: Administration
    failures: FailureLog


__all__ = ["Identity"]
