"""The vault's tables: rows in, model types out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Final

import msgspec

from tallystick.chassis.db import Database, Queries, Row, Transaction, arguments
from tallystick.chassis.keys import OwnKeyColumn
from tallystick.kernel import ids
from tallystick.kernel.ids import TokenId
from tallystick.services.vault.model import Masked, StoredToken

queries = Queries.load("tallystick.services.vault")

#: A token's number, which never changes, under a key of its own.
NUMBER: Final = OwnKeyColumn(
    table="token",
    name="sealed",
    find=queries.numbers_for_update,
    save=queries.save_numbers,
    text=ids.tokens.text,
    parse=ids.tokens.parse,
)
SEALED: Final = (NUMBER,)
_PAGE: Final = 1000


class NewToken(msgspec.Struct, frozen=True, kw_only=True):
    id: TokenId
    tenant: str
    created_by: str
    created_at: datetime
    masked: Masked
    fingerprint: str
    sealed: bytes


class Store:
    async def insert(self, tx: Transaction, tokens: Sequence[NewToken]) -> None:
        rows = (
            (
                t.id, t.tenant, t.masked.type, t.created_by, t.created_at, t.masked.brand, t.masked.bin, t.masked.last4,
                t.masked.exp_month, t.masked.exp_year, t.masked.country, t.fingerprint, t.sealed,
            )
            for t in tokens
        )  # fmt: skip
        await tx.execute(queries.insert_tokens, *arguments(rows, 13))

    async def count(self, database: Database, day: date, numbers: Sequence[tuple[str, str, bytes]]) -> dict[bytes, int]:
        """Count the new ones of these (tenant, fingerprint, look). Returns the day's count for each look, these included."""
        rows = await database.fetch(queries.count_numbers, day, *arguments(numbers, 3))
        return {row["look"]: row["taken"] for row in rows}

    async def forget_counts(self, database: Database, today: date) -> None:
        while await database.execute(queries.forget_counts, today, _PAGE) == _PAGE:
            pass

    async def find(
        self, database: Database, wanted: Sequence[tuple[str, TokenId]]
    ) -> dict[tuple[str, TokenId], StoredToken]:
        """Tokens by (tenant, id), in one round trip. Unknown ones and those of other tenants are left out."""
        rows = await database.fetch(queries.tokens, *arguments(set(wanted), 2))
        return {(row["tenant"], TokenId(row["id"])): _token(row) for row in rows}

    async def destroy(self, tx: Transaction, tenant: str, id_: TokenId, now: datetime) -> bool | None:
        """Whether this call destroyed the token: False if it was destroyed before, None if there is no such token."""
        row = await tx.fetchrow(queries.token_for_destruction, tenant, id_)
        if row is None:
            return None
        if row["destroyed_at"] is not None:
            return False
        await tx.execute(queries.destroy_token, tenant, id_, now)
        return True


def _token(row: Row) -> StoredToken:
    masked = None
    if row["sealed"] is not None:
        masked = Masked(
            type=row["type"],
            last4=row["last4"],
            brand=row["brand"],
            bin=row["bin"],
            exp_month=row["exp_month"],
            exp_year=row["exp_year"],
            country=row["country"],
        )
    return StoredToken(
        id=TokenId(row["id"]),
        tenant=row["tenant"],
        type=row["type"],
        created_at=row["created_at"],
        masked=masked,
        fingerprint=row["fingerprint"],
        sealed=row["sealed"],
    )
