"""The database's guard of payments and refunds: each thing that it checks of a row is made wrong alone, and it says which of its checks refused
that. Everything is tried in transactions that are rolled back, so that it can be run for each mutant of the guard
(`python -m tools.mutation sql`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
import pytest
import pytest_asyncio

from tests.support.guards import refused_by
from tests.support.parts import Server

pytestmark = pytest.mark.asyncio(loop_scope="module")

USUAL = {
    "id": "gen_random_uuid()", "tenant": "'acme'", "client_id": "'cli'", "status": "'received'", "amount": "100", "currency": "'EUR'",
    "token": "'tok'", "destination": "gen_random_uuid()", "capture": "'manual'", "receipt": "gen_random_uuid()", "created_at": "now()",
    "updated_at": "now()",
}  # fmt: skip
REFUND = {
    "id": "gen_random_uuid()", "payment": "(SELECT id FROM payment LIMIT 1)", "tenant": "'acme'", "client_id": "'cli'", "status": "'pending'",
    "amount": "5", "currency": "'EUR'", "by_card": "true", "receipt": "gen_random_uuid()", "created_at": "now()", "updated_at": "now()",
}  # fmt: skip


def row(table: str, usual: dict[str, str], changes: dict[str, str]) -> str:
    said = {**usual, **changes}
    return f"INSERT INTO {table} ({', '.join(said)}) VALUES ({', '.join(said.values())})"


def payment(**changes: str) -> str:
    return row("payment", USUAL, changes)


def refund(**changes: str) -> str:
    return row("refund", REFUND, changes)


def twice(sql: str) -> str:
    return f"{sql}; {sql}"


@dataclass
class Filled:
    """A payment of 100, settled with 60 captured, of which 10 are refunded and 5 set aside for a refund that is there."""

    connection: asyncpg.Connection[asyncpg.Record]

    async def refused(self, sql: str) -> str | None:
        """What refuses it, None if nothing does. Nothing is kept."""
        return await refused_by(self.connection, [(sql, ())])


@asynccontextmanager
async def filled_on(server: Server) -> AsyncIterator[Filled]:
    service = await server.database("tallystick.services.payments")
    connection = await service.connection()
    await connection.execute(payment(status="'settled'", captured="60", refunded="10", refunding="5"))
    await connection.execute(refund())
    yield Filled(connection)
    await connection.close()
    await server.drop(service)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(postgres_server: Server) -> AsyncIterator[Filled]:
    async with filled_on(postgres_server) as made:
        yield made


BY = ("risk", "ledger", "issuer", "platform")
DISPUTE = "INSERT INTO dispute VALUES ('dsp', {payment}, now())"
CLEARING = "INSERT INTO clearing VALUES ('acme', {currency}, gen_random_uuid(), 'cli')"
CURSOR = "INSERT INTO dispute_cursor VALUES ('sandbox', {position})"
TAKEN = (
    *(payment(status=f"'{one}'") for one in ("received", "authorized", "captured", "declined", "canceled", "failed", "expired")),
    *(payment(capture=f"'{one}'") for one in ("automatic", "manual")),
    *(payment(risk_decision=f"'{one}'") for one in ("allow", "deny", "unscored")),
    *(payment(intent=f"'{one}'") for one in ("capture", "cancel", "expire")),
    *(payment(declined_by=f"'{one}'") for one in BY),
    payment(token="NULL", source="gen_random_uuid()"),
    payment(amount="1", captured="1", refunded="1", intent_amount="1", status="'settled'"),
    payment(captured="100", refunding="100"),
    payment(captured="100", refunded="40", refunding="60"),
    *(refund(status=f"'{one}'") for one in ("pending", "succeeded", "failed")),
    *(refund(failed_by=f"'{one}'") for one in BY),
    refund(amount="1"),
    DISPUTE.format(payment="(SELECT id FROM payment)"),
    "; ".join(CLEARING.format(currency=one) for one in ("'EUR'", "'USD'")),
    CURSOR.format(position=1),
)  # fmt: skip
CHECKED = (
    (payment(status="'lost'"), "payment_status_check"),
    (payment(amount="0"), "payment_amount_check"),
    (payment(currency="'EURO'"), "payment_currency_check"),
    (payment(currency="'EU'"), "payment_currency_check"),
    (payment(captured="-1", refunded="0"), "payment_check"),
    (payment(captured="101"), "payment_check"),
    (payment(captured="1", refunded="-1"), "payment_refunded_check"),
    (payment(captured="1", refunding="-1"), "payment_refunding_check"),
    (payment(capture="'later'"), "payment_capture_check"),
    (payment(risk_decision="'maybe'"), "payment_risk_decision_check"),
    (payment(intent="'refund'"), "payment_intent_check"),
    (payment(intent_amount="-1"), "payment_check1"),
    (payment(intent_amount="101"), "payment_check1"),
    (payment(declined_by="'nobody'"), "payment_declined_by_check"),
    (payment(token="NULL"), "payment_one_source"),
    (payment(source="gen_random_uuid()"), "payment_one_source"),
    (payment(captured="10", refunded="11"), "payment_refunds_within_captured"),
    (payment(captured="10", refunding="11"), "payment_refunds_within_captured"),
    (payment(captured="10", refunded="6", refunding="5"), "payment_refunds_within_captured"),
    ("UPDATE payment SET refunding = 51", "payment_refunds_within_captured"),
    (payment(status="'settled'"), "payment_captured_when_settled"),
    (payment(id="(SELECT id FROM payment)"), "payment_pkey"),
    (refund(status="'lost'"), "refund_status_check"),
    (refund(amount="0"), "refund_amount_check"),
    (refund(currency="'EURO'"), "refund_currency_check"),
    (refund(currency="'EU'"), "refund_currency_check"),
    (refund(failed_by="'nobody'"), "refund_failed_by_check"),
    (refund(id="(SELECT id FROM refund)"), "refund_pkey"),
    (refund(payment="gen_random_uuid()"), "refund_payment_fkey"),
    (twice(CLEARING.format(currency="'EUR'")), "clearing_pkey"),
    (twice(DISPUTE.format(payment="(SELECT id FROM payment)")), "dispute_pkey"),
    (DISPUTE.format(payment="gen_random_uuid()"), "dispute_payment_fkey"),
    (CURSOR.format(position=0), "dispute_cursor_position_check"),
    (twice(CURSOR.format(position=1)), "dispute_cursor_pkey"),
)  # fmt: skip


async def test_right_rows_are_taken(filled: Filled) -> None:
    """Else the refusals below would prove nothing."""
    for sql in TAKEN:
        assert await filled.refused(sql) is None, sql


async def test_each_check_of_a_payment_and_its_refunds(filled: Filled) -> None:
    for sql, constraint in CHECKED:
        assert await filled.refused(sql) == constraint, sql
