"""Sends the rows, with a bounded number in flight; makes cards and accounts when they are first needed; keeps the tally."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tallystick.cli.output import NO, NOT_RUNNING, PART_FAILED, Failed, console
from tallystick.cli.replay.file import Row, card_number
from tallystick.local.tasks import together

if TYPE_CHECKING:
    from tallystick.cli.apiclient import Answer, ApiClient

#: Rows queued for each sender: enough to keep it busy, few enough that a file of any size fits in memory.
QUEUED_PER_SENDER: Final = 4
#: Skipped rows that the report quotes.
SHOWN: Final = 10


@dataclass(slots=True)
class Tally:
    """The outcome of the rows. Amounts are minor units; latencies are in seconds, of requests that were not replays."""

    sent: int = 0
    sent_minor: int = 0
    replayed: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    minors: Counter[str] = field(default_factory=Counter)
    declines: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    by_terminal: Counter[str] = field(default_factory=Counter)


class Once:
    """Things made once each, by the first caller that needs them; the others wait for it."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        self._make = make
        self._made: dict[str, asyncio.Future[str]] = {}

    async def get(self, key: str) -> str:
        found = self._made.get(key)
        if found is None:
            found = asyncio.ensure_future(self._make(key))
            self._made[key] = found
        return await asyncio.shield(found)  # a cancelled caller must not cancel it for the others

    async def close(self) -> None:
        """Cancel what is still being made. Failures are ignored here: those who waited have seen them."""
        for future in self._made.values():
            future.cancel()
        await asyncio.gather(*self._made.values(), return_exceptions=True)

    def items(self) -> dict[str, str]:
        return {
            key: future.result() for key, future in self._made.items() if not (future.cancelled() or future.exception())
        }


class Run:
    def __init__(self, *, key: str, currency: str, in_flight: int, whole: bool) -> None:
        self._whole = whole
        self._key = key
        self._currency = currency
        self._in_flight = in_flight
        self.tally = Tally()
        self._seconds = 0.0
        self._books: dict[str, int] = {}
        self._api: ApiClient | None = None
        self._cards = Once(self._make_card)
        self._accounts = Once(self._make_account)

    async def all(self, credentials: Any, rows: Iterator[Row], total: int, *, quiet: bool) -> None:
        from tallystick.cli.apiclient import ApiClient, EdgeUnreachable

        try:
            async with (
                ApiClient(credentials, connections=self._in_flight, timeout=60.0) as self._api,
                _bar(total, "payments", quiet=quiet) as advance,
            ):
                started = time.monotonic()
                try:
                    await self._send_all(rows, advance)
                finally:
                    await self._cards.close()
                    await self._accounts.close()
                self._seconds = time.monotonic() - started
                await self._read_books()
        except EdgeUnreachable as error:
            raise Failed(f"{error}\nrun the command again: it continues where it stopped", NOT_RUNNING) from error

    async def _send_all(self, rows: Iterator[Row], advance: Callable[[int], None]) -> None:
        queue: asyncio.Queue[Row | None] = asyncio.Queue(self._in_flight * QUEUED_PER_SENDER)

        async def sender() -> None:
            while (row := await queue.get()) is not None:
                await self._pay(row)
                advance(1)

        async with together() as group:
            for _ in range(self._in_flight):
                group.create_task(sender())
            for row in rows:
                await queue.put(row)
            for _ in range(self._in_flight):
                await queue.put(None)

    async def _pay(self, row: Row) -> None:
        token, account = await asyncio.gather(self._cards.get(row.customer), self._accounts.get(row.terminal))
        body = {
            "amount": {"amount": str(row.minor), "currency": self._currency},
            "source": {"type": "card", "token": token},
            "destination": {"account": account},
            "reference": f"{self._key}:{row.id}"[:100],
        }
        started = time.monotonic()
        answer = await self._request("/v1/payments", body, f"replay:{self._key}:{row.id}")
        tally = self.tally
        tally.sent += 1
        tally.sent_minor += row.minor
        if answer.replayed:
            tally.replayed += 1
        else:
            tally.latencies.append(time.monotonic() - started)
        if not answer.ok:
            tally.problems[answer.slug or str(answer.status)] += 1
            return
        payment = answer.json()
        status = payment["status"]
        tally.statuses[status] += 1
        tally.minors[status] += row.minor
        if status == "settled":
            tally.by_terminal[row.terminal] += row.minor
        if decline := payment.get("decline"):
            reasons = (payment.get("risk") or {}).get("reasons") or []
            tally.declines[
                decline["code"] + (f" ({', '.join(reasons)})" if decline["code"] == "risk_denied" else "")
            ] += 1

    async def _make_card(self, customer: str) -> str:
        body = {"type": "card", "card": {"number": card_number(customer), "exp_month": 12, "exp_year": 2039}}
        return await self._made("/v1/tokens", body, f"replay:{self._key}:card:{customer}")

    async def _make_account(self, terminal: str) -> str:
        body = {
            "name": f"terminal {terminal}",
            "currency": self._currency,
            "normal_side": "credit",
            "code": f"{self._key}:{terminal}"[:64],
        }
        return await self._made("/v1/accounts", body, f"replay:{self._key}:account:{terminal}")

    async def _made(self, path: str, body: dict[str, Any], key: str) -> str:
        answer = await self._request(path, body, key)
        if answer.slug == "idempotency-key-reused":
            raise Failed(
                f"an earlier run named {self._key} had other content, such as another --currency; choose another --name",
                NO,
            )
        if not answer.ok:
            raise Failed(
                f"POST {path} was refused: {answer.status} {answer.body.decode(errors='replace')[:300]}", PART_FAILED
            )
        return str(answer.json()["id"])

    async def _request(self, path: str, body: dict[str, Any], key: str) -> Answer:
        if self._api is None:
            msg = "no client is open"
            raise RuntimeError(msg)
        return await self._api.request("POST", path, body, idempotency_key=key)

    async def _read_books(self) -> None:
        """Read the balances of the terminals' accounts, to compare them with the tally. Only after a whole file: after a part of it, the
        accounts may hold more from an earlier run.
        """
        if self._api is None or not self._whole:
            return
        pending = iter(self._accounts.items().items())

        async def reader() -> None:
            for terminal, account in pending:
                answer = await self._api.request("GET", f"/v1/accounts/{account}")  # type: ignore[union-attr]
                if not answer.ok:
                    raise Failed(f"GET /v1/accounts/{account}: {answer.status} {answer.slug}", PART_FAILED)
                self._books[terminal] = int(answer.json()["balance"]["posted"]["amount"])

        async with together() as group:
            for _ in range(self._in_flight):
                group.create_task(reader())

    def report(self) -> dict[str, Any]:
        tally = self.tally
        latencies = sorted(tally.latencies)
        wrong = {
            terminal: {"payments": tally.by_terminal[terminal], "ledger": held}
            for terminal, held in self._books.items()
            if held != tally.by_terminal[terminal]
        }
        done = tally.statuses["settled"] + tally.statuses["declined"]
        return {
            "sent": tally.sent,
            "new": tally.sent - tally.replayed,
            "replayed": tally.replayed,
            "statuses": dict(tally.statuses),
            "declined": dict(tally.declines.most_common()),
            "problems": dict(tally.problems.most_common()),
            "skipped": len(tally.skipped),
            "skipped_rows": tally.skipped[:SHOWN],
            "currency": self._currency,
            "sums": {
                "file": str(tally.sent_minor),
                "settled": str(tally.minors["settled"]),
                "declined": str(tally.minors["declined"]),
                "ledger": str(sum(self._books.values())) if self._whole else None,
            },
            "accounts": len(self._books),
            "accounts_wrong": wrong,
            "seconds": round(self._seconds, 3),
            "rate": round(tally.sent / self._seconds, 1) if self._seconds else 0.0,
            "p50_ms": _percentile(latencies, 0.50),
            "p99_ms": _percentile(latencies, 0.99),
            "complete": done == tally.sent and not tally.skipped and not wrong,
        }


def _percentile(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, 1)


@asynccontextmanager
async def _bar(total: int, what: str, *, quiet: bool) -> AsyncIterator[Callable[[int], None]]:
    """A progress bar on standard error, shown on a terminal only. Yields `advance(n)`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    out = console(error=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}/s"),
        TimeRemainingColumn(),
        console=out,
        disable=quiet or not out.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task(what, total=total, rate="-")
        started = time.monotonic()

        def advance(count: int) -> None:
            progress.advance(task, count)
            done = progress.tasks[0].completed
            if done % 50 == 0:
                progress.update(task, rate=f"{done / max(time.monotonic() - started, 0.001):.0f}")

        yield advance
