"""Limits how many new numbers that look alike are accepted in a day.

The digits that are shown of a number leave few candidates. A client that may create tokens could try them all, until one has the token's
fingerprint, and would then know the number without a reveal: without its scope, its rate limit and its record (PCI DSS 3.5.1: nobody may get
from a truncated number and its hash to the number). So new numbers are counted by what is shown of them. The daily limit is so low that
trying half of the candidates takes a thousand days. Tenants hardly ever get that many alike numbers at once from issuers.
"""

from __future__ import annotations

from typing import Final

from tallystick.services.vault.model.numbers import CheckedCard, CheckedIban

#: By the number of digits. Ten are shown and one is a check digit, which leaves 100,000 candidates for sixteen digits. The shortest
#: lengths, hardly issued any more, leave so few that two a day only slow an attacker down.
CARDS_A_DAY: Final = {12: 2, 13: 2, 14: 2, 15: 5}
LONG_CARDS_A_DAY: Final = 50
#: Country and four characters are shown: the shortest national numbers leave about a million.
IBANS_A_DAY: Final = 500


def look(number: CheckedCard | CheckedIban) -> str:
    """What is shown of a number, and its length: equal for numbers that look alike."""
    if isinstance(number, CheckedCard):
        return f"card:{len(number.number)}:{number.number[:6]}:{number.number[-4:]}"
    return f"iban:{number.iban[:2]}:{number.iban[-4:]}"


def taken_a_day(number: CheckedCard | CheckedIban) -> int:
    """How many new numbers that look like this one a tenant may bring in a day."""
    if isinstance(number, CheckedIban):
        return IBANS_A_DAY
    return CARDS_A_DAY.get(len(number.number), LONG_CARDS_A_DAY)
