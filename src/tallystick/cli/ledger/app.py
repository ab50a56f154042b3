"""What the subcommands share: who asks, how the edge is asked, and how a no is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar
from urllib.parse import quote, urlencode

import cyclopts
from cyclopts import Parameter

from tallystick.cli.output import NO, PART_FAILED, USAGE, Common, Failed
from tallystick.cli.own_client import chosen_client, own_client

if TYPE_CHECKING:
    from tallystick.cli.apiclient import Answer, ApiClient

ledger = cyclopts.App(name="ledger", help="The books: accounts, postings, reports, files, and the check of it all.")

T = TypeVar("T")
Client = Annotated[Path | None, Parameter(help="a credentials file [one of this command's own, of the default tenant]")]
Book = Annotated[str, Parameter(help="which book")]
Shard = Annotated[str | None, Parameter(help="the shard that has it [the one at home]")]
Account = Annotated[str, Parameter(help="an account, by its path (`customers:42:wallet`) or its id (`acc_...`)")]

#: What the command's own client may do. With --client it is that client's scopes which count.
SCOPE: Final = (
    "books:write books:read books:import books:export accounts:write accounts:read transfers:write transfers:read"
)
#: Answers after which the same request may succeed later are the platform's fault, not the question's.
_SERVER: Final = 500
_HINTS: Final = {
    "account-not-found": "`tallystick ledger accounts` lists them; a path is looked for in one book only (--book)",
    "book-not-found": "`tallystick call GET /v1/books` lists them; `tallystick ledger open-book` opens one",
    "insufficient-scope": "`tallystick client create NAME --scope ...` makes a client that may",
    "import-too-large": "`--in-parts` imports a file of any size; `--dry-run` tries a smaller one",
    "book-quarantined": "`tallystick ledger check` says what is wrong with it",
    "export-outdated": "run it again when nobody changes accounts",
    "proposal-not-found": "`tallystick ledger proposals --status all` lists them",
    "not-an-approver": "`tallystick ledger proposals ID` shows the rules and whom they name",
}
#: A time before the account was opened, which is that of its import.
_BEFORE: Final = "what was imported or dated back counts since a time of its own: `--by effective` in a statement or a plot, else `--effective`"


def run(
    common: Common,
    client: Path | None,
    act: Callable[[ApiClient], Awaitable[T]],
    *,
    connections: int = 4,
    own_key: bool = False,
    shard: str | None = None,
) -> T:
    """Run `act`, which is about one book, with a client of the edge; `own_key` and `shard` as `ApiClient`. Raises Failed, NotRunning."""
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
    """The answer's document. Raises Failed for a problem: with what it says and what to do."""
    answer = await api.request(method, path + _query(query), body, idempotency_key=key, headers=headers)
    if not answer.ok:
        raise refused(answer)
    return answer.json()


def refused(answer: Answer) -> Failed:
    """A problem document as the command tells it."""
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return Failed(f"the edge answered {answer.status} ({answer.request_id})", PART_FAILED)
    title = str(document.get("title") or answer.slug)
    said = str(document.get("detail") or title)
    parts = [said if said.rstrip(".") == title.rstrip(".") else f"{title}: {said}"]
    parts += [f"  {one.get('pointer')}: {one.get('detail')}" for one in document.get("errors") or ()]
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
        raise Failed("an account is named by its path or its id", USAGE)
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
