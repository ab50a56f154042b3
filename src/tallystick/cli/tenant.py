"""`tallystick tenant`: tenants own clients, accounts, tokens and payments, and are isolated from each other."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import Parameter

from tallystick.cli.administration import administer
from tallystick.cli.output import NO, USAGE, Common, Failed, console, emit

if TYPE_CHECKING:
    from tallystick.contracts.identity.client import IdentityAdmin
    from tallystick.contracts.identity.messages import Tenant

NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")

tenant = cyclopts.App(name="tenant", help="Create and list tenants.")


def checked(name: str) -> str:
    """The name, if it is well formed; checked before anything is asked of the platform. Raises Failed."""
    if not NAME.fullmatch(name):
        raise Failed(
            f"{name!r} is not a valid tenant name: a letter a-z, then up to 39 letters a-z, digits and hyphens", USAGE
        )
    return name


def known(common: Common, name: str) -> str:
    """The name, if there is such a tenant: an empty list for a mistyped one would mislead. Raises Failed."""
    if all(each.name != checked(name) for each in administer(common, _all)):
        raise Failed(f"there is no tenant {name}", NO)
    return name


@tenant.command
def create(
    name: Annotated[str, Parameter(help="lower case letters, digits and hyphens, such as `acme`")],
    /,
    *,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Create a tenant."""
    checked(name)
    made = administer(common, lambda identity: identity.create_tenant(name))
    if common.json:
        emit(made, common)
    else:
        print(f"tenant {made.name}")


@tenant.command(name="list")
def list_(*, common: Common = Common()) -> None:  # noqa: B008 - frozen
    """List all tenants, by name. The tenant `default` always exists."""
    found = administer(common, _all)
    if common.json:
        emit({"data": found}, common)
        return
    for each in found:
        console().print(f"{each.name:<40}  [dim]{each.created_at}[/]")


async def _all(identity: IdentityAdmin) -> list[Tenant]:
    found: list[Tenant] = []
    after: str | None = None
    while True:
        page = await identity.list_tenants(after)
        found += page.data
        after = page.next
        if not page.has_more:
            return found
