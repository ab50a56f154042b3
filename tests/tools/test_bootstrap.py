"""Setting up a machine from the lock file alone: what is chosen, and what is refused."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import io
import os
import re
import shutil
import ssl
import subprocess
import sys
import threading
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "tools" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("system", "machine", "libc", "expected"),
    [
        ("Linux", "x86_64", "glibc", "manylinux_2_17_x86_64"),
        ("Linux", "x86_64", "musl", "musllinux_1_1_x86_64"),
        ("Linux", "aarch64", "glibc", "aarch64"),
        ("Darwin", "arm64", "", "macosx_11_0_arm64"),
        ("Darwin", "x86_64", "", "macosx_10_12_x86_64"),
    ],
)
def test_the_wheel_for_this_platform(
    bootstrap: ModuleType, system: str, machine: str, libc: str, expected: str
) -> None:
    package = bootstrap.locked_uv((ROOT / "uv.lock").read_text())
    url, digest = bootstrap.choose_wheel(package, system, machine, libc)
    assert expected in url
    assert len(digest) == 64


def test_no_wheel_says_what_to_do(bootstrap: ModuleType) -> None:
    package = bootstrap.locked_uv((ROOT / "uv.lock").read_text())
    with pytest.raises(bootstrap.SetupError, match=r"no uv for Plan9 on mips: install uv [\d.]+ yourself"):
        bootstrap.choose_wheel(package, "Plan9", "mips", "")


def test_a_lock_file_without_uv_is_damaged(bootstrap: ModuleType) -> None:
    with pytest.raises(bootstrap.SetupError, match="damaged"):
        bootstrap.locked_uv('version = 1\n[[package]]\nname = "other"\n')


def test_the_program_names_no_registry() -> None:
    """Hosts come from the lock file only, so that a mirror is a matter of the lock file."""
    hosts = {url.split("/")[2] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
             for wheel in package.get("wheels", []) if (url := wheel.get("url", ""))}  # fmt: skip
    text = (ROOT / "tools" / "bootstrap.py").read_text() + (ROOT / "Makefile").read_text()
    assert hosts
    assert not any(host in text for host in hosts)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """Files by path behind `https://mirror.test`, served over plain HTTP on loopback."""
    content: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = content.get(self.path)
            self.send_response(200 if found is not None else 404)
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    opened = urllib.request.urlopen

    def urlopen(url: str, timeout: float) -> object:
        return opened(url.replace("https://mirror.test", f"http://127.0.0.1:{server.server_port}"), timeout=timeout)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    yield content
    server.shutdown()
    server.server_close()


def test_a_wheel_that_is_not_the_locked_one_is_not_used(
    bootstrap: ModuleType, served: dict[str, bytes], tmp_path: Path
) -> None:
    served["/uv.whl"] = b"something else"
    target = tmp_path / "uv.whl"
    with pytest.raises(bootstrap.SetupError, match="not using it"):
        bootstrap.download("https://mirror.test/uv.whl", hashlib.sha256(b"the locked one").hexdigest(), target)
    assert list(tmp_path.iterdir()) == []
    bootstrap.download("https://mirror.test/uv.whl", hashlib.sha256(b"something else").hexdigest(), target)
    assert target.read_bytes() == b"something else"


def test_what_is_not_there_or_not_https_is_said(
    bootstrap: ModuleType, served: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del served
    monkeypatch.setattr(bootstrap, "DOWNLOAD_ATTEMPTS", 1)
    with pytest.raises(bootstrap.SetupError, match="404"):
        bootstrap.download("https://mirror.test/none.whl", "0" * 64, tmp_path / "x")
    with pytest.raises(bootstrap.SetupError, match="not https"):
        bootstrap.download("http://mirror.test/uv.whl", "0" * 64, tmp_path / "x")


def test_missing_root_certificates_are_explained(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def urlopen(url: str, timeout: float) -> object:
        raise urllib.error.URLError(ssl.SSLCertVerificationError("[SSL: CERTIFICATE_VERIFY_FAILED] no roots"))

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(bootstrap.SetupError, match="ca-certificates"):
        bootstrap.download("https://mirror.test/uv.whl", "0" * 64, tmp_path / "x")


def test_the_binary_comes_out_executable(bootstrap: ModuleType, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("uv-1.0.data/scripts/uv", "#!/bin/sh\necho uv 1.0\n")
        archive.writestr("uv-1.0.data/scripts/uvx", "no")
        archive.writestr("../../etc/evil", "no")
    wheel = tmp_path / "uv.whl"
    wheel.write_bytes(packed.getvalue())
    bootstrap.unpack_uv(wheel, tmp_path / "uv")
    assert bootstrap.uv_version(str(tmp_path / "uv")) == "1.0"
    assert {path.name for path in tmp_path.iterdir()} == {"uv", "uv.whl"}


def test_the_stamp_changes_with_whatever_decides(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("uv.lock", "pyproject.toml"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    stamps = [bootstrap.stamp_of([], "3.11"), bootstrap.stamp_of(["docs"], "3.11")]
    (tmp_path / "uv.lock").write_text("other")
    stamps.append(bootstrap.stamp_of([], "3.11"))
    stamps.append(bootstrap.stamp_of([], "4.0"))
    assert len(set(stamps)) == 4


@pytest.fixture
def folder(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder to set up, with a `uv` that fails."""
    for name in ("uv.lock", "pyproject.toml"):
        (tmp_path / name).write_text(name)
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\nexit 1\n")
    uv.chmod(0o755)
    for name, value in (("ROOT", tmp_path), ("CACHE", tmp_path / ".cache"), ("VENV", tmp_path / ".venv")):
        monkeypatch.setattr(bootstrap, name, value)
    monkeypatch.setattr(bootstrap, "find_uv", lambda _: str(uv))
    return tmp_path


def whole(folder: Path) -> Path:
    """An environment as it is before its packages are installed."""
    venv = folder / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\n")
    return venv


@pytest.fixture
def system_python(bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The system's Python, and ours was built without a profile."""
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(bootstrap, "SYSTEM_PYTHON", str(python))
    monkeypatch.setattr("sys.base_prefix", "/opt/python")
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: "'--enable-shared'")
    return python


def test_the_systems_python_is_taken_where_ours_has_no_profile(
    bootstrap: ModuleType, system_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = os.path.realpath(sys.executable)
    assert bootstrap.chosen_python(exactly=False) == (str(system_python), sys.version)
    assert bootstrap.chosen_python(exactly=True) == (ours, sys.version)
    monkeypatch.setattr("sysconfig.get_config_var", lambda name: "'--enable-shared' '--enable-optimizations'")
    assert bootstrap.chosen_python(exactly=False) == (ours, sys.version)


def test_the_systems_python_stands_in_for_no_other_version(
    bootstrap: ModuleType, system_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.version_info", (3, 99, 0))
    assert bootstrap.chosen_python(exactly=False)[0] == os.path.realpath(sys.executable)


@pytest.mark.parametrize("content", ["#!/bin/sh\necho 'No module named ssl' >&2; exit 1\n", "no program", None])
def test_a_systems_python_that_does_not_do_is_not_taken(
    bootstrap: ModuleType, system_python: Path, content: str | None
) -> None:
    system_python.unlink()
    if content is not None:
        system_python.write_text(content)
        system_python.chmod(0o755)
    assert bootstrap.chosen_python(exactly=False)[0] == os.path.realpath(sys.executable)


def test_who_names_a_python_gets_it() -> None:
    def program(*arguments: str, **environment: str) -> str:
        shown = subprocess.run(["make", "-n", "setup", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, env=environment | {"PATH": os.environ["PATH"]})  # fmt: skip
        return shown.stdout.strip()

    assert program() == "python3 tools/bootstrap.py"
    assert program("PYTHON=python3.12") == "python3.12 tools/bootstrap.py --exactly"
    assert program(PYTHON="python3.12") == "python3.12 tools/bootstrap.py --exactly"


def test_what_make_can_do_is_listed_also_where_there_are_only_the_core_utilities(tmp_path: Path) -> None:
    """A bare Debian has no `column`."""
    for program in ("sed", "expand"):
        (tmp_path / program).symlink_to(shutil.which(program) or "")
    listed = subprocess.run([shutil.which("make") or "", "help"], cwd=ROOT, capture_output=True, text=True, check=True, env={"PATH": str(tmp_path)}).stdout.splitlines()  # fmt: skip
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [line[:18].split() for line in listed] == [["make", target] for target in targets]
    assert not any(line[18:].startswith(" ") or "##" in line for line in listed)


def test_an_interrupted_change_is_not_taken_for_what_was_there_before(bootstrap: ModuleType, folder: Path) -> None:
    stamp = whole(folder) / ".tallystick-setup"
    stamp.write_text(bootstrap.stamp_of([], bootstrap.chosen_python(exactly=False)[1]))
    bootstrap.sync([])
    with pytest.raises(bootstrap.SetupError, match="failed with status 1"):
        bootstrap.sync(["docs"])
    with pytest.raises(bootstrap.SetupError, match="failed with status 1"):
        bootstrap.sync([])


@pytest.mark.parametrize("settings", [None, ""])
def test_an_environment_that_was_never_finished_is_made_anew(
    bootstrap: ModuleType, folder: Path, settings: str | None
) -> None:
    """Without its settings its Python is the one that it links to, and uv would install into that."""
    venv = whole(folder)
    (venv / "pyvenv.cfg").unlink()
    if settings is not None:
        (venv / "pyvenv.cfg").write_text(settings)
    with pytest.raises(bootstrap.SetupError, match="failed with status 1"):
        bootstrap.sync([])
    assert not venv.exists()


def test_what_is_no_environment_of_ours_is_left_and_said(bootstrap: ModuleType, folder: Path) -> None:
    (folder / ".venv").write_text("elsewhere")
    with pytest.raises(bootstrap.SetupError, match="move it away"):
        bootstrap.sync([])
    assert (folder / ".venv").read_text() == "elsewhere"


def test_a_folder_that_can_not_be_written_is_said(
    bootstrap: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / ".cache").write_text("in the way")
    monkeypatch.setattr("sys.argv", ["bootstrap.py"])
    assert bootstrap.main() == 1
    assert ".cache" in capsys.readouterr().err
