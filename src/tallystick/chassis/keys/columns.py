"""A service's sealed columns: the place that each value is bound to, and the statements by which key rotation finds and stores values.

A column is declared once, in the service's `store`, and its values are sealed with its `aad` only. All columns of a service are listed
in its `SEALED`, which its `app` wires. Values of a column that is missing there would be lost when the key that sealed them is
destroyed; a test compares the list with the schema.
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
    """A column whose values are sealed under the key of their tenant. Its table has the trigger `sealed_under_living_key(name)`.

    * `under($1 header, $2 key or NULL, $3 limit)` selects `key, tenant, sealed` of the values whose first 13 bytes are the header, in
      the order of the rows' keys and after the given one, with FOR UPDATE SKIP LOCKED.
    * `left($1 header)` counts these values.
    * `save($1 keys, $2 sealed)` stores values.
    """

    table: str
    name: str
    under: Query
    left: Query
    save: Query
    text: Callable[[Any], str] = str
    """How a row's key is written in the value's `Aad`."""

    def aad(self, tenant: str, key: Any) -> Aad:
        return Aad(tenant, self.table, self.name, self.text(key))


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnKeyColumn:
    """A column whose values each have a key of their own. The key's subject is the row's key, as `text` writes it and `parse` reads it.

    * `find($1 tenants, $2 keys)` selects `key, tenant, sealed` of the rows that have a value, with FOR UPDATE SKIP LOCKED.
    * `save($1 keys, $2 sealed)` stores values.
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
