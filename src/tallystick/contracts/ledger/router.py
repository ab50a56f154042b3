"""Finds the shard of the ledger that has a book."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Generic, TypeVar

from tallystick.contracts.ledger.problems import BookElsewhere
from tallystick.kernel.deployment import HOME
from tallystick.kernel.problem import Unavailable

C = TypeVar("C")
T = TypeVar("T")

#: How many books' shards are cached, at about 200 bytes each.
MAX_BOOKS: Final = 50_000
#: Shards that are asked for one call at most: where the book was, the one at home, and the one that this names.
HOPS: Final = 3


class Router(Generic[C]):
    """`clients` are the clients of the shards, by name. The shard at home is asked first. A shard that is asked for a book that it does
    not have names the one that has it, and that is cached.
    """

    def __init__(self, clients: Mapping[str, C], home: str = HOME) -> None:
        self._clients = clients
        self._home = home
        self._known: OrderedDict[tuple[str, str], str] = OrderedDict()

    async def at(self, tenant: str, book: str, call: Callable[[C], Awaitable[T]]) -> T:
        """Call `call` with the client of the book's shard, and again with another one after `BookElsewhere`, with which a ledger answers
        before it does anything. Raises what `call` raises, and Unavailable for a shard without a client.
        """
        key = (tenant, book)
        shard = self._known.get(key, self._home)
        for hop in range(HOPS):
            client = self._clients.get(shard)
            if client is None:
                raise Unavailable(f"there is no way to the shard {shard}")
            try:
                found = await call(client)
            except BookElsewhere as elsewhere:
                named = str(elsewhere.extensions.get("shard", self._home))
                self._known.pop(key, None)
                if named == shard or hop == HOPS - 1:
                    raise
                shard = named
            else:
                self._remember(key, shard)
                return found
        raise AssertionError("the last hop returns or raises")

    def _remember(self, key: tuple[str, str], shard: str) -> None:
        self._known[key] = shard
        self._known.move_to_end(key)
        if len(self._known) > MAX_BOOKS:
            self._known.popitem(last=False)
