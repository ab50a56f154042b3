"""Repeats and races at the edge: one key has one effect, whoever sends it how often at once; and no race gets more than there is."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from typing import Any

from tests.support.stranger import Answer, Client, Edge, card_number, refused
from tests.system.conftest import Credentials, PlatformUnderTest

TENANT = "hostile-keys"


def eur(minor: int) -> dict[str, str]:
    return {"amount": str(minor), "currency": "EUR"}


class Shop:
    def __init__(self, client: Client, debit: str, credit: str) -> None:
        self.client, self.debit, self.credit = client, debit, credit

    @classmethod
    async def open(cls, client: Client) -> Shop:
        made = [
            await client.make("/v1/accounts", {"name": side, "currency": "EUR", "normal_side": side})
            for side in ("debit", "credit")
        ]
        return cls(client, made[0]["id"], made[1]["id"])

    def payment(self, minor: int = 5, **changes: object) -> dict[str, Any]:
        return {
            "amount": eur(minor),
            "source": {"type": "account", "account": self.debit},
            "destination": {"account": self.credit},
            **changes,
        }

    def transfer(self, minor: int = 5, **changes: object) -> dict[str, Any]:
        one = {"kind": "post", "debit_account": self.debit, "credit_account": self.credit, "amount": eur(minor)}
        return {"atomic": True, "transfers": [{**one, **changes}]}

    async def card_payment(self, minor: int, capture: str = "automatic") -> dict[str, Any]:
        card = {"number": card_number(), "exp_month": 12, "exp_year": 2034}
        token = await self.client.make("/v1/tokens", {"type": "card", "card": card})
        made = await self.client.make(
            "/v1/payments", self.payment(minor, source={"type": "card", "token": token["id"]}, capture=capture)
        )
        assert made["status"] in {"settled", "authorized"}, made
        return made

    async def received(self) -> int:
        """What is on the credit account, in cents."""
        answer = await self.client.call("GET", f"/v1/accounts/{self.credit}")
        return int(answer.json["balance"]["posted"]["amount"])

    async def at_once(self, count: int, path: str, body: Any, key: str | None = None) -> list[Answer]:
        """The same request so many times at once, with one key or (None) with one each."""
        keys = [key or secrets.token_hex(8) for _ in range(count)]
        return await asyncio.gather(*(self.client.call("POST", path, body, key=each) for each in keys))


async def test_the_same_key_with_another_body_names_what_differs(
    platform: PlatformUnderTest, credentials: Credentials
) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        shop = await Shop.open(client := Client(edge, credentials(TENANT)))
        paid = await shop.card_payment(1000)
        held = await shop.card_payment(1000, "manual")
        hold = (await client.make("/v1/transfers", shop.transfer(700, kind="hold")))["data"][0]["id"]
        posted = (await client.make("/v1/transfers", shop.transfer(700)))["data"][0]["id"]
        before = await shop.received()
        number = {"type": "card", "card": {"number": card_number(), "exp_month": 1, "exp_year": 2033}}
        other = {"type": "card", "card": {"number": card_number(), "exp_month": 1, "exp_year": 2033}}
        moved, both = 0, ["/amount/amount", "/amount/currency"]
        for path, first, second, fields, moves in (
            ("/v1/payments", shop.payment(5), shop.payment(6), ["/amount/amount"], 5),
            ("/v1/payments", shop.payment(5), shop.payment(5, reference="x"), ["/reference"], 5),
            ("/v1/transfers", shop.transfer(7), shop.transfer(8), ["/transfers"], 7),
            ("/v1/refunds", {"payment": paid["id"], "amount": eur(10)}, {"payment": paid["id"]}, both, -10),
            (f"/v1/payments/{held['id']}/capture", {"amount": eur(300)}, {"amount": eur(301)}, ["/amount/amount"], 300),
            (f"/v1/transfers/{hold}/capture", {"amount": eur(100)}, {"amount": eur(200)}, ["/amount/amount"], 100),
            (f"/v1/transfers/{posted}/reverse", {"amount": eur(50)}, {}, both, -50),
            ("/v1/tokens", number, other, ["/card/number"], 0),
            (
                "/v1/accounts",
                {"name": "a", "currency": "EUR", "normal_side": "debit"},
                {"name": "b", "currency": "EUR", "normal_side": "debit"},
                ["/name"],
                0,
            ),
        ):
            key = secrets.token_hex(8)
            answer = await client.call("POST", path, first, key=key)
            assert answer.status in {200, 201}, (path, answer)
            moved += moves
            document = refused(
                await client.call("POST", path, second, key=key), 422, "idempotency-key-reused", where=path
            )
            assert document["fields"] == fields, (path, document)
            again = await client.call("POST", path, first, key=key)
            assert (again.status, again.body) == (answer.status, answer.body), path
            assert again.header("idempotent-replayed") == "true", path
        assert await shop.received() == before + moved


async def test_of_50_at_once_with_one_key_one_counts(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        shop = await Shop.open(client := Client(edge, credentials(TENANT)))
        card = {"number": card_number(), "exp_month": 12, "exp_year": 2034}
        token = (await client.make("/v1/tokens", {"type": "card", "card": card}))["id"]
        total = 0
        for path, body, moves in (
            ("/v1/payments", shop.payment(5), 5),
            ("/v1/payments", shop.payment(11, source={"type": "card", "token": token}), 11),
            ("/v1/transfers", shop.transfer(7), 7),
        ):
            key = secrets.token_hex(8)
            answers = await shop.at_once(50, path, body, key)
            total += moves
            done = [answer for answer in answers if answer.status in {200, 201}]
            assert len({answer.body for answer in done}) == 1, path
            assert sum(not answer.header("idempotent-replayed") for answer in done) == 1, path
            for answer in answers:
                if answer not in done:
                    document = refused(answer, 409, "request-in-progress", where=path)
                    assert document["retryable"] is True
                    assert int(answer.header("retry-after")) >= 1
            last = await client.call("POST", path, body, key=key)
            assert last.body == done[0].body
            assert await shop.received() == total, path
        found = await client.call("GET", "/v1/payments?limit=200")
        assert sum(one["destination"]["account"] == shop.credit for one in found.json["data"]) == 2


async def test_of_50_at_once_with_one_key_and_other_bodies_one_counts(
    platform: PlatformUnderTest, credentials: Credentials
) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        shop = await Shop.open(client := Client(edge, credentials(TENANT)))
        key = secrets.token_hex(8)
        answers = await asyncio.gather(
            *(client.call("POST", "/v1/payments", shop.payment(minor), key=key) for minor in range(1, 51))
        )
        [(winner, done)] = [(n, answer) for n, answer in enumerate(answers, 1) if answer.status == 201]
        assert done.json["amount"]["amount"] == str(winner)
        for answer in answers:
            if answer is not done:
                slug = "idempotency-key-reused" if answer.status == 422 else "request-in-progress"
                refused(answer, 422 if answer.status == 422 else 409, slug)
        assert await shop.received() == winner


async def test_a_key_that_is_none_is_refused(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        # a client of its own: its keys are fixed, and were never used
        shop = await Shop.open(client := Client(edge, credentials(TENANT, name=f"keys-{secrets.token_hex(3)}")))
        paths: dict[str, Any] = {
            "/v1/payments": shop.payment(),
            "/v1/transfers": shop.transfer(),
            "/v1/refunds": {"payment": "pay_" + "0" * 26},
            "/v1/payments/pay_00000000000000000000000000/capture": {},
            "/v1/payments/pay_00000000000000000000000000/cancel": {},
            "/v1/transfers/trf_00000000000000000000000000/capture": {},
            "/v1/transfers/trf_00000000000000000000000000/void": {},
            "/v1/transfers/trf_00000000000000000000000000/reverse": {},
        }
        for path, body in paths.items():
            refused(
                await client.call("POST", path, body, key=None), 400, "invalid-request", "Idempotency-Key", where=path
            )
        for path in ("/v1/payments", "/v1/transfers", "/v1/tokens"):
            body = paths.get(path) or {
                "type": "card",
                "card": {"number": card_number(), "exp_month": 12, "exp_year": 2034},
            }
            for key in ("k" * 256, "k" * 5000, "käse", "tab\there", "\x80"):
                answer = await client.call("POST", path, body, key=key)
                refused(answer, 400, "invalid-request", "Idempotency-Key", where=(path, key))
            empty = await client.call("POST", path, body, key=None, headers=[("Idempotency-Key", "")])
            refused(empty, 400, "invalid-request", "Idempotency-Key")
            two = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
            answer = await client.call("POST", path, body, key=None, headers=two)
            refused(answer, 400, "invalid-request", "twice")
        assert await shop.received() == 0
        for number, fine in enumerate(("k" * 255, "!", "a b,c;d=", "%00", "../../x"), 1):
            made = await client.call("POST", "/v1/payments", shop.payment(1), key=fine)
            assert (made.status, await shop.received()) == (201, number), (fine, made)


async def test_a_key_is_its_client_s_own(platform: PlatformUnderTest, credentials: Credentials) -> None:
    """The same key of another client, of another tenant, or at another path is another key: no effect, no word of it."""
    async with Edge(platform.port, platform.ca) as edge:
        first = await Shop.open(Client(edge, credentials(TENANT)))
        colleague = Shop(Client(edge, credentials(TENANT, name="two")), first.debit, first.credit)
        stranger = await Shop.open(Client(edge, credentials("hostile-other")))
        key = secrets.token_hex(8)
        ids = set()
        for shop in (first, colleague, stranger):
            answer = await shop.client.call("POST", "/v1/payments", shop.payment(3), key=key)
            assert (answer.status, answer.header("idempotent-replayed")) == (201, ""), answer
            ids.add(answer.json["id"])
            other = await shop.client.call("POST", "/v1/transfers", shop.transfer(4), key=key)
            assert (other.status, other.header("idempotent-replayed")) == (201, ""), other
        assert len(ids) == 3
        assert (await first.received(), await stranger.received()) == (14, 7)
        # at once, too
        answers = await asyncio.gather(
            *(
                shop.client.call("POST", "/v1/payments", shop.payment(1), key=key + "x")
                for shop in (first, colleague, stranger)
            )
        )
        assert [answer.status for answer in answers] == [201, 201, 201]
        assert (await first.received(), await stranger.received()) == (16, 8)


async def test_a_refusal_is_pinned_too(platform: PlatformUnderTest, credentials: Credentials) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        shop = await Shop.open(client := Client(edge, credentials(TENANT)))
        poor = await client.make(
            "/v1/accounts", {"name": "poor", "currency": "EUR", "normal_side": "credit", "floor": "0"}
        )
        ask = shop.payment(50, source={"type": "account", "account": poor["id"]}, destination={"account": shop.credit})
        key = secrets.token_hex(8)
        first = await client.call("POST", "/v1/payments", ask, key=key)
        assert (first.status, first.json["status"]) == (201, "declined"), first
        await client.make("/v1/transfers", shop.transfer(100, credit_account=poor["id"]))
        again = await client.call("POST", "/v1/payments", ask, key=key)
        assert (again.body, again.header("idempotent-replayed")) == (first.body, "true")
        assert await shop.received() == 0
        held = await shop.card_payment(100, "manual")
        path, key = f"/v1/payments/{held['id']}/capture", secrets.token_hex(8)
        too_much = await client.call("POST", path, {"amount": eur(101)}, key=key)
        refused(too_much, 422, "capture-too-large")
        again = await client.call("POST", path, {"amount": eur(101)}, key=key)
        assert (again.status, again.body, again.header("idempotent-replayed")) == (422, too_much.body, "true")


async def test_races_for_the_same_money(platform: PlatformUnderTest, credentials: Credentials) -> None:
    """Captures, refunds, reversals and spends that together exceed what there is: as many win as fit, no cent more."""
    async with Edge(platform.port, platform.ca) as edge:
        shop = await Shop.open(client := Client(edge, credentials(TENANT)))
        held = await shop.card_payment(1000, "manual")
        answers = await shop.at_once(10, f"/v1/payments/{held['id']}/capture", {"amount": eur(600)})
        assert Counter(answer.status for answer in answers)[200] == 1, answers
        assert await shop.received() == 600
        canceled, refunded = await asyncio.gather(
            shop.at_once(5, f"/v1/payments/{held['id']}/cancel", {}),
            shop.at_once(10, "/v1/refunds", {"payment": held["id"], "amount": eur(250)}),
        )
        assert {answer.status for answer in canceled} <= {409, 422}, canceled
        assert Counter(answer.status for answer in refunded)[201] == 2, refunded
        assert await shop.received() == 100
        seen = (await client.call("GET", f"/v1/payments/{held['id']}")).json
        assert (seen["captured"]["amount"], seen["refunded"]["amount"]) == ("600", "500")
        # capture against cancel: one of them
        held = await shop.card_payment(1000, "manual")
        race = await asyncio.gather(
            client.call("POST", f"/v1/payments/{held['id']}/capture", {}),
            client.call("POST", f"/v1/payments/{held['id']}/cancel", {}),
        )
        assert sum(answer.status == 200 for answer in race) == 1, race
        seen = (await client.call("GET", f"/v1/payments/{held['id']}")).json
        assert await shop.received() == 100 + int(seen["captured"]["amount"])
        # reversals of one transfer
        before = await shop.received()
        posted = (await client.make("/v1/transfers", shop.transfer(100)))["data"][0]["id"]
        answers = await shop.at_once(10, f"/v1/transfers/{posted}/reverse", {"amount": eur(30)})
        assert Counter(answer.status for answer in answers)[201] == 3, answers
        assert await shop.received() == before + 10
        # captures of one hold
        hold = (await client.make("/v1/transfers", shop.transfer(100, kind="hold")))["data"][0]["id"]
        answers = await shop.at_once(10, f"/v1/transfers/{hold}/capture", {"amount": eur(40)})
        assert Counter(answer.status for answer in answers)[201] == 2, answers
        assert await shop.received() == before + 90
        # spending from an account that may not go below zero
        purse = await client.make(
            "/v1/accounts", {"name": "purse", "currency": "EUR", "normal_side": "credit", "floor": "0"}
        )
        await client.make("/v1/transfers", shop.transfer(100, credit_account=purse["id"]))
        before = await shop.received()
        spend = shop.payment(30, source={"type": "account", "account": purse["id"]})
        move = shop.transfer(30, debit_account=purse["id"])
        both = await asyncio.gather(shop.at_once(10, "/v1/payments", spend), shop.at_once(10, "/v1/transfers", move))
        won = sum(answer.json["status"] == "settled" for answer in both[0])
        won += sum(answer.json["data"][0]["status"] == "posted" for answer in both[1])
        assert won == 3, both
        assert await shop.received() == before + 90
        balance = (await client.call("GET", f"/v1/accounts/{purse['id']}")).json["balance"]
        assert balance["available"]["amount"] == "10"


async def test_a_transfer_s_own_id_is_one_transfer(platform: PlatformUnderTest, credentials: Credentials) -> None:
    """Ids made by the client: the same again is the same transfer, the same with other content is refused, another tenant's is its own."""
    async with Edge(platform.port, platform.ca) as edge:
        shop = await Shop.open(client := Client(edge, credentials(TENANT)))
        stranger = await Shop.open(Client(edge, credentials("hostile-other")))
        own = "trf_" + "".join(secrets.choice("0123456789abcdefghjkmnpqrstvwxyz") for _ in range(12)).rjust(26, "0")
        answers = await shop.at_once(20, "/v1/transfers", shop.transfer(9, id=own))
        assert all(answer.status in {200, 201} for answer in answers), answers
        assert sum(answer.status == 201 for answer in answers) == 1
        assert await shop.received() == 9
        changed = await client.call("POST", "/v1/transfers", shop.transfer(10, id=own))
        [result] = changed.json["data"]
        assert (result["status"], result["reason"]) == ("rejected", "exists_with_different_amount")
        twice = shop.transfer(9, id=own + "")
        twice["transfers"] *= 2
        answer = await client.call("POST", "/v1/transfers", twice)
        assert answer.status in {200, 400}, answer
        theirs = await stranger.client.call("POST", "/v1/transfers", stranger.transfer(9, id=own))
        assert (theirs.status, theirs.json["data"][0]["status"]) == (201, "posted"), theirs
        assert (await shop.received(), await stranger.received()) == (9, 9)
