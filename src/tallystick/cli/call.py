"""`tallystick call METHOD PATH`: one request to the edge, signed as a client signs it."""

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
    body: Annotated[str | None, Parameter(help="JSON, or @FILE (@- for standard input); sent unchanged")] = None,
    idempotency_key: Annotated[str | None, Parameter(help="requests with the same key and body are done once")] = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Get a token, send one signed request to the edge, and print the answer.

    Exit status 0 if the HTTP status is below 400, else 1.
    """
    method = method.upper()
    if method not in METHODS:
        raise Failed(f"{method} is not one of {', '.join(METHODS)}", USAGE)
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise Failed(f"{path!r} is not a path: it must begin with a slash, and be ASCII without spaces", USAGE)
    if idempotency_key is not None and not idempotency_key.isprintable():
        raise Failed("--idempotency-key must not contain control characters: it is sent in a header", USAGE)
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
        raise Failed(f"can't read {given[1:]}: {error.strerror}", USAGE) from error
    if len(content) > MAX_BODY:
        raise Failed(f"{given[1:]} is longer than {MAX_BODY} bytes", USAGE)
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
    note = "  [dim]replayed: this is the stored answer to an earlier request[/]" if answer.replayed else ""
    console(error=True).print(f"[{colour}]{answer.status}[/]  [dim]{answer.request_id}[/]{note}")
    if isinstance(document, dict | list):
        import msgspec

        print(msgspec.json.format(answer.body).decode())
    elif document is not None:
        # No extra line feed: it would invalidate the signature of a receipt or checkpoint.
        print(document, end="" if str(document).endswith("\n") else "\n")
