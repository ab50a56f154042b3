"""The active currency codes of ISO 4217 (list one, as published by SIX): decimal places of the minor unit, and approximate value."""

from __future__ import annotations

from typing import Final

_ZERO = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE = "BHD IQD JOD KWD LYD OMR TND"
_FOUR = "CLF UYW"
_TWO = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW "
    "CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF "
    "IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN "
    "MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS "
    "SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG"
)

EXPONENTS: Final[dict[str, int]] = {
    **dict.fromkeys(_ZERO.split(), 0),
    **dict.fromkeys(_TWO.split(), 2),
    **dict.fromkeys(_THREE.split(), 3),
    **dict.fromkeys(_FOUR.split(), 4),
}

#: How many units of each currency are worth about one euro, to the nearest of 1, 2 and 5 times a power of ten: for limits that should
#: mean about the same in every currency. It is an order of magnitude and no exchange rate: it may be wrong by a factor of two, and no
#: money is calculated with it. From the European Central Bank's reference rates of 30 October 2026; for currencies without one from
#: their peg, or else from the market rate of late 2025. To be reviewed once a year, and when a currency is redenominated.
_ABOUT_ONE_EURO = {
    1: "BMD BOV BSD CHE CHF CHW EUR FKP GBP GIP JOD KYD PAB SHP USD USN",
    2: "AUD AWG AZN BAM BBD BND BZD CAD FJD GEL MXV NZD SGD TOP WST XCD XCG",
    5: "AED BRL BYN ILS LYD MYR PEN PGK PLN QAR RON SAR TMT TND UYI",
    10: "BOB CNY COU DKK GHS GTQ HKD MAD MOP NOK SBD SEK SVC TJS TTD",
    20: "BWP CZK ERN HNL LSL MDL MVR MXN NAD SCR SLE STN SZL UYW ZAR ZMW ZWG",
    50: "DOP EGP MKD MRU MUR NIO SRD THB TRY TWD UAH UYU",
    100: "AFN ALL BDT BTN CUP CVE GMD INR ISK KGS MZN PHP RSD RUB VUV XPF",
    200: "DJF DZD ETB GYD HTG JMD JPY KES LRD NPR PKR",
    500: "AMD CRC HUF KMF KZT LKR SOS VED VES XAF XOF YER",
    1_000: "AOA CLP KPW SDG",
    2_000: "ARS CDF IQD KRW MMK MWK NGN RWF TZS",
    5_000: "BIF COP KHR MGA MNT SSP UGX",
    10_000: "GNF PYG SYP UZS",
    20_000: "IDR LAK VND",
    100_000: "LBP",
    1_000_000: "IRR",
}

#: The same in minor units, which also fits currencies of which one unit is worth more than a euro.
MINOR_PER_EURO: Final[dict[str, int]] = {
    **{code: units * 10 ** EXPONENTS[code] for units, codes in _ABOUT_ONE_EURO.items() for code in codes.split()},
    **dict.fromkeys(["BHD", "KWD", "OMR"], 500),
    "CLF": 200,
    "XAD": 20,
}
