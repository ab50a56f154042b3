"""What the rail remembers: a small SQLite file. Card numbers are not in it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from tallystick.kernel.clock import parse_rfc3339, rfc3339
from tallystick.kernel.money import Money, from_money
from tallystick.local.rail.rules import Authorization, Kind, Request

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
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.DatabaseError as error:
            raise SystemExit(
                f"{path} can't be used ({error}): restore it; without it the sandbox's acquirer knows nothing of what it has approved"
            ) from error
        # Survives a kill of the process; after a power cut the sandbox may forget its last answers.
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)
        if self._db.execute("SELECT count(*) FROM salt").fetchone()[0] == 0:
            self._db.execute("INSERT INTO salt VALUES (?)", (secrets.token_bytes(32),))
        self._salt: bytes = self._db.execute("SELECT value FROM salt").fetchone()[0]

    def close(self) -> None:
        self._db.close()

    def digest(self, kind: Kind, body: Request) -> bytes:
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
    def transaction(self) -> Iterator[None]:
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
