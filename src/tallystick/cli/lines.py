"""The lines of a CSV file from a user. An invalid line is reported by its number, and no line can be so long that it fills the memory."""

from __future__ import annotations

import io
import re
from collections.abc import Generator
from pathlib import Path
from typing import IO, Final

from tallystick.cli.failure import USAGE, Failed

MAX_LINE: Final = 4 << 20

#: What `surrogateescape` makes of a byte that is not UTF-8.
_NO_TEXT: Final = re.compile("[\udc80-\udcff]")


def text_lines(content: IO[bytes], path: Path) -> Generator[str, None, None]:
    """The lines of `content`, with their line ends, as `csv` wants them. Closing the generator closes `content`.

    Raises Failed, which names `path` and the line.
    """
    # A strict decoder would fail somewhere in the buffer that it reads ahead. Surrogates let us name the line.
    with io.TextIOWrapper(content, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        number = 0
        while line := text.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise Failed(f"{path}, line {number}: longer than {MAX_LINE} characters", USAGE)
            if not line.isascii() and _NO_TEXT.search(line):
                raise Failed(f"{path}, line {number}: not valid UTF-8", USAGE)
            yield line
