"""`tallystick call METHOD PATH`: one request at the edge, signed as a client would."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from tallystick.cli.output import NO, OK, USAGE, Common, Failed, console, emit
from tallystick.cli.own_client import chosen_client

if TYPE_CHECKING:
    from tallystick.cli.apiclient import Answer
    from tallystick.cli.credentials import Credentials

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
MAX_BODY = 16 << 20


def call(
    method: Annotated[str, Parameter(help="GET, POST, ...")],
    path: Annotated[str, Parameter(help="such as `/v1/payments?limit=10`")],
    /,
    *,
    client: Annotated[Path | None, Parameter(help="the credentials file [the only one in the data directory]")] = None,
    body: Annotated[str | None, Parameter(help="JSON, or @FILE (@- is standard input); sent as it is")] = None,
    idempotency_key: Annotated[str | None, Parameter(help="the same key with the same body is done once")] = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Get a token, prove its key, make one request at the edge, and print the answer.

    Exit status 0 for an answer below 400, 1 for any other.
    """
    method = method.upper()
    if method not in METHODS:
        raise Failed(f"{method} is not one of {', '.join(METHODS)}", USAGE)
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise Failed(f"{path!r} is no path: it begins with a slash and has no spaces", USAGE)
    if idempotency_key is not None and not idempotency_key.isprintable():
        raise Failed("an --idempotency-key has no control characters: no header could hold it", USAGE)
    answer = asyncio.run(_call(chosen_client(common, client), method, path, _body(body), idempotency_key))
    _show(answer, common)
    return OK if answer.status < 400 else NO


async def _call(credentials: Credentials, method: str, path: str, body: bytes | None, key: str | None) -> Answer:
    from tallystick.cli.apiclient import ApiClient

    async with ApiClient(credentials, connections=1) as api:
        return await api.request(method, path, body, idempotency_key=key)


def _body(given: str | None) -> bytes | None:
    """The bytes to send. Raises Failed."""
    if given is None or not given.startswith("@"):
        return given.encode() if given is not None else None
    try:
        if given == "@-":
            content = sys.stdin.buffer.read(MAX_BODY + 1)
        else:
            with Path(given[1:]).open("rb") as file:
                content = file.read(MAX_BODY + 1)
    except OSError as error:
        raise Failed(f"{given[1:]} can't be read: {error.strerror}", USAGE) from error
    if len(content) > MAX_BODY:
        raise Failed(f"{given[1:]} has more than {MAX_BODY} bytes", USAGE)
    return content


def _show(answer: Answer, common: Common) -> None:
    try:
        document = answer.json()
    except ValueError:
        document = answer.body.decode("utf-8", "replace") or None
    if common.json:
        headers = {name.lower(): value for name, value in answer.headers.items()}
        emit({"status": answer.status, "headers": headers, "body": document}, common)
        return
    colour = "green" if answer.ok else "red"
    note = "  [dim]replayed: the stored answer of an earlier request[/]" if answer.replayed else ""
    console(error=True).print(f"[{colour}]{answer.status}[/]  [dim]{answer.request_id}[/]{note}")
    if isinstance(document, dict | list):
        import msgspec

        print(msgspec.json.format(answer.body).decode())
    elif document is not None:
        # a receipt or a checkpoint ends where it ends: one more line feed and its signature is looked for in vain
        print(document, end="" if str(document).endswith("\n") else "\n")
