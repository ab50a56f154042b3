"""`python -m tools.reference [--check | --redirects SITE]`, from the root of the repository."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tools.reference import import_everything, pages, stale, write
from tools.reference.problems import problem_classes


def redirects(site: Path) -> None:
    """`problems/<slug>/` of a built site leads to that section of the catalogue: a problem's type is an address that works."""
    import_everything()
    for problem in problem_classes():
        folder = site / "problems" / problem.slug
        folder.mkdir(parents=True, exist_ok=True)
        target = f"../#{problem.slug}"
        (folder / "index.html").write_text(
            f'<!doctype html><title>{problem.slug}</title><meta http-equiv="refresh" content="0; url={target}">'
            f'<a href="{target}">{problem.slug}</a>\n',
            encoding="utf-8",
        )


def main(say: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description="The generated reference.")
    parser.add_argument("--check", action="store_true", help="only say what is not current")
    parser.add_argument(
        "--redirects", type=Path, metavar="SITE", help="give every problem type its address in a built site"
    )
    arguments = parser.parse_args()
    if arguments.redirects is not None:
        redirects(arguments.redirects)
        return 0
    made = pages()
    if not arguments.check:
        for path in write(made):
            say(f"written: docs/{path}")
        return 0
    wrong = stale(made)
    for path in wrong:
        say(f"not current: docs/{path}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
