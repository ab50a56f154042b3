"""Replay one seed, make what it found smaller, or look for a bad one.

python -m tests.simulation 1234 [--trace | --shrink] [--only interbook,seals] [--clients 2] [--requests 3] [--replicas 1]
python -m tests.simulation --count 5000 [--first 1]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from tallystick.chassis.telemetry import logs
from tests.simulation.subjects import SUBJECTS, subjects_of
from tests.simulation.world import USUAL, Report, Shape, simulate


def show(report: Report, *, trace: bool) -> None:
    if trace:
        print("\n".join(report.trace))
    reached = ", ".join(f"{name} {many}" for name, many in sorted(report.reached.items()))
    subjects = ", ".join(report.subjects) or "postings alone"
    done = f"{subjects}; {report.transfers} transfers; {reached or 'nothing broke'}"
    print(f"seed {report.seed}: {done}; {report.fingerprint[:16]}")
    for line in report.violations:
        print(f"  {line}")


def smaller(shape: Shape) -> Iterator[Shape]:
    """One subject less, or less of something else."""
    subjects = shape.subjects or ()
    for name in subjects:
        yield replace(shape, subjects=tuple(other for other in subjects if other != name))
    for field in ("clients", "requests", "replicas"):
        many = getattr(shape, field)
        for fewer in sorted({many // 2, many - 1}):
            if 0 < fewer < many:
                yield replace(shape, **{field: fewer})


def shrunk(seed: int, shape: Shape) -> Shape:
    """The smallest shape that was come to, one step at a time, in which the seed still breaks one of the invariants that it broke at first.
    Each step is another run, so a smaller one may not have it by chance: then there are others on the way.
    """
    kinds = _kinds(simulate(seed, shape=shape))
    while (
        less := next((one for one in smaller(shape) if _kinds(simulate(seed, shape=one)) & kinds), None)
    ) is not None:
        shape = less
        print(f"  {command(seed, shape)}", flush=True)
    return shape


def _kinds(report: Report) -> set[str]:
    return {violation.partition(":")[0] for violation in report.violations}


def command(seed: int, shape: Shape) -> str:
    only = ",".join(shape.subjects or ()) or "none"
    rest = f"--clients {shape.clients} --requests {shape.requests} --replicas {shape.replicas}"
    return f"python -m tests.simulation {seed} --only {only} {rest}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int, nargs="?", help="the seed to replay")
    parser.add_argument("--trace", action="store_true", help="print what happened, with virtual times")
    parser.add_argument(
        "--shrink", action="store_true", help="look for a smaller run in which the seed breaks the same"
    )
    parser.add_argument("--only", help=f"instead of the seed's own subjects: none, or some of {', '.join(SUBJECTS)}")
    for name in ("clients", "requests", "replicas"):
        parser.add_argument(f"--{name}", type=int, default=getattr(USUAL, name), help="how many at most")
    parser.add_argument("--count", type=int, default=1000, help="without a seed: how many to try")
    parser.add_argument("--first", type=int, default=1, help="without a seed: the first of them")
    given = parser.parse_args()
    if not given.trace:
        logs._process.threshold = 100
    only = None if given.only is None else tuple(name for name in given.only.split(",") if name != "none")
    if unknown := set(only or ()) - SUBJECTS.keys():
        parser.error(f"no subject: {', '.join(sorted(unknown))}")
    shape = Shape(given.clients, given.requests, given.replicas, only)
    if given.seed is not None:
        if given.shrink:
            shape = shrunk(given.seed, replace(shape, subjects=subjects_of(given.seed) if only is None else only))
        report = simulate(given.seed, shape=shape)
        show(report, trace=given.trace)
        return int(bool(report.violations))
    began, reached, bad = time.perf_counter(), Counter[str](), 0
    for seed in range(given.first, given.first + given.count):
        report = simulate(seed, shape=shape)
        reached += report.reached
        if report.violations:
            bad += 1
            show(report, trace=False)
    took = time.perf_counter() - began
    print(f"{given.count} seeds in {took:.1f} s ({given.count / took:.0f}/s), {bad} with violations; {dict(reached)}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
