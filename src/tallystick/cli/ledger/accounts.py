"""`tallystick ledger accounts` and `balance`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tallystick.cli.ledger.app import Account, Book, Client, ask, at, ledger, pages, run
from tallystick.cli.ledger.money import plain, shown
from tallystick.cli.ledger.plot import By, Plot, balances_between, draw, wanted
from tallystick.cli.output import USAGE, Common, Failed, columns, console, emit, escaped, print_line, print_table
from tallystick.kernel.money import in_units

if TYPE_CHECKING:
    from tallystick.cli.apiclient import ApiClient

MOST = 100_000


@ledger.command
def accounts(
    *,
    path: Annotated[str | None, Parameter(help="only paths that match, such as `customers:*:wallet`")] = None,
    kind: Annotated[str | None, Parameter(help="asset, liability, equity, income or expense")] = None,
    currency: Annotated[str | None, Parameter(help="ISO 4217 code")] = None,
    limit: Annotated[int, Parameter(help="the most to list")] = 200,
    book: Book = "main",
    client: Client = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """List accounts with their balances: newest first, or by path if --path is given."""
    if not 1 <= limit <= MOST:
        raise Failed(f"--limit must be between 1 and {MOST}", USAGE)
    query = {"book": book, "path": path, "kind": kind, "currency": currency}

    async def read(api: ApiClient) -> list[Any]:
        return [one async for one in pages(api, "/v1/accounts", query, limit)]

    found = run(common, client, read)
    if common.json:
        emit({"data": found}, common)
        return
    if not found:
        print(
            "no such accounts"
            if path or kind or currency
            else f"the book {book} has no accounts yet; `tallystick ledger import` imports some, POST /v1/accounts opens one"
        )
        return
    table = columns(
        {"account": "left", "name": "left", "kind": "left", "posted": "right", "available": "right", "": "left"},
        wraps="name",
    )
    for one in found:
        balance = one["balance"]
        state = "[red]closed[/]" if one["closed"] else "[yellow]frozen[/]" if one["frozen"] else ""
        table.add_row(
            one["path"] or one["id"],
            escaped(one["name"]),
            one["kind"],
            shown(balance["posted"]),
            plain(balance["available"]),
            state,
        )
    print_table(table)
    if len(found) == limit:
        console(error=True).print(f"[dim]the first {limit}; --limit shows more[/]")


@ledger.command
def balance(
    account: Account,
    /,
    *,
    at_: Annotated[str | None, Parameter(name="--at", help="as recorded by this instant (RFC 3339)")] = None,
    sequence: Annotated[int | None, Parameter(help="as of this sequence of the book")] = None,
    effective: Annotated[str | None, Parameter(help="as effective by this instant, whenever recorded")] = None,
    since: Annotated[str | None, Parameter(name="--from", help="the plot's start: a day or an instant")] = None,
    until: Annotated[str | None, Parameter(name="--to", help="the plot's end")] = None,
    by: Annotated[
        By | None,
        Parameter(help="the plot's time axis: recorded or effective time [effective with --effective, else recorded]"),
    ] = None,
    plot: Plot = None,
    book: Book = "main",
    client: Client = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Show an account's balance, now or at an earlier time. With --plot, draw its history."""
    target = wanted(plot)
    if target is None and (since or until or by):
        raise Failed("--from, --to and --by are for plots: add --plot, or --plot=FILE.png", USAGE)
    query = {"at": at_, "sequence": sequence, "effective": effective, "book": book}
    history = {"from": since, "to": until, "by": by or ("effective" if effective else "recorded"), "book": book}

    async def read(api: ApiClient) -> tuple[Any, Any]:
        found = await ask(api, "GET", at(account), query=query)
        series = await balances_between(api, account, history) if target is not None else None
        return found, series

    found, series = run(common, client, read)
    if series is not None and target is not None:
        draw(series, target, quiet=common.json)
    if common.json:
        emit(found if series is None else {**found, "history": series.points()}, common)
        return
    show(found, effective)


def show(found: Any, effective: str | None = None) -> None:
    """Print one account with its balance. `effective`: the effective time that was asked for, if any."""
    from rich.table import Table

    balance = found["balance"]
    out = console()
    print_line(f"[bold]{found['path'] or found['id']}[/]  {escaped(found['name'])}", out)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_row("posted", shown(balance["posted"]))
    table.add_row("held", shown(balance["pending"]))
    table.add_row("available", shown(balance["available"]))
    out.print(table)
    limits = [
        f"{name} {in_units(int(found[name]), found['currency'])}"
        for name in ("floor", "ceiling")
        if found[name] is not None
    ]
    state = [word for word in ("closed", "frozen") if found[word]]
    note = ", ".join([f"{found['kind']}, grows by {found['normal_side']}s", *limits, *state])
    by = f"by effective time up to {effective}, " if effective else ""
    print_line(f"[dim]{note}; book {found['book']} {by}as of sequence {found['as_of']:,}[/]", out)
