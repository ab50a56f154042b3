"""`tallystick ledger statement`, `trial-balance` and `explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tallystick.cli.ledger.accounts import show
from tallystick.cli.ledger.app import Account, Book, Client, ask, at, ledger, named, run
from tallystick.cli.ledger.money import plain, shown
from tallystick.cli.ledger.plot import By, Plot, balances_between, draw, series_of, wanted
from tallystick.cli.output import (
    USAGE,
    Common,
    Failed,
    columns,
    console,
    counted,
    emit,
    escaped,
    print_line,
    print_table,
)

if TYPE_CHECKING:
    from tallystick.cli.apiclient import ApiClient
    from tallystick.cli.ledger.series import Series

PAGE = 1000


@ledger.command
def statement(
    account: Account,
    /,
    *,
    since: Annotated[
        str | None, Parameter(name="--from", help="the first day (UTC), or an instant [its opening]")
    ] = None,
    until: Annotated[str | None, Parameter(name="--to", help="the last day, or an instant [now]")] = None,
    by: Annotated[By, Parameter(help="select and order entries by recorded or by effective time")] = "recorded",
    sequence: Annotated[int | None, Parameter(help="as the book was at this sequence [now]")] = None,
    limit: Annotated[int, Parameter(help="the most entries to show")] = 200,
    plot: Plot = None,
    book: Book = "main",
    client: Client = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Show an account's statement for a period: opening balance, entries, closing balance."""
    if not 1 <= limit <= 100_000:
        raise Failed("--limit must be between 1 and 100000", USAGE)
    target = wanted(plot)
    query: dict[str, object] = {"from": since, "to": until, "by": by, "sequence": sequence, "book": book}

    async def read(api: ApiClient) -> tuple[dict[str, Any], Series | None]:
        found = await _statement(api, account, query, limit)
        if target is None:
            return found, None
        return found, await balances_between(api, account, query) if found["has_more"] else series_of(found)

    found, series = run(common, client, read)
    if series is not None and target is not None:
        draw(series, target, quiet=common.json)
    if common.json:
        emit(found, common)
        return
    _show_statement(found)


async def _statement(api: ApiClient, account: str, query: dict[str, object], limit: int) -> dict[str, Any]:
    whole: dict[str, Any] | None = None
    after: str | None = None
    while True:
        left = limit - (0 if whole is None else len(whole["data"]))
        page = await ask(
            api, "GET", at(account, "/statement"), query={**query, "limit": min(left, PAGE), "after": after}
        )
        if whole is None:
            whole = page
        else:
            whole["data"] += page["data"]
            whole["has_more"], whole["next"] = page["has_more"], page["next"]
        after = page["next"]
        if not page["has_more"] or len(whole["data"]) >= limit:
            return whole


def _show_statement(found: dict[str, Any]) -> None:
    out = console()
    print_line(f"[bold]{found['path'] or found['account']}[/]  {escaped(found['name'])}", out)
    by, other = ("effective", "recorded") if found["by"] == "effective" else ("recorded", "effective")
    order = f"by {by} time, " if by == "effective" else ""
    print_line(
        f"[dim]{found['from']} to {found['to']}, {order}as of sequence {found['as_of']:,} of {found['book']}[/]", out
    )
    # The other time is shown only if it differs for some entry.
    dated_back = any(one["recorded_at"] != one["effective_at"] for one in found["data"])
    table = columns(
        {
            by: "left",
            **({other: "left"} if dated_back else {}),
            "kind": "left",
            "code": "left",
            "debit": "right",
            "credit": "right",
            "balance": "right",
        },
        wraps=other if dated_back else "code",
    )

    def row(when: str, then: str, *cells: str) -> None:
        table.add_row(when, *([then] if dated_back else []), *cells)

    row("opening", "", "", "", "", "", plain(found["opening"]))
    for one in found["data"]:
        amount = plain(one["amount"])
        debit = one["side"] == "debit"
        same = one["recorded_at"] == one["effective_at"]
        row(
            _to_the_second(one[f"{by}_at"]),
            "" if same else _to_the_second(one[f"{other}_at"]),
            one["kind"],
            escaped(one.get("code") or ""),
            amount if debit else "",
            "" if debit else amount,
            plain(one["balance"]),
        )
    if found["has_more"]:
        row("...", "", f"{found['entries'] - len(found['data']):,} more", "", "", "", "")
    row(
        "closing",
        "",
        counted(found["entries"], "entry", "entries"),
        "",
        plain(found["debits"]),
        plain(found["credits"]),
        plain(found["closing"]),
    )
    print_table(table, out)
    if not found["entries"]:
        out.print(f"[dim]nothing {'takes effect' if by == 'effective' else 'was posted'} in this time[/]")


def _to_the_second(instant: str) -> str:
    return instant[:19].replace("T", " ")


@ledger.command(name="trial-balance")
def trial_balance(
    *,
    at_: Annotated[str | None, Parameter(name="--at", help="as recorded by this instant (RFC 3339)")] = None,
    sequence: Annotated[int | None, Parameter(help="as of this sequence of the book")] = None,
    effective: Annotated[
        str | None, Parameter(help="as effective by this instant, whenever recorded; needs --level")
    ] = None,
    level: Annotated[int | None, Parameter(help="add up accounts whose paths share their first LEVEL parts")] = None,
    book: Book = "main",
    client: Client = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Show what was debited and credited to each account of a book. In each currency, both sides add up to the same."""

    async def read(api: ApiClient) -> dict[str, Any]:
        whole: dict[str, Any] | None = None
        after: str | None = None
        while True:
            query: dict[str, object] = {
                "at": at_,
                "sequence": sequence,
                "effective": effective,
                "level": level,
                "after": after,
            }
            if level is None:
                query["limit"] = PAGE
            page = await ask(api, "GET", f"/v1/books/{named(book)}/trial-balance", query=query)
            if whole is None:
                whole = page
            else:
                whole["data"] += page["data"]
            after = page["next"] if page["has_more"] else None
            if after is None:
                whole["has_more"], whole["next"] = False, None
                return whole

    found = run(common, client, read)
    if common.json:
        emit(found, common)
        return
    _show_trial_balance(found, effective)


def _show_trial_balance(found: dict[str, Any], effective: str | None) -> None:
    out = console()
    by = f"by effective time up to {effective}, " if effective else ""
    print_line(f"[bold]trial balance of {found['book']}[/]  [dim]{by}as of sequence {found['as_of']:,}[/]", out)
    if not found["data"]:
        out.print("[dim]nothing is posted in this book yet[/]")
        return
    table = columns(
        {"account": "left", "kind": "left", "debits": "right", "credits": "right", "balance": "right", "": "left"},
        wraps="account",
    )
    for one in found["data"]:
        # An id alone says nothing: the name goes below it where there is no room beside it.
        what = one.get("path") or (f"{one['account']} {escaped(one['name'])}" if "account" in one else "(no path)")
        if one.get("accounts") is not None:
            what += f" ({one['accounts']:,})"
        table.add_row(
            what,
            one["kind"],
            plain(one["debits"]),
            plain(one["credits"]),
            plain(one["balance"]),
            one["balance"]["currency"],
        )
    table.add_section()
    for one in found["totals"]:
        table.add_row(
            counted(one["accounts"], "account"),
            "",
            plain(one["debits"]),
            plain(one["credits"]),
            "",
            one["currency"],
            style="bold",
        )
    print_table(table, out)


@ledger.command
def explain(
    account: Account,
    /,
    *,
    at_: Annotated[str | None, Parameter(name="--at", help="as recorded by this instant (RFC 3339)")] = None,
    sequence: Annotated[int | None, Parameter(help="as of this sequence of the book")] = None,
    effective: Annotated[str | None, Parameter(help="as effective by this instant, whenever recorded")] = None,
    limit: Annotated[int, Parameter(help="the most entries to list one by one")] = 20,
    book: Book = "main",
    client: Client = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Explain an account's balance: the entries, holds and rules behind it, and the arithmetic."""
    query = {"at": at_, "sequence": sequence, "effective": effective, "limit": limit, "book": book}
    found = run(common, client, lambda api: ask(api, "GET", at(account, "/explain"), query=query))
    if common.json:
        emit(found, common)
        return
    show({**found["account"], "balance": found["balance"], "as_of": found["as_of"]}, effective)
    out = console()
    code = found["account"]["currency"]
    before = found["checkpoint"]["version"]
    if before:
        out.print(f"\n[bold]entries[/]  [dim]after the first {before:,}, whose sums are known[/]")
    elif found["entries"]:
        out.print("\n[bold]entries[/]")
    _show_entries(found["entries"], code)
    if back := found["dated_back"]:
        out.print()
        print_line(
            f"[bold]dated back[/]  [dim]recorded later, after sequence {back['after']:,}; effective by then[/]", out
        )
        if back["earlier_entries"]:
            print_line(f"[dim]{back['earlier_entries']:,} earlier ones:[/] {_changes(back['earlier'], code)}", out)
        _show_entries(back["entries"], code)
        if not back["entries"]:
            out.print("nothing")
    if found["holds"]:
        out.print("\n[bold]holds[/]")
        for one in found["holds"]:
            note = "" if one["counts"] else "  [yellow]expired: no longer counts[/]"
            takes = "takes" if one["takes"] else "may bring in"
            print_line(f"{one['transfer']}  {takes} {shown(one['remaining'])} of {shown(one['amount'])}{note}", out)
    out.print("\n[bold]rules[/]")
    for one in found["rules"]:
        print_line(f"{escaped(named_rule(one, code))}: [dim]{escaped(one['means'])}[/]", out)
    out.print("\n[bold]arithmetic[/]")
    for step in found["steps"]:
        print_line(f"{step['name'].replace('_', ' ')} = {_sum(step['terms'])}[bold]{plain(step['result'])}[/]", out)


def named_rule(one: dict[str, Any], code: str) -> str:
    """`floor -100.00`, `normal side credit`, `chart customers:**`, `frozen`."""
    value = one.get("value")
    if one["rule"] in {"floor", "ceiling"}:
        value = plain({"amount": value, "currency": code})
    elif one.get("chart"):
        value = one["chart"]["pattern"]
    name: str = one["rule"].replace("_", " ")
    return name if value is None else f"{name} {value}"


def _show_entries(entries: list[Any], code: str) -> None:
    out = console()
    width = max((len(str(one["sequence"])) for one in entries), default=0)
    for one in entries:
        since = one.get("effective_at")
        note = f"  [dim]effective {_to_the_second(since)}[/]" if since else ""
        when = f"{_to_the_second(one['recorded_at'])}  {one['sequence']:>{width}}"
        print_line(f"[dim]{when}[/]  {one['kind']:<8}  {_changes(one['change'], code)}{note}", out)


def _changes(totals: dict[str, str], code: str) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {_signed(value, code)}" for name, value in totals.items() if value != "0"
    )


def _signed(minor: str, code: str) -> str:
    value = plain({"amount": minor, "currency": code})
    return value if value.startswith("-") else f"+{value}"


def _sum(terms: list[dict[str, Any]]) -> str:
    """`150.00 credits - 33.25 debits = `; nothing without terms."""
    text = ""
    for place, term in enumerate(terms):
        value = plain(term["amount"])
        less = value.startswith("-")
        sign = (" - " if less else " + ") if place else "-" if less else ""
        text += f"{sign}{value.removeprefix('-')} [dim]{escaped(term['what'].replace('_', ' '))}[/]"
    return f"{text} = " if text else ""
