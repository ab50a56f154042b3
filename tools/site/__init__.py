"""The documentation's site: its theme, and what its pages would load from other hosts, which must be nothing.

Who reads about a platform for money is nobody else's business, and the pages work without a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

#: Links that only say where something is, and load nothing.
_SAID = frozenset({"canonical", "next", "prev", "alternate", "license", "author", "help"})
_LOADED = {"src", "srcset", "poster", "data", "background"}
_CSS = re.compile(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""")


class _Loads(HTMLParser):
    """Collects the addresses that a page loads, but for those that its scripts load: these its policy forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.policy = ""
        self._style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._style = tag == "style"
        if tag == "meta" and given.get("http-equiv", "").lower() == "content-security-policy":
            self.policy = given.get("content", "")
        if tag == "link" and not set(given.get("rel", "").lower().split()) & _SAID:
            self.found.append(given.get("href", ""))
        for name in _LOADED & given.keys():
            self.found += [part.split()[0] for part in given[name].split(",") if part.split()]
        self.found += _CSS.findall(given.get("style", ""))

    def handle_endtag(self, tag: str) -> None:
        self._style = self._style and tag != "style"

    def handle_data(self, data: str) -> None:
        if self._style:
            self.found += _CSS.findall(data)


def foreign(site: Path) -> Iterator[str]:
    """What is loaded from elsewhere, by page or style sheet, and pages with scripts that have no policy."""
    for path in sorted(site.rglob("*")):
        name = path.relative_to(site)
        if path.suffix == ".html":
            text = path.read_text(encoding="utf-8")
            page = _Loads()
            page.feed(text)
            if "<script" in text and "default-src 'self'" not in page.policy:
                yield f"{name}: scripts, and no policy that keeps them from loading anything"
            found = page.found
        elif path.suffix == ".css":
            found = _CSS.findall(path.read_text(encoding="utf-8"))
        else:
            continue
        yield from (f"{name}: {address}" for address in found if urlsplit(address).netloc)
