"""Each service and its OpenAPI document say the same, asked by a tool that knows nothing else of the platform.

Schemathesis makes requests out of the document, good ones and bad ones, alone and one after another, with what earlier answers named; none may
be answered by an accident, by a status, a media type, a header or a body that the document does not have, and nothing may be taken
that the document forbids, or without a token. The seed is fixed: what a change makes of it is the change's doing.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import defaultdict
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.stranger import Client, Edge
from tests.system.conftest import EVERY_SCOPE, Credentials, PlatformUnderTest
from tests.system.test_mutual_tls import context, token

ROOT = Path(__file__).parents[2]
TENANT = "contract"
SEED = 20261129
#: Of the generated requests to an operation, beside those that go to the limits of each field.
EXAMPLES = 12
SERVICES = ("audit", "identity", "ledger", "notify", "payments", "vault")
#: Bad input may meet any of these before somebody looks at it: a body can be too large and the book that it names on another shard.
REFUSED = [400, 401, 403, 404, 405, 406, 408, 409, 413, 415, 421, 422, 429]
CONFIGURATION = f"""
seed = {SEED}
continue-on-failure = true
hooks = "tests.system.contract_hooks"

[warnings]
enabled = false

[generation]
max-examples = {EXAMPLES}
database = "none"
no-shrink = true

[phases.coverage]
# QUERY is not known to the proxy's parser: 400
unexpected-methods = ["GET", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE"]

[checks.negative_data_rejection]
expected-statuses = {REFUSED}

[checks.positive_data_acceptance]
# A schema can't say which currencies there are, what a cursor is, or that a check digit is right.
enabled = false

[[operations]]
# What is wrong with a line is told when the import runs, with all others.
include-path = "/v1/imports/{{id}}/lines"
checks.negative_data_rejection.enabled = false
"""


class Caller(NamedTuple):
    certificate: Path
    """With its key."""
    token: str
    """Bound to it, with every scope."""
    ids: dict[str, list[str]]
    """Of things that are there, by their prefix."""


@pytest.fixture
async def caller(platform: PlatformUnderTest, credentials: Credentials, tmp_path: Path) -> Caller:
    credentials(TENANT)  # makes the tenant
    file, both = tmp_path / "client.json", tmp_path / "client.pem"
    bound = ("--bind", "certificate", "--scope", EVERY_SCOPE, "--tenant", TENANT, "--out", str(file))
    made = platform.cli("client", "create", tmp_path.name, *bound)
    assert made.status == 0, made
    written = json.loads(file.read_text())
    both.write_text(written["tls_client_certificate"] + written["tls_client_key"])
    both.chmod(0o600)
    async with Edge(platform.mtls_port, platform.ca) as edge:
        edge.context = context(platform, both, both)
        access = await token(Client(edge, file))
        return Caller(both, access, await things(edge, access))


async def things(edge: Edge, access: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    keys = count(1)

    async def make(path: str, body: dict[str, Any]) -> Any:
        headers = [("Authorization", f"Bearer {access}"), ("Idempotency-Key", f"made-{next(keys)}")]
        headers.append(("Content-Type", "application/json"))
        answer = await edge.send("POST", path, headers, json.dumps(body).encode())
        assert answer.status in {200, 201, 202}, (path, answer)
        if "id" in answer.json:
            found[answer.json["id"][:3]].append(answer.json["id"])
        return answer.json

    euro = {"amount": "5000", "currency": "EUR"}
    for name, side in (("bank", "debit"), ("anna", "credit"), ("ben", "credit")):
        await make("/v1/accounts", {"name": name, "currency": "EUR", "normal_side": side})
    bank, anna, ben = found["acc"]
    both = {"debit_account": bank, "credit_account": anna, "amount": euro}
    posted = await make("/v1/transfers", {"transfers": [{"kind": "post", **both}, {"kind": "hold", **both}]})
    found["trf"] += [each["id"] for each in posted["data"]]
    await make("/v1/transactions", {"transfers": [{"kind": "post", **both}]})
    card = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2032}
    await make("/v1/tokens", {"type": "card", "card": card})
    source = {"type": "account", "account": anna}
    paid = await make("/v1/payments", {"amount": euro, "source": source, "destination": {"account": ben}})
    found["fct"].append(paid["receipt"])
    held = {"amount": euro, "source": {"type": "card", "token": found["tok"][0]}, "destination": {"account": ben}}
    await make("/v1/payments", {**held, "capture": "manual"})
    await make("/v1/refunds", {"payment": paid["id"], "amount": {"amount": "1", "currency": "EUR"}})
    await make("/v1/webhook_endpoints", {"url": "https://localhost:9/hook", "events": ["*"]})
    await make("/v1/imports", {"rows": 1, "sha256": "0" * 64})
    return found


async def document(platform: PlatformUnderTest, service: str) -> dict[str, Any]:
    async with Edge(platform.port, platform.ca) as edge:
        answer = await edge.send("GET", f"/openapi/{service}.json")
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json
    return found


@pytest.mark.timeout(240)
@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_is_as_its_document_says(
    platform: PlatformUnderTest, caller: Caller, service: str, tmp_path: Path
) -> None:
    schema, configuration = tmp_path / f"{service}.json", tmp_path / "schemathesis.toml"
    schema.write_text(json.dumps(await document(platform, service)))
    configuration.write_text(CONFIGURATION)
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(configuration), "run", str(schema),
        "--url", f"https://localhost:{platform.mtls_port}", "--header", f"Authorization: Bearer {caller.token}",
        "--tls-verify", str(platform.ca), "--request-cert", str(caller.certificate),
        "--suppress-health-check", "all", "--no-color",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "REQUESTS_CA_BUNDLE": str(platform.ca),
        "PYTHONPATH": str(ROOT),
        "CONTRACT_IDS": json.dumps(caller.ids),
    }
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
