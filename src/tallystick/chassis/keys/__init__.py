"""Keys: envelope encryption of fields in a service's database, keyed hashes, key rotation and crypto-shredding.

    ring = await Keyring.open(database, open_root, environment="local", service="vault")
    aad  = Aad(tenant, "client", "secret", client_id)
    blob = await ring.seal(plain, aad)
    plain = await ring.open_sealed(blob, aad)
    ring.mac("fingerprint", number, tenant)

`envelope` defines the format of a sealed value, `keyring` the hierarchy of keys, and `root` what protects its topmost key.
"""

from tallystick.chassis.keys.columns import OwnKeyColumn, SealedColumn, TenantKeyColumn
from tallystick.chassis.keys.envelope import (
    Aad,
    Forged,
    KeyringError,
    Malformed,
    Shredded,
    UnknownKey,
)
from tallystick.chassis.keys.keyring import Keyring, SubjectKey
from tallystick.chassis.keys.root import LocalRoot, Root, RootError
from tallystick.chassis.keys.rotation import DataKeys
from tallystick.chassis.keys.store import OpenRoot

__all__ = [
    "Aad",
    "DataKeys",
    "Forged",
    "Keyring",
    "KeyringError",
    "LocalRoot",
    "Malformed",
    "OpenRoot",
    "OwnKeyColumn",
    "Root",
    "RootError",
    "SealedColumn",
    "Shredded",
    "SubjectKey",
    "TenantKeyColumn",
    "UnknownKey",
]
