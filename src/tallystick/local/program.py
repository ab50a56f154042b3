"""Which version of this program is at work in a process: what a platform runs may be older than the command that looks at it."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from tallystick.local.parts.process import MINIMAL_ENVIRONMENT

#: The checkout, when it is run from one: `src/tallystick/local/program.py` lies in it.
CHECKOUT = Path(__file__).parents[3]


@cache
def program_version() -> str:
    """The version of this process: what was there when it asked for the first time."""
    return installed_version()


def installed_version() -> str:
    """What a process that starts now is of: `0.1.0`, and from a checkout also its commit, `0.1.0 (1f3c9d2)`."""
    version = metadata.version("tallystick")
    commit = _commit()
    return f"{version} ({commit})" if commit else version


def _commit() -> str | None:
    """None where there is no checkout, or no git that would read it."""
    if not (CHECKOUT / ".git").exists():
        return None
    try:
        asked = ["git", "-c", f"safe.directory={CHECKOUT}", "-C", str(CHECKOUT), "rev-parse", "--short", "HEAD"]
        done = subprocess.run(
            asked, capture_output=True, text=True, timeout=5, check=False, env=dict(MINIMAL_ENVIRONMENT)
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
