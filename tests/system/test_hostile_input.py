"""Bad bodies, bad amounts and bad names at the edge, from a client that shares no code with the platform.

Each is answered with a problem document that says what is wrong and shows nothing of our insides, and afterwards nothing has
moved: balances, versions, holds, what was captured and refunded, and the number of payments are what they were.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.stranger import Answer, Client, Edge, b64, card_number, refused
from tests.system.conftest import Credentials, PlatformUnderTest

TENANT = "hostile-input"
CARD = {"number": card_number(), "exp_month": 12, "exp_year": 2034, "cvc": "919"}


def eur(minor: object) -> dict[str, object]:
    return {"amount": minor, "currency": "EUR"}


@dataclass
class Shop:
    """A tenant with one of everything that an amount or an id can be wrong for."""

    client: Client
    debit: str
    credit: str
    token: str
    paid: str
    authorized: str
    hold: str
    posted: str

    @classmethod
    async def open(cls, client: Client) -> Shop:
        debit, credit = [
            (await client.make("/v1/accounts", {"name": side, "currency": "EUR", "normal_side": side}))["id"]
            for side in ("debit", "credit")
        ]
        card = await client.make("/v1/tokens", {"type": "card", "card": {**CARD, "number": card_number()}})
        pay = {
            "amount": eur("1000"),
            "source": {"type": "card", "token": card["id"]},
            "destination": {"account": credit},
        }
        paid = await client.make("/v1/payments", pay)
        authorized = await client.make("/v1/payments", {**pay, "capture": "manual"})
        assert (paid["status"], authorized["status"]) == ("settled", "authorized")
        move = {"debit_account": debit, "credit_account": credit, "amount": eur("700")}
        made = await client.make(
            "/v1/transfers", {"atomic": True, "transfers": [{"kind": kind, **move} for kind in ("hold", "post")]}
        )
        hold, posted = (one["id"] for one in made["data"])
        return cls(client, debit, credit, card["id"], paid["id"], authorized["id"], hold, posted)

    def payment(self, **changes: object) -> dict[str, Any]:
        return {
            "amount": eur("5"),
            "source": {"type": "account", "account": self.debit},
            "destination": {"account": self.credit},
            **changes,
        }

    def transfer(self, **changes: object) -> dict[str, Any]:
        one = {"kind": "post", "debit_account": self.debit, "credit_account": self.credit, "amount": eur("5")}
        return {"atomic": True, "transfers": [{**one, **changes}]}

    def bodies(self) -> Mapping[str, dict[str, Any]]:
        """A good body for each path that takes one: what follows makes them bad."""
        return {
            "/v1/payments": self.payment(description="a", metadata={"k": "v"}),
            f"/v1/payments/{self.authorized}/capture": {"amount": eur("5")},
            "/v1/refunds": {"payment": self.paid, "amount": eur("5"), "reason": "a"},
            "/v1/transfers": self.transfer(code="a", metadata={"k": "v"}),
            f"/v1/transfers/{self.hold}/capture": {"amount": eur("5")},
            f"/v1/transfers/{self.posted}/reverse": {"amount": eur("5")},
            "/v1/accounts": {"name": "a", "currency": "EUR", "normal_side": "debit"},
            "/v1/tokens": {"type": "card", "card": CARD},
            "/v1/webhook_endpoints": {"url": "https://example.com/a", "events": ["*"], "description": "a"},
        }

    async def state(self) -> dict[str, Any]:
        """All that a request could have changed."""
        found: dict[str, Any] = {}
        for path in (
            f"/v1/accounts/{self.debit}",
            f"/v1/accounts/{self.credit}",
            f"/v1/payments/{self.paid}",
            f"/v1/payments/{self.authorized}",
            f"/v1/transfers/{self.hold}",
            f"/v1/transfers/{self.posted}",
            "/v1/payments?limit=200",
            "/v1/accounts?limit=200",
            "/v1/webhook_endpoints?limit=200",
        ):
            answer = await self.client.call("GET", path)
            assert answer.status == 200, (path, answer)
            found[path] = answer.json
        return {path: without_sequence(value) for path, value in found.items()}


def without_sequence(value: Any) -> Any:
    """`as_of` tells how far the whole book is: refusals that are pinned move it on, and no money."""
    if isinstance(value, dict):
        return {name: without_sequence(each) for name, each in value.items() if name != "as_of"}
    return [without_sequence(each) for each in value] if isinstance(value, list) else value


@asynccontextmanager
async def untouched(platform: PlatformUnderTest, credentials: Credentials) -> AsyncIterator[Shop]:
    """A shop, in which nothing may have changed at the end."""
    async with Edge(platform.port, platform.ca) as edge:
        shop = await Shop.open(Client(edge, credentials(TENANT)))
        before = await shop.state()
        yield shop
        assert await shop.state() == before


# ---- JSON ----------------------------------------------------------------------------------------------------------

Spoil = Callable[[str], bytes]


def first_text(good: str, inside: bytes) -> bytes:
    """The document with other bytes inside of one of its strings."""
    return re.sub(rb'"a"', lambda _: b'"' + inside + b'"', good.encode(), count=1)


#: What is wrong -> how to make it of a good document.
BROKEN: Mapping[str, Spoil] = {
    "cut short": lambda good: good[:-1].encode(),
    "something after it": lambda good: good.encode() + b" x",
    "two documents": lambda good: good.encode() * 2,
    "only space": lambda _: b" \r\n\t ",
    "null": lambda _: b"null",
    "a list": lambda good: b"[" + good.encode() + b"]",
    "a string": lambda good: json.dumps(good).encode(),
    "a number": lambda _: b"1",
    "an unknown member": lambda good: good[:-1].encode() + b',"surprise":1}',
    "__proto__": lambda good: good[:-1].encode() + b',"__proto__":{"admin":true}}',
    "a comment": lambda good: b"/* 1 */" + good.encode(),
    "a comma at the end": lambda good: good[:-1].encode() + b",}",
    "single quotes": lambda good: good.replace('"', "'").encode(),
    "NaN": lambda good: good[:-1].encode() + b',"x":NaN}',
    "Infinity": lambda good: good[:-1].encode() + b',"x":-Infinity}',
    "1e999": lambda good: good[:-1].encode() + b',"x":1e999}',
    "a number of 5000 digits": lambda good: good[:-1].encode() + b',"x":' + b"9" * 5000 + b"}",
    "nested lists": lambda good: good[:-1].encode() + b',"x":' + b"[" * 4000 + b"]" * 4000 + b"}",
    "nested objects": lambda good: good[:-1].encode() + b',"x":' + b'{"x":' * 2000 + b"1" + b"}" * 2001,
    "never closed": lambda _: b'{"a":[' * 1500,
    "a byte order mark": lambda good: b"\xef\xbb\xbf" + good.encode(),
    "UTF-16": lambda good: good.encode("utf-16"),
    "UTF-32": lambda good: good.encode("utf-32-le"),
    "a byte that is no UTF-8": lambda good: good[:-1].encode() + b',"\xff":1}',
    "an overlong slash": lambda good: good[:-1].encode() + b',"\xc0\xaf":1}',
    "a surrogate in UTF-8": lambda good: good[:-1].encode() + b',"\xed\xa0\x80":1}',
    "half a surrogate pair": lambda good: good[:-1].encode() + rb',"\ud800":1}',
    "a pair the wrong way": lambda good: good[:-1].encode() + rb',"\udc00\ud800":1}',
}

#: The same, inside of a string that is otherwise good.
BROKEN_TEXT: Mapping[str, bytes] = {
    "half a surrogate pair": rb"\ud800",
    "a NUL": rb"\u0000",
    "a bare NUL": b"\0",
    "a bare line feed": b"\n",
    "a line feed at the end": rb"x\n",
    "a bad escape": rb"\x41",
    "a surrogate in UTF-8": b"\xed\xa0\x80",
    "Latin-1": b"\xe4",
}


async def test_no_malformed_document_gets_in(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with untouched(platform, credentials) as shop:
        for path, body in shop.bodies().items():
            good = json.dumps(body)
            cases = {name: spoil(good) for name, spoil in BROKEN.items()}
            if '"a"' in good:
                cases |= {f"{name} in a text": first_text(good, inside) for name, inside in BROKEN_TEXT.items()}
            first = next(iter(body))
            twice = good[:-1] + f', "{first}": {json.dumps(body[first])}}}'
            cases["a member twice"] = twice.encode()
            # the same name for whoever decodes escapes, another for whoever does not
            escaped = "".join(f"\\u{ord(letter):04x}" for letter in first)
            cases["a member twice, once escaped"] = twice.replace(f', "{first}":', f', "{escaped}":').encode()
            if "amount" in good:
                cases["a member twice, further in"] = good.replace('"amount": "', '"amount": "1", "amount": "').encode()
            for name, raw in cases.items():
                answer = await shop.client.call("POST", path, raw=raw)
                document = refused(answer, 400, "invalid-request", where=f"{name} at {path}")
                [error] = document["errors"]
                assert len(error["detail"]) > 5, (name, document)


async def test_an_error_points_at_its_place(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with untouched(platform, credentials) as shop:
        for path, body, pointer, word in (
            ("/v1/payments", shop.payment(surprise=1), "/surprise", "unknown"),
            ("/v1/payments", shop.payment(amount=eur(5)), "/amount/amount", "str"),
            ("/v1/payments", shop.payment(source={"type": "cash"}), "/source/type", "cash"),
            ("/v1/payments", shop.payment(metadata={"k": 1}), "/metadata", "str"),
            ("/v1/payments", shop.payment(description="x" * 501), "/description", "500"),
            ("/v1/transfers", shop.transfer(amount=eur("x")), "/transfers/0/amount/amount", "minor units"),
            ("/v1/transfers", shop.transfer(amount=eur("0")), "/transfers/0", "zero"),
            ("/v1/transfers", shop.transfer(kind="steal"), "/transfers/0/kind", "steal"),
            ("/v1/transfers", {"atomic": True, "transfers": []}, "/transfers", "length"),
            ("/v1/tokens", {"type": "card", "card": {**CARD, "number": 4242424242424242}}, "/card/number", "str"),
        ):
            answer = await shop.client.call("POST", path, body)
            document = json.loads(answer.body)
            [error] = document["errors"]
            assert error["pointer"] == pointer, (path, body, document)
            assert word in error["detail"], (path, body, document)


async def test_a_card_number_in_a_text_is_refused_everywhere_and_nothing_is_kept(
    platform: PlatformUnderTest, credentials: Credentials
) -> None:
    number = card_number()
    grouped = " ".join(number[i : i + 4] for i in range(0, 16, 4))
    account = {"name": "x", "currency": "EUR", "normal_side": "credit"}
    hook = {"url": "https://example.com/hook", "events": ["*"]}
    async with untouched(platform, credentials) as shop:
        for path, body, pointer in (
            ("/v1/payments", shop.payment(description=f"card {number}, thanks"), "/description"),
            ("/v1/payments", shop.payment(reference=grouped), "/reference"),
            ("/v1/payments", shop.payment(metadata={"card": number}), "/metadata/card"),
            ("/v1/payments", shop.payment(metadata={number: "card"}), "/metadata"),
            ("/v1/payments", shop.payment(description="to DE89 3704 0044 0532 0130 00"), "/description"),
            ("/v1/transfers", shop.transfer(metadata={"k": number}), "/transfers/0/metadata/k"),
            ("/v1/transfers", shop.transfer(code=number), "/transfers/0/code"),
            ("/v1/accounts", {**account, "name": f"of {grouped}"}, "/name"),
            ("/v1/accounts", {**account, "code": number}, "/code"),
            ("/v1/accounts", {**account, "path": f"customers:{number}"}, "/path"),
            ("/v1/books", {"name": number}, "/name"),
            ("/v1/webhook_endpoints", {**hook, "description": number}, "/description"),
            ("/v1/webhook_endpoints", {**hook, "url": f"https://example.com/{number}"}, "/url"),
            ("/v1/webhook_endpoints", {**hook, "url": f"https://example.com/card-{number}"}, "/url"),
            ("/v1/webhook_endpoints", {**hook, "url": f"https://example.com/?{grouped.replace(' ', '%20')}"}, "/url"),
        ):
            answer = await shop.client.call("POST", path, body)
            document = refused(answer, 400, "invalid-request", where=f"{pointer} at {path}")
            assert [error["pointer"] for error in document["errors"]] == [pointer], (path, document)
            assert number not in str(document)
            assert grouped not in str(document)


async def test_what_is_wrong_is_not_repeated_when_it_may_be_a_secret(
    platform: PlatformUnderTest, credentials: Credentials
) -> None:
    """A number in the wrong place is not carried into an answer (and from there into somebody's log)."""
    number = card_number()
    async with untouched(platform, credentials) as shop:
        for path, body in (
            ("/v1/tokens", {"type": "card", "card": {**CARD, number: "x"}}),
            ("/v1/tokens", {"type": number, "card": CARD}),
            ("/v1/tokens", {"type": "card", "card": {**CARD, "number": number + "x"}}),
            ("/v1/tokens", {"type": "card", "card": {**CARD, "number": int(number)}}),
            ("/v1/tokens", {"type": "bank_account", "bank_account": {"iban": number}}),
            ("/v1/payments", shop.payment(source={"type": "card", "token": number})),
            ("/v1/payments", shop.payment(source={"type": number, "token": "x"})),
            ("/v1/payments", shop.payment(**{number: 1})),
            ("/v1/payments", shop.payment(capture=number)),
            ("/v1/payments", shop.payment(amount={"amount": number + "x", "currency": "EUR"})),
            ("/v1/payments", shop.payment(amount={"amount": "1", "currency": number})),
            ("/v1/payments", shop.payment(destination={"account": number})),
            ("/v1/refunds", {"payment": number}),
            ("/v1/transfers", shop.transfer(**{number: "x"})),
            ("/v1/webhook_endpoints", {"url": f"https://{number}/", "events": [number]}),
        ):
            answer = await shop.client.call("POST", path, body)
            assert 400 <= answer.status < 500, (path, body, answer)
            assert number.encode() not in answer.body, (path, answer)
        for path in (
            f"/v1/tokens/{number}",
            f"/v1/payments/{number}",
            f"/v1/payments?after={number}",
            f"/v1/accounts?{number}=1",
            f"/v1/{number}",
        ):
            answer = await shop.client.call("GET", path)
            assert 400 <= answer.status < 500, (path, answer)
            assert number.encode() not in answer.body, (path, answer)


async def test_only_json_in_utf_8_is_read(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with untouched(platform, credentials) as shop:
        good = json.dumps(shop.payment()).encode()
        for kind in (
            "",
            "text/plain",
            "text/json",
            "application/jsonx",
            "application/xml",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/json; charset=utf-16",
            "application/json; charset=latin-1",
            "application/json, text/plain",
            "application/vnd.api+json",
        ):
            answer = await shop.client.call("POST", "/v1/payments", raw=good, kind=kind)
            refused(answer, 415, "unsupported-media-type", "application/json", where=kind)
        for coding in ("gzip", "deflate", "br", "zstd", "identity, gzip", "GZIP"):
            packed = gzip.compress(good)
            answer = await shop.client.call("POST", "/v1/payments", raw=packed, headers=[("Content-Encoding", coding)])
            refused(answer, 415, "unsupported-media-type", "compressed", where=coding)
        two = [("Content-Type", "application/json"), ("Content-Type", "text/plain")]
        refused(await shop.client.call("POST", "/v1/payments", raw=good, headers=two), 415, "unsupported-media-type")
        for raw in (b"", None):
            answer = await shop.client.call("POST", "/v1/payments", raw=raw)
            refused(answer, 400, "invalid-request", "needs a body")


#: Service's path -> the bytes that it takes at most: its charter's limit, which is part of what it promises.
LIMITS = {
    "/v1/payments": 32768,
    "/v1/transfers": 786432,
    "/v1/tokens": 32768,
    "/v1/webhook_endpoints": 16384,
}


async def test_bodies_end_at_the_limit(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with untouched(platform, credentials) as shop:
        for path, limit in LIMITS.items():
            # at the limit it is read (and found to be no object); space is as good as anything
            answer = await shop.client.call("POST", path, raw=b"[".ljust(limit - 1) + b"]")
            refused(answer, 400, "invalid-request", where=path)
            for size in (limit + 1, (1 << 20) + 1, 3 << 20):
                answer = await shop.client.call("POST", path, raw=b"[".ljust(size))
                refused(answer, 413, "payload-too-large", where=f"{size} at {path}")
            # without its length it is cut off where it passes the limit
            chunks = b"8000\r\n" + b"[".ljust(0x8000) + b"\r\n"
            chunks = chunks * (limit // 0x8000 + 2) + b"0\r\n\r\n"
            answer = await shop.client.call("POST", path, raw=chunks, headers=[("Transfer-Encoding", "chunked")])
            refused(answer, 413, "payload-too-large", where=f"in chunks at {path}")
            # also where it goes on for longer than anybody reads
            chunks = (b"8000\r\n" + b"[".ljust(0x8000) + b"\r\n") * ((limit + (5 << 20)) // 0x8000) + b"0\r\n\r\n"
            answer = await shop.client.call("POST", path, raw=chunks, headers=[("Transfer-Encoding", "chunked")])
            refused(answer, 413, "payload-too-large", where=f"in endless chunks at {path}")


# ---- amounts -------------------------------------------------------------------------------------------------------

#: None of these is an amount.
BAD_AMOUNTS: tuple[object, ...] = (
    "-1",
    "-0",
    "0",
    "00",
    "007",
    "+5",
    "1.50",
    "1.0",
    "1,50",
    "1e3",
    "1E3",
    "0x10",
    "1_000",
    "1 000",
    " 5",
    "5 ",
    "5\n",
    "\n5",
    "5\u0000",
    "",
    "٣",
    "５",
    "²",
    "½",
    "9223372036854775808",
    "9" * 19,
    "9" * 20,
    "9" * 5000,
    "NaN",
    "Infinity",
    5,
    5.0,
    1e300,
    -1,
    True,
    None,
    ["5"],
    {"amount": "5"},
)

BAD_CURRENCIES: tuple[object, ...] = (
    "eur",
    "Eur",
    "EURO",
    "EU",
    "",
    "€",
    "€UR",
    "EUR\n",
    " EUR",
    "EUR ",
    "ЕUR",  # the first letter is Cyrillic
    "ＥＵＲ",
    "QQQ",
    "XXX",
    "XAU",
    "978",
    978,
    None,
    ["EUR"],
)

#: What isn't money at all.
SHAPES: tuple[object, ...] = ("5", 5, [], {}, {"amount": "5"}, {"currency": "EUR"}, {**eur("5"), "exponent": 2})

AMOUNT_SLUGS = frozenset({"invalid-request", "invalid-amount"})
CURRENCY_SLUGS = frozenset({"invalid-request", "unknown-currency"})


def takers(shop: Shop) -> Mapping[str, Callable[[object], Any]]:
    """Path -> the body with money in it, for all that take money."""
    return {
        "/v1/payments": lambda money: shop.payment(amount=money),
        "/v1/transfers": lambda money: shop.transfer(amount=money),
        f"/v1/payments/{shop.authorized}/capture": lambda money: {"amount": money},
        "/v1/refunds": lambda money: {"payment": shop.paid, "amount": money},
        f"/v1/transfers/{shop.hold}/capture": lambda money: {"amount": money},
        f"/v1/transfers/{shop.posted}/reverse": lambda money: {"amount": money},
    }


def slug(answer: Answer) -> str:
    return str(answer.json["type"].rpartition("/")[2])


async def test_no_bad_amount_moves_anything(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with untouched(platform, credentials) as shop:
        for path, body in takers(shop).items():
            for amount in BAD_AMOUNTS:
                answer = await shop.client.call("POST", path, body(eur(amount)))
                where = f"{str(amount)[:30]!r} at {path}"
                assert answer.status == 400, (where, answer)
                refused(answer, 400, slug(answer), where=where)
                assert slug(answer) in AMOUNT_SLUGS, (where, answer)
            for currency in BAD_CURRENCIES:
                answer = await shop.client.call("POST", path, body({"amount": "5", "currency": currency}))
                where = f"{currency!r} at {path}"
                assert answer.status == 400, (where, answer)
                refused(answer, 400, slug(answer), where=where)
                assert slug(answer) in CURRENCY_SLUGS, (where, answer)
            for money in SHAPES:
                answer = await shop.client.call("POST", path, body(money))
                refused(answer, 400, "invalid-request", where=f"{money} at {path}")


async def test_another_currency_is_refused(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with untouched(platform, credentials) as shop:
        other = {"amount": "5", "currency": "USD"}
        client = shop.client
        for path, body in takers(shop).items():
            answer = await client.call("POST", path, body(other))
            if path == "/v1/transfers":  # one answer for each transfer
                [result] = answer.json["data"]
                assert (answer.status, result["status"], result["reason"]) == (200, "rejected", "currency_mismatch")
                continue
            assert answer.status == 422, (path, answer)
            refused(answer, 422, slug(answer), "currency", where=path)
            assert slug(answer) in {"currency-mismatch", "payment-currency-mismatch"}, (path, answer)


async def test_accounts_of_two_currencies_are_not_mixed(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        shop = await Shop.open(client := Client(edge, credentials(TENANT)))
        made = await client.make("/v1/accounts", {"name": "yen", "currency": "JPY", "normal_side": "credit"})
        before = await shop.state()
        for currency in ("EUR", "JPY"):
            money = {"amount": "5", "currency": currency}
            mixed = shop.transfer(credit_account=made["id"], amount=money)
            answer = await client.call("POST", "/v1/transfers", mixed)
            [result] = answer.json["data"]
            assert (answer.status, result["status"], result["reason"]) == (200, "rejected", "currency_mismatch")
            paid = shop.payment(amount=money, destination={"account": made["id"]})
            refused(await client.call("POST", "/v1/payments", paid), 422, "payment-currency-mismatch", "JPY")
        # one bad transfer in an atomic unit takes the good one with it
        good = shop.transfer()["transfers"][0]
        unit = {"atomic": True, "transfers": [good, {**good, "credit_account": made["id"]}]}
        answer = await client.call("POST", "/v1/transfers", unit)
        assert [one["status"] for one in answer.json["data"]] == ["rejected", "rejected"]
        assert await shop.state() == before


async def test_the_greatest_amounts_do_not_wrap_around(platform: PlatformUnderTest, credentials: Credentials) -> None:
    most = str(2**63 - 1)
    async with Edge(platform.port, platform.ca) as edge:
        client = Client(edge, credentials(TENANT))
        a, b, c = [
            (await client.make("/v1/accounts", {"name": "big", "currency": "EUR", "normal_side": side}))["id"]
            for side in ("debit", "credit", "credit")
        ]

        async def post(debit: str, credit: str, amount: str) -> dict[str, Any]:
            one = {"kind": "post", "debit_account": debit, "credit_account": credit, "amount": eur(amount)}
            answer = await client.call("POST", "/v1/transfers", {"transfers": [one]})
            assert answer.status in {200, 201}, answer
            result: dict[str, Any] = answer.json["data"][0]
            return result

        assert (await post(a, b, most))["status"] == "posted"
        for debit, credit in ((a, b), (a, c), (c, b)):
            result = await post(debit, credit, "1")
            if (debit, credit) == (c, b) or debit == a:
                assert (result["status"], result.get("reason")) == ("rejected", "amount_overflow"), (debit, credit)
        found = [
            (await client.call("GET", f"/v1/accounts/{one}")).json["balance"]["posted"]["amount"] for one in (a, b, c)
        ]
        assert found == [most, most, "0"]


async def test_bad_accounts_are_not_opened(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with untouched(platform, credentials) as shop:
        good = {"name": "a", "currency": "EUR", "normal_side": "debit"}
        for change in (
            {"name": ""},
            {"name": "x" * 201},
            {"name": "a\u0000"},
            {"currency": "eur"},
            {"currency": "XXX"},
            {"normal_side": "left"},
            {"floor": "5"},
            {"floor": 0},
            {"floor": "-0"},
            {"floor": "+1"},
            {"floor": "-01"},
            {"floor": "-9223372036854775808"},
            {"floor": "-1.5"},
            {"floor": "0\n"},
            {"code": ""},
            {"metadata": {"": "x"}},
            {"metadata": {"k": "x" * 501}},
            {"metadata": {str(n): "x" for n in range(33)}},
            {"id": "acc_00000000000000000000000000"},
            {"balance": eur("100")},
            {"tenant": "default"},
        ):
            answer = await shop.client.call("POST", "/v1/accounts", {**good, **change})
            refused(answer, 400, slug(answer), where=change)


# ---- names ---------------------------------------------------------------------------------------------------------


#: Nothing of ours is called so: another kind's, cut, too long, in upper case, with what other systems stumble over.
def bad_ids(good: str) -> list[str]:
    head, _, tail = good.partition("_")
    return [
        tail,
        f"{head}_",
        f"{head}_{tail[:-1]}",
        f"{head}_{tail}0",
        f"{head.upper()}_{tail}",
        f"{head}_{tail.upper()}",
        f"xxx_{tail}",
        f"{head}-{tail}",
        f"{head}_8{tail[1:]}",  # more than 128 bits
        f"{head}_{tail[:-1]}u",  # not of the alphabet
        "1",
        "*",
        "null",
        "a" * 300,
        f"{good};",
        f"{good}'--",
    ]


async def test_what_is_no_id_is_said_to_be_none(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with untouched(platform, credentials) as shop:
        client = shop.client
        for path, good in (
            ("/v1/accounts/{}", shop.debit),
            ("/v1/accounts/{}/entries", shop.debit),
            ("/v1/transfers/{}", shop.hold),
            ("/v1/payments/{}", shop.paid),
            ("/v1/refunds/{}", "ref_0000000000000000000000000a"),
            ("/v1/tokens/{}", shop.token),
            ("/v1/webhook_endpoints/{}", "whe_0000000000000000000000000a"),
            ("/v1/audit/receipts/{}", "fct_0000000000000000000000000a"),
        ):
            for bad in bad_ids(good):
                answer = await client.call("GET", path.format(bad))
                if "accounts" in path and answer.status == 404:
                    # What does not begin like an id is an account's path, and there is none there.
                    assert not bad.startswith("acc_"), bad
                    refused(answer, 404, "account-not-found", where=path.format(bad))
                else:
                    refused(answer, 400, "invalid-id", where=path.format(bad))
        for body in (
            shop.payment(destination={"account": shop.paid}),
            shop.payment(source={"type": "account", "account": shop.credit.upper()}),
            shop.payment(source={"type": "card", "token": shop.credit}),
            shop.payment(source={"type": "card", "token": "tok_" + "0" * 26}),
            shop.payment(source={"type": "card", "token": ""}),
        ):
            answer = await client.call("POST", "/v1/payments", body)
            assert answer.status in {400, 404, 422}, (body, answer)
            refused(answer, answer.status, slug(answer), where=body)


async def test_bad_queries_are_refused(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with untouched(platform, credentials) as shop:
        for query in (
            "limit=0",
            "limit=201",
            "limit=-1",
            "limit=%00",
            "limit=١",
            "limit=1&limit=2",
            "limit=",
            "limit",
            "surprise=1",
            "after=x",
            "after=%27%20OR%201=1--",
            "after=" + "a" * 5000,
            "a=1&" * 100 + "limit=1",
            "=",
            "&",
            "%zz=1",
            "limit=1%0a",
            "limit=%ff",
        ):
            for path in ("/v1/accounts", "/v1/payments", "/v1/webhook_endpoints"):
                raw = f"{path}?{query}".encode().decode("latin-1")
                answer = await shop.client.call("GET", raw)
                where = f"{path}?{query[:60]}"
                assert answer.status == 400, (where, answer)
                refused(answer, 400, slug(answer), where=where)
        for query in (
            "at=yesterday",
            "at=2026-01-01",
            "at=2026-01-01T00:00:00Z&sequence=1",
            "sequence=-1",
            "sequence=9" * 30,
        ):
            answer = await shop.client.call("GET", f"/v1/accounts/{shop.debit}?{query}")
            refused(answer, 400, slug(answer), where=query)


#: What a cursor could say inside: it is opaque, but not secret.
CURSORS = (
    "[]",
    "{}",
    "null",
    "1",
    '["x"]',
    "[null]",
    "[true]",
    "[1.5]",
    "[NaN]",
    "[1e400]",
    "[-1]",
    "[9223372036854775808]",
    "[-9223372036854775809]",
    "[99999999999999999999999]",
    "[1,2]",
    '[["a"]]',
    '["a","b"]',
    '["\\u0000"]',
    '["\\ud800"]',
    "[" * 100,
)


async def test_no_made_up_place_in_a_list_or_in_time_is_a_failure(
    platform: PlatformUnderTest, credentials: Credentials
) -> None:
    async with untouched(platform, credentials) as shop:
        lists = ("/v1/accounts", "/v1/payments", "/v1/webhook_endpoints", f"/v1/accounts/{shop.debit}/entries")
        asked = [f"{path}?after={b64(cursor.encode())}" for path in lists for cursor in CURSORS]
        account = f"/v1/accounts/{shop.debit}"
        instants = (
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "0001-01-01T00:00:00%2B14:00",
            "9999-12-31T23:59:59-14:00",
            "2026-02-30T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00%2B99:99",
            "1969-01-01T00:00:00Z",
        )
        asked += [f"{account}?at={at}" for at in instants]
        asked += [f"{account}?sequence={number}" for number in (2**63 - 1, 2**63, -1, "0x1", "1" * 40)]
        tiles = (
            "0/-1",
            "0/999",
            "0/000.p/0",
            "0/000.p/257",
            "64/000",
            "-1/000",
            "9" * 30 + "/000",
            "0/x",
            "0/" + "x9/" * 60,
        )
        asked += [f"/v1/audit/tile/{tile}" for tile in tiles]
        asked += [f"/v1/audit/receipts/fct_{'1' * 26}?wait_ms={wait}" for wait in (-1, 10**9, "x", "1e9")]
        for path in asked:
            answer = await shop.client.call("GET", path)
            assert answer.status in {400, 404, 422}, (path, answer)
            refused(answer, answer.status, slug(answer), where=path)


async def test_what_is_not_there_is_no_different_from_what_is_another_s(
    platform: PlatformUnderTest, credentials: Credentials
) -> None:
    """No oracle: of another tenant's thing and of one that never was, the answers are the same but for the ids in them."""
    async with Edge(platform.port, platform.ca) as edge:
        owner = await Shop.open(Client(edge, credentials(TENANT)))
        stranger = await Shop.open(Client(edge, credentials("hostile-other")))
        before = await owner.state()
        names_of = ("debit", "credit", "token", "paid", "authorized", "hold", "posted")
        nothing = {name: f"{getattr(owner, name)[:3]}_{n}{'1' * 25}" for n, name in enumerate(names_of)}
        asked = 0
        for method, path, make in (
            ("GET", "/v1/accounts/{debit}", None),
            ("GET", "/v1/accounts/{debit}?sequence=1", None),
            ("GET", "/v1/accounts/{debit}/entries", None),
            ("POST", "/v1/accounts/{debit}/close", None),
            ("GET", "/v1/transfers/{posted}", None),
            ("POST", "/v1/transfers/{hold}/capture", lambda _: {}),
            ("POST", "/v1/transfers/{hold}/capture", lambda _: {"amount": eur("1")}),
            ("POST", "/v1/transfers/{hold}/void", lambda _: {}),
            ("POST", "/v1/transfers/{posted}/reverse", lambda _: {}),
            ("GET", "/v1/payments/{paid}", None),
            ("POST", "/v1/payments/{authorized}/capture", lambda _: {}),
            ("POST", "/v1/payments/{authorized}/capture", lambda _: {"amount": {"amount": "1", "currency": "USD"}}),
            ("POST", "/v1/payments/{authorized}/cancel", lambda _: {}),
            ("POST", "/v1/refunds", lambda names: {"payment": names["paid"], "amount": eur("1")}),
            ("POST", "/v1/refunds", lambda names: {"payment": names["paid"], "amount": eur("1000000")}),
            ("GET", "/v1/tokens/{token}", None),
            ("DELETE", "/v1/tokens/{token}", None),
            ("POST", "/v1/tokens/{token}/reveal", lambda _: {"purpose": "chargeback.evidence"}),
            ("POST", "/v1/transfers", lambda names: stranger.transfer(debit_account=names["debit"])),
            ("POST", "/v1/transfers", lambda names: stranger.transfer(credit_account=names["credit"])),
            ("POST", "/v1/transfers", lambda names: stranger.transfer(kind="hold", credit_account=names["credit"])),
            ("POST", "/v1/payments", lambda names: stranger.payment(destination={"account": names["credit"]})),
            (
                "POST",
                "/v1/payments",
                lambda names: stranger.payment(source={"type": "account", "account": names["debit"]}),
            ),
            ("POST", "/v1/payments", lambda names: stranger.payment(source={"type": "card", "token": names["token"]})),
        ):
            seen = []
            for names in (vars(owner), nothing):
                body = None if make is None else make(names)
                answer = await stranger.client.call(method, path.format(**names), body)
                text = answer.body.decode()
                for name in nothing:
                    text = text.replace(names[name], f"<{name}>")
                text = re.sub(r'"(request_id|id|receipt|created_at|recorded_at)":"[^"]*"', r'"\1":""', text)
                seen.append((answer.status, text, sorted(name for name, _ in answer.headers)))
                if answer.status >= 300:
                    refused(answer, answer.status, slug(answer), where=path)
                    assert answer.status in {404, 422}, (path, answer)
                else:
                    assert answer.json["data"][0]["reason"] == "account_not_found", (path, answer)
            assert seen[0] == seen[1], f"{method} {path} tells them apart: {seen}"
            asked += 1
        assert asked == 24
        assert await owner.state() == before


async def test_a_closed_account_takes_nothing_more(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        shop = await Shop.open(client := Client(edge, credentials(TENANT)))
        other = await client.make("/v1/accounts", {"name": "other", "currency": "EUR", "normal_side": "credit"})
        refused(await client.call("POST", f"/v1/accounts/{shop.debit}/close"), 409, "account-has-holds", "hold")
        closed = await client.call("POST", f"/v1/accounts/{other['id']}/close")
        assert (closed.status, closed.json["closed"]) == (200, True)
        assert (await client.call("POST", f"/v1/accounts/{other['id']}/close")).json["closed"] is True
        before = await shop.state()
        for change in ({"credit_account": other["id"]}, {"debit_account": other["id"]}):
            for kind in ("post", "hold"):
                answer = await client.call("POST", "/v1/transfers", shop.transfer(kind=kind, **change))
                [result] = answer.json["data"]
                assert (result["status"], result["reason"]) == ("rejected", "account_closed"), answer
        for changed in (
            shop.payment(destination={"account": other["id"]}),
            shop.payment(source={"type": "account", "account": other["id"]}),
            shop.payment(source={"type": "card", "token": shop.token}, destination={"account": other["id"]}),
        ):
            answer = await client.call("POST", "/v1/payments", changed)
            if answer.status == 201:  # known to be closed only when it was to be posted: declined, not settled
                assert (answer.json["status"], answer.json["decline"]["code"]) == ("declined", "account_closed"), answer
            else:
                refused(answer, 422, slug(answer), "closed")
        after = await shop.state()
        for path in (f"/v1/accounts/{shop.debit}", f"/v1/accounts/{shop.credit}"):
            assert after[path] == before[path]


@pytest.mark.parametrize(
    "number",
    [
        "4242424242424241",
        "42424242424",
        "4242424242424242424242",
        "0000000000000001",
        "4242 4242 4242 4242",
        "４242424242424242",
        "4242424242424242\n",
    ],
)
async def test_what_is_no_card_number_is_not_kept(
    platform: PlatformUnderTest, credentials: Credentials, number: str
) -> None:
    async with untouched(platform, credentials) as shop:
        answer = await shop.client.call("POST", "/v1/tokens", {"type": "card", "card": {**CARD, "number": number}})
        assert answer.status in {400, 422}, answer
        refused(answer, answer.status, slug(answer))
        assert number.strip() not in answer.body.decode()
