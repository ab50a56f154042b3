"""`tallystick demo`: real payments on the running platform.

A merchant and a customer; a card that is tokenised; a payment that is authorized, then captured in part; a book transfer; a partial refund;
a payment that risk refuses; the webhooks about all of these; and the receipt of each, verified offline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tallystick.cli.output import NO, OK, Common, Failed, console, emit, print_line
from tallystick.cli.own_client import own_client
from tallystick.kernel import ids
from tallystick.kernel.money import MoneyWire, to_money

if TYPE_CHECKING:
    from aiohttp import web

    from tallystick.cli.apiclient import ApiClient
    from tallystick.cli.credentials import Credentials

SCOPE: Final = (
    "tokens:write tokens:read accounts:write accounts:read transfers:write transfers:read "
    "payments:write payments:read refunds:write audit:read webhooks:write"
)
EVENTS_WITHIN: Final = 60.0
RECEIPT_WITHIN_MS: Final = 5_000


class Step(msgspec.Struct):
    name: str
    result: str
    milliseconds: float


class Wrong(Exception):
    """The platform did not do what it should."""


def demo(*, common: Common = Common()) -> int:  # noqa: B008 - frozen
    """Make real payments on the running platform, and show each step with its duration. Exit status 1 if any step goes wrong."""
    credentials = own_client(common, "demo", SCOPE)
    show = _Show(common)
    try:
        asyncio.run(_Demo(show).run(credentials))
    except Wrong as wrong:
        show.failed(str(wrong))
    if common.json:
        emit({"steps": show.steps, "ok": show.fault is None, "fault": show.fault}, common)
    return OK if show.fault is None else NO


class _Show:
    def __init__(self, common: Common) -> None:
        self._out = console(error=common.json)
        self.steps: list[Step] = []
        self.fault: str | None = None

    async def step(self, name: str, work: Callable[[], Awaitable[tuple[str, Any]]]) -> Any:
        """Run `work`, which returns a result to show and a value; show the step and return the value."""
        started = time.perf_counter()
        result, value = await work()
        step = Step(name, result, round((time.perf_counter() - started) * 1000, 1))
        self.steps.append(step)
        print_line(f"[green]✓[/] {name:<46} [dim]{step.milliseconds:>8.1f} ms[/]  {result}", self._out)
        return value

    def failed(self, why: str) -> None:
        self.fault = why
        self._out.print(f"[red]✗ {why}[/]")


class _Demo:
    def __init__(self, show: _Show) -> None:
        self._step = show.step
        self._api: ApiClient = None  # type: ignore[assignment]  # opened by run
        self._heard: list[tuple[dict[str, str], bytes]] = []
        self._run = ids.payments.text(ids.payments.new())[4:]

    async def run(self, credentials: Credentials) -> None:
        from tallystick.cli.apiclient import ApiClient

        async with ApiClient(credentials, connections=8) as self._api, self._listening() as url:
            await self._all(url)

    async def _all(self, url: str) -> None:
        step = self._step
        merchant = await step("a merchant's account", lambda: self._account("Merchant", None))
        customer = await step("a customer's wallet, never below zero", lambda: self._account("Customer", "0"))
        token = await step("a card becomes a token", self._token)
        secret, endpoint = await step("a webhook endpoint", lambda: self._endpoint(url))
        try:
            await self._payments(token, merchant, customer, secret)
        except BaseException:
            # It would be sent to for days, and whatever listens on this port by then would hear it.
            with suppress(Wrong, Failed):  # what went wrong first is what is told
                await self._forget(endpoint)
            raise
        await step("the webhook endpoint is deleted", lambda: self._forget(endpoint))

    async def _payments(self, token: str, merchant: str, customer: str, secret: str) -> None:
        step = self._step
        await step("money for the wallet, from outside", lambda: self._fund(customer))
        payment = await step(
            "a card payment of 49.90 EUR, authorized",
            lambda: self._pay(_card(token), merchant, "4990", capture="manual"),
        )
        await step("captured in part: 40.00 EUR", lambda: self._capture(payment["id"]))
        book = await step("a book transfer of 12.50 EUR", lambda: self._pay(_account(customer), merchant, "1250"))
        refund = await step("a refund of 15.00 EUR of the card payment", lambda: self._refund(payment["id"]))
        denied = await step("a payment of 12,000.00 EUR, refused by risk", lambda: self._denied(token, merchant))
        await step("the merchant's balance", lambda: self._balance(merchant, 4000 + 1250 - 1500))
        await step("webhooks received, signatures verified", lambda: self._webhooks(secret))
        settled = await self._get(f"/v1/payments/{payment['id']}")
        for name, receipt in (
            ("receipt of the card payment", settled["receipt"]),
            ("receipt of the book transfer", book["receipt"]),
            ("receipt of the refund", refund["receipt"]),
            ("receipt of the refusal", denied["receipt"]),
        ):
            await step(f"{name}, verified offline", partial(self._receipt, receipt))

    async def _post(self, path: str, body: dict[str, Any], status: int = 201) -> Any:
        answer = await self._api.request(
            "POST", path, body, idempotency_key=f"demo-{ids.facts.text(ids.facts.new())}", headers=_sampled()
        )
        if answer.status != status:
            raise Wrong(
                f"POST {path}: {answer.status} instead of {status}: {answer.body.decode(errors='replace')[:300]}"
            )
        return answer.json()

    async def _get(self, path: str) -> Any:
        answer = await self._api.request("GET", path)
        if not answer.ok:
            raise Wrong(f"GET {path}: {answer.status} {answer.body.decode(errors='replace')[:300]}")
        return answer.json()

    async def _account(self, name: str, floor: str | None) -> tuple[str, str]:
        side = "credit"
        made = await self._post(
            "/v1/accounts", {"name": f"{name} of the demo", "currency": "EUR", "normal_side": side, "floor": floor}
        )
        return made["id"], made["id"]

    async def _token(self) -> tuple[str, str]:
        from tallystick.cli.replay.file import card_number

        # A new card for each run: risk adds up a card's attempts of a day, including those that it refuses.
        number = card_number(self._run)
        card = {"number": number, "exp_month": 12, "exp_year": 2039, "cvc": "123"}
        made = await self._post("/v1/tokens", {"type": "card", "card": card})
        if number in msgspec.json.encode(made).decode():
            raise Wrong("the token's answer repeats the number")
        return f"{made['id']}  {made['card']['brand']} ending in {made['card']['last4']}", made["id"]

    async def _endpoint(self, url: str) -> tuple[str, tuple[str, str]]:
        made = await self._post("/v1/webhook_endpoints", {"url": url, "events": ["payment.*", "refund.*"]})
        return f"{made['id']}  {url}", (made["secret"], made["id"])

    async def _forget(self, endpoint: str) -> tuple[str, None]:
        answer = await self._api.request("DELETE", f"/v1/webhook_endpoints/{endpoint}")
        if answer.status != 204:
            raise Wrong(f"DELETE {endpoint}: {answer.status}")
        return endpoint, None

    async def _fund(self, customer: str) -> tuple[str, None]:
        outside = await self._post(
            "/v1/accounts", {"name": "Outside of the demo", "currency": "EUR", "normal_side": "debit"}
        )
        transfer = {
            "kind": "post",
            "debit_account": outside["id"],
            "credit_account": customer,
            "amount": {"amount": "5000", "currency": "EUR"},
        }
        made = await self._post("/v1/transfers", {"atomic": True, "transfers": [transfer]})
        return f"{made['data'][0]['id']}  50.00 EUR", None

    async def _pay(
        self, source: dict[str, str], destination: str, amount: str, *, capture: str = "automatic"
    ) -> tuple[str, Any]:
        made = await self._post("/v1/payments", _payment(source, destination, amount, capture))
        expected = "authorized" if capture == "manual" else "settled"
        if made["status"] != expected:
            raise Wrong(f"the payment is {made['status']} instead of {expected}{_why(made)}")
        return f"{made['id']}  {made['status']}, risk {made['risk']['score']}", made

    async def _capture(self, payment: str) -> tuple[str, Any]:
        made = await self._post(
            f"/v1/payments/{payment}/capture", {"amount": {"amount": "4000", "currency": "EUR"}}, status=200
        )
        if (made["status"], made["captured"]["amount"]) != ("settled", "4000"):
            raise Wrong(f"captured {made['captured']} and is {made['status']}")
        return f"{made['status']}, {_money(made['captured'])} of {_money(made['amount'])}", made

    async def _refund(self, payment: str) -> tuple[str, Any]:
        made = await self._post(
            "/v1/refunds", {"payment": payment, "amount": {"amount": "1500", "currency": "EUR"}, "reason": "demo"}
        )
        if made["status"] != "succeeded":
            raise Wrong(f"the refund is {made['status']}: {made.get('failure')}")
        return f"{made['id']}  {made['status']}", made

    async def _denied(self, token: str, merchant: str) -> tuple[str, Any]:
        made = await self._post("/v1/payments", _payment(_card(token), merchant, "1200000", "automatic"))
        if made["status"] != "declined" or made["decline"]["code"] != "risk_denied":
            raise Wrong(f"the payment is {made['status']} instead of declined by risk{_why(made)}")
        return f"{made['id']}  declined: {', '.join(made['risk']['reasons'])}", made

    async def _balance(self, account: str, expected: int) -> tuple[str, None]:
        found = await self._get(f"/v1/accounts/{account}")
        held = int(found["balance"]["posted"]["amount"])
        if held != expected:
            raise Wrong(f"the merchant holds {held} instead of {expected} minor units")
        return f"{_money(found['balance']['posted'])} as of sequence {found['as_of']:,}", None

    async def _webhooks(self, secret: str) -> tuple[str, None]:
        """Wait for the webhooks about the payments, the refund and the refusal, and verify their signatures."""
        from standardwebhooks.webhooks import Webhook, WebhookVerificationError

        wanted = {"payment.authorized", "payment.settled", "refund.succeeded", "payment.declined"}
        ends = time.monotonic() + EVENTS_WITHIN
        while True:
            try:
                events = {Webhook(secret).verify(body, headers)["type"] for headers, body in self._heard}
            except WebhookVerificationError as error:
                raise Wrong(f"a webhook's signature is wrong: {error}") from error
            if wanted <= events:
                return ", ".join(sorted(events)), None
            if time.monotonic() > ends:
                raise Wrong(f"no webhook about {', '.join(sorted(wanted - events))} within {EVENTS_WITHIN:.0f} s")
            await asyncio.sleep(0.05)

    async def _receipt(self, receipt: str) -> tuple[str, None]:
        """Fetch a receipt and verify it with nothing but the log's public key."""
        from tallystick.chassis.audit import ReceiptError, VerifierKey, verify_receipt

        key = await self._api.request("GET", "/v1/audit/key")
        ends = time.monotonic() + EVENTS_WITHIN
        while True:
            answer = await self._api.request("GET", f"/v1/audit/receipts/{receipt}?wait_ms={RECEIPT_WITHIN_MS}")
            if answer.ok:
                break
            if answer.status != 404 or time.monotonic() > ends:
                raise Wrong(f"no receipt {receipt}: {answer.status} {answer.slug}")
        try:
            found = verify_receipt(answer.body.decode(), VerifierKey.parse(key.body.decode()), fact=receipt)
        except (ReceiptError, ValueError) as error:
            raise Wrong(f"the receipt {receipt} proves nothing: {error}") from error
        return f"entry {found.index:,} of {found.checkpoint.size:,}: {found.fact['type']}", None

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[str]:
        """Run a webhook receiver on this machine, as a tenant would; yields its URL."""
        from aiohttp import web

        async def hear(request: web.Request) -> web.Response:
            self._heard.append(({k.lower(): v for k, v in request.headers.items()}, await request.read()))
            return web.Response(status=204)

        app = web.Application(client_max_size=64 * 1024)
        app.router.add_post("/hook", hear)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            port = runner.addresses[0][1]
            yield f"http://127.0.0.1:{port}/hook"
        finally:
            await runner.cleanup()


def _sampled() -> dict[str, str]:
    """Headers that make the request a sampled trace of its own, for `tallystick trace`."""
    import secrets

    return {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"}


def _card(token: str) -> dict[str, str]:
    return {"type": "card", "token": token}


def _account(account: str) -> dict[str, str]:
    return {"type": "account", "account": account}


def _payment(source: dict[str, str], destination: str, amount: str, capture: str) -> dict[str, Any]:
    return {
        "amount": {"amount": amount, "currency": "EUR"},
        "source": source,
        "destination": {"account": destination},
        "capture": capture,
        "description": "tallystick demo",
    }


def _why(payment: dict[str, Any]) -> str:
    """Why a payment was declined: the code, and risk's reasons."""
    decline, reasons = payment.get("decline"), (payment.get("risk") or {}).get("reasons")
    said = [decline["code"] if decline else "", ", ".join(reasons or ())]
    return "".join(f": {one}" for one in said if one)


def _money(wire: dict[str, str]) -> str:
    return str(to_money(MoneyWire(wire["amount"], wire["currency"]), positive=False))
