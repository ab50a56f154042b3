"""The rules that move money, changed: one forked process for each change, which the tests of the model have to make fail."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.abc
import importlib.util
import inspect
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

from tools.mutation.source import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src/tallystick"
#: What is changed: each module here, or this one.
RULES = ("services/ledger/model", "services/payments/model", "services/risk/model.py", "kernel/money.py")
#: What tests the deciding of commands, in all the ledger's modules that take part in it: the fast ones first. The simulation's seeds come last, for
#: what the model's own tests let through.
DECIDING = (
    "test_model_edges.py",
    "test_model_limits.py",
    "test_model_units.py",
    "test_model_approvals.py",
    "test_dated.py",
    "test_model.py",
)
#: The tests of each other module; those of deciding commands have nothing to say about it.
OF: dict[str, tuple[str, ...]] = {
    "approvals": ("test_model_approvals.py", "test_approvals.py"),
    "books": ("test_model_names.py",),
    "categories": ("test_model_names.py",),
    "chart": ("test_model_names.py", "test_model_settings.py"),
    "exchange": ("test_exchange.py",),
    "explain": ("test_model_reports.py", "test_reports_model.py"),
    "interbook": ("test_model_interbook.py",),
    "model": ("test_model.py",),
    "money": ("test_money.py",),
    "own": ("test_model.py",),
    "paths": ("test_model_names.py",),
    "payment": ("test_model.py",),
    "records": ("test_model_records.py",),
    "refund": ("test_model.py",),
    "reports": ("test_model_reports.py", "test_reports_model.py"),
    "search": ("test_model_names.py",),
    "settings": ("test_model_settings.py",),
    "statement": ("test_model_reports.py", "test_reports_model.py"),
}
#: Of processor time, in which a mutant has to survive, with the tests of deciding and with those of another module: how busy the machine is with
#: other things kills none.
SECONDS, SECONDS_OF = 60, 15
#: Of memory: what goes on for ever may take ever more.
BYTES = 4 * 2**30
SEEDS = 40
#: A failure is enough, the smallest one is not wanted; and the same mutant has the same end each time, however slow the machine is.
QUICK = hypothesis.settings(
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    database=None,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
#: Imported once, before the fork: everything that the tests need, but for what is changed. The kernel is needed by all, see `killed`.
BEFORE = (
    "_hypothesis_pytestplugin", "_pytest.assertion.rewrite", "_pytest.junitxml", "_pytest.pastebin", "_pytest.unittest", "aiohttp.web",
    "hypothesis.internal.conjecture.optimiser", "hypothesis.stateful", "hypothesis.strategies", "joserfc.jwk", "joserfc.jws", "lxml.etree", "nats", "pdb",
    "pytest_asyncio", "tallystick.chassis.auth", "tallystick.chassis.batching", "tallystick.chassis.db", "tallystick.chassis.idempotency",
    "tallystick.chassis.outbox", "tallystick.chassis.web", "tallystick.contracts.ledger.client", "tallystick.contracts.ledger.messages",
    "tallystick.contracts.ledger.problems", "tests.support.history", "tests.support.parts",
)  # fmt: skip


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the changed source of one module."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        parts = mutant.path.relative_to(ROOT / "src").with_suffix("").parts
        self.name = ".".join(parts)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if fullname != self.name:
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=str(self.mutant.path))

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.mutant.source, str(self.mutant.path), "exec"), module.__dict__)  # noqa: S102 - the mutant


class _Alone:
    """Leaves out the tests that need a database. Those wait for it, so they are asynchronous; those of the model alone are not. Random ones, which
    take longest, come last.
    """

    @staticmethod
    def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
        alone = [item for item in items if not inspect.iscoroutinefunction(inspect.unwrap(item.obj))]  # type: ignore[attr-defined]
        items[:] = sorted(alone, key=lambda item: hypothesis.is_hypothesis_test(item.obj))  # type: ignore[attr-defined]


def modules() -> list[Path]:
    """The package's own file says again what is in its modules."""
    found = [path for rules in RULES for path in sorted((SOURCE / rules).glob("*.py")) or [SOURCE / rules]]
    return [path for path in found if path.stem != "__init__"]


def tests_of(path: Path) -> Path:
    """The folder of a module's tests."""
    place = path.parent.parent if path.parent.name == "model" else path.parent
    return ROOT / "tests" / place.relative_to(SOURCE)


def killed(mutant: Mutant) -> str:
    """By what: `tests`, `simulation`; empty when it survived. In this process, which is not to be used any more."""
    instead = _Instead(mutant)
    sys.meta_path.insert(0, instead)
    if instead.name in sys.modules:
        for name in [name for name in sys.modules if name.partition(".")[0] in {"tallystick", "tests"}]:
            del sys.modules[name]
    hypothesis.settings.register_profile("mutation", QUICK)
    hypothesis.settings.load_profile("mutation")
    # No plugins, nor the settings that are theirs: what they import costs more than a module's tests, and tests that wait are left out.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = [
        "-x",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        str(ROOT),
        "--import-mode=importlib",
        "--noconftest",
        "-W",
        "ignore",
    ]
    options += ["-p", "no:cacheprovider", "--assert=plain"]
    tests = OF.get(mutant.path.stem)
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        try:
            # One file after the other: most mutants die in the first, and the others are not even read.
            folder = tests_of(mutant.path)
            if any(pytest.main([*options, str(folder / test)], plugins=[_Alone()]) for test in tests or DECIDING):
                return "tests"
            if tests is not None:
                return ""
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
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    # Ends it, as nobody handles the signal.
    signal.setitimer(signal.ITIMER_PROF, SECONDS_OF if mutant.path.stem in OF else SECONDS)
    verdict = killed(mutant)
    os._exit({"": 0, "tests": 1, "simulation": 2}[verdict])


def run(sample: int | None, seed: int, *, only: str = "", jobs: int = 1) -> int:
    """Tries all mutants, or a random sample; prints survivors and the score of each module, answers how many survived."""
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    # What is compiled is compiled once, not by each process.
    sys.dont_write_bytecode = False
    for name in BEFORE:
        importlib.import_module(name)
    # What is there stays where it is: no process copies it to look whether it is still needed.
    gc.freeze()
    paths = [path for path in modules() if only in path.relative_to(SOURCE).as_posix()]
    every = [mutant for path in paths for mutant in mutants(path)]
    if sample is not None and sample < len(every):
        every = random.Random(seed).sample(every, sample)  # noqa: S311 - a choice, not a secret
    paths = sorted({mutant.path for mutant in every})
    _unchanged(paths, "the tests fail without any change")
    print(f"{len(every)} mutants (seed {seed})", flush=True)
    began = time.monotonic()
    waiting, running = list(reversed(every)), dict[int, Mutant]()
    verdicts: dict[Path, Counter[str]] = {path: Counter() for path in paths}
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            running[attempt(mutant)] = mutant
        child, status = os.wait()
        mutant = running.pop(child)
        verdict = "time" if os.WIFSIGNALED(status) else ("", "tests", "simulation")[os.waitstatus_to_exitcode(status)]
        verdicts[mutant.path][verdict] += 1
        if not verdict:
            print(f"survived: {mutant.path.name}:{mutant.line}: {mutant.what}", flush=True)
    _unchanged(
        paths, "the tests fail without any change now: something was changed while it ran, and it proves nothing"
    )
    for path in paths:
        print(f"{path.name}: {_score(verdicts[path])}")
    whole = sum(verdicts.values(), Counter[str]())
    print(f"killed {_score(whole)}, {time.monotonic() - began:.0f} s")
    return whole[""]


def _unchanged(paths: Sequence[Path], otherwise: str) -> None:
    """A test that fails, or none that is found, would kill every mutant."""
    for path in paths:
        same = Mutant(path, 0, "", path.read_text("utf-8"))
        if os.waitstatus_to_exitcode(os.waitpid(attempt(same), 0)[1]):
            raise SystemExit(f"{path.name}: {otherwise}")


def _score(verdicts: Counter[str]) -> str:
    tried = verdicts.total()
    found = tried - verdicts[""]
    by = ", ".join(f"{count} by {what}" for what, count in sorted(verdicts.items()) if what)
    return f"{found} of {tried}: {100 * found / max(1, tried):.1f} % ({by})"
