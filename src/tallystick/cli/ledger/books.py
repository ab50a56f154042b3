"""`tallystick ledger open-book`: a book, at home or on another shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tallystick.cli.ledger.app import Client, ask, ledger, run
from tallystick.cli.output import Common, emit
from tallystick.kernel.deployment import SHARD_HEADER

if TYPE_CHECKING:
    from tallystick.cli.apiclient import ApiClient


@ledger.command
def open_book(
    book: Annotated[str, Parameter(help="the book's name: lower case letters, digits and hyphens")],
    /,
    *,
    shard: Annotated[str | None, Parameter(help="the shard to keep it on [home]")] = None,
    client: Client = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Open a book. On another shard this takes two requests, one at home and one there; if it fails in between, run it again."""

    async def act(api: ApiClient) -> Any:
        body = {"name": book} if shard is None else {"name": book, "shard": shard}
        opened = await ask(api, "POST", "/v1/books", body)
        return opened if shard is None else await ask(api, "POST", "/v1/books", body, headers={SHARD_HEADER: shard})

    opened = run(common, client, act)
    if common.json:
        emit(opened, common)
    else:
        print(f"the book {opened['name']} is open, on the shard {opened['shard']}")
