"""A service's sealed columns: where their values belong, and the statements by which a rotation of keys finds and stores them.

A column is declared once, in the service's `store`, and its `aad` is the only one that its values are sealed with; all of a service are in
its `SEALED`, which its `app` wires. What is not in it would be lost with the key that sealed it: a test compares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from tallystick.chassis.keys.envelope import Aad

if TYPE_CHECKING:
    from tallystick.chassis.db import Query


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantKeyColumn:
    """Values under the key of their tenant. The table has the trigger `sealed_under_living_key(name)`.

    `under($1 header, $2 key or NULL, $3 limit)` gives `key, tenant, sealed` of the values whose first 13 bytes are the header, in the order
    of their keys and above the given one, with FOR UPDATE SKIP LOCKED; `left($1 header)` counts them; `save($1 keys, $2 sealed)` stores.
    """

    table: str
    name: str
    under: Query
    left: Query
    save: Query
    text: Callable[[Any], str] = str
    """How a row's key is written in the place that the value is bound to."""

    def aad(self, tenant: str, key: Any) -> Aad:
        return Aad(tenant, self.table, self.name, self.text(key))


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnKeyColumn:
    """Values under a key of their own: the subject of each is the row's key, as `text` writes it and `parse` reads it.

    `find($1 tenants, $2 keys)` gives `key, tenant, sealed` of the rows that have a value, with FOR UPDATE SKIP LOCKED; `save($1 keys, $2 sealed)`
    stores.
    """

    table: str
    name: str
    find: Query
    save: Query
    text: Callable[[Any], str]
    parse: Callable[[str], Any]

    def aad(self, tenant: str, key: Any) -> Aad:
        return Aad(tenant, self.table, self.name, self.text(key))


SealedColumn: TypeAlias = TenantKeyColumn | OwnKeyColumn
