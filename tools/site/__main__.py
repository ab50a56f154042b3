"""`python -m tools.site SITE`: fails if a page of the built documentation loads anything from another host."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tools.site import foreign


def main(say: Callable[[str], None] = print) -> int:
    parser = argparse.ArgumentParser(description="What a built site would load from other hosts.")
    parser.add_argument("site", type=Path)
    found = list(foreign(parser.parse_args().site))
    for each in found:
        say(f"loaded from another host: {each}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
