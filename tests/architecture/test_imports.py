"""Floors, islands, purity and the shape of a service, by import-linter (`.importlinter`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.tree import BUILT, ROOT, SERVICES


def test_the_floors_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [str(linter), "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("service", BUILT)
def test_a_service_has_the_shape_that_newcomers_know(service: str) -> None:
    folder = SERVICES / service
    for name in ("README.md", "charter.toml", "policy.cedar", "sql/queries.sql", "sql/migrations"):
        assert (folder / name).exists(), f"services/{service} has no {name}"
    for module in ("app", "api", "worker", "service", "model", "store", "settings"):
        assert (folder / f"{module}.py").exists() or (folder / module / "__init__.py").exists(), (
            f"services/{service} has no module {module}: every service has the same seven"
        )
