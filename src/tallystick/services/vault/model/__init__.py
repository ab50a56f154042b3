"""The vault's rules, without I/O: valid numbers, what may be shown of them, and what may be sent where."""

from tallystick.kernel.numbers import brand_of, iban_ok
from tallystick.services.vault.model.alike import look, taken_a_day
from tallystick.services.vault.model.forwarding import Destination, Template, allow, conceal, wipe
from tallystick.services.vault.model.numbers import (
    CheckedCard,
    CheckedIban,
    check_card,
    check_expiry,
    check_iban,
)
from tallystick.services.vault.model.tokens import Masked, StoredToken, masked_card, masked_iban, view

__all__ = [
    "CheckedCard",
    "CheckedIban",
    "Destination",
    "Masked",
    "StoredToken",
    "Template",
    "allow",
    "brand_of",
    "check_card",
    "check_expiry",
    "check_iban",
    "conceal",
    "iban_ok",
    "look",
    "masked_card",
    "masked_iban",
    "taken_a_day",
    "view",
    "wipe",
]
