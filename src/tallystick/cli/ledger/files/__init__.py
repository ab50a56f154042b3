"""`tallystick ledger import` and `export`."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, Final

import msgspec
from cyclopts import Parameter

from tallystick.cli.ledger.app import Book, Client, ask, ledger, named, run
from tallystick.cli.output import (
    NO,
    OK,
    PART_FAILED,
    USAGE,
    Common,
    Failed,
    console,
    counted,
    emit,
    escaped,
    print_table,
)
from tallystick.cli.output import columns as table_of  # a module here is called so

if TYPE_CHECKING:
    from tallystick.cli.apiclient import ApiClient
    from tallystick.cli.ledger.files.reading import Survey, Wrong

#: Refused lines that are printed, and that `--json` gives; a report has all of them.
SHOWN: Final = 20
TOLD: Final = 1000
#: Names of an export's record types, where not the type itself. Most transfers are inside transactions.
_RECORDS: Final = {"category": ("category", "categories"), "transfer": ("single transfer",)}
_FRESH: Final = os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW


@ledger.command(name="import")
def import_(
    file: Annotated[Path, Parameter(help="CSV or JSON lines, plain or gzip; an export is restored into an empty book")],
    /,
    *,
    book: Book = "main",
    skip_invalid: Annotated[bool, Parameter(help="import the valid lines, report the rest", negative="")] = False,
    in_parts: Annotated[
        bool, Parameter(help="import 1000 lines at a time, up to the first part with an invalid line", negative="")
    ] = False,
    dry_run: Annotated[bool, Parameter(help="show what would be done, change nothing", negative="")] = False,
    report: Annotated[Path | None, Parameter(help="write the refused lines to this file, as JSON lines")] = None,
    client: Client = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Import accounts with opening balances, and history, into a book. If one line is invalid, nothing is imported (but see --skip-invalid).

    Ids are derived from those in the file, so importing the same records again changes nothing. Exit status 1 if a line was refused.
    """
    from tallystick.cli.ledger.bar import bar
    from tallystick.cli.ledger.files.bringing import Outcome, bring
    from tallystick.cli.ledger.files.reading import File

    if skip_invalid and in_parts:
        raise Failed("--skip-invalid already imports in parts: leave out --in-parts", USAGE)
    if report is not None:
        _write_report(report, b"", "ab")  # find out now, not after the import, whether it can be written
    content = File(file)
    survey = _surveyed(content, bar, quiet=common.json)
    if survey.wrong and not skip_invalid:
        return _told(_nothing(survey, book), survey.wrong, report, common)
    if not survey.records:
        if survey.wrong:
            return _told(_nothing(survey, book), survey.wrong, report, common)
        raise Failed(f"{file} has no records", USAGE)
    mode = "valid" if skip_invalid else "parts" if in_parts else "whole"

    async def act(api: ApiClient) -> Outcome:
        return await bring(api, content, survey, book=book, mode=mode, dry_run=dry_run, quiet=common.json)

    outcome = run(common, client, act)
    return _told(outcome.document, [*survey.wrong, *outcome.refusals], report, common, again=outcome.again)


def _surveyed(content: Any, bar: Any, *, quiet: bool) -> Survey:
    import asyncio

    async def read() -> Survey:
        async with bar(None, "reading lines", quiet=quiet) as advance:
            found: Survey = content.survey(advance)
            return found

    return asyncio.run(read())


def _write_report(report: Path, content: bytes, mode: str = "wb") -> None:
    """Raises Failed."""
    try:
        with report.open(mode) as file:
            file.write(content)
    except OSError as error:
        raise Failed(f"can't write {report}: {error.strerror}", USAGE) from error


def _nothing(survey: Survey, book: str) -> dict[str, Any]:
    return {
        "id": None,
        "book": book,
        "state": "failed",
        "rows": survey.records + len(survey.wrong),
        "accounts": 0,
        "accounts_known": 0,
        "transfers": 0,
        "transfers_known": 0,
        "refused": 0,
        "reason": "nothing was imported: the file has invalid lines",
        "dry_run": False,
    }


def _told(
    document: dict[str, Any],
    refusals: Sequence[Wrong | dict[str, Any]],
    report: Path | None,
    common: Common,
    *,
    again: bool = False,
) -> int:
    lines = sorted((one if isinstance(one, dict) else asdict(one) for one in refusals), key=lambda one: one["line"])
    if report is not None:
        _write_report(report, b"".join(msgspec.json.encode(one) + b"\n" for one in lines))
    good = document["state"] == "done"
    if again:
        document = {
            **document,
            **{f"{name}_known": document[name] + document[f"{name}_known"] for name in ("accounts", "transfers")},
            "accounts": 0,
            "transfers": 0,
        }
    if common.json:
        emit(
            {**document, "refused": len(lines), "unchanged": again or _unchanged(document), "refusals": lines[:TOLD]},
            common,
        )
    else:
        _show(document, lines, report, again=again)
    return OK if good and not lines else NO


def _unchanged(document: dict[str, Any]) -> bool:
    return not (document["accounts"] or document["transfers"])


def _show(document: dict[str, Any], lines: list[dict[str, Any]], report: Path | None, *, again: bool) -> None:
    out = console()
    if lines:
        table = table_of({"line": "right", "field": "left", "reason": "left", "": "left"}, wraps="")
        for one in lines[:SHOWN]:
            table.add_row(
                str(one["line"]), escaped(one["field"] or ""), f"[red]{one['reason']}[/]", escaped(one["detail"])
            )
        print_table(table, out)
        if len(lines) > SHOWN:
            where = f"all are in {report}" if report is not None else "--report FILE has all of them"
            out.print(f"[dim]... and {len(lines) - SHOWN:,} more; {where}[/]")
        out.print()
    table = table_of({"": "left", "new": "right", "there already": "right"}, wraps="")
    for name in ("accounts", "transfers"):
        table.add_row(name, f"{document[name]:,}", f"{document[f'{name}_known']:,}")
    table.add_row("refused lines", f"[red]{len(lines):,}[/]" if lines else "0", "")
    print_table(table, out)
    if document["state"] == "failed":
        out.print(f"[red]{escaped(document['reason'])}[/]")
    elif again:
        out.print(
            f"[yellow]nothing changed: this file was imported into {document['book']} at {document['finished_at']}[/]"
        )
    elif document["dry_run"]:
        out.print("[green]dry run: nothing was changed[/]")
    elif _unchanged(document) and not (document["accounts_known"] or document["transfers_known"]):
        out.print(f"[red]nothing was imported into {document['book']}: every line was refused[/]")
    elif _unchanged(document):
        out.print(f"[yellow]nothing changed: {document['book']} already has all of it[/]")
    else:
        out.print(f"[green]imported into {document['book']}, now at sequence {document['sequence']:,}[/]")


# ---- export ---------------------------------------------------------------------------------------------------------


@ledger.command
def export(
    *,
    out: Annotated[
        Path | None, Parameter(help="the file to write, compressed if it ends in .gz [standard output]")
    ] = None,
    book: Book = "main",
    client: Client = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Write a whole book, as of one sequence, as JSON lines: settings, chart, categories and accounts, then all postings in order.

    The last line has the counts, the sequence, and the SHA-256 of the lines before it. `import` restores the file into an empty book.
    """
    if common.json and out is None:
        raise Failed(
            "the export on standard output is JSON lines already: leave out --json, or name a file with --out", USAGE
        )

    async def act(api: ApiClient) -> dict[str, Any]:
        from tallystick.cli.ledger.bar import bar

        try:
            with ExitStack() as stack:
                file = _target(stack, out)
                async with bar(None, "records", quiet=common.json) as advance:
                    return await _write(api, book, file, advance)
        except OSError as error:
            if out is None:
                raise
            raise Failed(f"can't write all of {out}: {error.strerror}", PART_FAILED) from error

    trailer = run(common, client, act)
    if out is None:
        return
    if common.json:
        emit({"book": book, "file": str(out), **trailer}, common)
    else:
        counts = ", ".join(
            counted(count, *_RECORDS.get(kind, (kind,))) for kind, count in trailer["records"].items() if kind != "book"
        )
        print(f"{book} as of sequence {trailer['sequence']:,} in {out}: {counts or 'nothing yet'}")


def _target(stack: ExitStack, out: Path | None) -> IO[bytes] | gzip.GzipFile:
    """Where to write. A regular file is written beside its place and moved there when it is complete; a symbolic link stays a link. Anything
    else, such as a pipe or a device, is written directly. Raises Failed.
    """
    if out is None:
        return sys.stdout.buffer
    try:
        place = out.resolve()
        whole = place.is_file() or not place.exists()
        part = place.with_name(place.name + ".part") if whole else place
        raw = os.fdopen(os.open(part, os.O_WRONLY | (_FRESH if whole else 0), 0o600), "wb")
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise Failed(f"can't write {out}: {getattr(error, 'strerror', error)}", USAGE) from error

    def settle(kind: type[BaseException] | None, _error: object, _trace: object) -> None:
        try:
            raw.close()
            if whole and kind is None:
                part.replace(place)
        finally:
            if whole:
                part.unlink(missing_ok=True)

    stack.push(settle)
    if out.suffix != ".gz":
        return raw
    return stack.enter_context(gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0))


async def _write(api: ApiClient, book: str, file: IO[bytes] | gzip.GzipFile, advance: Any) -> dict[str, Any]:
    digest = hashlib.sha256()
    counts: Counter[str] = Counter()
    transfers = 0
    as_of = 0
    after: str | None = None
    while True:
        page = await ask(api, "GET", f"/v1/books/{named(book)}/export", query={"limit": 1000, "after": after})
        as_of = page["as_of"]
        for record in page["data"]:
            line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            digest.update(line)
            file.write(line)
            counts[record["type"]] += 1
            transfers += len(record["transfers"]) if record["type"] == "transaction" else record["type"] == "transfer"
        advance(len(page["data"]))
        after = page["next"] if page["has_more"] else None
        if after is None:
            break
    if transfers != as_of:
        raise Failed(f"the export is incomplete: {transfers} transfers, but the book is at sequence {as_of}", NO)
    trailer = {"sequence": as_of, "records": dict(counts), "sha256": digest.hexdigest()}
    file.write(json.dumps({"type": "end", **trailer}, separators=(",", ":")).encode() + b"\n")
    file.flush()
    return trailer
