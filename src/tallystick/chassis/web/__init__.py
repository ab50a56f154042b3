"""HTTP: the endpoint table, strict decoding, problems, OpenAPI."""

from tallystick.chassis.web.application import Application
from tallystick.chassis.web.decode import body_decoder, invalid
from tallystick.chassis.web.messages import Headers, Page, Reply, Request, subject_at
from tallystick.chassis.web.openapi import openapi
from tallystick.chassis.web.paging import After, Paging, cursor, page, read_cursor
from tallystick.chassis.web.table import Endpoint, Further

__all__ = [
    "After",
    "Application",
    "Endpoint",
    "Further",
    "Headers",
    "Page",
    "Paging",
    "Reply",
    "Request",
    "body_decoder",
    "cursor",
    "invalid",
    "openapi",
    "page",
    "read_cursor",
    "subject_at",
]
