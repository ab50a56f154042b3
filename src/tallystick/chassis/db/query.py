"""SQL statements come from `.sql` files only. Each has a name and a comment that says what it is for.

```sql
-- name: transfer_by_id
-- One transfer of a tenant.
SELECT id, amount FROM transfer WHERE tenant = $1 AND id = $2;
```
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tallystick.chassis.db.database import Connection

_NAME: Final = re.compile(r"^--\s*name:\s*(.*?)\s*$")
_IDENTIFIER: Final = re.compile(r"^[a-z][a-z0-9_]*$")
_WRITES: Final = re.compile(r"\b(insert|update|delete|merge|call|nextval|pg_advisory\w*)\b", re.IGNORECASE)
_TELLS: Final = re.compile(r"\binsert\s+into\s+outbox\b", re.IGNORECASE)
# What may hide a semicolon or a keyword: comments, strings, quoted names, dollar-quoted bodies.
_OPAQUE: Final = re.compile(
    r"--[^\n]*|/\*.*?\*/|[eE]?'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$([A-Za-z_]*)\$.*?\$\1\$", re.DOTALL
)
_token = object()


class BadSql(ValueError):
    """A `.sql` file is malformed. The message names file and line."""


@dataclass(frozen=True, slots=True)
class Query:
    """One named statement, made by the loader only. `place` is file:line. `writes`: it may change something. `tells`: it stores facts
    in the outbox, for which the relay waits.
    """

    name: str
    sql: str
    doc: str
    place: str
    writes: bool
    tells: bool = False
    made_by: object = None

    def __post_init__(self) -> None:
        if self.made_by is not _token:
            raise TypeError("a Query comes from a .sql file: Queries.load(package)")

    def __repr__(self) -> str:
        return f"Query({self.name} at {self.place})"


class Queries:
    """The statements of one file, as attributes by name."""

    def __init__(self, package: str, queries: dict[str, Query]) -> None:
        self.package = package
        self._queries = queries

    @classmethod
    def load(cls, package: str, name: str = "queries") -> Queries:
        """Reads `<package>/sql/<name>.sql`. Raises BadSql."""
        place = f"{package.replace('.', '/')}/sql/{name}.sql"
        text = files(package).joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
        return cls(package, {query.name: query for query in parse(text, place)})

    def __getattr__(self, name: str) -> Query:
        try:
            return self._queries[name]
        except KeyError:
            near = get_close_matches(name, self._queries, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise AttributeError(f"{self.package} has no query {name}{hint}") from None

    def __iter__(self) -> Iterator[Query]:
        return iter(self._queries.values())

    def __len__(self) -> int:
        return len(self._queries)


def parse(text: str, place: str) -> list[Query]:
    """The queries of a file's text, in order. Pure."""
    queries: list[Query] = []
    seen: set[str] = set()
    starts = [(number, found[1]) for number, line in enumerate(text.splitlines(), 1) if (found := _NAME.match(line))]
    lines = text.splitlines()
    head = "\n".join(lines[: starts[0][0] - 1] if starts else lines)
    if _without_opaque(head).strip():
        raise BadSql(f"{place}:1: SQL before the first '-- name:' line")
    for index, (number, name) in enumerate(starts):
        where = f"{place}:{number}"
        if not _IDENTIFIER.match(name):
            raise BadSql(f"{where}: {name!r} is not a name in snake_case")
        if name in seen:
            raise BadSql(f"{where}: a second query named {name}")
        seen.add(name)
        end = starts[index + 1][0] - 1 if index + 1 < len(starts) else len(lines)
        queries.append(_query(name, lines[number:end], where))
    return queries


def _query(name: str, lines: list[str], where: str) -> Query:
    doc: list[str] = []
    while lines and lines[0].lstrip().startswith("--"):
        doc.append(lines.pop(0).lstrip()[2:].strip())
    if not any(doc):
        raise BadSql(f"{where}: {name} has no comment that says what it is for")
    sql = "\n".join(lines).strip()
    bare = _without_opaque(sql).strip()
    statements = [part for part in bare.split(";") if part.strip()]
    if len(statements) != 1 or not bare.endswith(";"):
        raise BadSql(f"{where}: {name} is not one statement that ends with ';' (found {len(statements)})")
    body = sql[: sql.rindex(";")].rstrip() if sql.endswith(";") else sql
    return Query(
        name, body, " ".join(doc), where, _WRITES.search(bare) is not None, _TELLS.search(bare) is not None, _token
    )


def _without_opaque(sql: str) -> str:
    return _OPAQUE.sub(" ", sql)


async def prepare_all(queries: Iterable[Query], connection: Connection) -> list[str]:
    """PREPARE every query on a migrated database; returns one line for each that is refused. For the architecture test."""
    import asyncpg

    refusals = []
    for query in queries:
        try:
            await connection.prepare(query.sql)
        except asyncpg.PostgresError as error:
            refusals.append(f"{query.place}: {query.name}: {error.sqlstate} {error.args[0] if error.args else ''}")
    return refusals


def arguments(rows: Iterable[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Rows as columns, for `unnest($1::uuid[], $2::bigint[], ...)`: always `width` lists, even without rows."""
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]
    if len(columns) != width:
        raise ValueError(f"rows of {len(columns)} values where {width} are wanted")
    return columns
