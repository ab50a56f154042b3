"""Settings: one frozen struct out of the environment and secret files; what is wrong is said all at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from tallystick.chassis import settings
from tallystick.kernel.secret import Secret


class Shop(settings.Settings, frozen=True, kw_only=True):
    till: Annotated[int, msgspec.Meta(ge=1)] = 3
    word: str | None = None
    open_late: bool = False
    pin: Secret[bytes] | None = None


BASE = {
    "PATH": "/usr/bin",
    "TALLYSTICK_SERVICE": "shop",
    "TALLYSTICK_LISTEN": "/run/shop.sock",
    "TALLYSTICK_PUBLIC_URL": "https://localhost:8443",
    "TALLYSTICK_MTLS_URL": "https://localhost:8446",
    "TALLYSTICK_TRUST_DOMAIN": "tallystick.test",
}


def secret_file(tmp_path: Path, content: bytes = b"swordfish\n", mode: int = 0o600) -> str:
    file = tmp_path / "secret"
    file.write_bytes(content)
    file.chmod(mode)
    return str(file)


def faults(environ: dict[str, str]) -> str:
    with pytest.raises(settings.SettingsError) as caught:
        settings.load(Shop, environ)
    return str(caught.value)


def test_reads_the_chassis_fields_and_the_services_own(tmp_path: Path) -> None:
    more = {
        "TALLYSTICK_TILL": "7",
        "TALLYSTICK_WORD": "null",
        "TALLYSTICK_OPEN_LATE": "true",
        "TALLYSTICK_DATABASE_PASSWORD_FILE": secret_file(tmp_path),
        "TALLYSTICK_ROOT_KEY_FILE": "/keys/root",
    }
    found = settings.load(Shop, BASE | more)
    assert (found.service, found.till, found.word, found.open_late) == ("shop", 7, "null", True)
    assert found.listen == Path("/run/shop.sock")
    assert found.root_key_file == Path("/keys/root")
    assert found.database_password is not None
    assert found.database_password.reveal() == "swordfish"
    assert "swordfish" not in repr(found)


def test_a_secret_of_bytes_is_kept_to_the_byte(tmp_path: Path) -> None:
    found = settings.load(Shop, BASE | {"TALLYSTICK_PIN_FILE": secret_file(tmp_path, b"\x00\xff\n")})
    assert found.pin is not None
    assert found.pin.reveal() == b"\x00\xff\n"


def test_is_frozen() -> None:
    with pytest.raises(AttributeError):
        settings.load(Shop, BASE).till = 4  # type: ignore[misc]


def test_names_every_fault_at_once() -> None:
    text = faults({"TALLYSTICK_SERVICE": "shop", "TALLYSTICK_TILL": "0", "TALLYSTICK_TIL": "1"})
    assert "TALLYSTICK_LISTEN is not set" in text
    assert "TALLYSTICK_PUBLIC_URL is not set" in text
    assert "TALLYSTICK_TILL: Expected `int` >= 1" in text
    assert "TALLYSTICK_TIL is not a setting; did you mean TALLYSTICK_TILL?" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("TALLYSTICK_TILL", "1.5"),
        ("TALLYSTICK_TILL", "seven"),
        ("TALLYSTICK_SERVICE", "Shop!"),
        ("TALLYSTICK_PUBLIC_URL", "http://localhost"),
        ("TALLYSTICK_PUBLIC_URL", "https://localhost/path"),
        ("TALLYSTICK_ENVIRONMENT", "prod"),
        ("TALLYSTICK_DATABASE_PORT", "0"),
        ("TALLYSTICK_LISTEN", ""),
    ],
)
def test_refuses_a_bad_value(key: str, value: str) -> None:
    assert key in faults(BASE | {key: value})


def test_a_secret_is_not_taken_from_the_environment() -> None:
    text = faults(BASE | {"TALLYSTICK_DATABASE_PASSWORD": "swordfish"})
    assert "TALLYSTICK_DATABASE_PASSWORD_FILE" in text
    assert "swordfish" not in text


@pytest.mark.parametrize("mode", [0o604, 0o620, 0o666])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = secret_file(tmp_path, mode=mode)
    text = faults(BASE | {"TALLYSTICK_NATS_PASSWORD_FILE": path})
    assert f"chmod 600 {path}" in text
    assert "swordfish" not in text


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"x" * (settings.MAX_SECRET_BYTES + 1)])
def test_a_secret_that_is_empty_huge_or_not_text_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "TALLYSTICK_NATS_PASSWORD_FILE" in faults(
        BASE | {"TALLYSTICK_NATS_PASSWORD_FILE": secret_file(tmp_path, content)}
    )


def test_a_secret_that_is_no_plain_file_is_not_waited_for(tmp_path: Path) -> None:
    """Reading a pipe that nobody writes to never ends."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    for path in (pipe, tmp_path):
        assert "is not a plain file" in faults(BASE | {"TALLYSTICK_NATS_PASSWORD_FILE": str(path)})


def test_a_secret_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "No such file" in faults(BASE | {"TALLYSTICK_NATS_PASSWORD_FILE": str(tmp_path / "none")})


def test_a_shard_has_a_name_of_its_own_everywhere() -> None:
    home = settings.load(Shop, BASE)
    assert (home.deployment, home.shard, home.all_shards) == ("shop", "default", ["default"])
    eu = settings.load(Shop, BASE | {"TALLYSTICK_SHARD": "eu", "TALLYSTICK_SHARDS": "eu,us,eu"})
    assert (eu.deployment, eu.all_shards) == ("shop-eu", ["default", "eu", "us"])
    for wrong in ("", "Eu", "e_u", "-eu", "eu\n", "e" * 33):
        assert "TALLYSTICK_SHARD:" in faults(BASE | {"TALLYSTICK_SHARD": wrong}), wrong
    assert "TALLYSTICK_SHARDS:" in faults(BASE | {"TALLYSTICK_SHARDS": "eu;us"})
