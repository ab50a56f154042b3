"""`python -m tallystick.local.rail --socket PATH --data PATH`."""

from __future__ import annotations

import argparse
from pathlib import Path

from tallystick.local.rail import RailSettings, main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tallystick.local.rail", description="The sandbox card rail")
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    main(RailSettings(socket=arguments.socket, data=arguments.data))
