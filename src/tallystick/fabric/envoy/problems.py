"""The problems with which the edge itself refuses a request, without asking a service."""

from __future__ import annotations

from tallystick.kernel.problem import Problem


class CertificateRequired(Problem):
    """The client connected without a certificate. Connect again with a client certificate (RFC 8705), or use the API's other port, which
    accepts DPoP. A client does not present a certificate whose kind of key the edge does not ask for, such as Ed25519 or P-521:
    use P-256, P-384 or RSA.
    """

    slug, title, status = "certificate-required", "A client certificate is required", 421


class HttpVersionUnknown(Problem):
    """The request is in a version of HTTP that the edge does not support. Use HTTP/1.1 or HTTP/2."""

    slug, title, status = "http-version-unknown", "HTTP version not supported", 426


class HeadersTooLarge(Problem):
    """The headers are too large. There is enough room for a token and its proof; it is mostly cookies or tracing headers that take too
    much. Send fewer or smaller headers.
    """

    slug, title, status = "headers-too-large", "The request headers are too large", 431


class TransferCodingUnknown(Problem):
    """The body has a transfer coding that is not supported. Send it with a `Content-Length`, or with `chunked` and no other coding."""

    slug, title, status = "transfer-coding-unknown", "Transfer coding not supported", 501


#: In the order of their status.
EDGE_ONLY: tuple[type[Problem], ...] = (CertificateRequired, HttpVersionUnknown, HeadersTooLarge, TransferCodingUnknown)
