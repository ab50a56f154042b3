"""The accounts that payments itself owns in each tenant's book `main`. Pure.

No client can change, freeze or close them (`contracts.ledger.messages.OWN`), and no payment may name one. Clients do post to
them in the ledger: to record what the acquirer pays out, and to move on what waits in suspense.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from tallystick.contracts.ledger.messages import OWN
from tallystick.kernel.ids import AccountId, hashed

_ID: Final = b"tallystick.payments.account:"


class OwnAccount(msgspec.Struct, frozen=True):
    """Its id is derived from tenant and path, so whoever opens it opens the same account."""

    tenant: str
    path: str
    name: str
    currency: str
    normal_side: Literal["debit", "credit"]
    floor: int | None = None

    @property
    def id(self) -> AccountId:
        return AccountId(hashed(_ID + f"{self.tenant}/{self.path}".encode()))


def clearing(tenant: str, currency: str) -> OwnAccount:
    """What the acquirer owes."""
    return OwnAccount(
        tenant, f"{OWN}card-clearing:{currency}", f"card clearing {currency}", currency, normal_side="debit"
    )


def suspense(tenant: str, currency: str) -> OwnAccount:
    """Money of payees whose accounts could not take it back. A person decides where it goes."""
    return OwnAccount(
        tenant, f"{OWN}suspense:{currency}", f"payments in suspense {currency}", currency, normal_side="credit", floor=0
    )


def own_accounts(tenant: str, currency: str) -> frozenset[AccountId]:
    return frozenset({clearing(tenant, currency).id, suspense(tenant, currency).id})
