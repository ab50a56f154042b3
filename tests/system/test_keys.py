"""The root key's rotation with its commands: while the platform runs, under a passphrase, and what it does not let go."""

from __future__ import annotations

from pathlib import Path

from tests.system.conftest import NewPlatform


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
