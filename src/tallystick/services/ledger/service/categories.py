"""Categories of a book's accounts, and their totals."""

from __future__ import annotations

from tallystick.chassis.db import Database
from tallystick.contracts.ledger.problems import CategoryCycle, CategoryInUse, CategoryNotFound
from tallystick.kernel.clock import Clock
from tallystick.services.ledger.model import Category, CurrencyTotal, members, on_a_cycle, pattern
from tallystick.services.ledger.service.books import Books, Who
from tallystick.services.ledger.service.poster import Poster
from tallystick.services.ledger.store import Store


class Categories:
    """Categories serve reports only; no posting rule reads them."""

    def __init__(self, *, database: Database, store: Store, clock: Clock, poster: Poster, books: Books) -> None:
        self._database = database
        self._store = store
        self._clock = clock
        self._poster = poster
        self._books = books

    async def all(self, tenant: str, book: str) -> list[Category]:
        """By name. Raises BookNotFound."""
        number = await self._poster.book(tenant, book)
        return list((await self._store.categories(self._database, number)).values())

    async def get(self, tenant: str, book: str, name: str) -> Category:
        """Raises BookNotFound, CategoryNotFound."""
        number = await self._poster.book(tenant, book)
        found = (await self._store.categories(self._database, number)).get(name)
        if found is None:
            raise CategoryNotFound(category=name)
        return found

    async def set(self, who: Who, book: str, name: str, paths: list[str], categories: list[str]) -> Category:
        """Creates or replaces a category. Raises BookNotFound, BookQuarantined, CategoryNotFound for an unknown member, CategoryCycle."""
        number = await self._poster.book(who[0], book)
        new = Category(name, paths, categories, self._clock.now())
        async with self._database.transaction() as tx:
            # The graph is changed by one at a time: two changes without a cycle could form one together.
            await self._store.lock_books(tx, [number])
            await self._books.check_writable(tx, who[0], book)
            known = await self._store.categories(tx, number)
            for member in categories:
                if member not in known and member != name:
                    raise CategoryNotFound(category=member)
            if on_a_cycle(new, known):
                raise CategoryCycle
            await self._store.set_category(tx, number, new)
        return new

    async def delete(self, who: Who, book: str, name: str) -> None:
        """Raises BookNotFound, BookQuarantined, CategoryNotFound, CategoryInUse."""
        number = await self._poster.book(who[0], book)
        async with self._database.transaction() as tx:
            await self._store.lock_books(tx, [number])
            await self._books.check_writable(tx, who[0], book)
            known = await self._store.categories(tx, number)
            if name not in known:
                raise CategoryNotFound(category=name)
            by = [one.name for one in known.values() if name in one.categories]
            if by:
                raise CategoryInUse(by=by)
            await self._store.delete_category(tx, number, name)

    async def balances(self, tenant: str, book: str, name: str) -> tuple[int, list[CurrencyTotal]]:
        """The book's sequence, and the posted totals of the category's accounts as of it. Raises BookNotFound, CategoryNotFound."""
        number = await self._poster.book(tenant, book)
        async with self._database.transaction(snapshot=True) as tx:
            known = await self._store.categories(tx, number)
            if name not in known:
                raise CategoryNotFound(category=name)
            as_of = await self._books.sequence(tx, tenant, book)
            return as_of, await self._store.roll_up(tx, number, map(pattern, members(name, known)))
