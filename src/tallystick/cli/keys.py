"""`tallystick keys`: the root key's versions and what each wraps; the services' keys; rotation of both on request."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import App, Parameter

from tallystick.cli.output import (
    NO,
    NOT_RUNNING,
    OK,
    PART_FAILED,
    USAGE,
    Common,
    Failed,
    console,
    emit,
    escaped,
    print_line,
)

if TYPE_CHECKING:
    from tallystick.kernel.secret import Secret
    from tallystick.local.keys import Held

T = TypeVar("T")

keys = App(help="Inspect and rotate the root key and the services' keys, and forget old versions of the root key.")


@keys.command
def status(*, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """Show the root key's versions and, while the platform is running, the services' keys.

    For each key: its age, its next rotation, the version of the root key that wraps it, and how much is still sealed under older keys.
    Exit status 1 if something is still wrapped by an older version of the root key.
    """
    current, versions = _versions(common)
    authority = _authority(common)
    held = _held(common)
    behind = sorted({*authority, *(each.root_version for each in (held.services if held else ()))} - {current})
    if common.json:
        emit(
            {
                "root": {"current": current, "versions": versions, "in_use": sorted({current, *behind})},
                "authority": {"root_versions": authority},
                "services": held and held.services,
                "data_keys": held and {"tenants": held.tenants, "singles": held.singles},
                "asked": held and held.asked,
            },
            common,
        )
        return NO if behind else OK
    out = console()
    out.print(f"root key   version {current} of {', '.join(map(str, versions))}")
    out.print(f"authority  wrapped by version {', '.join(map(str, authority)) or '-'}")
    if held is None:
        out.print("services   not shown: their keys are in the databases, and the platform isn't running")
    for each in held.services if held else ():
        when = f"rotates {each.rotates_at:%Y-%m-%d}" if each.rotates_at is not None else each.state
        print_line(
            f"{each.service:<10} version {each.version} of {each.created_at:%Y-%m-%d}, {when}, wrapped by version {each.root_version}",
            out,
        )
        for line in _data_keys(held, each.service) if held and each.state == "active" else ():
            print_line(f"{'':<10} {escaped(line)}", out)
    return NO if behind else OK


def _data_keys(held: Held, service: str) -> Iterator[str]:
    """The state of one service's data keys, in lines for people."""
    tenants = [each for each in held.tenants if each.service == service]
    current = [each for each in tenants if each.state == "active"]
    if current:
        first = min(current, key=lambda each: each.created_at)
        yield f"tenants' keys: {len(current):,}, the oldest from {first.created_at:%Y-%m-%d}, rotates {first.rotates_at:%Y-%m-%d}"
    for each in tenants:
        if each.emptied_at is not None:
            yield f"{each.tenant} version {each.version}: seals nothing any more, is deleted within the hour"
        elif each.state == "retired":
            left = "not counted yet" if each.values_left is None else f"{each.values_left:,}"
            yield f"{each.tenant} version {each.version}: values still to be sealed anew: {left}"
    singles = [each for each in held.singles if each.service == service]
    oldest = min((each.oldest_at for each in singles if each.oldest_at), default=None)
    if oldest is not None:
        due, retired = sum(each.due for each in singles), sum(each.retired for each in singles)
        yield (
            f"keys of single values: {sum(each.active for each in singles):,}, the oldest from {oldest:%Y-%m-%d}"
            + (f"; values still to be sealed anew: {due:,}" if due else "")
            + (f"; older keys, deleted within the hour: {retired:,}" if retired else "")
        )
    for asked in held.asked:
        if asked.service == service:
            yield f"a rotation of {asked.tenant or 'all keys'} was requested at {asked.asked_at:%Y-%m-%d %H:%M:%S} UTC and is not done yet"


@keys.command
def rotate(
    service: Annotated[str, Parameter(help="whose keys")],
    /,
    *,
    tenant: Annotated[
        str | None, Parameter(help="only the keys of this tenant's values [all keys, and the service's own]")
    ] = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Rotate a service's keys now, whatever their age. The service goes on working meanwhile, and seals what it holds anew under the new keys.

    The keys that seal data are rotated within a minute, the service's own key within the hour; `keys status` shows the progress.
    Exit status 1 if the service holds nothing sealed for that tenant.
    """
    from tallystick.local import keys as services
    from tallystick.local.deployments import deployments

    charters = deployments(common.layout)
    known = sorted(name for name, charter in charters.items() if charter.keys is not None)
    if service not in known:
        raise Failed(f"there is no service {service!r} with keys; the services with keys are {', '.join(known)}", USAGE)
    if not _ask(common, services.ask_for_rotation(common.layout, service, tenant)):
        raise Failed(f"{service} holds nothing sealed for a tenant {tenant!r}", NO)
    if common.json:
        emit({"service": service, "tenant": tenant}, common)
    else:
        print(f"requested new keys for {service}; `tallystick keys status` shows the progress")
    return OK


@keys.command(name="rotate-root")
def rotate_root(*, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """Add a version to the root key and make it current. The platform may be running or not.

    Services rewrap their keys under it within the hour, the certificate authority at the next start; `keys status` shows the progress.
    """
    from tallystick.chassis.keys import root

    file, passphrase = _file(common), _passphrase()
    try:
        version = root.rotate(file, passphrase)
    except (root.RootError, OSError) as error:
        raise Failed(f"the root key was not rotated: {error}", PART_FAILED) from error
    if common.json:
        emit({"current": version, "file": str(file)}, common)
    else:
        print(f"version {version} of the root key is now current; back up {file} now")
    return OK


@keys.command(name="forget-root")
def forget_root(
    version: Annotated[int, Parameter(help="an older version of the root key")],
    /,
    *,
    common: Common = Common(),  # noqa: B008 - frozen
) -> int:
    """Delete an old version of the root key for good. Backups made under it can't be read any more.

    The platform must be running. Refused (exit status 1) while that version still wraps anything.
    """
    from tallystick.chassis.keys import root

    current, versions = _versions(common)
    if version not in versions:
        raise Failed(
            f"there is no version {version} of the root key; the versions are {', '.join(map(str, versions))}", USAGE
        )
    if version == current:
        raise Failed(
            f"version {version} of the root key is the current one; run `tallystick keys rotate-root` first", NO
        )
    held = _held(common)
    if held is None:
        raise Failed(
            "only a running platform can tell whether the version is still needed: start it with `tallystick up`",
            NOT_RUNNING,
        )
    needs = [each.service for each in held.services if each.root_version == version]
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
        print(f"version {version} of the root key is deleted")
    return OK


def _passphrase() -> Secret[str] | None:
    from tallystick.cli.up import options
    from tallystick.local.secrets import read_passphrase

    return read_passphrase(options(os.environ).root_passphrase_file)


def _file(common: Common) -> Path:
    """The root key's file. The first start of a platform makes it. Raises Failed if there is none."""
    layout = common.layout
    if not layout.root_key.exists():
        raise Failed(f"there is no root key in {layout.data}; was the platform ever started?", USAGE)
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


def _held(common: Common) -> Held | None:
    """The services' keys, or None while the platform isn't running."""
    from tallystick.local import control
    from tallystick.local import keys as services
    from tallystick.local.deployments import deployments

    try:
        return _ask(common, services.held(common.layout, deployments(common.layout)))
    except control.NotRunning:
        return None


def _ask(common: Common, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, which reads the services' databases, if the platform is running. Raises NotRunning, Failed."""
    from tallystick.chassis.db import DatabaseError
    from tallystick.kernel.problem import Problem
    from tallystick.local import control

    async def ask() -> T:
        try:
            await control.ask(common.layout, control.GetStatus(), control.Status)
        except BaseException:
            work.close()
            raise
        return await work

    try:
        return asyncio.run(ask())
    except (DatabaseError, Problem) as error:
        raise Failed(f"a service's database refused, or did not answer: {error}", PART_FAILED) from error
