"""The sandbox card rail: a process that plays the acquirer, for one machine only. It says `"sandbox": true` in every answer.

    POST /authorizations  {request_id, amount, card: {number, exp_month, exp_year}, merchant?}
    POST /captures        {request_id, authorization, amount}      up to what was authorised, in parts
    POST /voids           {request_id, authorization}              gives back what was not captured; nothing left is a refusal:
                                                                   12 when it was captured, 25 when it was given back before
    POST /refunds         {request_id, authorization, amount}      up to what was captured, in parts
    GET  /{authorizations,captures,voids,refunds}/{request_id}     what became of a request, 404 when it never came
    GET  /disputes?after=N&limit=N                                 what cardholders disputed, oldest first

`amount` is `{"amount": "1250", "currency": "EUR"}`; `authorization` is the authorisation's request id. The caller makes
the request ids; the same id again gets the same answer, and with another content 409. A decision is
`{status: "approved" | "declined", code, message, ...}` with status 200 and a code of ISO 8583 field 39; a request that
makes no sense is 400.

Card numbers choose what goes wrong, as INTERFACES says: see `rules.BEHAVIOURS`. Any other number that passes the Luhn check is
approved. Numbers are not stored: the last four digits are, and a hash under a salt of this rail's own to recognise a repeat.
"""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

from tallystick.local.rail.rules import BEHAVIOURS, Authorization, Kind, decide_move
from tallystick.local.rail.server import Rail, RailSettings, serve

__all__ = [
    "BEHAVIOURS",
    "Authorization",
    "Kind",
    "Rail",
    "RailSettings",
    "decide_move",
    "destination",
    "main",
    "serve",
]


def destination(socket: Path) -> str:
    """The vault's allow-list entry for this rail (see `services.vault.settings.Destination`), as TOML, which quotes as JSON does."""
    return f"""\
[sandbox-rail]
socket = {json.dumps(str(socket), ensure_ascii=False)}
methods = ["GET", "POST"]
paths = ["/authorizations", "/captures", "/voids", "/refunds", "/disputes"]
"""


def main(settings: RailSettings) -> None:
    """Runs the rail until SIGTERM or SIGINT."""

    async def run() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await serve(settings, stopping)

    asyncio.run(run())
