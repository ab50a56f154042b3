"""What is revoked, and how long that has to be remembered."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from tallystick.contracts.identity.messages import RevocationKind
from tallystick.services.identity.model.scopes import ORDINARY_LIFE
from tallystick.services.identity.model.tokens import TRANSACTION_LIFE

#: A token that was being made while its client was revoked, and clocks that differ, are covered by this much.
MARGIN = timedelta(seconds=60)

#: After this, nothing that was issued before can still be valid.
LONGEST_LIFE = ORDINARY_LIFE + TRANSACTION_LIFE + MARGIN


@dataclass(frozen=True, slots=True)
class Revoked:
    kind: RevocationKind
    id: str
    until: datetime


def revoked_token(jti: str, expires_at: datetime) -> Revoked:
    """Remembered a little longer than the token lives, for clocks that are behind."""
    return Revoked("jti", jti, expires_at + MARGIN)


def revoked_client(client_id: str, now: datetime) -> Revoked:
    return Revoked("client", client_id, now + LONGEST_LIFE)


def revoked_key(kid: str, now: datetime) -> Revoked:
    return Revoked("kid", kid, now + LONGEST_LIFE)


def revoked_everything(now: datetime) -> Revoked:
    """All tokens that were issued until now. Times of issue have whole seconds, so this second counts as before."""
    return Revoked("all-before", str(int(now.timestamp()) + 1), now + LONGEST_LIFE)
