"""Finds damaged or missing data before any of it is used. The start refuses to go on, and `doctor` reports the same for a stopped platform.
The contents of the databases are not checked: only their server can read them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tallystick.kernel.clock import rfc3339
from tallystick.local import pki, provision
from tallystick.local.layout import Layout, LayoutError
from tallystick.local.parts import postgres
from tallystick.local.secrets import SecretFiles

#: Seconds by which the clock may be behind without a warning: a smaller difference is over before anybody reads about it.
CLOCK_BEHIND: Final = 600.0


@dataclass(frozen=True, slots=True)
class Fault:
    """`text` says what is wrong and, after its last colon, what to do. `mended`: the start repairs it by itself, and only reports it."""

    text: str
    mended: bool = False


def faults(layout: Layout) -> Iterator[Fault]:
    """What is wrong, worst first. Reads only."""
    began = layout.log_key.exists()  # the log has signed: this is no first start
    try:
        provision.pinned_log_key(layout)
    except LayoutError as error:
        yield Fault(str(error))
    if began and not holds_something(layout.postgres):
        yield Fault(
            f"{layout.postgres} is missing, and with it all data of this platform: restore it, or choose another directory for a new "
            "platform with --data"
        )
    if not layout.root_key.exists() and (layout.authority.exists() or holds_something(layout.postgres)):
        yield Fault(f"{layout.root_key} is missing, and the data can't be decrypted without it: restore it")
    if damage := postgres.not_whole(layout.postgres):
        yield Fault(damage)
    try:
        pki.wrapped_keys(layout.authority)
    except pki.PkiError as error:
        yield Fault(str(error))
    for text in SecretFiles(layout.secrets).faults():
        yield Fault(text)
    if began and not holds_something(layout.valkey):
        yield Fault(
            f"{layout.valkey} is missing, and is created anew; counters start at zero, proofs used in the last minute may be used again, and "
            "the size of the log is no longer remembered outside of its database: restore it with the rest, if you have a copy",
            mended=True,
        )
    if began and not holds_something(layout.nats):
        yield Fault(f"{layout.nats} is missing, and is rebuilt from the services' outboxes: nothing to do", mended=True)
    yield from _ran_later(layout, time.time())


def _ran_later(layout: Layout, now: float) -> Iterator[Fault]:
    """Whether the platform ran at a time that is still in the future, by the time of the supervisor's last log line."""
    try:
        last = layout.log("supervisor").stat().st_mtime
    except FileNotFoundError:
        return
    if last - now > CLOCK_BEHIND:
        ran = rfc3339(datetime.fromtimestamp(last, UTC))
        yield Fault(
            f"the clock is before {ran[:19]}Z, when the platform last ran; until then, retries of payments and webhooks and expiries are "
            "delayed, and new transfers are recorded after the last one before: set the clock, unless it is correct now",
            mended=True,
        )


def holds_something(directory: Path) -> bool:
    return directory.is_dir() and any(directory.iterdir())
