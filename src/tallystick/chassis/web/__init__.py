"""HTTP: the endpoint table, strict decoding, problems, OpenAPI."""

from tallystick.chassis.web.messages import Headers, Page, Reply, Request
from tallystick.chassis.web.table import Endpoint

__all__ = ["Endpoint", "Headers", "Page", "Reply", "Request"]
