"""Every column of every table says which class of data it holds, and money and time have one form."""

from __future__ import annotations

import pytest

from tallystick.chassis import charter as charters_module
from tallystick.fabric import datamap
from tests.architecture.tree import BUILT
from tests.conftest import DatabaseFor

COLUMNS = """
SELECT c.relname AS table_name, a.attname AS column_name, format_type(a.atttypid, NULL) AS type,
       col_description(c.oid, a.attnum) AS comment
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND c.relkind IN ('r', 'p', 'm', 'v') AND a.attnum > 0 AND NOT a.attisdropped AND NOT c.relispartition
ORDER BY 1, a.attnum
"""

#: Inexact, or without a zone.
UNFIT = {
    "real": "money and counts are integers (bigint, numeric(38,0)); a float loses cents",
    "double precision": "money and counts are integers (bigint, numeric(38,0)); a float loses cents",
    "money": "its digits depend on the server's locale",
    "timestamp without time zone": "time is timestamptz: an instant, not a wall clock's reading",
    "time with time zone": "time is timestamptz",
    "json": "use jsonb: json keeps duplicate keys",
    "serial": "use GENERATED ALWAYS AS IDENTITY",
}


@pytest.mark.parametrize("service", BUILT)
async def test_every_column_is_tagged_and_fit(service: str, database_for: DatabaseFor) -> None:
    database = await database_for(f"tallystick.services.{service}", service)
    rows = await database.query(COLUMNS)
    assert len({row["table_name"] for row in rows}) > 1, "no tables: the migrations did not run"
    for row in rows:
        name = f"{service}: {row['table_name']}.{row['column_name']}"
        tag = datamap.class_of(row["comment"])
        assert tag, (
            f"{name} has no data class. Write in its migration: COMMENT ON COLUMN {row['table_name']}."
            f"{row['column_name']} IS 'class: ...' with one of {', '.join(charters_module.DATA_CLASSES)}"
        )
        assert row["type"] not in UNFIT, f"{name} is {row['type']}: {UNFIT[row['type']]}"
        if tag in {"secret", "sensitive-authentication"}:
            assert row["type"] in {"bytea", "bytea[]"}, (
                f"{name} is {tag} and of type {row['type']}: it is kept sealed, so it is bytea"
            )


@pytest.mark.parametrize("service", BUILT)
async def test_the_data_map_finds_the_same_columns(service: str, database_for: DatabaseFor) -> None:
    """The map reads the migrations' text; here is what the server made of them."""
    database = await database_for(f"tallystick.services.{service}", service)
    real = {
        datamap.Column(row["table_name"], row["column_name"], datamap.class_of(row["comment"]) or "")
        for row in await database.query(COLUMNS)
        if row["table_name"] != "schema_migration"
    }
    found = datamap.load({service: charters_module.load(service)})
    assert {*found.columns[service], *found.chassis} == real


@pytest.mark.parametrize("service", BUILT)
async def test_a_service_owns_nothing_and_grants_nothing(service: str, database_for: DatabaseFor) -> None:
    database = await database_for(f"tallystick.services.{service}", service)
    owned = await database.query(
        "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE nspname = 'public' AND pg_get_userbyid(relowner) = $1",
        service,
    )
    assert owned == []
    passed_on = await database.query(
        "SELECT table_name FROM information_schema.role_table_grants WHERE grantee = 'PUBLIC' AND table_schema = 'public' "
        "UNION ALL SELECT table_name FROM information_schema.role_table_grants WHERE grantee = $1 "
        "AND (is_grantable = 'YES' OR privilege_type IN ('TRUNCATE', 'TRIGGER', 'REFERENCES'))",
        service,
    )
    assert passed_on == [], "a service's role has only what its queries need, and can't pass it on"
