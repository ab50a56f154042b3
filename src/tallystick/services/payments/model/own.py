"""The accounts that are payments' own, in each tenant's book `main`. Pure.

No client changes, freezes or closes them (`contracts.ledger.messages.OWN`), and no payment names one. What the acquirer pays out, and what waits in
suspense, a client posts in the ledger.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from tallystick.contracts.ledger.messages import OWN
from tallystick.kernel.ids import AccountId, hashed

_ID: Final = b"tallystick.payments.account:"


class OwnAccount(msgspec.Struct, frozen=True):
    """Its id follows from its place: whoever opens it opens the same one."""

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
    """What is a payee's whose account took it back no more: a person decides where it goes."""
    return OwnAccount(
        tenant, f"{OWN}suspense:{currency}", f"payments in suspense {currency}", currency, normal_side="credit", floor=0
    )


def own_accounts(tenant: str, currency: str) -> frozenset[AccountId]:
    return frozenset({clearing(tenant, currency).id, suspense(tenant, currency).id})
