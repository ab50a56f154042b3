"""`tallystick backup` and `tallystick restore`."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

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
    print_line,
)


def backup(
    target: Annotated[
        Path,
        Parameter(help="the file to write, which must not exist; or a directory, which gets a file named by the time"),
    ],
    /,
    *,
    without_root_key: Annotated[
        bool, Parameter(negative="", help="leave out the root key, which you keep elsewhere; `restore` asks for it")
    ] = False,
    max_rate: Annotated[
        int | None, Parameter(help="read at most so many MiB a second of the databases, 1 to 1024 [no limit]")
    ] = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Back up the platform to one file, whether it is running or stopped. A running platform goes on working meanwhile.

    The file has mode 0600 and is there when it is complete. It contains the databases, all of one moment, and the secrets.
    """
    from tallystick.local.backup.take import take

    os.umask(0o077)
    if max_rate is not None and not 1 <= max_rate <= 1024:
        raise Failed(f"--max-rate {max_rate} is not between 1 and 1024", USAGE)
    file = _target(target)
    began = time.monotonic()
    with _reported("backing up", common) as progress:
        taken = asyncio.run(
            take(common.layout, file, root_key=not without_root_key, max_rate=max_rate, progress=progress)
        )
    seconds = round(time.monotonic() - began, 2)
    if common.json:
        emit({**asdict(taken), "file": str(taken.file), "seconds": seconds}, common)
        return OK
    key = "with" if taken.root_key else "without"
    print_line(
        f"{escaped(str(taken.file))}  {taken.size / 1e6:,.1f} MB, {counted(taken.files, 'file')}, {key} the root key, as of {taken.ended_at}, in {seconds:.1f} s"
    )
    return OK


def restore(
    file: Annotated[Path, Parameter(help="the file that `tallystick backup` wrote")],
    /,
    *,
    root_key: Annotated[
        Path | None, Parameter(help="the file of the root key, if the backup was made without it")
    ] = None,
    check: Annotated[bool, Parameter(negative="", help="only check that the backup is whole; write nothing")] = False,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Restore a backup into an empty or new data directory. Every file is checked before the platform is put in place; `up` starts it then.

    What happened after the backup is not in it. The audit log tells of the restore. Exit status 1 if the backup is damaged or of a newer version,
    or the directory is not empty.
    """
    from tallystick.cli.up import options
    from tallystick.local.backup import restore as restoring
    from tallystick.local.secrets import read_passphrase

    os.umask(0o077)
    if not file.is_file():
        raise Failed(f"there is no file {file}", USAGE)
    began = time.monotonic()
    if check:
        with _reported("checking", common) as progress:
            header, manifest = restoring.check(file, progress)
        if common.json:
            files = len(manifest.files)
            found = {
                "program": header.program,
                "taken_at": manifest.ended_at,
                "root_key": header.root_key,
                "files": files,
            }
            emit({"ok": True, **found}, common)
        else:
            key = "with" if header.root_key else "without"
            print_line(
                f"the backup is whole: {counted(len(manifest.files), 'file')}, {key} the root key, as of {manifest.ended_at}, by {header.program}"
            )
        return OK
    passphrase = read_passphrase(options(os.environ).root_passphrase_file)
    with _reported("restoring", common) as progress:
        done = restoring.restore(common.layout, file, given_key=root_key, passphrase=passphrase, progress=progress)
    seconds = round(time.monotonic() - began, 2)
    if common.json:
        emit({**asdict(done), "data": str(done.data), "seconds": seconds}, common)
        return OK
    print_line(
        f"restored {escaped(str(done.data))} as of {done.taken_at} in {seconds:.1f} s; the audit log had {counted(done.log_size, 'entry', 'entries')}"
    )
    print_line("start it with `tallystick up`, then run `tallystick verify`")
    return OK


def _target(given: Path) -> Path:
    """The file to write. Raises Failed."""
    given = given.absolute()
    if given.is_dir():
        return given / time.strftime("tallystick-%Y%m%dT%H%M%SZ.tar", time.gmtime())
    if os.path.lexists(given):
        raise Failed(f"{given} exists: choose another name, or a directory", NO)
    if not given.parent.is_dir():
        raise Failed(f"there is no directory {given.parent}: create it first", USAGE)
    return given


@contextmanager
def _reported(what: str, common: Common) -> Iterator[Callable[[int, int], None]]:
    """Shows a progress bar on a terminal. What fails is raised as Failed. SIGTERM is an interruption, which cleans up, like Ctrl-C."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from tallystick.local.backup import BackupFailed, BackupRefused

    out = console(error=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Progress(*columns, console=out, disable=common.json or not out.is_terminal, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    except BackupFailed as error:
        raise Failed(str(error), NO if isinstance(error, BackupRefused) else PART_FAILED) from error
    finally:
        signal.signal(signal.SIGTERM, terminated)
