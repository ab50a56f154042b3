"""The ledger's rules, changed: one forked process for each change, which the tests of the model have to make fail."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

from tools.mutation.source import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "src/tallystick/services/ledger/model"
#: Fast ones first. The simulation's seeds come last, for what the model's own tests let through.
TESTS = (
    "tests/services/ledger/test_model_edges.py",
    "tests/services/ledger/test_model.py",
    "tests/services/ledger/test_reports_model.py",
)
SECONDS = 120
SEEDS = 40
#: Imported once, before the fork: everything that the tests need, but for the ledger.
BEFORE = (
    "_pytest.assertion.rewrite", "hypothesis.stateful", "hypothesis.strategies", "pytest_asyncio", "pytest_timeout",
    "tallystick.chassis.auth", "tallystick.chassis.batching", "tallystick.chassis.db", "tallystick.chassis.idempotency",
    "tallystick.chassis.outbox", "tallystick.contracts.ledger.messages", "tallystick.contracts.ledger.problems", "tests.support.history",
)  # fmt: skip


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the changed source of one module."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        parts = mutant.path.relative_to(ROOT / "src").with_suffix("").parts
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != self.name:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=str(self.mutant.path))

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.mutant.source, str(self.mutant.path), "exec"), module.__dict__)  # noqa: S102 - the mutant


def killed(mutant: Mutant) -> str:
    """By what: `tests`, `simulation`, `time`; empty when it survived. In this process, which is not to be used any more."""
    sys.meta_path.insert(0, _Instead(mutant))
    # A failure is enough, the smallest one is not wanted.
    quick = hypothesis.settings(phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate], database=None)
    hypothesis.settings.register_profile("mutation", quick)
    hypothesis.settings.load_profile("mutation")
    options = ["-x", "-q", "-p", "no:cacheprovider", "--timeout=0", "-W", "ignore"]
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        try:
            # One file after the other: most mutants die in the first, and the others are not even read.
            if any(pytest.main([*options, test]) for test in TESTS):
                return "tests"
            simulate = importlib.import_module("tests.simulation.world").simulate
            logs = importlib.import_module("tallystick.chassis.telemetry.logs")
            logs._process.threshold = 100
            if any(simulate(seed).violations for seed in range(1, SEEDS + 1)):
                return "simulation"
        except Exception:  # noqa: BLE001 - it broke: that is what was wanted
            return "tests"
    return ""


def attempt(mutant: Mutant) -> int:
    """Starts it in a process of its own; the process' id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    signal.alarm(SECONDS)
    verdict = killed(mutant)
    os._exit({"": 0, "tests": 1, "simulation": 2}[verdict])


def run(sample: int | None, seed: int, *, only: str = "") -> int:
    """Tries all mutants, or a random sample; prints survivors and the score, answers how many survived."""
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    for name in BEFORE:
        importlib.import_module(name)
    every = [mutant for path in sorted(MODEL.glob("*.py")) if only in path.name for mutant in mutants(path)]
    # In random order, so that a run that is ended early has tried a fair sample.
    every = random.Random(seed).sample(every, min(sample or len(every), len(every)))  # noqa: S311 - a choice, not a secret
    same = Mutant(MODEL / "rules.py", 0, "", (MODEL / "rules.py").read_text("utf-8"))
    if os.waitstatus_to_exitcode(os.waitpid(attempt(same), 0)[1]):
        raise SystemExit("the tests fail without any change")
    print(f"{len(every)} mutants (seed {seed})", flush=True)
    began = time.monotonic()
    waiting, running, verdicts = list(reversed(every)), {}, {"": 0, "tests": 0, "simulation": 0, "time": 0}
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            mutant = waiting.pop()
            running[attempt(mutant)] = mutant
        child, status = os.wait()
        mutant = running.pop(child)
        verdict = "time" if os.WIFSIGNALED(status) else ("", "tests", "simulation")[os.waitstatus_to_exitcode(status)]
        verdicts[verdict] += 1
        if not verdict:
            print(f"survived: {mutant.path.name}:{mutant.line}: {mutant.what}", flush=True)
        if sum(verdicts.values()) % 10 == 0:
            print(f"{sum(verdicts.values())} tried, {verdicts['']} survived", flush=True)
    # Files that were changed meanwhile would have killed everything.
    if os.waitstatus_to_exitcode(os.waitpid(attempt(same), 0)[1]):
        raise SystemExit(
            "the tests fail without any change now: something was changed while it ran, and it proves nothing"
        )
    found = len(every) - verdicts[""]
    print(
        f"killed {found} of {len(every)}: {100 * found / max(1, len(every)):.1f} % {verdicts}, {time.monotonic() - began:.0f} s"
    )
    return verdicts[""]
