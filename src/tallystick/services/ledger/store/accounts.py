"""Accounts: written and read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from tallystick.chassis.db import Database, Row, Transaction, arguments
from tallystick.kernel.ids import AccountId
from tallystick.services.ledger.model import AccountRow, Found, NewAccount, Pattern
from tallystick.services.ledger.store.sql import queries


class Accounts:
    async def insert_account(self, tx: Transaction, book: int, account: NewAccount, now: datetime) -> bool:
        """False when an account with this id exists, in any book. Raises UniqueViolation when the path is taken."""
        new = await tx.fetchval(
            queries.insert_account,
            account.id,
            book,
            account.name,
            account.path,
            account.kind,
            account.currency,
            account.normal_side,
            account.floor,
            account.ceiling,
            account.code,
            account.metadata,
            now,
        )
        return new is not None

    async def close_account(self, tx: Transaction, book: int, account: AccountId, now: datetime) -> bool:
        return await tx.fetchval(queries.close_account, account, book, now) is not None

    async def change_account(self, tx: Transaction, row: AccountRow) -> None:
        """Stores name, metadata and limits of `row`. Raises CheckViolation when the account does not keep the limits."""
        await tx.execute(queries.change_account, row.id, row.book, row.name, row.metadata, row.floor, row.ceiling)

    async def freeze_account(self, tx: Transaction, book: int, account: AccountId, since: datetime | None) -> bool:
        """Freezes the account since `since`; None unfreezes it. False when that changes nothing, or the account is closed."""
        return await tx.fetchval(queries.freeze_account, account, book, since) is not None

    async def account(
        self, source: Database | Transaction, tenant: str, account: AccountId, now: datetime
    ) -> AccountRow | None:
        row = await source.fetchrow(queries.account, tenant, account, now)
        return None if row is None else _account(row)

    async def account_at_path(
        self, source: Database | Transaction, tenant: str, book: str, path: str, now: datetime
    ) -> AccountRow | None:
        row = await source.fetchrow(queries.account_at_path, tenant, book, path, now)
        return None if row is None else _account(row)

    async def accounts(
        self,
        source: Database | Transaction,
        book: int,
        now: datetime,
        *,
        after: AccountId | str | None,
        currency: str | None,
        code: str | None,
        kind: str | None,
        pattern: Pattern | None,
        limit: int,
    ) -> list[AccountRow]:
        """With a pattern, in the order of paths, and `after` is a path. Otherwise newest first, and `after` is an id."""
        if pattern is None:
            rows = await source.fetch(queries.accounts, book, after, now, currency, code, kind, limit)
        else:
            rows = await source.fetch(
                queries.accounts_at_paths, book, after, now, currency, code, kind, limit,
                pattern.low, pattern.high, pattern.regex,
            )  # fmt: skip
        return [_account(row) for row in rows]

    async def find_accounts(self, database: Database, wanted: Iterable[tuple[str, AccountId]]) -> list[Found]:
        return [Found(*row) for row in await database.fetch(queries.find_accounts, *arguments(wanted, 2))]


def _account(row: Row) -> AccountRow:
    found = dict(row.items())
    found["debits_pending"] -= found.pop("due_debits")
    found["credits_pending"] -= found.pop("due_credits")
    return AccountRow(**found)
