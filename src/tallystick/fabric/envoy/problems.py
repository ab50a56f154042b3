"""What only the edge refuses, as problems: nothing behind it is asked."""

from __future__ import annotations

from tallystick.kernel.problem import Problem


class CertificateRequired(Problem):
    """Connect again with a client certificate (RFC 8705), or use the API's other port, which takes DPoP. A client that has one, but with a
    key of a kind that the edge does not ask for, such as Ed25519 or P-521, comes without it: take P-256, P-384 or RSA.
    """

    slug, title, status = "certificate-required", "This port is for clients with a certificate", 421


class HttpVersionUnknown(Problem):
    """Send HTTP/1.1 or HTTP/2."""

    slug, title, status = "http-version-unknown", "This version of HTTP is not spoken here", 426


class HeadersTooLarge(Problem):
    """Send fewer or smaller headers. A token and its proof have room; what has none is mostly a cookie or a tracing header."""

    slug, title, status = "headers-too-large", "The headers are larger than the edge takes", 431


class TransferCodingUnknown(Problem):
    """Send the body with its `Content-Length`, or with the transfer coding `chunked` and no other."""

    slug, title, status = "transfer-coding-unknown", "This transfer coding is not taken here", 501


#: In the order of their status.
EDGE_ONLY: tuple[type[Problem], ...] = (CertificateRequired, HttpVersionUnknown, HeadersTooLarge, TransferCodingUnknown)
