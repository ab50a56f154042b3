"""Who asks and what they may do: access token, proof of possession, revocation, transaction tokens, Cedar."""

from tallystick.chassis.auth.authenticator import Authenticator
from tallystick.chassis.auth.cedar import Authorizer, Decision
from tallystick.chassis.auth.dpop import Proof, ProofVerifier
from tallystick.chassis.auth.identity import Exchanged, Identity, MeshIdentity
from tallystick.chassis.auth.jose import Jwk, Refused
from tallystick.chassis.auth.problems import (
    CredentialsRefused,
    IdentityUnavailable,
    InsufficientScope,
    ReplayCheckUnavailable,
    RevocationFeedStale,
)
from tallystick.chassis.auth.replay import ProofStore
from tallystick.chassis.auth.revocation import Revocation, RevocationFeed, Snapshot
from tallystick.chassis.auth.statement import attributable, statement
from tallystick.chassis.auth.subject import Attribute, Resource, Subject

__all__ = [
    "Attribute",
    "Authenticator",
    "Authorizer",
    "CredentialsRefused",
    "Decision",
    "Exchanged",
    "Identity",
    "IdentityUnavailable",
    "InsufficientScope",
    "Jwk",
    "MeshIdentity",
    "Proof",
    "ProofStore",
    "ProofVerifier",
    "Refused",
    "ReplayCheckUnavailable",
    "Resource",
    "Revocation",
    "RevocationFeed",
    "RevocationFeedStale",
    "Snapshot",
    "Subject",
    "attributable",
    "statement",
]
