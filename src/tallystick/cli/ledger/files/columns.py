"""CSV: maps columns to fields, and reads decimal amounts.

A header with `debit` and `credit` means transfers, one with `normal_side` means accounts. With a column `type` (account or transfer) a file
can have both. Adjacent rows with the same `transaction` are one transaction.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from tallystick.cli.failure import USAGE, Failed
from tallystick.cli.ledger.money import minor
from tallystick.contracts.ledger.messages import MAX_TRANSFERS
from tallystick.kernel.money import UnknownCurrency

_ACCOUNT: Final = frozenset({
    "type", "id", "name", "path", "currency", "normal_side", "kind", "floor", "ceiling", "code", "opening", "opening_account",
    "effective_at", "closed", "frozen",
})  # fmt: skip
_TRANSFER: Final = frozenset({
    "type", "id", "transaction", "reference", "description", "kind", "debit", "credit", "amount", "currency", "code", "target", "final",
    "expires_in", "effective_at",
})  # fmt: skip
_METADATA: Final = "metadata."
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SECONDS: Final = re.compile(r"[0-9]{1,12}")
_TRUE: Final = frozenset({"true", "yes", "1"})
_FALSE: Final = frozenset({"false", "no", "0", ""})


class _Field(ValueError):
    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}\0{detail}")


class Rows:
    """The (line, record) pairs of a CSV file. For an invalid row the record is a text: the column, NUL, and what is wrong. Raises Failed if
    the header is wrong.
    """

    def __init__(self, text: Iterable[str], path: Path) -> None:
        self._reader = csv.DictReader(text, strict=True)
        names = [name.strip() for name in self._reader.fieldnames or ()]
        self._reader.fieldnames = names
        known = {name for name in names if not name.startswith(_METADATA)}
        self._mixed = "type" in known
        self._transfers = {"debit", "credit"} <= known
        if not self._mixed and not self._transfers and "normal_side" not in known:
            raise Failed(
                f"{path} has an unknown header: transfers need the columns debit, credit, amount and currency; accounts need name, currency"
                " and normal_side",
                USAGE,
            )
        allowed = _ACCOUNT | _TRANSFER if self._mixed else _TRANSFER if self._transfers else _ACCOUNT
        if unknown := sorted(known - allowed):
            raise Failed(
                f"{path} has unknown columns: {', '.join(unknown)}. Known: {', '.join(sorted(allowed))}, metadata.NAME",
                USAGE,
            )
        if len(set(names)) < len(names):
            raise Failed(f"{path} has two columns of the same name", USAGE)

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any] | str]]:
        group: _Group | None = None
        for row in self._reader:
            line = self._reader.line_num
            name = _text(row, "transaction")
            made: dict[str, Any] | str
            try:
                made = self._row(row)
            except ValueError as error:
                made = str(error)
            if group is not None and group.name != name:
                yield group.told()
                group = None
            if name is None:
                yield line, made
                continue
            group = group or _Group(line, name)
            group.add(line, made)
        if group is not None:
            yield group.told()

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        if row.get(None) is not None or any(value is None for value in row.values()):  # type: ignore[call-overload]
            raise _Field("", "the row does not have as many fields as the header")
        kind = _text(row, "type") if self._mixed else "transfer" if self._transfers else "account"
        if kind == "account":
            return _account(row)
        if kind == "transfer":
            return _transfer(row)
        raise _Field("type", "must be account or transfer")


class _Group:
    """The rows of one transaction. Fields of the transaction as a whole are in its first row; other rows may repeat them."""

    def __init__(self, line: int, name: str) -> None:
        self.line = line
        self.name = name
        self._header: dict[str, Any] = {}
        self._legs: list[dict[str, Any]] = []
        self._wrong: tuple[int, str] | None = None

    def add(self, line: int, made: dict[str, Any] | str) -> None:
        if self._wrong is not None:
            return
        if isinstance(made, str):
            self._wrong = line, made
            return
        for field in ("reference", "description", "effective_at"):
            said = made.pop(field, None)
            if said is not None and self._header.setdefault(field, said) != said:
                self._wrong = line, f"{field}\0all rows of a transaction must have the same {field}"
        made.pop("type")
        self._legs.append(made)
        if len(self._legs) > MAX_TRANSFERS:
            self._wrong = line, f"transaction\0a transaction has at most {MAX_TRANSFERS} transfers"

    def told(self) -> tuple[int, dict[str, Any] | str]:
        """The transaction with its first line, or the first invalid row with its own."""
        if self._wrong is not None:
            return self._wrong
        return self.line, {"type": "transaction", "id": self.name, **self._header, "transfers": self._legs}


def _account(row: dict[str, Any]) -> dict[str, Any]:
    code = _text(row, "currency") or ""
    made: dict[str, Any] = {
        "type": "account",
        **_texts(row, "id", "name", "path", "normal_side", "kind", "code", "opening_account"),
    }
    made["currency"] = code
    for name in ("floor", "ceiling"):
        if (said := _text(row, name)) is not None:
            made[name] = str(_minor(name, said, code))
    if (said := _text(row, "opening")) is not None:
        made["opening"] = {"amount": str(_minor("opening", said, code)), "currency": code}
    for name in ("closed", "frozen"):
        made[name] = _flag(row, name)
    return _with_rest(made, row)


def _transfer(row: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "transfer", **_texts(row, "id", "kind", "code", "target")}
    for name in ("debit", "credit"):
        if (said := _text(row, name)) is not None:
            made[f"{name}_account"] = said
    if (said := _text(row, "amount")) is not None:
        code = _text(row, "currency") or ""
        if (amount := _minor("amount", said, code)) < 0:
            raise _Field("amount", f"{said} is below zero: to move money the other way, exchange debit and credit")
        made["amount"] = {"amount": str(amount), "currency": code}
    if (said := _text(row, "expires_in")) is not None:
        if _SECONDS.fullmatch(said) is None:
            raise _Field("expires_in", "must be a number of seconds")
        made["expires_in"] = int(said)
    made["final"] = _flag(row, "final")
    made = _with_rest(made, row)
    if _text(row, "transaction") is None:
        header = _texts(row, "reference", "description")
        if header:
            own = made.pop("id", None)
            effective = made.pop("effective_at", None)
            del made["type"]
            whole = {"type": "transaction", "id": own, **header, "effective_at": effective, "transfers": [made]}
            return {name: value for name, value in whole.items() if value is not None}
    else:
        made |= _texts(row, "reference", "description")
    return made


def _with_rest(made: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    if (when := _text(row, "effective_at")) is not None:
        made["effective_at"] = f"{when}T00:00:00Z" if _DAY.fullmatch(when) else when
    metadata = {
        name.removeprefix(_METADATA): value
        for name, value in row.items()
        if name.startswith(_METADATA) and value.strip()
    }
    if metadata:
        made["metadata"] = metadata
    return made


def _text(row: dict[str, Any], name: str) -> str | None:
    return (row.get(name) or "").strip() or None


def _texts(row: dict[str, Any], *names: str) -> dict[str, str]:
    return {name: said for name in names if (said := _text(row, name)) is not None}


def _minor(name: str, said: str, code: str) -> int:
    try:
        return minor(said, code)
    except UnknownCurrency as error:
        raise _Field("currency", error.detail) from None
    except ValueError as error:
        raise _Field(name, str(error)) from None


def _flag(row: dict[str, Any], name: str) -> bool:
    said = (row.get(name) or "").strip().lower()
    if said in _TRUE:
        return True
    if said in _FALSE:
        return False
    raise _Field(name, "must be true or false")
