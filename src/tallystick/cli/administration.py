"""Calls to the services' administration interfaces, through the operator's own socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from tallystick.cli.output import NO, PART_FAILED, USAGE, Common, Failed, places

if TYPE_CHECKING:
    from tallystick.chassis.call import Client
    from tallystick.contracts.identity.client import IdentityAdmin

T = TypeVar("T")


def operate(common: Common, target: str, act: Callable[[Client], Awaitable[T]]) -> T:
    """Run `act` with a client for the service `target`. Raises Failed if the service refuses, and NotRunning."""
    from tallystick.kernel.problem import Problem
    from tallystick.local import operator

    async def work() -> T:
        client = await operator.client(common.layout, target)
        try:
            return await act(client)
        finally:
            await client.close()

    try:
        return asyncio.run(work())
    except Problem as problem:
        status = USAGE if problem.status == 400 else NO if problem.status < 500 else PART_FAILED
        wrong = places(problem.detail, problem.extensions.get("errors") or ())
        raise Failed("\n".join([problem.detail, *wrong]), status) from problem


def administer(common: Common, act: Callable[[IdentityAdmin], Awaitable[T]]) -> T:
    """Like `operate`, with identity's administration client."""
    from tallystick.contracts.identity.client import IdentityAdmin

    return operate(common, "identity", lambda client: act(IdentityAdmin(client)))
