"""What `tallystick tenant` and `tallystick client` share: identity's administration, through the operator's own socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from tallystick.cli.output import NO, PART_FAILED, USAGE, Common, Failed

if TYPE_CHECKING:
    from tallystick.contracts.identity.client import IdentityAdmin

T = TypeVar("T")


def administer(common: Common, act: Callable[[IdentityAdmin], Awaitable[T]]) -> T:
    """Run `act` with identity's administration. Raises Failed for what identity refuses; NotRunning as every command."""
    from tallystick.contracts.identity.client import IdentityAdmin
    from tallystick.contracts.identity.problems import InvalidClientKey, InvalidScope
    from tallystick.kernel.ids import InvalidId
    from tallystick.kernel.problem import Problem
    from tallystick.local import operator

    async def work() -> T:
        client = await operator.client(common.layout, "identity")
        try:
            return await act(IdentityAdmin(client))
        finally:
            await client.close()

    try:
        return asyncio.run(work())
    except (InvalidScope, InvalidClientKey, InvalidId) as problem:
        raise Failed(problem.detail, USAGE) from problem
    except Problem as problem:
        raise Failed(problem.detail, NO if problem.status < 500 else PART_FAILED) from problem
