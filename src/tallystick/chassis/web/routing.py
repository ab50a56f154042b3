"""From a method and a path to a row: exact paths by one lookup, others by pattern among those with as many segments."""

from __future__ import annotations

import re
from typing import Generic, TypeVar

from tallystick.chassis.web.table import PARAMETER, Endpoint
from tallystick.kernel.problem import MethodNotAllowed, NotFound

R = TypeVar("R")

NO_PARAMETERS: dict[str, str] = {}


class Router(Generic[R]):
    """Finds the target that `add` was given for a row. A GET row answers HEAD as well (RFC 9110 section 9.3.2).

    A table in which one row hides another is refused: the same method and path twice, or two paths that differ only in the
    names of their parameters. Where paths overlap otherwise, such as `/a/{b}/{c}` and `/a/{b}/d`, the one with fewer
    parameters wins.
    """

    def __init__(self) -> None:
        self._exact: dict[str, dict[str, R]] = {}
        self._patterns: dict[int, list[tuple[re.Pattern[str], dict[str, R]]]] = {}
        self._rests: list[tuple[re.Pattern[str], dict[str, R]]] = []

    def add(self, endpoint: Endpoint, target: R) -> None:
        """Raises ValueError for a row that would hide, or be hidden by, one that is there."""
        methods = self._methods(endpoint.path)
        if endpoint.method in methods:
            msg = f"{endpoint.where} is in the table twice"
            raise ValueError(msg)
        methods[endpoint.method] = target
        if endpoint.method == "GET":
            methods["HEAD"] = target

    def find(self, method: str, path: str) -> tuple[R, dict[str, str]]:
        """The row's target and the path's parameters. Raises NotFound or MethodNotAllowed (with `Allow`)."""
        methods = self._exact.get(path)
        parameters = NO_PARAMETERS
        if methods is None:
            for pattern, candidate in (*self._patterns.get(path.count("/"), ()), *self._rests):
                if found := pattern.fullmatch(path):
                    methods, parameters = candidate, found.groupdict()
                    break
            else:
                raise NotFound("There is nothing at this path.")
        target = methods.get(method)
        if target is None:
            allow = ", ".join(sorted(methods))
            raise MethodNotAllowed(f"This path takes {allow}.", headers={"Allow": allow})
        return target, parameters

    def _methods(self, path: str) -> dict[str, R]:
        if "{" not in path:
            return self._exact.setdefault(path, {})
        pattern = _compile(path)
        rest = ":path}" in path
        among = self._rests if rest else self._patterns.setdefault(path.count("/"), [])
        for known, methods in among:
            if known.pattern == pattern.pattern:
                return methods
            if _shape(known) == _shape(pattern):
                msg = f"{path}: another row has this path with other names for its parameters"
                raise ValueError(msg)
        methods = {}
        among.append((pattern, methods))
        among.sort(key=lambda entry: entry[0].groups)
        return methods


def _shape(pattern: re.Pattern[str]) -> str:
    """The pattern without the names of its parameters."""
    return re.sub(r"\(\?P<\w+>", "(", pattern.pattern)


def _compile(path: str) -> re.Pattern[str]:
    parts: list[str] = []
    end = 0
    for found in PARAMETER.finditer(path):
        parts.append(re.escape(path[end : found.start()]))
        parts.append(f"(?P<{found[1]}>.+)" if found[2] else f"(?P<{found[1]}>[^/]+)")
        end = found.end()
    return re.compile("".join([*parts, re.escape(path[end:])]), re.DOTALL)
