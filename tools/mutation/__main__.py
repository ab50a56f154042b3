"""See the package."""

from __future__ import annotations

import argparse
import os
import secrets
import sys

import tools.mutation


def main() -> int:
    parser = argparse.ArgumentParser(
        description=tools.mutation.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["python", "sql"])
    parser.add_argument("--sample", type=int, help="try so many, chosen at random")
    parser.add_argument("--seed", type=int, help="which sample")
    parser.add_argument("--only", default="", help="modules or objects whose name has this in it (payments/model)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="python: how many at a time")
    given = parser.parse_args()
    seed = secrets.randbelow(2**32) if given.seed is None else given.seed
    if given.what == "python":
        from tools.mutation import rules

        return int(bool(rules.run(given.sample, seed, only=given.only, jobs=given.jobs)))
    from tools.mutation import guards

    return int(bool(guards.run(given.sample, seed, only=given.only)))


if __name__ == "__main__":
    sys.exit(main())
