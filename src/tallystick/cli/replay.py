"""`tallystick replay FILE`: a file of card payments, sent through the edge as a merchant's system would send them.

Every row becomes one card payment with an idempotency key made of the row's id, so that a second run, or one that was
interrupted, changes nothing that is done. Customers get test cards (Luhn-valid numbers in the 4 range, from their ids), terminals get
merchant accounts; both are made through the edge too, under keys of their own.
"""

from __future__ import annotations

import asyncio
import csv
import gzip
import hashlib
import io
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from cyclopts import Parameter

from tallystick.cli.output import NO, NOT_RUNNING, OK, PART_FAILED, USAGE, Common, Failed, console, emit
from tallystick.cli.own_client import own_client
from tallystick.kernel.luhn import check_digit
from tallystick.kernel.money import MAX_MINOR, Money, UnknownCurrency, currency

if TYPE_CHECKING:
    from tallystick.cli.apiclient import Answer, ApiClient

T = TypeVar("T")

SCOPE: Final = "tokens:write accounts:write accounts:read payments:write payments:read"
#: What each column is called unless `--map` says otherwise.
COLUMNS: Final = {
    "id": "TRANSACTION_ID",
    "time": "TX_DATETIME",
    "customer": "CUSTOMER_ID",
    "terminal": "TERMINAL_ID",
    "amount": "TX_AMOUNT",
}
FLOAT_NOISE: Final = Decimal("0.000001")
#: Rows that wait to be sent: enough to keep the senders busy, few enough for any file to fit in memory.
QUEUED_PER_SENDER: Final = 4
#: A few of the rows that could not be used, to be shown.
SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    time: str
    customer: str
    terminal: str
    minor: int


@dataclass(slots=True)
class Tally:
    """What came of the rows. Amounts are minor units; latencies are seconds of the requests that were not replays."""

    sent: int = 0
    sent_minor: int = 0
    replayed: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    minors: Counter[str] = field(default_factory=Counter)
    declines: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    by_terminal: Counter[str] = field(default_factory=Counter)


def replay(
    file: Annotated[Path, Parameter(help="CSV with a header line, also gzip")],
    /,
    *,
    map: Annotated[str, Parameter(help="columns, such as id=TRANSACTION_ID,amount=TX_AMOUNT")] = "",  # noqa: A002
    in_flight: Annotated[int, Parameter(help="requests at once")] = 48,
    code: Annotated[str, Parameter(name="--currency", help="ISO 4217 code of the amounts")] = "EUR",
    name: Annotated[str | None, Parameter(help="what the idempotency keys begin with [from the file's name]")] = None,
    limit: Annotated[int | None, Parameter(help="only the first so many rows")] = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Send every row of FILE as a card payment. Exit status 1 if any row was not carried out."""
    if not 1 <= in_flight <= 1000:
        raise Failed("--in-flight is between 1 and 1000", USAGE)
    try:
        exponent = currency(code).exponent
    except UnknownCurrency as error:
        raise Failed(error.detail, USAGE) from error
    columns = columns_of(map)
    credentials = own_client(common, "replay", SCOPE)
    key = name or file.name.split(".")[0]
    run = _Run(key=key, currency=code, in_flight=in_flight, whole=limit is None)
    with reading(file) as lines:
        rows = parse(lines, columns, exponent, run.tally.skipped)
        asyncio.run(run.all(credentials, _bounded(rows, limit), _total(file, columns, limit), quiet=common.json))
    report = run.report()
    if common.json:
        emit(report, common)
    else:
        _show(report)
    return OK if report["complete"] else NO


# ---- the file --------------------------------------------------------------------------------------------------------


def columns_of(text: str) -> dict[str, str]:
    """COLUMNS with what `--map` says. Raises Failed."""
    columns = dict(COLUMNS)
    for part in filter(None, text.split(",")):
        what, separator, column = part.partition("=")
        if not separator or what not in COLUMNS or not column:
            raise Failed(f"--map takes {', '.join(f'{k}=COLUMN' for k in COLUMNS)}; not {part!r}", USAGE)
        columns[what] = column
    return columns


class reading:  # noqa: N801 - used as a context manager, like open()
    """The lines of a CSV file, plain or gzip. Raises Failed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._text: io.TextIOWrapper | None = None

    def __enter__(self) -> Iterable[str]:
        try:
            raw = self._file.open("rb")
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            self._text = io.TextIOWrapper(gzip.open(raw) if packed else raw, encoding="utf-8-sig", newline="")
        except OSError as error:
            raise Failed(f"{self._file} can't be read: {error.strerror}", USAGE) from error
        return self._text

    def __exit__(self, *exception: object) -> None:
        if self._text is not None:
            self._text.close()


def parse(lines: Iterable[str], columns: dict[str, str], exponent: int, skipped: list[str]) -> Iterator[Row]:
    """The rows; what can't be one is told in `skipped`, with its line and why. Raises Failed for a file that is no CSV of ours."""
    reader = csv.DictReader(lines, strict=True)
    try:
        missing = [name for name in columns.values() if name not in (reader.fieldnames or ())]
        if missing:
            raise Failed(f"the file has no column {', '.join(missing)}: say which is which with --map", USAGE)
        for record in reader:
            try:
                yield _row(record, columns, exponent)
            except ValueError as error:
                skipped.append(f"line {reader.line_num}: {error}")
    except (csv.Error, UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise Failed(f"line {reader.line_num + 1}: {error}", USAGE) from error


def _row(record: dict[str, Any], columns: dict[str, str], exponent: int) -> Row:
    values = {what: (record.get(column) or "").strip() for what, column in columns.items()}
    empty = [columns[what] for what, value in values.items() if not value and what != "time"]
    if empty:
        raise ValueError(f"{', '.join(empty)} is empty")
    return Row(
        values["id"], values["time"], values["customer"], values["terminal"], to_minor(values["amount"], exponent)
    )


def to_minor(text: str, exponent: int) -> int:
    """`40.77` -> 4077, exactly. ValueError for what has more decimals than the currency, isn't positive, or is no number.

    Files written by programs that reckon in floats have `467.95000000000005`: what is within a millionth of a minor unit of a
    whole one is that one.
    """
    try:
        amount = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"{text!r:.40} is not an amount") from error
    if not amount.is_finite() or amount <= 0:
        raise ValueError(f"{text} is not a positive amount")
    exact = amount.scaleb(exponent)
    minor = exact.to_integral_value()
    if abs(exact - minor) > FLOAT_NOISE or not 0 < minor <= MAX_MINOR:
        raise ValueError(f"{text} is not a whole number of minor units that fits")
    return int(minor)


def card_number(customer: str) -> str:
    """A test card for a customer: 16 digits from 4 on, Luhn-valid, the same for the same id, never one with a behaviour of
    its own at the sandbox.
    """
    digest = int.from_bytes(hashlib.sha256(b"tallystick replay card " + customer.encode()).digest()[:8])
    body = f"41{digest % 10**13:013d}"
    return body + check_digit(body)


def _total(file: Path, columns: dict[str, str], limit: int | None) -> int:
    with reading(file) as lines:
        return sum(1 for _ in _bounded(parse(lines, columns, 2, []), limit))


def _bounded(rows: Iterable[Row], limit: int | None) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if limit is not None and number >= limit:
            return
        yield row


# ---- sending ---------------------------------------------------------------------------------------------------------


class Once:
    """Things that are made when they are first needed, by whoever comes first."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._make = make
        self._made: dict[str, asyncio.Future[str]] = {}

    async def get(self, key: str) -> str:
        found = self._made.get(key)
        if found is None:
            found = asyncio.ensure_future(self._make(key))
            self._made[key] = found
        return await asyncio.shield(found)

    def items(self) -> dict[str, str]:
        return {key: future.result() for key, future in self._made.items() if future.done() and not future.exception()}


class _Run:
    def __init__(self, *, key: str, currency: str, in_flight: int, whole: bool) -> None:
        self._whole = whole
        self._key = key
        self._currency = currency
        self._in_flight = in_flight
        self.tally = Tally()
        self._seconds = 0.0
        self._books: dict[str, int] = {}
        self._api: ApiClient | None = None
        self._cards = Once(self._make_card)
        self._accounts = Once(self._make_account)

    async def all(self, credentials: Any, rows: Iterator[Row], total: int, *, quiet: bool) -> None:
        from tallystick.cli.apiclient import ApiClient, CredentialsError, EdgeUnreachable, TokenRefused

        try:
            async with (
                ApiClient(credentials, connections=self._in_flight, timeout=60.0) as self._api,
                _bar(total, "payments", quiet=quiet) as advance,
            ):
                started = time.monotonic()
                await self._send_all(rows, advance)
                self._seconds = time.monotonic() - started
                await self._read_books()
        except* CredentialsError as errors:
            raise Failed(str(errors.exceptions[0]), USAGE) from errors
        except* EdgeUnreachable as errors:
            raise Failed(f"{errors.exceptions[0]}\nRun it again: it goes on where it was", NOT_RUNNING) from errors
        except* TokenRefused as errors:
            raise Failed(f"no token: {errors.exceptions[0]}", PART_FAILED) from errors
        except* Failed as errors:
            raise errors.exceptions[0] from None

    async def _send_all(self, rows: Iterator[Row], advance: Callable[[int], None]) -> None:
        queue: asyncio.Queue[Row | None] = asyncio.Queue(self._in_flight * QUEUED_PER_SENDER)

        async def sender() -> None:
            while (row := await queue.get()) is not None:
                await self._pay(row)
                advance(1)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._in_flight):
                group.create_task(sender())
            for row in rows:
                await queue.put(row)
            for _ in range(self._in_flight):
                await queue.put(None)

    async def _pay(self, row: Row) -> None:
        token, account = await asyncio.gather(self._cards.get(row.customer), self._accounts.get(row.terminal))
        body = {
            "amount": {"amount": str(row.minor), "currency": self._currency},
            "source": {"type": "card", "token": token},
            "destination": {"account": account},
            "reference": f"{self._key}:{row.id}"[:100],
        }
        started = time.monotonic()
        answer = await self._request("/v1/payments", body, f"replay:{self._key}:{row.id}")
        tally = self.tally
        tally.sent += 1
        tally.sent_minor += row.minor
        if answer.replayed:
            tally.replayed += 1
        else:
            tally.latencies.append(time.monotonic() - started)
        if not answer.ok:
            tally.problems[answer.slug or str(answer.status)] += 1
            return
        payment = answer.json()
        status = payment["status"]
        tally.statuses[status] += 1
        tally.minors[status] += row.minor
        if status == "settled":
            tally.by_terminal[row.terminal] += row.minor
        if decline := payment.get("decline"):
            reasons = (payment.get("risk") or {}).get("reasons") or []
            tally.declines[
                decline["code"] + (f" ({', '.join(reasons)})" if decline["code"] == "risk_denied" else "")
            ] += 1

    async def _make_card(self, customer: str) -> str:
        body = {"type": "card", "card": {"number": card_number(customer), "exp_month": 12, "exp_year": 2039}}
        return await self._made("/v1/tokens", body, f"replay:{self._key}:card:{customer}")

    async def _make_account(self, terminal: str) -> str:
        body = {
            "name": f"terminal {terminal}",
            "currency": self._currency,
            "normal_side": "credit",
            "code": f"{self._key}:{terminal}"[:64],
        }
        return await self._made("/v1/accounts", body, f"replay:{self._key}:account:{terminal}")

    async def _made(self, path: str, body: dict[str, Any], key: str) -> str:
        answer = await self._request(path, body, key)
        if not answer.ok:
            raise Failed(
                f"POST {path} was refused: {answer.status} {answer.body.decode(errors='replace')[:300]}", PART_FAILED
            )
        return str(answer.json()["id"])

    async def _request(self, path: str, body: dict[str, Any], key: str) -> Answer:
        if self._api is None:
            msg = "no client is open"
            raise RuntimeError(msg)
        return await self._api.request("POST", path, body, idempotency_key=key[:255])

    async def _read_books(self) -> None:
        """What the ledger says that the terminals' accounts hold: the other half of the tally. A part of a file says nothing
        about the accounts, which may hold more from an earlier run.
        """
        if self._api is None or not self._whole:
            return
        pending = iter(self._accounts.items().items())

        async def reader() -> None:
            for terminal, account in pending:
                answer = await self._api.request("GET", f"/v1/accounts/{account}")  # type: ignore[union-attr]
                if not answer.ok:
                    raise Failed(f"GET /v1/accounts/{account}: {answer.status} {answer.slug}", PART_FAILED)
                self._books[terminal] = int(answer.json()["balance"]["posted"]["amount"])

        async with asyncio.TaskGroup() as group:
            for _ in range(self._in_flight):
                group.create_task(reader())

    def report(self) -> dict[str, Any]:
        tally = self.tally
        latencies = sorted(tally.latencies)
        wrong = {
            terminal: {"payments": tally.by_terminal[terminal], "ledger": held}
            for terminal, held in self._books.items()
            if held != tally.by_terminal[terminal]
        }
        done = tally.statuses["settled"] + tally.statuses["declined"]
        return {
            "sent": tally.sent,
            "new": tally.sent - tally.replayed,
            "replayed": tally.replayed,
            "statuses": dict(tally.statuses),
            "declined": dict(tally.declines.most_common()),
            "problems": dict(tally.problems.most_common()),
            "skipped": len(tally.skipped),
            "skipped_rows": tally.skipped[:SHOWN],
            "currency": self._currency,
            "sums": {
                "file": str(tally.sent_minor),
                "settled": str(tally.minors["settled"]),
                "declined": str(tally.minors["declined"]),
                "ledger": str(sum(self._books.values())),
            },
            "accounts": len(self._books),
            "accounts_wrong": wrong,
            "seconds": round(self._seconds, 3),
            "rate": round(tally.sent / self._seconds, 1) if self._seconds else 0.0,
            "p50_ms": _percentile(latencies, 0.50),
            "p99_ms": _percentile(latencies, 0.99),
            "complete": done == tally.sent and not tally.skipped and not wrong,
        }


def _percentile(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, 1)


@asynccontextmanager
async def _bar(total: int, what: str, *, quiet: bool) -> AsyncIterator[Callable[[int], None]]:
    """A progress bar on standard error; `advance(n)`. Nothing moves when it isn't a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    out = console(error=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}/s"),
        TimeRemainingColumn(),
        console=out,
        disable=quiet and not out.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task(what, total=total, rate="-")
        started = time.monotonic()

        def advance(count: int) -> None:
            progress.advance(task, count)
            done = progress.tasks[0].completed
            if done % 50 == 0:
                progress.update(task, rate=f"{done / max(time.monotonic() - started, 0.001):.0f}")

        yield advance


def _show(report: dict[str, Any]) -> None:
    from rich.table import Table

    out = console()

    def money(minor: str) -> str:
        return str(Money(int(minor), report["currency"])) if int(minor) >= 0 else f"{minor} minor units"

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_row("sent", f"{report['sent']:,}", money(report["sums"]["file"]))
    for status, count in sorted(report["statuses"].items()):
        amount = report["sums"].get(status)
        table.add_row(status, f"{count:,}", money(amount) if amount is not None else "")
    for reason, count in report["declined"].items():
        table.add_row(f"  {reason}", f"{count:,}")
    for problem, count in report["problems"].items():
        table.add_row(f"[red]refused: {problem}[/]", f"{count:,}")
    table.add_row("ledger", f"{report['accounts']:,} accounts", money(report["sums"]["ledger"]))
    out.print(table)
    if report["new"]:
        out.print(
            f"{report['seconds']:.1f} s, {report['rate']:.0f}/s, p50 {report['p50_ms']} ms, p99 {report['p99_ms']} ms"
        )
    if report["replayed"]:
        note = "nothing changed: all of it was" if not report["new"] else f"{report['replayed']:,} rows were"
        out.print(f"[yellow]{note} done by an earlier run[/]")
    for line in report["skipped_rows"]:
        out.print(f"[red]skipped[/] {line}")
    if report["skipped"] > len(report["skipped_rows"]):
        out.print(f"[red]... and {report['skipped'] - len(report['skipped_rows'])} more[/]")
    if report["accounts_wrong"]:
        out.print(f"[red]{len(report['accounts_wrong'])} accounts do not hold what their payments say[/]")
    elif report["accounts"]:
        out.print("[green]the ledger holds what the payments say, to the minor unit, in every account[/]")
