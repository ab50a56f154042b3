"""Who asks and what they may do: access token, proof of possession, revocation, transaction tokens, Cedar."""

from tallystick.chassis.auth.problems import (
    CredentialsRefused,
    IdentityUnavailable,
    InsufficientScope,
    ReplayCheckUnavailable,
    RevocationFeedStale,
)
from tallystick.chassis.auth.subject import Attribute, Resource, Subject

__all__ = [
    "Attribute",
    "CredentialsRefused",
    "IdentityUnavailable",
    "InsufficientScope",
    "ReplayCheckUnavailable",
    "Resource",
    "RevocationFeedStale",
    "Subject",
]
