"""What the database's guards refuse, tried by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import asyncpg


async def refused_by(
    connection: asyncpg.Connection[asyncpg.Record], statements: Iterable[tuple[str, tuple[Any, ...]]]
) -> str | None:
    """The constraint that refuses these statements, one after the other, None if nothing does. Nothing is kept."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        for sql, args in statements:
            await connection.execute(sql, *args)
    except asyncpg.IntegrityConstraintViolationError as error:
        return str(error.constraint_name)
    else:
        return None
    finally:
        await transaction.rollback()
