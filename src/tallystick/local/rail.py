"""The sandbox card rail: a process that plays the acquirer, for one machine only. It says `"sandbox": true` in every answer.

    POST /authorizations  {request_id, amount, card: {number, exp_month, exp_year}, merchant?}
    POST /captures        {request_id, authorization, amount}      up to what was authorised, in parts
    POST /voids           {request_id, authorization}              gives back what was not captured
    POST /refunds         {request_id, authorization, amount}      up to what was captured, in parts
    GET  /{authorizations,captures,voids,refunds}/{request_id}     what became of a request, 404 when it never came
    GET  /disputes?after=N&limit=N                                 what cardholders disputed, oldest first

`amount` is `{"amount": "1250", "currency": "EUR"}`; `authorization` is the authorisation's request id. The caller makes
the request ids; the same id again gets the same answer, and with another content 409. A decision is
`{status: "approved" | "declined", code, message, ...}` with status 200 and a code of ISO 8583 field 39; a request that
makes no sense is 400.

Card numbers choose what goes wrong, as INTERFACES says: see `BEHAVIOURS`. Any other number that passes the Luhn check is
approved. Numbers are not stored: the last four digits are, and a hash under a salt of this rail's own to recognise a repeat.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from tallystick.kernel.clock import Clock, SystemClock, parse_rfc3339, rfc3339
from tallystick.kernel.money import Money, MoneyWire, from_money, to_money
from tallystick.kernel.problem import Problem

Behaviour = Literal["approve", "decline", "insufficient", "slow", "lose", "dispute"]
Kind = Literal["authorizations", "captures", "voids", "refunds"]

BEHAVIOURS: Final[dict[str, Behaviour]] = {
    "4242424242424242": "approve",
    "4000000000000002": "decline",
    "4000000000009995": "insufficient",
    "4000000000000119": "slow",
    "4000000000000341": "lose",
    "4000000000000259": "dispute",
}

MAX_BODY: Final = 16 * 1024

RequestId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+$", min_length=1, max_length=64)]


class RailSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`socket` is where it answers (0600: only the vault's owner gets in), `data` the file that it remembers in."""

    socket: Path
    data: Path
    slow_seconds: float = 30.0
    dispute_seconds: float = 5.0
    """How long after its capture a payment is disputed."""


class _In(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class _Card(_In, frozen=True):
    number: Annotated[str, Meta(pattern=r"^[0-9]*$", min_length=12, max_length=19)]
    exp_month: Annotated[int, Meta(ge=1, le=12)]
    exp_year: Annotated[int, Meta(ge=2000, le=2199)]

    def __repr__(self) -> str:
        return "Card(****)"


class Authorize(_In, frozen=True):
    request_id: RequestId
    amount: MoneyWire
    card: _Card
    merchant: Annotated[str, Meta(max_length=200)] = ""


class Move(_In, frozen=True):
    """A capture or a refund."""

    request_id: RequestId
    authorization: RequestId
    amount: MoneyWire


class Void(_In, frozen=True):
    request_id: RequestId
    authorization: RequestId


class Authorization(msgspec.Struct, frozen=True, kw_only=True):
    """One authorisation's totals in minor units; what `decide` rules on."""

    currency: str
    authorized: int
    captured: int = 0
    voided: int = 0
    refunded: int = 0
    behaviour: Behaviour = "approve"


class Decision(msgspec.Struct, frozen=True):
    approved: bool
    code: str
    message: str


APPROVED: Final = Decision(True, "00", "Approved")


# ---- the rules, without I/O ----------------------------------------------------------------------------------------


def luhn(number: str) -> bool:
    """The check digit of ISO/IEC 7812-1 annex B."""
    doubled = str.maketrans("0123456789", "0246813579")
    digits = number[::-1]
    return (sum(map(int, digits[::2])) + sum(map(int, digits[1::2].translate(doubled)))) % 10 == 0


def decide_authorization(card: _Card, now: datetime) -> Decision:
    behaviour = BEHAVIOURS.get(card.number, "approve")
    if not luhn(card.number):
        return Decision(False, "14", "Invalid card number")
    if (card.exp_year, card.exp_month) < (now.year, now.month):
        return Decision(False, "54", "Expired card")
    if behaviour == "decline":
        return Decision(False, "05", "Do not honor")
    if behaviour == "insufficient":
        return Decision(False, "51", "Insufficient funds")
    return APPROVED


def decide_move(kind: Kind, amount: Money | None, found: Authorization | None) -> tuple[Decision, Authorization | None]:
    """What a capture, void or refund does to its authorisation: the decision and the new totals."""
    if found is None or not found.authorized:
        return Decision(False, "25", "No such authorization"), None
    if kind == "voids":
        remaining = found.authorized - found.captured - found.voided
        if not remaining:
            return Decision(False, "12", "Nothing is left to void"), None
        return APPROVED, msgspec.structs.replace(found, voided=found.voided + remaining)
    if amount is None or amount.currency != found.currency:
        return Decision(False, "12", "Another currency than that of the authorization"), None
    if kind == "captures":
        if found.captured + found.voided + amount.minor > found.authorized:
            return Decision(False, "61", "More than was authorized"), None
        return APPROVED, msgspec.structs.replace(found, captured=found.captured + amount.minor)
    if found.refunded + amount.minor > found.captured:
        return Decision(False, "61", "More than was captured"), None
    return APPROVED, msgspec.structs.replace(found, refunded=found.refunded + amount.minor)


# ---- what it remembers ---------------------------------------------------------------------------------------------

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS salt (value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS request (
    request_id TEXT PRIMARY KEY, kind TEXT NOT NULL, digest BLOB NOT NULL, answer BLOB NOT NULL, release_at TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS authorization (
    request_id TEXT PRIMARY KEY, currency TEXT NOT NULL, authorized INTEGER NOT NULL, captured INTEGER NOT NULL,
    voided INTEGER NOT NULL, refunded INTEGER NOT NULL, behaviour TEXT NOT NULL,
    CHECK (captured + voided <= authorized AND refunded <= captured)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dispute (
    position INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL, capture TEXT NOT NULL, amount INTEGER NOT NULL,
    currency TEXT NOT NULL, raised_at TEXT NOT NULL
);
"""


class Book:
    """A small SQLite file. Every decision is in it before it is answered, so a killed rail goes on where it was.

    Calls take some 50 us and run on the event loop: one at a time, so each sees what the one before did.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode = WAL")
        # Survives a kill of the process; after a power cut the sandbox may forget its last answers.
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)
        if self._db.execute("SELECT count(*) FROM salt").fetchone()[0] == 0:
            self._db.execute("INSERT INTO salt VALUES (?)", (secrets.token_bytes(32),))
        self._salt: bytes = self._db.execute("SELECT value FROM salt").fetchone()[0]

    def close(self) -> None:
        self._db.close()

    def digest(self, kind: Kind, body: _In) -> bytes:
        """Recognises a repeat without keeping the number: a salted hash over all of the request."""
        return hmac.digest(self._salt, kind.encode() + b"\0" + msgspec.json.encode(body), hashlib.sha256)

    def answer(self, request_id: str) -> tuple[str, bytes, bytes, datetime] | None:
        """Kind, digest, answer and when it may be told."""
        row = self._db.execute(
            "SELECT kind, digest, answer, release_at FROM request WHERE request_id = ?", (request_id,)
        ).fetchone()
        return None if row is None else (row[0], row[1], row[2], parse_rfc3339(row[3]))

    def authorization(self, request_id: str) -> Authorization | None:
        row = self._db.execute(
            "SELECT currency, authorized, captured, voided, refunded, behaviour FROM authorization WHERE request_id = ?",
            (request_id,),
        ).fetchone()
        if row is None:
            return None
        return Authorization(
            currency=row[0], authorized=row[1], captured=row[2], voided=row[3], refunded=row[4], behaviour=row[5]
        )

    @contextlib.contextmanager
    def transaction(self) -> Any:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def put_answer(self, request_id: str, kind: Kind, digest: bytes, answer: bytes, release_at: datetime) -> None:
        self._db.execute(
            "INSERT INTO request VALUES (?, ?, ?, ?, ?)", (request_id, kind, digest, answer, rfc3339(release_at))
        )

    def put_authorization(self, request_id: str, a: Authorization) -> None:
        self._db.execute(
            "INSERT INTO authorization VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (request_id) DO UPDATE SET"
            " captured = excluded.captured, voided = excluded.voided, refunded = excluded.refunded",
            (request_id, a.currency, a.authorized, a.captured, a.voided, a.refunded, a.behaviour),
        )

    def put_dispute(self, authorization: str, capture: str, amount: Money, raised_at: datetime) -> None:
        self._db.execute(
            "INSERT INTO dispute (request_id, capture, amount, currency, raised_at) VALUES (?, ?, ?, ?, ?)",
            (authorization, capture, amount.minor, amount.currency, rfc3339(raised_at)),
        )

    def disputes(self, after: int, limit: int, now: datetime) -> list[dict[str, Any]]:
        rows = self._db.execute(
            "SELECT position, request_id, capture, amount, currency, raised_at FROM dispute"
            " WHERE position > ? AND raised_at <= ? ORDER BY position LIMIT ?",
            (after, rfc3339(now), limit),
        ).fetchall()
        return [
            {
                "position": row[0],
                "authorization": row[1],
                "capture": row[2],
                "amount": from_money(Money(row[3], row[4])),
                "reason": "fraudulent",
                "raised_at": row[5],
            }
            for row in rows
        ]


# ---- HTTP ----------------------------------------------------------------------------------------------------------

_BODIES: Final[dict[Kind, type[Authorize | Move | Void]]] = {
    "authorizations": Authorize,
    "captures": Move,
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
        app.router.add_get("/health", self._health)
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
                decision, changed = decide_move(kind, amount, found)
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

    async def _health(self, request: web.Request) -> web.Response:
        del request
        return _json(200, b'{"sandbox": true, "status": "ready"}')


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


# ---- the process ---------------------------------------------------------------------------------------------------


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


def destination(socket: Path) -> str:
    """The vault's allow-list entry for this rail (see `services.vault.settings.Destination`), as TOML."""
    return f"""\
[sandbox-rail]
socket = "{socket}"
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tallystick.local.rail", description="The sandbox card rail")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    main(RailSettings(socket=arguments.socket, data=arguments.data))
