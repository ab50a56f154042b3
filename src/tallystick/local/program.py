"""The version of this program. A running platform may be of an older version than the command that asks it."""

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
    """The version of this process, as of the first call."""
    return installed_version()


def installed_version() -> str:
    """The version that a process started now would have: `0.1.0` or, from a checkout, with its commit: `0.1.0 (1f3c9d2)`."""
    version = metadata.version("tallystick")
    commit = _commit()
    return f"{version} ({commit})" if commit else version


def _commit() -> str | None:
    """The commit, or None if there is no checkout, or no git that can read it."""
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
