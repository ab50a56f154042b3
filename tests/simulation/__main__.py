"""Replay one seed, or look for a bad one.

python -m tests.simulation 1234 [--trace]
python -m tests.simulation --count 5000 [--first 1]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tallystick.chassis.telemetry import logs
from tests.simulation.world import Report, simulate


def show(report: Report, *, trace: bool) -> None:
    if trace:
        print("\n".join(report.trace))
    reached = ", ".join(f"{name} {many}" for name, many in sorted(report.reached.items()))
    subjects = ", ".join(report.subjects) or "postings alone"
    print(
        f"seed {report.seed}: {subjects}; {report.transfers} transfers; {reached or 'nothing broke'}; {report.fingerprint[:16]}"
    )
    for line in report.violations:
        print(f"  {line}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=int, nargs="?", help="the seed to replay")
    parser.add_argument("--trace", action="store_true", help="print what happened, with virtual times")
    parser.add_argument("--count", type=int, default=1000, help="without a seed: how many to try")
    parser.add_argument("--first", type=int, default=1, help="without a seed: the first of them")
    given = parser.parse_args()
    if not given.trace:
        logs._process.threshold = 100
    if given.seed is not None:
        report = simulate(given.seed)
        show(report, trace=given.trace)
        return int(bool(report.violations))
    began, reached, bad = time.perf_counter(), Counter[str](), 0
    for seed in range(given.first, given.first + given.count):
        report = simulate(seed)
        reached += report.reached
        if report.violations:
            bad += 1
            show(report, trace=False)
    took = time.perf_counter() - began
    print(f"{given.count} seeds in {took:.1f} s ({given.count / took:.0f}/s), {bad} with violations; {dict(reached)}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
