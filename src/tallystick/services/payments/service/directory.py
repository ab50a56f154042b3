"""What payments knows about accounts and cards: facts that never change, so they are asked for once and cached."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, NamedTuple, TypeVar

from tallystick.chassis.db import Database
from tallystick.contracts.ledger.client import LedgerClient
from tallystick.contracts.vault.client import DescribeCall, VaultClient
from tallystick.contracts.vault.problems import TokenNotFound
from tallystick.kernel.ids import AccountId
from tallystick.services.payments import model
from tallystick.services.payments.model import Card
from tallystick.services.payments.store import Store

K = TypeVar("K")
V = TypeVar("V")

MAX_REMEMBERED = 50_000


class Remembered(Generic[K, V]):
    """A bounded LRU cache of values that never change."""

    def __init__(self, limit: int = MAX_REMEMBERED) -> None:
        self._limit = limit
        self._items: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        value = self._items.get(key)
        if value is not None:
            self._items.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        self._items[key] = value
        if len(self._items) > self._limit:
            self._items.popitem(last=False)


class Seen(NamedTuple):
    """An account. `own`: it belongs to payments itself, or did before such accounts had paths below `tallystick:`."""

    currency: str
    own: bool


class Directory:
    def __init__(self, *, database: Database, store: Store, ledger: LedgerClient, vault: VaultClient) -> None:
        self._database = database
        self._store = store
        self._ledger = ledger
        self._vault = vault
        self._accounts: Remembered[tuple[str, AccountId], Seen] = Remembered()
        self._cards: Remembered[tuple[str, str], Card] = Remembered()
        self._opened: Remembered[AccountId, bool] = Remembered()

    async def account(self, tenant: str, account: AccountId, token: str) -> Seen | None:
        """An account of the tenant's book `main`, the only book that payments move money in. None if it has no such account."""
        key = (tenant, account)
        known = self._accounts.get(key)
        if known is None:
            currency = await self._ledger.currency(account, token)
            if currency is not None:
                own = account in model.own_accounts(tenant, currency)
                known = Seen(currency, own or await self._store.is_clearing(self._database, account))
                self._accounts.put(key, known)
        return known

    async def card(self, tenant: str, card_token: str, token: str) -> Card:
        """The card behind a tenant's token. Raises the vault's TokenNotFound or TokenDestroyed. If the token is destroyed later,
        the vault refuses it when it is used.
        """
        key = (tenant, card_token)
        known = self._cards.get(key)
        if known is None:
            described = await self._vault.describe(DescribeCall(token=token, id=card_token))
            if described.card is None:
                raise TokenNotFound("this token is not of a card")
            known = Card(described.card.brand, described.card.last4, described.card.fingerprint)
            self._cards.put(key, known)
        return known

    async def clearing(self, tenant: str, client_id: str, currency: str, token: str) -> AccountId:
        """The account that represents the acquirer. It is opened if necessary, and opening it again is harmless. Also records the
        client as one that takes card payments.
        """
        own = model.clearing(tenant, currency)
        if self._opened.get(own.id) is None:
            async with self._database.transaction() as tx:
                await self._store.insert_clearing(tx, tenant, currency, own.id, client_id)
            await self._ledger.open_account(
                own.id, name=own.name, currency=currency, normal_side=own.normal_side, path=own.path, token=token
            )
            self._opened.put(own.id, True)
        return own.id
