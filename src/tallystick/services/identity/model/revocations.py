"""What can be revoked, and how long a revocation must be remembered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from tallystick.contracts.identity.messages import RevocationKind
from tallystick.services.identity.model.scopes import ORDINARY_LIFE
from tallystick.services.identity.model.tokens import TRANSACTION_LIFE

#: Covers tokens that were being issued while their client was revoked, and differences between clocks.
MARGIN = timedelta(seconds=60)

#: After this time, no token that was issued before can still be valid.
LONGEST_LIFE = ORDINARY_LIFE + TRANSACTION_LIFE + MARGIN


@dataclass(frozen=True, slots=True)
class Revoked:
    kind: RevocationKind
    id: str
    until: datetime


def revoked_token(jti: str, expires_at: datetime) -> Revoked:
    """Remembered a little longer than the token is valid, for clocks that are behind."""
    return Revoked("jti", jti, expires_at + MARGIN)


def revoked_client(client_id: str, now: datetime) -> Revoked:
    return Revoked("client", client_id, now + LONGEST_LIFE)


def revoked_key(kid: str, now: datetime) -> Revoked:
    return Revoked("kid", kid, now + LONGEST_LIFE)


def revoked_everything(now: datetime) -> Revoked:
    """All tokens issued until now. `iat` has whole seconds, so the whole current second is included."""
    return Revoked("all-before", str(int(now.timestamp()) + 1), now + LONGEST_LIFE)
