"""The way of a file into a book: announced, brought a part at a time, started, and waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from tallystick.cli.ledger.app import ask, pages
from tallystick.cli.ledger.bar import bar
from tallystick.cli.ledger.files.reading import File, Survey, lines
from tallystick.cli.output import console, escaped
from tallystick.contracts.ledger.messages import MAX_RECORDS
from tallystick.local.tasks import together

if TYPE_CHECKING:
    from tallystick.cli.apiclient import ApiClient

#: Uploads at once, and the bytes of each: a request takes 1.5 MiB.
IN_FLIGHT: Final = 4
UPLOAD: Final = 600_000
POLL_S: Final = 0.5


class Outcome:
    """What became of an import. `again`: it was finished before, and nothing was done now."""

    def __init__(self, document: Any, refusals: list[Any], *, again: bool) -> None:
        self.document = document
        self.refusals = refusals
        self.again = again


async def bring(
    api: ApiClient, file: File, survey: Survey, *, book: str, mode: str, dry_run: bool, quiet: bool
) -> Outcome:
    """Raises Failed."""
    announced: dict[str, Any] = {
        "book": book,
        "mode": mode,
        "dry_run": dry_run,
        "rows": survey.records,
        "sha256": survey.sha256,
    }
    if survey.sequence is not None:
        announced["sequence"] = survey.sequence
    found = await ask(api, "POST", "/v1/imports", announced, key=f"import:{survey.sha256}:{mode}:{dry_run}")
    again = found["state"] in {"done", "failed"}
    path = f"/v1/imports/{found['id']}"
    if found["state"] == "open":
        async with bar(survey.records, "bringing lines", quiet=quiet) as advance:
            await _upload(api, path, file, advance)
        found = await ask(api, "POST", f"{path}/start", {}, key=f"start:{found['id']}")
    if found["state"] == "queued":
        async with bar(None if mode == "whole" or dry_run else survey.records, "importing", quiet=quiet) as advance:
            done = 0
            waits = None
            while found["state"] == "queued":
                await asyncio.sleep(POLL_S)
                found = await ask(api, "GET", path)
                here = found["accounts"] + found["accounts_known"] + found["transfers"] + found["refused"]
                advance(here - done)
                done = here
                before, waits = waits, found["waiting"] and found["waiting"]["reason"]
                if waits not in {None, before} and not quiet:
                    told = f"waiting: {waits}. The import goes on by itself, also if you stop this command."
                    console(error=True).print(escaped(told), style="yellow")
    refusals = [one async for one in pages(api, f"{path}/refusals", {})] if found["refused"] else []
    return Outcome(found, refusals, again=again)


async def _upload(api: ApiClient, path: str, file: File, advance: Any) -> None:
    """A few uploads at once; the file is read no faster than it is sent."""
    parts: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(IN_FLIGHT)

    async def send() -> None:
        while (part := await parts.get()) is not None:
            count, body = part
            # The lines that are there already stay as they are, so it is safe to repeat.
            await ask(api, "POST", f"{path}/lines", body, key="lines")
            advance(count)

    async with together() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(send())
        for part in lines(file.records(), MAX_RECORDS, UPLOAD):
            await parts.put(part)
        for _ in range(IN_FLIGHT):
            await parts.put(None)
