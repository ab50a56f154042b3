"""What is stored of a token, and what may be shown of it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from tallystick.contracts.vault.messages import BankAccount, Card, Token
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.ids import TokenId
from tallystick.services.vault.model.numbers import CheckedCard, CheckedIban

TokenType = Literal["card", "bank_account"]


class Masked(msgspec.Struct, frozen=True, kw_only=True):
    """What is stored beside the sealed number. Fields that a type does not have are None.

    `bin` is six digits, even where schemes assign eight: showing eight and four of sixteen would leave only a thousand numbers to guess.
    """

    type: TokenType
    last4: str
    brand: str | None = None
    bin: str | None = None
    exp_month: int | None = None
    exp_year: int | None = None
    country: str | None = None


class StoredToken(msgspec.Struct, frozen=True, kw_only=True):
    """One row. Of a destroyed token, only its existence is left."""

    id: TokenId
    tenant: str
    type: TokenType
    created_at: datetime
    masked: Masked | None
    fingerprint: str | None
    sealed: bytes | None


def masked_card(card: CheckedCard) -> Masked:
    return Masked(
        type="card",
        last4=card.number[-4:],
        brand=card.brand,
        bin=card.number[:6],
        exp_month=card.exp_month,
        exp_year=card.exp_year,
    )


def masked_iban(iban: CheckedIban) -> Masked:
    return Masked(type="bank_account", last4=iban.iban[-4:], country=iban.iban[:2])


def view(id_: TokenId, masked: Masked, fingerprint: str, created_at: datetime) -> Token:
    """The token as it is shown to anybody who may see it."""
    card = bank_account = None
    if masked.type == "card":
        card = Card(
            brand=masked.brand or "unknown",
            bin=masked.bin or "",
            last4=masked.last4,
            exp_month=masked.exp_month or 0,
            exp_year=masked.exp_year or 0,
            fingerprint=fingerprint,
        )
    else:
        bank_account = BankAccount(country=masked.country or "", last4=masked.last4, fingerprint=fingerprint)
    return Token(
        id=ids.tokens.text(id_), type=masked.type, created_at=rfc3339(created_at), card=card, bank_account=bank_account
    )
