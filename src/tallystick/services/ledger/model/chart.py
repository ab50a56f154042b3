"""A book's chart of accounts: which paths are allowed, and what the accounts there are. Pure.

A rule's pattern has a word or a typed name for each segment: `customers:{id:int}:wallet`. The first rule that matches a path applies. An account
without a kind, floor or ceiling takes the rule's; one that contradicts the rule is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec

from tallystick.contracts.ledger.messages import ChartRecord, SetChart
from tallystick.kernel.money import MAX_MINOR, InvalidAmount, currency
from tallystick.kernel.problem import Problem
from tallystick.services.ledger.model.paths import is_reserved
from tallystick.services.ledger.model.rows import NewAccount
from tallystick.services.ledger.model.values import usual_kind

Mode = Literal["open", "strict"]

#: Splits a pattern into segments; a typed name has a colon inside its braces.
_SPLIT: Final = re.compile(r"\{[^}]*\}|[^:]+")
_TYPES: Final = {
    "text": "[A-Za-z0-9_.-]{1,64}",
    "int": "(?:0|[1-9][0-9]{0,17})",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """What accounts must be whose paths match `pattern`. None: anything. Limits are minor units."""

    pattern: str
    kind: str
    normal_side: str | None = None
    currencies: tuple[str, ...] | None = None
    floor: int | None = None
    ceiling: int | None = None


class Charted(msgspec.Struct, frozen=True):
    """What a chart checks about an account."""

    path: str | None
    kind: str
    normal_side: str
    currency: str
    floor: int | None
    ceiling: int | None


class Chart:
    """A chart with its rules compiled. `version` 0 is that of a book without a chart, which takes any account."""

    def __init__(self, version: int, mode: Mode, rules: Sequence[Rule]) -> None:
        self.version = version
        self.mode = mode
        self.rules = tuple(rules)
        # Rules by length and first word, so that few have to be tried for a path.
        self._words: dict[tuple[int, str | None], list[tuple[int, re.Pattern[str], Rule]]] = {}
        for place, rule in enumerate(self.rules):
            segments = _SPLIT.findall(rule.pattern)
            key = (len(segments), None if segments[0].startswith("{") else segments[0])
            self._words.setdefault(key, []).append((place, _compiled(segments), rule))

    def rule_for(self, path: str | None) -> Rule | None:
        """The first rule that matches the path; None if none does, or there is no path."""
        if path is None or is_reserved(path):
            return None
        first, _, _ = path.partition(":")
        length = path.count(":") + 1
        found = [*self._fitting((length, first), path), *self._fitting((length, None), path)]
        return min(found, key=lambda one: one[0])[1] if found else None

    def _fitting(self, key: tuple[int, str | None], path: str) -> Iterator[tuple[int, Rule]]:
        for place, regex, rule in self._words.get(key, ()):
            if regex.fullmatch(path) is not None:
                yield place, rule
                return  # the rules are in order: this is the first

    def filled(self, account: NewAccount) -> NewAccount:
        """The account with its gaps (kind, floor, ceiling) filled from its rule. Without a rule its kind is the usual one of its side."""
        rule = self.rule_for(account.path)
        if rule is None:
            return msgspec.structs.replace(account, kind=account.kind or usual_kind(account.normal_side))
        return msgspec.structs.replace(
            account,
            kind=account.kind or rule.kind,
            floor=rule.floor if account.floor is None else account.floor,
            ceiling=rule.ceiling if account.ceiling is None else account.ceiling,
        )

    def fault(self, account: Charted) -> tuple[str, Rule | None] | None:
        """Why the account is not allowed, and the rule that it contradicts, if one applies. None if it is allowed."""
        rule = self.rule_for(account.path)
        if rule is None and is_reserved(account.path):
            return None
        if rule is None:
            if self.mode == "strict":
                why = "without a path" if account.path is None else "no rule fits its path"
                return why, None
            return None
        if account.kind != rule.kind:
            return f"it is of the kind {account.kind}, the rule says {rule.kind}", rule
        if rule.normal_side is not None and account.normal_side != rule.normal_side:
            return f"its normal side is {account.normal_side}, the rule says {rule.normal_side}", rule
        if rule.currencies is not None and account.currency not in rule.currencies:
            return f"its currency {account.currency} is not among the rule's", rule
        if rule.floor is not None and (account.floor is None or account.floor < rule.floor):
            return f"its floor is below the rule's of {rule.floor}", rule
        if rule.ceiling is not None and (account.ceiling is None or account.ceiling > rule.ceiling):
            return f"its ceiling is above the rule's of {rule.ceiling}", rule
        return None


def limit_of(text: str | None, pointer: str) -> int | None:
    """A floor or a ceiling from its wire form, in minor units. Raises InvalidAmount."""
    minor = None if text is None else int(text)
    if minor is not None and abs(minor) > MAX_MINOR:
        raise InvalidAmount("a floor or a ceiling is at most 2^63 - 1 minor units away from zero").at(pointer)
    return minor


def chart_of(given: SetChart | ChartRecord, version: int) -> Chart:
    """A chart from its wire form. Raises UnknownCurrency and InvalidAmount, with the pointer of the rule."""
    rules = []
    for place, one in enumerate(given.rules):
        where = f"/rules/{place}"
        try:
            for code in one.currencies or ():
                currency(code)
        except Problem as problem:
            raise problem.at(f"{where}/currencies") from None
        rules.append(
            Rule(
                pattern=one.pattern,
                kind=one.kind,
                normal_side=one.normal_side,
                currencies=None if one.currencies is None else tuple(one.currencies),
                floor=limit_of(one.floor, f"{where}/floor"),
                ceiling=limit_of(one.ceiling, f"{where}/ceiling"),
            )
        )
    return Chart(version, given.mode, rules)


def _compiled(segments: Sequence[str]) -> re.Pattern[str]:
    return re.compile(":".join(_segment(one) for one in segments))


def _segment(text: str) -> str:
    if not text.startswith("{"):
        return re.escape(text)
    _, _, kind = text.strip("{}").partition(":")
    return _TYPES[kind or "text"]
