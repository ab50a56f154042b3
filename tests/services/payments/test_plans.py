"""What the reading queries look at, by PostgreSQL's own account: as much as they answer, not all that there is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tallystick.chassis.db import Queries
from tests.conftest import DatabaseFor

queries = Queries.load("tallystick.services.payments")

#: Payments of one tenant; every hundredth has a reference of its own.
CROWD = 3000


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_a_payment_is_found_by_its_reference_among_many(database_for: DatabaseFor, mode: str) -> None:
    service = await database_for("tallystick.services.payments")
    connection = await service.connection()
    try:
        await connection.execute(
            "INSERT INTO payment (id, tenant, client_id, status, amount, currency, captured, source, destination, capture, reference,"
            " receipt, created_at, updated_at) SELECT gen_random_uuid(), 'acme', 'c', 'settled', 1, 'EUR', 1, gen_random_uuid(),"
            " gen_random_uuid(), 'automatic', CASE WHEN n % 100 = 0 THEN 'order-' || n END, gen_random_uuid(), now(), now()"
            f" FROM generate_series(1, {CROWD}) AS n"
        )
        await connection.execute("ANALYZE payment")
        await connection.execute(f"SET plan_cache_mode = {mode}")
        await connection.execute(f"PREPARE found AS {queries.payments_by_reference.sql}")
        for reference, rows in (("order-700", 1), ("order-701", 0)):
            explained = "EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE found ('acme', NULL, NULL, 51, '{}')"
            (answer,) = await connection.fetch(explained.format(reference))
            scan: dict[str, Any] = json.loads(answer[0])[0]["Plan"]
            while "Plans" in scan:
                (scan,) = scan["Plans"]
            assert scan["Index Name"] == "payment_by_reference"
            assert (scan["Actual Rows"], scan.get("Rows Removed by Filter", 0)) == (rows, 0)
    finally:
        await connection.close()
