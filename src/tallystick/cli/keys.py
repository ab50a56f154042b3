"""`tallystick keys`: the root key, its versions, and what is wrapped by which of them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from tallystick.cli.output import NO, NOT_RUNNING, OK, PART_FAILED, USAGE, Common, Failed, console, emit

if TYPE_CHECKING:
    from tallystick.kernel.secret import Secret
    from tallystick.local.keys import ServiceKey

keys = App(help="The root key: look at it, rotate it, forget an old version.")


@keys.command
def status(*, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """The root key's versions and, while the platform runs, each service's key: its age, when it is rotated, what wraps it.

    Exit status 1 when something is still wrapped by an older version of the root.
    """
    current, versions = _versions(common)
    authority = _authority(common)
    held = _services(common)
    behind = sorted({*authority, *(each.root_version for each in held or ())} - {current})
    if common.json:
        emit(
            {
                "root": {"current": current, "versions": versions, "in_use": sorted({current, *behind})},
                "authority": {"root_versions": authority},
                "services": held,
            },
            common,
        )
        return NO if behind else OK
    out = console()
    out.print(f"root key   version {current} of {', '.join(map(str, versions))}")
    out.print(f"authority  wrapped by version {', '.join(map(str, authority)) or '-'}")
    if held is None:
        out.print("services   the platform isn't running: their keys are in its database")
    for each in held or ():
        when = f"rotates {each.rotates_at:%Y-%m-%d}" if each.rotates_at is not None else each.state
        out.print(
            f"{each.service:<10} version {each.version} of {each.created_at:%Y-%m-%d}, {when}, wrapped by version {each.root_version}"
        )
    return NO if behind else OK


@keys.command(name="rotate-root")
def rotate_root(*, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """Add a version to the root key and make it the current one, whether the platform runs or not.

    Services wrap their keys by it within the hour, the authority at the next start; `keys status` says how far that is.
    """
    from tallystick.chassis.keys import root

    file, passphrase = _file(common), _passphrase()
    try:
        version = root.rotate(file, passphrase)
    except (root.RootError, OSError) as error:
        raise Failed(f"the root key is as it was: {error}", PART_FAILED) from error
    if common.json:
        emit({"current": version, "file": str(file)}, common)
    else:
        print(f"version {version} of the root key is the current one; back up {file} now")
    return OK


@keys.command(name="forget-root")
def forget_root(
    version: Annotated[int, Parameter(help="an older version of the root key")],
    /,
    *,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Remove an old version of the root key for good: backups made under it can't be read any more.

    Needs the running platform, and is refused (exit status 1) while anything in it is still wrapped by that version.
    """
    from tallystick.chassis.keys import root

    current, versions = _versions(common)
    if version not in versions:
        raise Failed(f"there is no version {version} of the root key; there are {', '.join(map(str, versions))}", USAGE)
    if version == current:
        raise Failed(f"version {version} of the root key is the current one: `tallystick keys rotate-root` first", NO)
    held = _services(common)
    if held is None:
        raise Failed(
            "whether the version is still needed is known while the platform runs: `tallystick up`", NOT_RUNNING
        )
    needs = [each.service for each in held if each.root_version == version]
    if version in _authority(common):
        needs.append("the certificate authority")
    if needs:
        raise Failed(f"version {version} of the root key still wraps keys of {', '.join(sorted(set(needs)))}", NO)
    try:
        root.forget(common.layout.root_key, version, _passphrase())
    except (root.RootError, OSError) as error:
        raise Failed(f"nothing was forgotten: {error}", PART_FAILED) from error
    if common.json:
        emit({"forgotten": version}, common)
    else:
        print(f"version {version} of the root key is gone")
    return OK


def _passphrase() -> Secret[str] | None:
    from tallystick.cli.up import options
    from tallystick.kernel.secret import Secret

    file = options(os.environ).root_passphrase_file
    try:
        return None if file is None else Secret(file.read_text(encoding="utf-8").rstrip("\r\n"))
    except OSError as error:
        raise Failed(f"TALLYSTICK_ROOT_PASSPHRASE_FILE can't be read: {error.strerror}", PART_FAILED) from error


def _file(common: Common) -> Path:
    """Raises Failed where there is none, which a platform makes when it starts for the first time."""
    layout = common.layout
    if not layout.root_key.exists():
        raise Failed(f"there is no root key in {layout.data}: was the platform started?", USAGE)
    return layout.root_key


def _versions(common: Common) -> tuple[int, list[int]]:
    from tallystick.chassis.keys import root

    try:
        return root.versions(_file(common), _passphrase())
    except root.RootError as error:
        raise Failed(str(error), PART_FAILED) from error


def _authority(common: Common) -> list[int]:
    from tallystick.local import keys as held
    from tallystick.local.pki import PkiError

    try:
        return held.authority_versions(common.layout)
    except PkiError as error:
        raise Failed(str(error), PART_FAILED) from error


def _services(common: Common) -> list[ServiceKey] | None:
    """Each service's keys; None while the platform isn't running."""
    from tallystick.chassis.db import DatabaseError, DatabaseUnavailable
    from tallystick.local import control
    from tallystick.local import keys as held
    from tallystick.local.deployments import deployments

    async def ask() -> Any:
        await control.ask(common.layout, control.GetStatus(), control.Status)
        return await held.service_keys(common.layout, deployments(common.layout))

    try:
        found: list[ServiceKey] = asyncio.run(ask())
    except control.NotRunning:
        return None
    except (DatabaseError, DatabaseUnavailable) as error:
        raise Failed(f"a service's database did not answer: {error}", PART_FAILED) from error
    return found
