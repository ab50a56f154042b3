"""Finds problems of the machine, the parts and the data before they hurt. Each check says what it found, the verdict, and what to do."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec
import psutil

from tallystick.chassis.keys import root as root_key
from tallystick.local import state as states
from tallystick.local.layout import Layout, LayoutError, belongs
from tallystick.local.parts.envoy import envoy_version
from tallystick.local.parts.nats import nats_version
from tallystick.local.parts.postgres import postgres_version
from tallystick.local.parts.process import ProcessFailed
from tallystick.local.parts.valkey import valkey_version
from tallystick.local.ports import ports, why_not
from tallystick.local.secrets import read_passphrase
from tallystick.local.whole import faults

GIB: Final = 1 << 30
#: Bytes that the idle platform needs, with room for its caches.
MEMORY: Final = 2 * GIB
DISK_LEAST: Final = GIB
DISK_COMFORT: Final = 10 * GIB
FILES: Final = 4096

Verdict = Literal["ok", "warning", "failed"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def examine(layout: Layout, passphrase_file: Path | None = None) -> Iterator[Finding]:
    """All checks; each depends on none after it. Reads only, so it is safe beside a running platform. `passphrase_file`: of a sealed root key."""
    yield _python()
    yield _system()
    yield _cores(os.cpu_count() or 1)
    yield _memory(psutil.virtual_memory().total, psutil.virtual_memory().available)
    yield _files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    yield _clock()
    yield from _parts()
    try:
        layout.check()
    except LayoutError as error:
        yield _refused("data", error)
        return  # the other checks need a usable data directory
    yield _disk(layout.data)
    directory = _directory(layout)
    yield directory
    if directory.verdict == "failed":
        return
    yield from _modes(layout)
    yield from _content(layout, passphrase_file)
    yield from _ports(layout)


def _python() -> Finding:
    found = f"{platform.python_version()} at {sys.executable}"
    return Finding(name="python", verdict="ok", found=found)


def _system() -> Finding:
    found = f"{platform.system()} {platform.release()} on {platform.machine()}"
    if sys.platform != "linux":
        return Finding(
            name="system",
            verdict="failed",
            found=found,
            remedy="the local platform needs Linux: use a virtual machine or a container",
        )
    return Finding(name="system", verdict="ok", found=found)


def _cores(count: int) -> Finding:
    if count < 2:
        return Finding(
            name="cores",
            verdict="warning",
            found=str(count),
            remedy="use 2 cores or more: with one, the platform works at less than half the rate",
        )
    return Finding(name="cores", verdict="ok", found=str(count))


def _memory(total: int, available: int) -> Finding:
    found = f"{available / GIB:.1f} GiB available of {total / GIB:.1f} GiB"
    if available < MEMORY:
        return Finding(
            name="memory",
            verdict="warning",
            found=found,
            remedy=f"free {MEMORY // GIB} GiB; with less, the machine may swap",
        )
    return Finding(name="memory", verdict="ok", found=found)


def _disk(data: Path) -> Finding:
    place = next(path for path in (data, *data.parents) if path.exists())
    free = shutil.disk_usage(place).free
    found = f"{free / GIB:.1f} GiB free at {place}"
    if free < DISK_LEAST:
        return Finding(
            name="disk",
            verdict="failed",
            found=found,
            remedy="free at least 1 GiB, or choose another directory with --data",
        )
    if free < DISK_COMFORT:
        return Finding(
            name="disk",
            verdict="warning",
            found=found,
            remedy="this is enough for a trial; a million payments take about 5 GiB",
        )
    return Finding(name="disk", verdict="ok", found=found)


def _files(hard: int) -> Finding:
    found = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        return Finding(
            name="open files",
            verdict="failed",
            found=found,
            remedy=f"raise the hard limit: `ulimit -Hn {FILES}` as root, or in limits.conf",
        )
    return Finding(name="open files", verdict="ok", found=f"{found} (hard limit)")


def _clock() -> Finding:
    now = time.time()
    # The program's files are from the past. A clock before their time makes every certificate and proof invalid.
    newest = max((path.stat().st_mtime for path in Path(__file__).parent.glob("*.py")), default=0.0)
    text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    if now + 86400 < newest:
        return Finding(
            name="clock",
            verdict="failed",
            found=f"{text} is before this program was installed",
            remedy="set the clock (`timedatectl set-ntp true`): tokens, proofs and certificates depend on it",
        )
    return Finding(name="clock", verdict="ok", found=text)


def _parts() -> Iterator[Finding]:
    versions: list[tuple[str, Callable[[], str]]] = [
        ("postgres", postgres_version),
        ("nats", nats_version),
        ("valkey", valkey_version),
        ("envoy", envoy_version),
    ]
    for name, version in versions:
        try:
            yield Finding(name=name, verdict="ok", found=version())
        except (OSError, ProcessFailed, ValueError, IndexError) as error:
            yield Finding(
                name=name,
                verdict="failed",
                found=str(error),
                remedy="install the parts with `make setup`; on musl (Alpine) there are no wheels of Envoy",
            )


def _refused(name: str, error: LayoutError) -> Finding:
    return _told(name, "failed", str(error))


def _told(name: str, verdict: Verdict, text: str) -> Finding:
    """A finding from a text that says what is wrong and, after its last colon if it has one, what to do."""
    found, colon, remedy = text.rpartition(": ")
    return (
        Finding(name=name, verdict=verdict, found=found, remedy=remedy)
        if colon
        else Finding(name=name, verdict=verdict, found=text)
    )


def _directory(layout: Layout) -> Finding:
    data = layout.data
    if data.exists() and data.stat().st_uid != os.geteuid():
        return Finding(
            name="data",
            verdict="failed",
            found=belongs(data, data.stat()),
            remedy="run the command as that user, or choose another directory with --data",
        )
    # The directory may not exist yet; it will be created in its nearest existing parent.
    ground = next(path for path in (data, *data.parents) if path.exists())
    if not os.access(ground, os.W_OK | os.X_OK):
        return Finding(
            name="data",
            verdict="failed",
            found=f"{ground} is not writable",
            remedy="choose another directory with --data or TALLYSTICK_HOME",
        )
    try:
        layout.check_content()
    except LayoutError as error:
        return _refused("data", error)
    if ground != data:
        return Finding(name="data", verdict="ok", found=f"{data} will be created by the first `tallystick up`")
    inside = layout.data in layout.run.parents
    where = "" if inside else f", sockets in {layout.run} (the path of the data directory is too long for sockets)"
    return Finding(name="data", verdict="ok", found=f"{data}{where}")


def _modes(layout: Layout) -> Iterator[Finding]:
    """Whether other users can read the secrets."""
    if not layout.data.exists():
        return
    open_to_others = []
    secret_files = [path for path in layout.secrets.rglob("*") if path.is_file()] if layout.secrets.exists() else []
    for path in (layout.data, layout.secrets, layout.run, *secret_files):
        with contextlib.suppress(FileNotFoundError):
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                open_to_others.append(path)
    if open_to_others:
        shown = ", ".join(map(str, open_to_others[:5]))
        yield Finding(
            name="modes",
            verdict="failed",
            found=f"other users may read {shown}",
            remedy="run `chmod 700` on the directories and `chmod 600` on the files, and assume that the secrets are known: delete the "
            "passwords while the platform is stopped, and it makes new ones; never delete root.key, without which the data can't be read, "
            "but run `tallystick keys rotate-root`",
        )
    else:
        yield Finding(name="modes", verdict="ok", found="no other user can read the secrets")


def _content(layout: Layout, passphrase_file: Path | None) -> Iterator[Finding]:
    """What a start would say about the data. Skipped while the platform is running, and using it."""
    if not layout.secrets.exists() or states.Lock.held(layout.lock):
        return
    found = list(faults(layout))
    for fault in found:
        yield _told("content", "warning" if fault.mended else "failed", fault.text)
    if layout.root_key.exists():
        try:
            root_key.versions(layout.root_key, read_passphrase(passphrase_file))
        except (root_key.RootError, LayoutError, OSError, ValueError) as error:
            yield _told("root key", "failed", str(error))
            return
    if not found:
        yield Finding(
            name="content",
            verdict="ok",
            found="nothing is missing or damaged, as far as can be seen while it is stopped",
        )


def _ports(layout: Layout) -> Iterator[Finding]:
    running = states.Lock.held(layout.lock)
    try:
        state = states.read(layout) or states.plan(None, None, None, None)
    except LayoutError as error:
        yield _refused("settings", error)
        return
    for port in ports(state):
        label = f"port {port.number} ({port.what})"
        if running:
            yield Finding(name=label, verdict="ok", found="in use by this platform")
        elif why := why_not(port.number):
            yield Finding(
                name=label,
                verdict="failed",
                found=f"not available: {why}",
                remedy=f"stop the program that uses it, or choose another port with `tallystick up {port.option}`",
            )
        else:
            yield Finding(name=label, verdict="ok", found="free")
