"""`tallystick render TARGET`: prints or writes what is derived from the charters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tallystick.cli.output import PART_FAILED, USAGE, Common, Failed, emit


def render(
    target: Annotated[str, Parameter(help="alerts, dashboards, data-map, diagram, envoy, nats, postgres or valkey")],
    /,
    *,
    shard: Annotated[
        list[str] | None, Parameter(negative="", help="a further shard of the ledger to include; may be repeated")
    ] = None,
    out: Annotated[Path | None, Parameter(help="write the files to this directory, which is created if needed")] = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Print or write what is derived from the charters. The platform need not be running."""
    from tallystick.chassis.charter import CharterError
    from tallystick.cli.up import shards
    from tallystick.fabric import render as fabric

    named = shards(shard or [])
    try:
        if out is not None:
            written = fabric.render(target, out, named)
            if common.json:
                emit({"target": target, "written": [str(path) for path in written]}, common)
            else:
                print("\n".join(map(str, written)))
            return
        files = fabric.files(target, shards=named)
    except fabric.UnknownTarget as error:
        raise Failed(str(error), USAGE) from error
    except CharterError as error:
        raise Failed(str(error), PART_FAILED) from error
    except OSError as error:
        raise Failed(f"can't write {error.filename or out}: {error.strerror}", USAGE) from error
    if common.json:
        emit({"target": target, "files": files}, common)
        return
    for name, text in files.items():
        if len(files) > 1:
            print(f"# ---- {name}")
        print(text, end="")
