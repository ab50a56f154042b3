"""The rail by HTTP."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
from aiohttp import web

from tallystick.kernel.clock import Clock, SystemClock, rfc3339
from tallystick.kernel.money import Money, from_money, to_money
from tallystick.kernel.problem import Problem
from tallystick.local.rail.book import Book
from tallystick.local.rail.rules import (
    BEHAVIOURS,
    Authorization,
    Authorize,
    Capture,
    Kind,
    Move,
    Void,
    decide_authorization,
    decide_move,
)

MAX_BODY: Final = 16 * 1024


class RailSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`socket` is where it answers (0600: only the vault's owner gets in), `data` the file that it remembers in."""

    socket: Path
    data: Path
    slow_seconds: float = 30.0
    dispute_seconds: float = 5.0
    """How long after its capture a payment is disputed."""


_BODIES: Final[dict[Kind, type[Authorize | Move | Void]]] = {
    "authorizations": Authorize,
    "captures": Capture,
    "voids": Void,
    "refunds": Move,
}


class Rail:
    def __init__(self, settings: RailSettings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock: Clock = clock or SystemClock()
        self._book = Book(settings.data)

    def close(self) -> None:
        self._book.close()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY, middlewares=[_says_sandbox])
        for kind in _BODIES:
            app.router.add_post(f"/{kind}", self._poster(kind))
            app.router.add_get(f"/{kind}/{{request_id}}", self._getter(kind))
        app.router.add_get("/disputes", self._disputes)
        return app

    def _poster(self, kind: Kind) -> Callable[[web.Request], Awaitable[web.Response]]:
        decoder = msgspec.json.Decoder(_BODIES[kind])

        async def post(request: web.Request) -> web.Response:
            try:
                body = decoder.decode(await request.read())
                amount = None if isinstance(body, Void) else to_money(body.amount)
            except (msgspec.DecodeError, Problem) as error:
                return _refused(400, "invalid-request", str(error))
            digest = self._book.digest(kind, body)
            known = self._book.answer(body.request_id)
            if known is None:
                first = True
                self._decide(kind, body, amount, digest)
                known = self._book.answer(body.request_id)
                assert known is not None  # noqa: S101  # it was stored in the line above
            else:
                first = False
                if known[:2] != (kind, digest):
                    return _refused(409, "request-id-reused", "this request id came before with another content")
            if first and isinstance(body, Authorize) and BEHAVIOURS.get(body.card.number) == "lose":
                # Decided and stored, and nobody hears of it: the connection ends without a byte of an answer.
                if request.transport is not None:
                    request.transport.abort()
                return web.Response(status=500)
            if (wait := (known[3] - self._clock.now()).total_seconds()) > 0:
                await asyncio.sleep(wait)
            return _json(200, known[2])

        return post

    def _decide(self, kind: Kind, body: Authorize | Move | Void, amount: Money | None, digest: bytes) -> None:
        """Decides and stores, in one transaction."""
        now = self._clock.now()
        release_at = now
        answer: dict[str, Any] = {"sandbox": True, "request_id": body.request_id}
        with self._book.transaction():
            if isinstance(body, Authorize):
                assert amount is not None  # noqa: S101  # an authorisation has one
                behaviour = BEHAVIOURS.get(body.card.number, "approve")
                decision = decide_authorization(body.card, now)
                if behaviour == "slow":
                    release_at = now + timedelta(seconds=self._settings.slow_seconds)
                self._book.put_authorization(
                    body.request_id,
                    Authorization(
                        currency=amount.currency,
                        authorized=amount.minor if decision.approved else 0,
                        behaviour=behaviour,
                    ),
                )
                answer["card"] = {"last4": body.card.number[-4:]}
            else:
                answer["authorization"] = body.authorization
                found = self._book.authorization(body.authorization)
                final = isinstance(body, Capture) and body.final
                decision, changed = decide_move(kind, amount, found, final=final)
                if changed is not None:
                    self._book.put_authorization(body.authorization, changed)
                    if kind == "captures" and changed.behaviour == "dispute" and amount is not None:
                        raised_at = now + timedelta(seconds=self._settings.dispute_seconds)
                        self._book.put_dispute(body.authorization, body.request_id, amount, raised_at)
            answer |= {
                "status": "approved" if decision.approved else "declined",
                "code": decision.code,
                "message": decision.message,
                "reference": secrets.token_hex(6),
                "decided_at": rfc3339(now),
            }
            if amount is not None:
                answer["amount"] = from_money(amount)
            self._book.put_answer(body.request_id, kind, digest, msgspec.json.encode(answer), release_at)

    def _getter(self, kind: Kind) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def get(request: web.Request) -> web.Response:
            known = self._book.answer(request.match_info["request_id"])
            if known is None or known[0] != kind:
                return _refused(404, "unknown-request", "no request with this id came here")
            return _json(200, known[2])

        return get

    async def _disputes(self, request: web.Request) -> web.Response:
        try:
            after = int(request.query.get("after", "0"))
            limit = min(max(int(request.query.get("limit", "100")), 1), 1000)
        except ValueError:
            return _refused(400, "invalid-request", "after and limit are numbers")
        found = self._book.disputes(after, limit, self._clock.now())
        return _json(200, msgspec.json.encode({"sandbox": True, "data": found}))


@web.middleware
async def _says_sandbox(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """The server's own refusals (no such path, too large) in the same form as ours."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _refused(error.status, error.reason.lower().replace(" ", "-"), error.reason)


def _json(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json")


def _refused(status: int, error: str, detail: str) -> web.Response:
    return _json(status, msgspec.json.encode({"sandbox": True, "error": error, "detail": detail}))


async def serve(settings: RailSettings, stopping: asyncio.Event) -> None:
    """Answers on the socket until `stopping`; requests under way get 2 seconds to end."""
    rail = Rail(settings)
    runner = web.AppRunner(rail.application(), access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        settings.socket.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            await web.UnixSite(runner, str(settings.socket)).start()
        finally:
            os.umask(mask)
        await stopping.wait()
    finally:
        await runner.cleanup()
        rail.close()
