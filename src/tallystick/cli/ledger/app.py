"""What the subcommands share: the client to use, requests to the edge, and how refusals are shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar
from urllib.parse import quote, urlencode

import cyclopts
from cyclopts import Parameter

from tallystick.cli.output import NO, PART_FAILED, USAGE, Common, Failed, places
from tallystick.cli.own_client import chosen_client, own_client

if TYPE_CHECKING:
    from tallystick.cli.apiclient import Answer, ApiClient

ledger = cyclopts.App(
    name="ledger", help="Work with the books: accounts, postings, reports, imports and exports, and checks."
)

T = TypeVar("T")
Client = Annotated[Path | None, Parameter(help="a credentials file [this command's own client, of the default tenant]")]
Book = Annotated[str, Parameter(help="the book")]
Shard = Annotated[str | None, Parameter(help="the shard that has the book [home]")]
Account = Annotated[str, Parameter(help="an account's path (`customers:42:wallet`) or id (`acc_...`)")]

#: The scopes of the command's own client. With --client, that client's scopes apply.
SCOPE: Final = (
    "books:write books:read books:import books:export accounts:write accounts:read transfers:write transfers:read"
)
#: From this status on the fault is the platform's, not the request's.
_SERVER: Final = 500
_HINTS: Final = {
    "account-not-found": "`tallystick ledger accounts` lists them; a path is looked up in one book only (--book)",
    "book-not-found": "`tallystick call GET /v1/books` lists them; `tallystick ledger open-book` opens one",
    "insufficient-scope": "`tallystick client create NAME --scope ...` registers a client that has the scope",
    "import-too-large": "`--in-parts` imports a file of any size; `--dry-run` tries a smaller one",
    "book-quarantined": "`tallystick ledger check` says what is wrong with it",
    "export-outdated": "run it again while nobody changes accounts",
    "proposal-not-found": "`tallystick ledger proposals --status all` lists them",
    "not-an-approver": "`tallystick ledger proposals ID` shows the rules and whom they name",
}
#: The hint for a time before the account was opened; an imported account was opened by its import.
_BEFORE: Final = "imported and backdated entries have an effective time of their own: use `--by effective` for a statement or a plot, else `--effective`"


def run(
    common: Common,
    client: Path | None,
    act: Callable[[ApiClient], Awaitable[T]],
    *,
    connections: int = 4,
    own_key: bool = False,
    shard: str | None = None,
) -> T:
    """Run `act`, whose requests are about one book, with a client of the edge. `own_key`, `shard`: see `ApiClient`. Raises Failed, NotRunning."""
    from tallystick.cli.apiclient import ApiClient

    credentials = own_client(common, "ledger", SCOPE) if client is None else chosen_client(common, client)

    async def work() -> T:
        api = ApiClient(credentials, connections=connections, timeout=60.0, own_key=own_key, shard=shard, one_book=True)
        async with api:
            return await act(api)

    return asyncio.run(work())


async def ask(
    api: ApiClient,
    method: str,
    path: str,
    body: object = None,
    *,
    query: Mapping[str, object] | None = None,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Any:
    """The answer's document. Raises Failed for a problem, with its text and what to do."""
    answer = await api.request(method, path + _query(query), body, idempotency_key=key, headers=headers)
    if not answer.ok:
        raise refused(answer)
    return answer.json()


def refused(answer: Answer) -> Failed:
    """A problem document as the command's error."""
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return Failed(f"the edge answered {answer.status} ({answer.request_id})", PART_FAILED)
    title = str(document.get("title") or answer.slug)
    said = str(document.get("detail") or title)
    parts = [said if said.rstrip(".") == title.rstrip(".") else f"{title}: {said}"]
    parts += places(said, document.get("errors") or ())
    for name in ("reason", "account", "available", "required", "first", "why", "breached_on", "proposal_status"):
        if name in document:
            parts.append(f"  {name}: {_shown(document[name])}")
    if hint := _HINTS.get(answer.slug):
        parts.append(hint)
    if answer.slug == "history-not-kept" and "created_at" in document:
        parts.append(_BEFORE)
    status = PART_FAILED if answer.status >= _SERVER else USAGE if answer.status == 400 else NO
    return Failed("\n".join(parts), status)


async def pages(api: ApiClient, path: str, query: Mapping[str, object], most: int | None = None) -> AsyncIterator[Any]:
    """The items of a list, up to `most`. Raises Failed."""
    after: str | None = None
    left = most
    while left is None or left > 0:
        limit = 200 if left is None else min(left, 200)
        document = await ask(api, "GET", path, query={**query, "limit": limit, "after": after})
        for one in document["data"]:
            yield one
        if left is not None:
            left -= len(document["data"])
        after = document["next"] if document["has_more"] else None
        if after is None:
            return


def at(account: str, rest: str = "") -> str:
    """The path of an account's resource."""
    if not account.strip():
        raise Failed("ACCOUNT is empty: give the account's path or id", USAGE)
    return f"/v1/accounts/{quote(account, safe=':')}{rest}"


def named(book: str) -> str:
    """A book's name in a path."""
    return quote(book, safe="")


def _query(query: Mapping[str, object] | None) -> str:
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return "?" + urlencode(given) if given else ""


def _shown(value: object) -> str:
    from tallystick.cli.ledger.money import shown

    if isinstance(value, dict) and set(value) == {"amount", "currency"}:
        return shown(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
