"""What of a platform's data is damaged or lost, seen before any of it is used: the start refuses it, and `doctor` says the same of one
that is stopped. What lies inside the databases only their server can tell.
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

#: Seconds. What is less is over before anybody has read of it.
CLOCK_BEHIND: Final = 600.0


@dataclass(frozen=True, slots=True)
class Fault:
    """`text` says what is wrong, and after its last colon what to do. One that is `mended` by the start itself is only told."""

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
            f"{layout.postgres} is missing, with all that {layout.log_key} was the log of: restore it, or choose another "
            "place for a new platform with --data"
        )
    if not layout.root_key.exists() and (layout.authority.exists() or holds_something(layout.postgres)):
        yield Fault(f"{layout.root_key} is missing, and nothing of the data can be opened without it: restore it")
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
            f"{layout.valkey} is missing, and is begun anew: counters begin at nothing, proofs that were used in the last minute may be used "
            "again, and the log does not know any more how long it was: restore it with the rest, if you have it",
            mended=True,
        )
    if began and not holds_something(layout.nats):
        yield Fault(
            f"{layout.nats} is missing, and is rebuilt from the services' outboxes: nothing is to be done", mended=True
        )
    yield from _ran_later(layout, time.time())


def _ran_later(layout: Layout, now: float) -> Iterator[Fault]:
    """Whether the platform has run at a time that is still to come, by what its supervisor wrote last."""
    try:
        last = layout.log("supervisor").stat().st_mtime
    except FileNotFoundError:
        return
    if last - now > CLOCK_BEHIND:
        ran = rfc3339(datetime.fromtimestamp(last, UTC))
        yield Fault(
            f"the clock is before {ran[:19]}Z, when the platform ran last: payments and webhooks that are to be tried again then, and what "
            "expires then, wait for it, and new transfers are recorded after those of then: set it right, unless it is by now",
            mended=True,
        )


def holds_something(directory: Path) -> bool:
    return directory.is_dir() and any(directory.iterdir())
