"""The problems with which the edge itself refuses a request, without asking a service."""

from __future__ import annotations

from tallystick.kernel.problem import Problem


class CertificateRequired(Problem):
    """The client connected without a certificate. Connect again with a client certificate (RFC 8705), or use the API's other port, which
    accepts DPoP. A client does not present a certificate whose kind of key the edge does not ask for, such as Ed25519 or P-521:
    use P-256, P-384 or RSA.
    """

    slug, title, status = "certificate-required", "This port is for clients with a certificate", 421


class HttpVersionUnknown(Problem):
    """The request is in a version of HTTP that the edge does not support. Use HTTP/1.1 or HTTP/2."""

    slug, title, status = "http-version-unknown", "This version of HTTP is not spoken here", 426


class HeadersTooLarge(Problem):
    """The headers are too large. There is enough room for a token and its proof; it is mostly cookies or tracing headers that take too
    much. Send fewer or smaller headers.
    """

    slug, title, status = "headers-too-large", "The headers are larger than the edge takes", 431


class TransferCodingUnknown(Problem):
    """The body has a transfer coding that is not supported. Send it with a `Content-Length`, or with `chunked` and no other coding."""

    slug, title, status = "transfer-coding-unknown", "This transfer coding is not taken here", 501


#: In the order of their status.
EDGE_ONLY: tuple[type[Problem], ...] = (CertificateRequired, HttpVersionUnknown, HeadersTooLarge, TransferCodingUnknown)
