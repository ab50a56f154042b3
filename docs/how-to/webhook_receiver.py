# ruff: noqa: INP001 (a script, not a package)
"""Receives webhooks and verifies their signatures (Standard Webhooks 1.0), with the standard library only.

    TALLYSTICK_WEBHOOK_SECRET=whsec_... python webhook_receiver.py [PORT]

Answers 204 for what is genuine, 400 for what is not. It does not trust the body before it has checked it.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import sys
import time
from collections.abc import Mapping
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

TOLERANCE_S = 300
MAX_BODY = 256 * 1024


def verify(secret: str, headers: Mapping[str, str], body: bytes, now: float) -> dict[str, Any]:
    """The event. Raises ValueError when it is not genuine, or too old to be sure that it is no repeat by a stranger."""
    id_, stamp = headers["webhook-id"], headers["webhook-timestamp"]
    if abs(now - int(stamp)) > TOLERANCE_S:
        raise ValueError("too old, or from the future")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.digest(key, f"{id_}.{stamp}.".encode() + body, sha256))
    # As bytes: a text that is not ASCII can't be compared in constant time.
    signatures = (
        each.partition(",")[2].encode() for each in headers["webhook-signature"].split() if each.startswith("v1,")
    )
    if not any(hmac.compare_digest(expected, each) for each in signatures):
        raise ValueError("no signature of ours")
    event: dict[str, Any] = json.loads(body)
    return event


class Receiver(BaseHTTPRequestHandler):
    secret = ""
    seen: set[str] = set()  # noqa: RUF012 - in earnest: a table with a unique webhook-id, written with the effect

    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("content-length", "0"))
            if not 0 <= length <= MAX_BODY:
                raise ValueError("longer than any event, or of no length")
            body = self.rfile.read(length)
            event = verify(self.secret, {k.lower(): v for k, v in self.headers.items()}, body, time.time())
        except (ValueError, KeyError) as error:
            self.send_error(400, str(error))
            return
        id_ = self.headers["webhook-id"]
        if id_ not in self.seen:  # a repeat is acknowledged and has no second effect
            self.seen.add(id_)
            print(f"{event['timestamp']}  {event['type']}  {id_}", flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name
        """Nothing: what was received is printed above."""


if __name__ == "__main__":
    Receiver.secret = os.environ.get("TALLYSTICK_WEBHOOK_SECRET", "")
    if not Receiver.secret.startswith("whsec_"):
        sys.exit("TALLYSTICK_WEBHOOK_SECRET is the secret that the endpoint's creation answered: whsec_...")
    HTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8090), Receiver).serve_forever()
