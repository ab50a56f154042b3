"""What is sealed is found again when its key gets a successor: no value is sealed anywhere but in a column that a rotation goes through."""

from __future__ import annotations

import ast
from importlib import import_module
from typing import get_args

import pytest

from tallystick.chassis.keys import SealedColumn, TenantKeyColumn
from tests.architecture.tree import BUILT, SRC
from tests.conftest import DatabaseFor

TRIGGERS = """
SELECT c.relname AS table_name, encode(t.tgargs, 'escape') AS arguments
FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_proc AS p ON p.oid = t.tgfoid
WHERE p.proname = 'sealed_under_living_key' AND t.tgenabled = 'O' AND t.tgtype & (4 | 16) = (4 | 16)
"""


def calls(service: str, name: str) -> list[ast.Call]:
    return [
        node
        for path in sorted((SRC / "services" / service).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def columns(service: str) -> list[SealedColumn]:
    store = import_module(f"tallystick.services.{service}.store")
    return [each for each in vars(store).values() if isinstance(each, get_args(SealedColumn))]


@pytest.mark.parametrize("service", BUILT)
def test_a_place_comes_from_a_column_and_all_columns_are_wired(service: str) -> None:
    assert calls(service, "Aad") == [], (
        f"{service}: a sealed value's place is `COLUMN.aad(tenant, key)`, of a column in its store's SEALED"
    )
    declared = sum(len(calls(service, kind.__name__)) for kind in get_args(SealedColumn))
    found = columns(service)
    assert declared == len(found), f"{service}: its sealed columns are constants of its store"
    if found:
        sealed = import_module(f"tallystick.services.{service}.store").SEALED
        assert list(sealed) == found
        (wiring,) = calls(service, "Wiring")
        assert any(
            keyword.arg == "sealed" and isinstance(keyword.value, ast.Name) and keyword.value.id == "SEALED"
            for keyword in wiring.keywords
        ), f"{service}: `wire` gives Wiring(sealed=SEALED)"


@pytest.mark.parametrize("service", BUILT)
async def test_nothing_is_stored_under_a_destroyed_tenant_key(service: str, database_for: DatabaseFor) -> None:
    database = await database_for(f"tallystick.services.{service}", service)
    guarded = {(row["table_name"], row["arguments"].removesuffix("\\000")) for row in await database.query(TRIGGERS)}
    assert guarded == {(each.table, each.name) for each in columns(service) if isinstance(each, TenantKeyColumn)}
