"""`tallystick replay FILE`: sends a file of card payments through the edge, as a merchant's system would.

Every row becomes one card payment. Its idempotency key is made from the row's id, so a second run, or one after an interruption, repeats
nothing. Each customer gets a test card (a Luhn-valid number in the 4 range, made from the customer's id), and each terminal a merchant
account. These are also made through the edge, with idempotency keys of their own.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from tallystick.cli.output import NO, OK, USAGE, Common, Failed, console, emit, escaped, print_line, print_table
from tallystick.cli.own_client import own_client
from tallystick.cli.replay.file import COLUMNS, bounded, columns_of, no_name, parse, reading, total
from tallystick.cli.replay.run import Run
from tallystick.kernel.money import Money, UnknownCurrency, currency

NAMES: Final = ", ".join(f"{what}={column}" for what, column in COLUMNS.items())
SCOPE: Final = "tokens:write accounts:write accounts:read payments:write payments:read"


def replay(
    file: Annotated[Path, Parameter(help="CSV with a header line, plain or gzip")],
    /,
    *,
    columns: Annotated[
        str, Parameter(name="--map", help=f"the names of the file's columns, such as `id=NUMBER,amount=SUM` [{NAMES}]")
    ] = "",
    in_flight: Annotated[int, Parameter(help="concurrent requests")] = 48,
    code: Annotated[str, Parameter(name="--currency", help="ISO 4217 code of the amounts")] = "EUR",
    name: Annotated[str | None, Parameter(help="the prefix of the idempotency keys [from the file's name]")] = None,
    limit: Annotated[int | None, Parameter(help="send only the first LIMIT rows")] = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Send every row of FILE as a card payment. A second run repeats nothing. Exit status 1 if any row was not carried out."""
    if not 1 <= in_flight <= 1000:
        raise Failed("--in-flight must be between 1 and 1000", USAGE)
    if limit is not None and limit < 1:
        raise Failed("--limit must be 1 or more", USAGE)
    try:
        exponent = currency(code).exponent
    except UnknownCurrency as error:
        raise Failed(error.detail, USAGE) from error
    called = columns_of(columns)
    key = file.name.split(".")[0] if name is None else name
    if why := no_name(key):
        raise Failed(f"the name of the run {why}; choose another with --name", USAGE)
    credentials = own_client(common, "replay", SCOPE)
    run = Run(key=key, currency=code, in_flight=in_flight, whole=limit is None)
    with reading(file) as lines:
        rows = parse(lines, called, exponent, run.tally.skipped)
        asyncio.run(run.all(credentials, bounded(rows, limit), total(file, called, exponent, limit), quiet=common.json))
    report = run.report()
    if common.json:
        emit(report, common)
    else:
        _show(report)
    return OK if report["complete"] else NO


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
    if report["sums"]["ledger"] is not None:
        table.add_row("ledger", f"{report['accounts']:,} accounts", money(report["sums"]["ledger"]))
    print_table(table, out)
    if report["new"]:
        out.print(
            f"{report['seconds']:.1f} s, {report['rate']:.0f}/s, p50 {report['p50_ms']} ms, p99 {report['p99_ms']} ms"
        )
    if report["replayed"]:
        note = "nothing changed: all rows were" if not report["new"] else f"{report['replayed']:,} rows were already"
        out.print(f"[yellow]{note} sent by an earlier run[/]")
    for line in report["skipped_rows"]:
        print_line(f"[red]skipped[/] {escaped(line)}", out)
    if report["skipped"] > len(report["skipped_rows"]):
        out.print(f"[red]... and {report['skipped'] - len(report['skipped_rows'])} more[/]")
    if report["accounts_wrong"]:
        out.print(
            f"[red]the balances of {len(report['accounts_wrong'])} accounts differ from the sums of their payments[/]"
        )
    elif report["sums"]["ledger"] is None:
        out.print("[dim]only a part of the file was sent: not compared with the ledger[/]")
    elif report["accounts"]:
        out.print("[green]every account's balance in the ledger equals the sum of its payments[/]")
