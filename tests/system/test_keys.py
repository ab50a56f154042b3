"""The root key's rotation with its commands: while the platform runs, under a passphrase, and what it does not let go."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from tests.system.conftest import NewPlatform, PlatformUnderTest


def test_the_root_key_is_rotated_while_the_platform_runs_and_forgotten_when_nothing_needs_it(
    new_platform: NewPlatform, tmp_path: Path
) -> None:
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("a passphrase that is long enough\n")
    passphrase.chmod(0o600)
    platform = new_platform(TALLYSTICK_ROOT_PASSPHRASE_FILE=str(passphrase))
    platform.start()
    sealed = platform.cli("client", "create", "one", "--scope", "payments:read", "--out", str(tmp_path / "one.json"))
    assert sealed.status == 0, sealed.err
    found = platform.cli("keys", "status", "--json")
    assert found.status == 0, found.err
    assert found.json["root"] == {"current": 1, "versions": [1], "in_use": [1]}
    assert {each["root_version"] for each in found.json["services"]} == {1}
    assert {"vault", "identity", "notify", "audit"} <= {each["service"] for each in found.json["services"]}
    assert all(each["rotates_at"] > each["created_at"] for each in found.json["services"])

    rotated = platform.cli("keys", "rotate-root", "--json")
    assert (rotated.status, rotated.json["current"]) == (0, 2)
    found = platform.cli("keys", "status", "--json")
    assert (found.status, found.json["root"]) == (1, {"current": 2, "versions": [1, 2], "in_use": [1, 2]})
    # Services wrap their keys anew one by one while this is asked; the certificate authority does it only when the platform starts.
    refused = platform.cli("keys", "forget-root", "1")
    assert refused.status == 1
    assert "still wraps keys of" in refused.err
    assert "the certificate authority" in refused.err
    answer = platform.cli("call", "GET", "/v1/payments", "--client", str(tmp_path / "one.json"))
    assert answer.status == 0, answer.err

    assert platform.stop() == 0
    stopped = platform.cli("keys", "status", "--json")
    assert (stopped.json["services"], stopped.json["root"]["current"]) == (None, 2)
    assert platform.cli("keys", "forget-root", "1").status == 3
    platform.start()
    found = platform.cli("keys", "status", "--json")
    assert (found.status, found.json["root"]["in_use"]) == (0, [2])
    assert platform.cli("keys", "forget-root", "2").status == 1  # never the current one
    assert platform.cli("keys", "forget-root", "1").status == 0
    assert platform.stop() == 0
    platform.start()
    assert platform.cli("keys", "status", "--json").json["root"] == {"current": 2, "versions": [2], "in_use": [2]}
    answer = platform.cli("call", "GET", "/v1/payments", "--client", str(tmp_path / "one.json"))
    assert answer.status == 0, answer.err


def test_an_operator_has_a_tenants_data_sealed_anew_while_the_platform_runs(
    new_platform: NewPlatform, tmp_path: Path
) -> None:
    platform = new_platform()
    platform.start()
    client = str(tmp_path / "one.json")
    made = platform.cli("client", "create", "one", "--scope", "tokens:write tokens:read tokens:reveal", "--out", client)
    assert made.status == 0, made.err
    number = {"number": "4242424242424242", "exp_month": 12, "exp_year": 2035}
    body = json.dumps({"type": "card", "card": number})
    tokens = [platform.cli("call", "POST", "/v1/tokens", "--client", client, "--body", body) for _ in range(2)]
    ids = [each.json["id"] for each in tokens]
    assert platform.cli("call", "DELETE", f"/v1/tokens/{ids[0]}", "--client", client).status == 0

    def singles() -> tuple[dict[str, Any], list[dict[str, Any]]]:
        found = platform.cli("keys", "status", "--json")
        assert found.status == 0, found.err
        (vault,) = [each for each in found.json["data_keys"]["singles"] if each["service"] == "vault"]
        return vault, found.json["asked"]

    before, asked = singles()
    assert (before["tenant"], before["active"], before["due"], before["retired"], asked) == ("default", 1, 0, 0, [])
    assert before["rotates_at"] > before["oldest_at"]
    for tenant in ("platform", "nobody"):
        assert platform.cli("keys", "rotate", "vault", "--tenant", tenant).status == 1
    assert platform.cli("keys", "rotate", "nothing").status == 2
    rotated = platform.cli("keys", "rotate", "vault", "--tenant", "default", "--json")
    assert (rotated.status, rotated.json) == (0, {"service": "vault", "tenant": "default"})
    ends = time.monotonic() + 180
    while (state := singles())[1]:
        assert time.monotonic() < ends, state
        time.sleep(1)
    after = state[0]
    assert (after["active"], after["due"], after["retired"]) == (1, 0, 1)
    assert after["oldest_at"] > before["oldest_at"]
    assert "keys of single values: 1, the oldest from " in (told := platform.cli("keys", "status").out)
    assert "older keys, deleted within the hour: 1" in told
    shown = platform.cli(
        "call", "POST", f"/v1/tokens/{ids[1]}/reveal", "--client", client, "--body", '{"purpose": "test.check"}'
    )
    assert shown.json["card"] == number
    assert "vault.values_have_their_keys" in platform.verified()
    assert asyncio.run(_told_of_keys(platform)) == [{"kind": "value", "keys": 1, "version": None}]


async def _told_of_keys(platform: PlatformUnderTest) -> list[Any]:
    async with platform.superuser("vault") as database:
        rows = await database.fetch("SELECT fact FROM outbox WHERE type = 'vault.keys.rotated'")
    return [json.loads(row["fact"])["data"] for row in rows]
