"""A planted number goes all the ways through the vault; then everything that was written is searched for it."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from valkey.asyncio import Valkey

from tests.conftest import DatabaseFor
from tests.services.vault.support import CARD, IBAN, Env, Receipts, answered, item, rail, running, slug
from tests.support.http import World
from tests.support.parts import Server, ServiceDatabase

PLANTED = "4929481620517930"
CVC = "9174"


def forms(secret: str) -> Iterator[bytes]:
    """The text itself, its hex, and what each alignment of base64 shows of it."""
    raw = secret.encode()
    yield raw
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    yield secret.encode("utf-16-le")
    for offset in range(3):
        yield base64.b64encode(bytes(offset) + raw)[(0, 2, 3)[offset] : -4]


async def dump(service: ServiceDatabase) -> bytes:
    """Every row of every table as text."""
    tables = await service.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert {"token", "outbox", "idempotency", "data_key"} <= {row["tablename"] for row in tables}
    texts = []
    for table in tables:
        rows = await service.query(f'SELECT t::text AS row FROM "{table["tablename"]}" AS t')
        texts += [row["row"] for row in rows]
    return "\n".join(texts).encode()


async def flow(env: Env, receipts: Receipts) -> None:
    card = {**CARD, "number": PLANTED, "cvc": CVC}
    token = await env.create(card, key="planted")
    assert (await env.edge("POST", "/v1/tokens", {"type": "card", "card": card}, key="planted")).status == 201
    assert (await env.edge("POST", "/v1/tokens", {"type": "card", "card": {**card, "exp_year": 2020}})).status == 422
    assert (await env.edge("POST", "/v1/tokens", {"type": "card", "card": {**card, PLANTED: 1}})).status == 400
    assert (await env.edge("POST", "/v1/tokens", {"type": "card", "card": PLANTED})).status == 400
    assert (await env.edge("GET", f"/v1/tokens/{PLANTED}")).status == 400
    bank = {"type": "bank_account", "bank_account": {"iban": IBAN}}
    assert (await env.edge("POST", "/v1/tokens", bank, key="bank")).status == 201
    path = f"/v1/tokens/{token['id']}"
    revealed = await env.edge("POST", path + "/reveal", {"purpose": "test.check"})
    assert revealed.json["card"]["number"] == PLANTED
    receipts.mode = "refused"
    assert (await env.edge("POST", path + "/reveal", {"purpose": "test.check"})).status == 503
    (result,) = await env.forward(item("r1", token["id"]))
    assert answered(result)["status"] == "approved"
    (result,) = await env.forward(
        item("r2", token["id"], request={"method": "POST", "path": "/voids", "body": "{{card.number}}"})
    )
    assert result["answer"]["status"] == 400
    (result,) = await env.forward(item("r3", token["id"], destination="elsewhere"))
    assert slug(result) == "destination-not-allowed"
    kept = await env.create(card)
    assert (await env.edge("DELETE", path)).status == 204
    # Damage a row, so that an error goes through the whole of it.
    connection = await env.service.connection()
    await connection.execute("UPDATE token SET sealed = sealed || '\\x00' WHERE sealed IS NOT NULL")
    await connection.close()
    assert (await env.edge("POST", f"/v1/tokens/{kept['id']}/reveal", {"purpose": "test.check"})).status >= 500
    assert (await env.mesh("/internal/forward", [item("r4", kept["id"])])).status >= 500


async def test_a_planted_number_is_nowhere(  # noqa: PLR0917 - fixtures
    around: World,
    database_for: DatabaseFor,
    valkey: Valkey,
    directory: Path,
    postgres_server: Server,
    parts_directory: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    service = await database_for("tallystick.services.vault")
    receipts = Receipts()
    async with rail(directory), running(around, service, valkey, directory, receipts=receipts) as env:
        await flow(env, receipts)
    written = {"logs": "".join(capfd.readouterr()).encode(), "rows": await dump(service)}
    assert b"request.done" in written["logs"]
    assert b"fp_" in written["rows"]
    # The rows as they lie on the disk, the write-ahead log and the server's own log among them.
    await postgres_server.run("CHECKPOINT")
    for folder in (parts_directory, directory):
        for file in await asyncio.to_thread(lambda root: [p for p in root.rglob("*") if p.is_file()], folder):
            with suppress(FileNotFoundError):  # the server replaces some of its own files while it runs
                written[str(file)] = await asyncio.to_thread(file.read_bytes)
    assert any("pg_wal" in name for name in written)
    assert any(name.endswith("rail.db") for name in written)
    keys = [value async for value in valkey.scan_iter()]
    written["valkey"] = b"\n".join(keys)
    found = [
        (name, form)
        for secret in (PLANTED, IBAN)
        for form in forms(secret)
        for name, content in written.items()
        if form in content
    ]
    assert found == []
    # Three or four digits are everywhere by chance, so the code is looked for where it would stand beside its name.
    assert not re.search(
        rb"(?<![0-9a-z])(cvc|cvv)[^0-9]{0,10}" + CVC.encode(), written["logs"] + written["rows"], re.IGNORECASE
    )


def test_the_search_finds_what_is_there() -> None:
    for hidden in (
        b"x" + PLANTED.encode(),
        PLANTED.encode().hex().encode(),
        base64.b64encode(b"ab" + PLANTED.encode() + b"c"),
        base64.b64encode(b"a" + PLANTED.encode() + b"bc"),
        base64.b64encode(PLANTED.encode() + b"bc"),
    ):
        assert any(form in hidden for form in forms(PLANTED))
