"""Imports: what is staged, how far it got, and the accounts that it opens."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from tallystick.chassis.db import UniqueViolation
from tests.simulation.server.accounts import fresh, is_opened
from tests.simulation.server.engine import Row, Transaction, Values, of_file

statement = of_file("imports")
_IMPORT: Final = (
    "id", "book", "tenant", "actor", "mode", "dry_run", "state", "rows", "sha256", "wanted_sequence", "line", "tries", "accounts",
    "accounts_known", "transfers", "transfers_known", "refused", "reason", "sequence", "created_at", "finished_at",
)  # fmt: skip
_ACCOUNT: Final = (
    "id", "name", "path", "kind", "currency", "normal_side", "floor", "ceiling", "code", "metadata",
)  # fmt: skip
_TALLY: Final = ("line", "accounts", "accounts_known", "transfers", "transfers_known", "refused")
#: What stands in place of a row that was deleted.
_GONE: Final[Values] = {"gone": True}


def _row(tx: Transaction, table: str, *key: Any) -> Values | None:
    row = tx.get(table, key)
    return None if row is None or "gone" in row else row


def _lines(tx: Transaction, own: Any) -> list[Values]:
    found = [row for row in tx.rows("import_line") if "gone" not in row and row["import"] == own]
    return sorted(found, key=lambda row: row["line"])


async def _put(tx: Transaction, table: str, *key: Any, **row: Any) -> None:
    await tx.lock(table, key)
    tx.writes[table, key] = row


def _seen(tx: Transaction, row: Values, staged: int) -> Row:
    wait = _row(tx, "import_wait", row["id"]) or dict.fromkeys(("since", "due_at", "reason"))
    return Row(
        **{name: row[name] for name in _IMPORT},
        book_name=(tx.get("book", (row["book"],)) or {})["name"],
        staged=staged,
        waiting_since=wait["since"],
        due_at=wait["due_at"],
        waits_for=wait["reason"],
    )


def _counts(row: Values) -> bool:
    """Whether the same content is not imported again because of it."""
    return row["state"] in {"open", "queued"} or (row["state"] == "done" and not row["dry_run"])


def _of_content(tx: Transaction, *content: Any) -> Values | None:
    return next(
        (
            row
            for row in tx.rows("import")
            if tuple(row[name] for name in ("book", "sha256", "mode", "dry_run")) == content and _counts(row)
        ),
        None,
    )


@statement
async def insert_import(tx: Transaction, *values: Any) -> list[Row]:
    names = ("id", "book", "tenant", "actor", "mode", "dry_run", "rows", "sha256", "wanted_sequence", "created_at")
    row = dict.fromkeys(_IMPORT) | dict(zip(names, values, strict=True))
    content = row["book"], row["sha256"], row["mode"], row["dry_run"]
    await tx.lock("import_content", content)
    if _of_content(tx, *content) is not None:
        return []
    await tx.insert("import", (row["id"],), row | dict.fromkeys(("tries", *_TALLY), 0) | {"state": "open"})
    return [Row(id=row["id"])]


@statement
async def import_of_content(tx: Transaction, *content: Any) -> list[Row]:
    row = _of_content(tx, *content)
    return [] if row is None else [_seen(tx, row, len(_lines(tx, row["id"])))]


@statement
async def import_by_id(tx: Transaction, own: Any, tenant: str) -> list[Row]:
    row = tx.get("import", (own,))
    return [] if row is None or row["tenant"] != tenant else [_seen(tx, row, len(_lines(tx, own)))]


@statement
async def lock_import(tx: Transaction, own: Any) -> list[Row]:
    await tx.lock("import", (own,))
    row = tx.get("import", (own,)) or {}
    return [Row(**{name: row[name] for name in ("state", *_TALLY)})]


@statement
async def share_import(tx: Transaction, own: Any) -> list[Row]:
    await tx.lock("import", (own,), shared=True)
    return [Row(state=(tx.get("import", (own,)) or {})["state"])]


@statement
async def stage(tx: Transaction, own: Any, *columns: Sequence[Any]) -> list[Row]:
    return [
        Row(line=line)
        for line, posting, record in zip(*columns, strict=True)
        if await tx.insert(
            "import_line", (own, line), {"import": own, "line": line, "posting": posting, "record": record}
        )
    ]


@statement
async def count_staged(tx: Transaction, own: Any) -> list[Row]:
    return [Row(count=len(_lines(tx, own)))]


@statement
async def queue_import(tx: Transaction, own: Any) -> list[Row]:
    if (tx.get("import", (own,)) or {})["state"] == "open":
        await tx.update("import", (own,), state="queued")
    return []


@statement
async def next_import(tx: Transaction, now: datetime, latest: datetime) -> list[Row]:
    def due(row: Values) -> bool:
        wait = _row(tx, "import_wait", row["id"])
        return wait is None or not now < wait["due_at"] <= latest

    found = [row for row in tx.rows("import") if row["state"] == "queued" and due(row)]
    return [_seen(tx, min(found, key=lambda row: row["created_at"]), 0)] if found else []


@statement
async def try_import(tx: Transaction, own: Any, since: datetime, due: datetime) -> list[Row]:
    await tx.lock("import", (own,))
    row = tx.get("import", (own,))
    if row is None or row["state"] != "queued":
        return []
    await tx.update("import", (own,), tries=row["tries"] + 1)
    wait = _row(tx, "import_wait", own) or {"import": own, "since": since, "reason": None}
    await _put(tx, "import_wait", own, **wait | {"due_at": due})
    return [Row(tries=row["tries"] + 1)]


@statement
async def runs_of_import(tx: Transaction, own: Any) -> list[Row]:
    wait = _row(tx, "import_wait", own)
    return [Row(tries=(tx.get("import", (own,)) or {})["tries"], since=None if wait is None else wait["since"])]


@statement
async def put_off_import(  # noqa: PLR0917 - the query's arguments
    tx: Transaction, own: Any, since: datetime, due: datetime, reason: str, uncounted: bool
) -> list[Row]:
    await tx.lock("import", (own,))
    tries = (tx.get("import", (own,)) or {})["tries"]
    await tx.update("import", (own,), tries=max(tries - int(uncounted), 0))
    wait = _row(tx, "import_wait", own) or {"import": own, "since": since}
    await _put(tx, "import_wait", own, **wait | {"due_at": due, "reason": reason})
    tx.server.faults.reached["import_waits"] += 1
    return []


@statement
async def staged(tx: Transaction, own: Any, after: int, limit: int) -> list[Row]:
    return [Row(line=row["line"], record=row["record"]) for row in _lines(tx, own) if row["line"] > after][:limit]


@statement
async def staged_settings(tx: Transaction, own: Any, after: int, limit: int) -> list[Row]:
    return [
        Row(line=row["line"], record=row["record"])
        for row in _lines(tx, own)
        if row["line"] > after and not row["posting"] and tx.get("import_refusal", (own, row["line"])) is None
    ][:limit]


async def _no_wait(tx: Transaction, own: Any) -> None:
    if _row(tx, "import_wait", own) is not None:
        await _put(tx, "import_wait", own, **_GONE)


@statement
async def progress(tx: Transaction, own: Any, *counts: int) -> list[Row]:
    await _no_wait(tx, own)
    await tx.update("import", (own,), tries=0, **dict(zip(_TALLY, counts, strict=True)))
    return []


@statement
async def insert_refusals(tx: Transaction, own: Any, *columns: Sequence[Any]) -> list[Row]:
    names = ("line", "field", "reason", "detail")
    for values in zip(*columns, strict=True):
        await tx.insert("import_refusal", (own, values[0]), {"import": own, **dict(zip(names, values, strict=True))})
    return []


@statement
async def refusals(tx: Transaction, own: Any, after: int, limit: int) -> list[Row]:
    found = [row for row in tx.rows("import_refusal") if row["import"] == own and row["line"] > after]
    found.sort(key=lambda row: row["line"])
    return [Row(**{name: row[name] for name in ("line", "field", "reason", "detail")}) for row in found[:limit]]


@statement
async def finish_import(  # noqa: PLR0917 - the query's arguments
    tx: Transaction, own: Any, state: str, reason: str | None, sequence: int | None, now: datetime
) -> list[Row]:
    await _no_wait(tx, own)
    await tx.update("import", (own,), state=state, reason=reason, sequence=sequence, finished_at=now)
    return []


@statement
async def forget_lines(tx: Transaction, own: Any) -> list[Row]:
    for row in _lines(tx, own):
        await _put(tx, "import_line", own, row["line"], **_GONE)
    return []


@statement
async def stale_imports(tx: Transaction, before: datetime) -> list[Row]:
    found = [row["id"] for row in tx.rows("import") if row["state"] == "open" and row["created_at"] < before]
    return [Row(id=own) for own in found[:100]]


@statement
async def accounts_as_they_are(tx: Transaction, ids: Sequence[Any]) -> list[Row]:
    found = [row for own in dict.fromkeys(ids) if (row := tx.get("account", (own,))) is not None]
    return [Row(id=row["id"], book=row["book"], **{name: row[name] for name in _ACCOUNT[1:]}) for row in found]


@statement
async def paths_taken(tx: Transaction, book: int, paths: Sequence[str]) -> list[Row]:
    found = [(path, tx.get("path", (book, path))) for path in dict.fromkeys(paths)]
    return [Row(path=path, id=at["id"]) for path, at in found if at is not None]


@statement
async def insert_accounts(tx: Transaction, number: int, now: datetime, *columns: Sequence[Any]) -> list[Row]:
    book = tx.get("book", (number,)) or {}
    for values in zip(*columns, strict=True):
        row = {**dict(zip(_ACCOUNT, values, strict=True)), "book": number, "created_at": now}
        tx.server.numbered.append(row["id"])
        if not await tx.insert("account", (row["id"],), row | fresh(tx, book)):
            raise UniqueViolation("insert_accounts", "23505", "account_pkey", "")
        path = {"id": row["id"]}
        if row["path"] is not None and not await tx.insert("path", (number, row["path"]), path):
            raise UniqueViolation("insert_accounts", "23505", "account_path", "")
        await is_opened(tx, row)
    return []
