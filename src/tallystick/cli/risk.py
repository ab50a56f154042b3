"""`tallystick risk`: a tenant's deny and allow lists. Deny beats allow, and the lists beat the rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import cyclopts
from cyclopts import Parameter

from tallystick.cli.administration import operate
from tallystick.cli.output import USAGE, Common, Failed, emit, escaped, print_line
from tallystick.cli.tenant import known

if TYPE_CHECKING:
    from tallystick.contracts.risk.messages import ListEntry

risk = cyclopts.App(name="risk", help="Manage the deny and allow lists of a tenant.")

Kind = Annotated[
    Literal["card", "account", "client"], Parameter(help="what VALUE identifies; an account is the paying one")
]
Value = Annotated[
    str, Parameter(help="a card's fingerprint (fp_...), or the id of an account or client; never a card number")
]
Tenant = Annotated[str, Parameter(help="the tenant whose lists these are")]
Note = Annotated[str, Parameter(help="the reason, for readers of the list; no personal data")]


@risk.command
def lists(*, tenant: Tenant = "default", common: Common = Common()) -> None:  # noqa: B008 - frozen
    """Show a tenant's lists."""
    from tallystick.contracts.risk.client import RiskLists

    name = known(common, tenant)
    found = operate(common, "risk", lambda client: RiskLists(client).entries(name))
    if common.json:
        emit({"data": found}, common)
        return
    if not found:
        print(f"the lists of {name} are empty")
    for each in found:
        colour = "red" if each.outcome == "deny" else "green"
        print_line(f"[{colour}]{each.outcome:<5}[/]  {each.kind:<7}  {each.value}  [dim]{escaped(each.note)}[/]")


@risk.command
def deny(
    kind: Kind,
    value: Value,
    /,
    *,
    tenant: Tenant = "default",
    note: Note = "",
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Deny every payment from this card or account, or requested by this client. The payee is not checked."""
    _put(common, "deny", tenant, (kind, value), note)


@risk.command
def allow(
    kind: Kind,
    value: Value,
    /,
    *,
    tenant: Tenant = "default",
    note: Note = "",
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Allow every payment from this card or account, or requested by this client, unless a deny entry matches it."""
    _put(common, "allow", tenant, (kind, value), note)


@risk.command
def remove(
    kind: Kind,
    value: Value,
    /,
    *,
    tenant: Tenant = "default",
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Remove a value from the lists. The rules then decide again."""
    from tallystick.contracts.risk.client import RiskLists

    _named(kind, value)
    name = known(common, tenant)
    operate(common, "risk", lambda client: RiskLists(client).remove(name, kind, value))
    if common.json:
        emit({"tenant": name, "kind": kind, "value": value, "removed": True}, common)
    else:
        print(f"removed {kind} {value}")


def _put(common: Common, outcome: Literal["deny", "allow"], tenant: str, named: tuple[Kind, str], note: str) -> None:
    from tallystick.contracts.risk.client import RiskLists
    from tallystick.contracts.risk.messages import ListEntry

    kind, value = named
    _named(kind, value)
    if len(note) > 200:
        raise Failed("a note has at most 200 characters", USAGE)
    name = known(common, tenant)
    entry = ListEntry(tenant=name, outcome=outcome, kind=kind, value=value, note=note)
    made: ListEntry = operate(common, "risk", lambda client: RiskLists(client).put(entry))
    if common.json:
        emit(made, common)
    else:
        print(f"{made.outcome} {made.kind} {made.value}")


def _named(kind: str, value: str) -> None:
    """Check the value before anything is asked of the platform. The message does not quote it: it may be a card number. Raises Failed."""
    prefix = {"card": "fp_", "account": "acc_", "client": "cli_"}[kind]
    if not value.startswith(prefix) or not value.removeprefix(prefix).isalnum():
        raise Failed(f"VALUE of {'an' if kind == 'account' else 'a'} {kind} must be of the form {prefix}...", USAGE)
