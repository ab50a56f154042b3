"""`tallystick ledger check` and `release`: for the operator, to check the books and to release one from quarantine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tallystick.cli.administration import operate
from tallystick.cli.ledger.app import ledger
from tallystick.cli.output import NO, OK, USAGE, Common, Failed, console, counted, emit, escaped, print_line
from tallystick.cli.tenant import checked
from tallystick.kernel.deployment import service_of

if TYPE_CHECKING:
    from tallystick.chassis.call import Client
    from tallystick.contracts.ledger.messages import WatchedBook

Tenant = Annotated[str, Parameter(help="the tenant that owns the book")]


@ledger.command
def check(
    book: Annotated[str | None, Parameter(help="only this book [all books]")] = None,
    /,
    *,
    tenant: Annotated[str | None, Parameter(help="only this tenant's books [all tenants]")] = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Re-derive every total of the books from the postings, and compare. Exit status 1 if anything does not add up.

    A book with a fault is put in quarantine: it can still be read, but not written until it is released.
    """
    if tenant is not None:
        checked(tenant)

    seen: set[tuple[str, str]] = set()

    async def look(client: Client) -> list[dict[str, Any]]:
        from tallystick.contracts.ledger.client import LedgerOperator

        operator = LedgerOperator(client)
        some = [one for one in await operator.books() if _is(one, tenant, book) and (one.tenant, one.name) not in seen]
        seen.update((one.tenant, one.name) for one in some)
        return await _look(operator, some, quiet=common.json)

    found = [one for name in _ledgers(common) for one in operate(common, name, look)]
    if book is not None and not found:
        raise Failed(f"there is no book {book}" + (f" of {tenant}" if tenant else ""), USAGE)
    faults = sum(len(one["faults"]) for one in found)
    if common.json:
        emit({"books": found, "sound": not faults}, common)
        return NO if faults else OK
    out = console()
    for one in found:
        mark = "[red]✗[/]" if one["faults"] else "[green]✓[/]"
        note = "  [yellow]in quarantine[/]" if one["quarantined"] else ""
        print_line(
            f"{mark} {one['tenant']}/{one['book']}  [dim]{counted(one['rows'], 'row')}, sequence {one['sequence']:,}[/]{note}",
            out,
        )
        for fault in one["faults"]:
            print_line(f"  [red]{escaped(fault)}[/]", out)
    if not found:
        whose = "there are no books yet" if tenant is None else f"{tenant} has no books yet"
        out.print(f"{whose}; a book is opened when it is first used")
    elif faults:
        told = "see docs/how-to/when-a-book-is-quarantined.md"
        out.print(f"[red]{counted(faults, 'fault')}; {told}[/]")
    else:
        out.print(f"[green]{counted(len(found), 'book adds', 'books add')} up, to the minor unit[/]")
    return NO if faults else OK


async def _look(operator: Any, books: list[WatchedBook], *, quiet: bool) -> list[dict[str, Any]]:
    from tallystick.cli.ledger.bar import bar

    found = []
    async with bar(len(books), "books", quiet=quiet) as advance:
        for one in books:
            rows, faults = 0, []
            async for step in operator.check(one.number):
                rows += step.rows
                faults += step.faults
            found.append(
                {
                    "tenant": one.tenant,
                    "book": one.name,
                    "sequence": one.sequence,
                    "rows": rows,
                    "faults": faults,
                    "quarantined": one.quarantined or bool(faults),
                }
            )
            advance(1)
    return found


@ledger.command
def release(
    book: Annotated[str, Parameter(help="the book in quarantine")],
    /,
    *,
    tenant: Tenant = "default",
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Check a quarantined book again and, if everything adds up, release it. Exit status 1 if it does not."""
    checked(tenant)

    async def act(client: Client) -> tuple[list[str], WatchedBook | None] | None:
        from tallystick.contracts.ledger.client import LedgerOperator

        operator = LedgerOperator(client)
        found = next((one for one in await operator.books() if _is(one, tenant, book)), None)
        if found is None:
            return None
        if not found.quarantined:
            return [], found
        faults = [fault async for step in operator.check(found.number) for fault in step.faults]
        return faults, None if faults else await operator.release(found.number, checked=True)

    done = next((one for name in _ledgers(common) if (one := operate(common, name, act)) is not None), None)
    if done is None:
        raise Failed(f"there is no book {book} of {tenant}", USAGE)
    faults, released = done
    if common.json:
        emit({"tenant": tenant, "book": book, "released": released is not None, "faults": faults}, common)
        return NO if faults else OK
    if faults:
        for fault in faults:
            print_line(f"[red]{escaped(fault)}[/]")
        raise Failed(f"the book {book} stays in quarantine: repair these faults, then release it again", NO)
    print(f"the book {book} of {tenant} is not in quarantine")
    return OK


def _ledgers(common: Common) -> list[str]:
    """All ledgers, home last: for a book on another shard, home only has a row that says where it is."""
    from tallystick.local.deployments import deployments

    return [name for name in reversed(deployments(common.layout)) if service_of(name) == "ledger"]


def _is(one: WatchedBook, tenant: str | None, book: str | None) -> bool:
    return (tenant is None or one.tenant == tenant) and (book is None or one.name == book)
