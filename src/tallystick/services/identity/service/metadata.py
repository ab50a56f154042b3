"""The server's metadata: RFC 8414, OpenID Connect Discovery 1.0, RFC 8705, RFC 9728. Only what exists is advertised."""

from __future__ import annotations

from typing import Any

from tallystick.contracts.identity.messages import SCOPES
from tallystick.services.identity.model import assertions

TOKEN = "/oauth2/token"  # noqa: S105  # a path
REVOKE = "/oauth2/revoke"
INTROSPECT = "/oauth2/introspect"
JWKS = "/oauth2/jwks"

#: Seconds that a client may cache the metadata and the key set. Signing keys are published at least twice as long before their first use.
MAX_AGE_SECONDS = 300


def authorization_server(issuer: str, mtls_origin: str) -> dict[str, Any]:
    """RFC 8414, 2. There is no authorization endpoint, so there are no response types, and nothing else that needs one.

    The endpoints at `mtls_origin` are for clients with a certificate (RFC 8705, 5); the issuer is the same.
    """
    authentication = ["private_key_jwt"]
    algorithms = list(assertions.ALGORITHMS)
    return {
        "issuer": issuer,
        "token_endpoint": issuer + TOKEN,
        "token_endpoint_auth_methods_supported": authentication,
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        "revocation_endpoint": issuer + REVOKE,
        "revocation_endpoint_auth_methods_supported": authentication,
        "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
        "introspection_endpoint": issuer + INTROSPECT,
        "introspection_endpoint_auth_methods_supported": authentication,
        "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
        "jwks_uri": issuer + JWKS,
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": [],
        "scopes_supported": list(SCOPES),
        "dpop_signing_alg_values_supported": algorithms,
        "tls_client_certificate_bound_access_tokens": True,
        "mtls_endpoint_aliases": {
            "token_endpoint": mtls_origin + TOKEN,
            "revocation_endpoint": mtls_origin + REVOKE,
            "introspection_endpoint": mtls_origin + INTROSPECT,
        },
        "protected_resources": [issuer],
    }


def protected_resource(issuer: str) -> dict[str, Any]:
    """RFC 9728, 2. The API takes no plain bearer tokens: each is bound to a DPoP key or to a certificate. Tokens bound to a certificate have
    the type Bearer (RFC 8705, 3), but are valid over mutual TLS only.
    """
    return {
        "resource": issuer,
        "authorization_servers": [issuer],
        "scopes_supported": list(SCOPES),
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": list(assertions.ALGORITHMS),
        "dpop_bound_access_tokens_required": False,
        "tls_client_certificate_bound_access_tokens": True,
        "resource_name": "Tallystick",
    }
