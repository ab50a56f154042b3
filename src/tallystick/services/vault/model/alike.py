"""How many new numbers that look alike are taken a day.

What is shown of a number leaves so few candidates that somebody who may create tokens could try them all, until the fingerprint of one
is that of the token: the number would be known without a reveal, its scope, its rate and its record (PCI DSS 3.5.1: no way from a
truncated number and a hash of it to the number). So new ones are counted by what is shown of them. A day takes so few that trying half
of the candidates takes a thousand days; issuers hardly give a tenant that many at once.
"""

from __future__ import annotations

from typing import Final

from tallystick.services.vault.model.numbers import CheckedCard, CheckedIban

#: By the digits of a card's number: ten are shown and one follows from the others, which leaves 100,000 of sixteen. Lengths that
#: are hardly issued any more leave so few that two a day is no protection worth the name, only a brake.
CARDS_A_DAY: Final = {12: 2, 13: 2, 14: 2, 15: 5}
LONG_CARDS_A_DAY: Final = 50
#: Country and four characters are shown: the shortest national numbers leave about a million.
IBANS_A_DAY: Final = 500


def look(number: CheckedCard | CheckedIban) -> str:
    """What is shown of a number, and its length: equal for those that can be mistaken for each other."""
    if isinstance(number, CheckedCard):
        return f"card:{len(number.number)}:{number.number[:6]}:{number.number[-4:]}"
    return f"iban:{number.iban[:2]}:{number.iban[-4:]}"


def taken_a_day(number: CheckedCard | CheckedIban) -> int:
    """How many numbers that look like this one, and were not there before, a tenant may bring in a day."""
    if isinstance(number, CheckedIban):
        return IBANS_A_DAY
    return CARDS_A_DAY.get(len(number.number), LONG_CARDS_A_DAY)
