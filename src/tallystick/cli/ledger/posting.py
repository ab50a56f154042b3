"""`tallystick ledger post`: one transfer, or a hold."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tallystick.cli.ledger.app import Book, Client, ask, ledger, run
from tallystick.cli.ledger.money import shown, wire
from tallystick.cli.output import NO, OK, USAGE, Common, Failed, console, counted, emit, print_line

if TYPE_CHECKING:
    from tallystick.cli.apiclient import ApiClient


@ledger.command
def post(
    *,
    debit: Annotated[str, Parameter(help="the account to debit, by path or id")],
    credit: Annotated[str, Parameter(help="the account to credit")],
    amount: Annotated[str, Parameter(help="the amount, such as 12.50")],
    currency: Annotated[str, Parameter(help="ISO 4217 code")],
    hold: Annotated[bool, Parameter(help="hold the amount instead of posting it", negative="")] = False,
    expires_in: Annotated[int | None, Parameter(help="seconds until the hold expires")] = None,
    code: Annotated[str | None, Parameter(help="a short code of yours, to search by")] = None,
    reference: Annotated[str | None, Parameter(help="your reference")] = None,
    description: Annotated[str | None, Parameter(help="a description")] = None,
    effective_at: Annotated[str | None, Parameter(help="the effective time, to backdate it (RFC 3339)")] = None,
    key: Annotated[
        str | None, Parameter(name="--idempotency-key", help="requests with the same key and options are posted once")
    ] = None,
    book: Book = "main",
    client: Client = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Post an amount from one account to another. If the book's rules require approvals, propose it instead.

    Exit status 1 if the ledger refuses it; the message gives the reason.
    """
    if hold and effective_at is not None:
        raise Failed("a hold can't be backdated: leave out --hold or --effective-at", USAGE)
    if expires_in is not None and not hold:
        raise Failed("only a hold expires: add --hold", USAGE)
    leg: dict[str, Any] = {
        "kind": "hold" if hold else "post",
        "debit_account": debit,
        "credit_account": credit,
        "amount": wire(amount, currency.upper()),
    }
    leg |= {name: value for name, value in (("expires_in", expires_in), ("code", code)) if value is not None}
    header = {"reference": reference, "description": description, "effective_at": effective_at}
    body: dict[str, Any] = {
        "book": book,
        "transfers": [leg],
        **{name: value for name, value in header.items() if value is not None},
    }
    own = key or f"cli:{uuid.uuid4()}"

    async def send(api: ApiClient) -> Any:
        return await ask(api, "POST", "/v1/transactions", body, key=own)

    made = run(common, client, send)
    if common.json:
        emit(made, common)
        return OK
    out = console()
    if made["id"].startswith("prp_"):
        out.print(f"[yellow]proposed[/] {shown(leg['amount'])}  {made['id']}")
        print_line(
            f"[dim]needs {counted(made['missing'], 'approval')} by {made['expires_at']}: see `tallystick ledger approve`[/]",
            out,
        )
        return OK
    transfer = made["transfers"][0]
    out.print(f"[green]{transfer['status']}[/] {shown(transfer['amount'])}  {transfer['id']}")
    when = made["effective_at"] if effective_at else transfer["recorded_at"]
    print_line(f"[dim]{debit} -> {credit}, {made['id']}, sequence {made['first']:,} of {made['book']}, {when}[/]", out)
    for day in made["breached_on"]:
        out.print(f"[yellow]it broke a limit on {day}[/]")
    return OK if transfer["status"] != "rejected" else NO
