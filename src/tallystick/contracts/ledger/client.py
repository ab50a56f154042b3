"""How others use the ledger: one call for all units that wait at the moment.

The methods with a transfer's id can be repeated after any failure, a lost answer included: the same id is the same transfer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Literal

import msgspec

from tallystick.chassis.batching import WORK_PACE, Batcher
from tallystick.chassis.call import Client
from tallystick.contracts.ledger.messages import (
    MAIN,
    PAYMENT_CODE,
    Account,
    Arrive,
    Arrived,
    CheckBook,
    Checked,
    FindAccounts,
    Found,
    FoundAccounts,
    FoundBook,
    LookForBook,
    OpenAccount,
    OpenAccountAs,
    PostedUnits,
    PostUnits,
    ReleaseBook,
    Side,
    Unit,
    UnitResult,
    UnitTransfer,
    Wanted,
    WatchedBook,
    WatchedBooks,
)
from tallystick.contracts.ledger.problems import LEDGER_PROBLEMS, AccountNotFound, BookNotFound, BookStillFaulty
from tallystick.kernel import ids
from tallystick.kernel.ids import AccountId, TransferId
from tallystick.kernel.money import Money, from_money
from tallystick.kernel.problem import Problem, decode

_BATCH = 256
_IN_FLIGHT = 2


class _Ask(msgspec.Struct, frozen=True):
    token: str
    transfers: Sequence[UnitTransfer]
    due: bool = False


class _Lookup(msgspec.Struct, frozen=True):
    token: str
    account: AccountId


class LedgerClient:
    """`token` is the transaction token of who asks. Methods that post return None when it is posted (now or by an earlier call), else
    the ledger's reason (`messages.Reason`): a refusal is final for that id, unless the reason says that it is of the moment. They raise
    Upstream, DeadlineExceeded and the like when it is not known whether it was posted: ask again with the same id.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._units: Batcher[_Ask, UnitResult] = Batcher(
            self._post, max_batch=_BATCH, concurrency=_IN_FLIGHT, pace=WORK_PACE, name="ledger.units"
        )
        self._lookups: Batcher[_Lookup, Found] = Batcher(
            self._find, max_batch=_BATCH, concurrency=_IN_FLIGHT, name="ledger.lookups"
        )

    async def post_unit(self, transfers: Sequence[UnitTransfer], token: str, *, due: bool = False) -> UnitResult:
        """Posts 1 to 1000 transfers together or none of them. `result.refusal` says which of them was refused, if one was."""
        return await self._units.submit(_Ask(token, transfers, due))

    async def post(
        self, transfer: TransferId, debit: AccountId, credit: AccountId, amount: Money, token: str, *, due: bool = False
    ) -> str | None:
        """`due`: it gives back what was taken before, whatever was frozen since and without approvals."""
        return await self._single(_move("post", transfer, debit, credit, amount), token, due=due)

    async def hold(
        self,
        transfer: TransferId,
        debit: AccountId,
        credit: AccountId,
        amount: Money,
        token: str,
        *,
        expires_in: int | None = None,
    ) -> str | None:
        """`expires_in`: seconds after which the hold holds nothing."""
        return await self._single(_move("hold", transfer, debit, credit, amount, expires_in=expires_in), token)

    async def capture(
        self, transfer: TransferId, hold: TransferId, amount: Money | None, token: str, *, final: bool = True
    ) -> str | None:
        """Captures of a hold `amount` (None: all that remains). `final` releases the rest."""
        return await self._single(
            _draw("capture", transfer, hold, amount, final=final),
            token,
        )

    async def void(self, transfer: TransferId, hold: TransferId, token: str) -> str | None:
        return await self._single(_draw("void", transfer, hold), token)

    async def reverse(self, transfer: TransferId, original: TransferId, amount: Money | None, token: str) -> str | None:
        """Reverses of a post or a capture `amount` (None: all that is left of it)."""
        return await self._single(_draw("reverse", transfer, original, amount), token)

    async def currency(self, account: AccountId, token: str) -> str | None:
        """The currency of an account of the book `main`; None if the token's tenant has no such account there."""
        try:
            found = await self._lookups.submit(_Lookup(token, account))
        except AccountNotFound:
            return None
        return found.currency if found.book == MAIN else None

    async def open_account(
        self,
        account: AccountId,
        *,
        name: str,
        currency: str,
        normal_side: Side,
        token: str,
        floor: int | None = None,
        code: str | None = None,
        path: str | None = None,
    ) -> None:
        """Opens an account under this id; harmless if it is there already. Raises AccountExists if that is another one. Below `tallystick:` it is
        the platform's own.
        """
        await self._client.request(
            "POST",
            "/internal/accounts",
            OpenAccountAs(
                id=ids.accounts.text(account),
                token=token,
                account=OpenAccount(
                    name=name,
                    currency=currency,
                    normal_side=normal_side,
                    floor=None if floor is None else str(floor),
                    code=code,
                    path=path,
                ),
            ),
            answer=Account,
            idempotent=True,
            problems=LEDGER_PROBLEMS,
        )

    async def look_for_book(self, book: str, token: str) -> None:
        """Raises BookNotFound, and BookElsewhere with the shard that has it."""
        await self._client.request(
            "POST",
            "/internal/books/lookups",
            LookForBook(token=token, book=book),
            answer=FoundBook,
            idempotent=True,
            problems=LEDGER_PROBLEMS,
        )

    async def arrive(self, arriving: Arrive) -> Arrived:
        """Posts in a book there what one of another shard holds. As with `post`: the answer is for ever, and what raises is not known."""
        return await self._client.request(
            "POST", "/internal/arrivals", arriving, answer=Arrived, idempotent=True, problems=LEDGER_PROBLEMS
        )

    async def _single(self, transfer: UnitTransfer, token: str, *, due: bool = False) -> str | None:
        refusal = (await self.post_unit([transfer], token, due=due)).refusal
        return None if refusal is None else str(refusal.reason)

    async def _post(self, asks: list[_Ask]) -> list[UnitResult | Exception]:
        tokens: dict[str, int] = {}
        units = [
            Unit(token=tokens.setdefault(ask.token, len(tokens)), transfers=list(ask.transfers), due=ask.due)
            for ask in asks
        ]
        answer = await self._client.request(
            "POST",
            "/internal/transfers",
            PostUnits(tokens=list(tokens), units=units),
            answer=PostedUnits,
            idempotent=True,
        )
        return [unit if unit.problem is None else decode(unit.problem, LEDGER_PROBLEMS) for unit in answer.units]

    async def _find(self, lookups: list[_Lookup]) -> list[Found | Exception]:
        tokens: dict[str, int] = {}
        wanted = [
            Wanted(token=tokens.setdefault(one.token, len(tokens)), id=ids.accounts.text(one.account))
            for one in lookups
        ]
        answer = await self._client.request(
            "POST",
            "/internal/accounts/lookups",
            FindAccounts(tokens=list(tokens), accounts=wanted),
            answer=FoundAccounts,
            idempotent=True,
        )
        found: list[Found | Problem] = [
            one if one.problem is None else decode(one.problem, LEDGER_PROBLEMS) for one in answer.accounts
        ]
        return list(found)


class LedgerOperator:
    """The check of books and their quarantine, for the operator. Raises the problems named at each, and what `Client.request` raises."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def books(self) -> list[WatchedBook]:
        """Everybody's books, by number."""
        found: list[WatchedBook] = []
        after: int | None = 0
        while after is not None:
            page = await self._client.request("GET", f"/internal/books?after={after}", answer=WatchedBooks)
            found += page.data
            after = page.next
        return found

    async def check(self, number: int) -> AsyncIterator[Checked]:
        """All of one book, a step at a time. A book with faults is put in quarantine. BookNotFound."""
        cursor: str | None = None
        while True:
            step = await self._client.request(
                "POST",
                "/internal/books/check",
                CheckBook(number=number, cursor=cursor),
                answer=Checked,
                idempotent=True,
                problems=(BookNotFound,),
            )
            yield step
            cursor = step.cursor
            if cursor is None:
                return

    async def release(self, number: int, *, checked: bool = False) -> WatchedBook:
        """BookNotFound, BookStillFaulty."""
        return await self._client.request(
            "POST",
            "/internal/books/release",
            ReleaseBook(number=number, checked=checked),
            answer=WatchedBook,
            idempotent=True,
            problems=(BookNotFound, BookStillFaulty),
        )


def _move(
    kind: str,
    transfer: TransferId,
    debit: AccountId,
    credit: AccountId,
    amount: Money,
    *,
    expires_in: int | None = None,
) -> UnitTransfer:
    return UnitTransfer(
        id=ids.transfers.text(transfer),
        kind="hold" if kind == "hold" else "post",
        debit_account=ids.accounts.text(debit),
        credit_account=ids.accounts.text(credit),
        amount=from_money(amount),
        expires_in=expires_in,
        code=_code(transfer),
    )


def _draw(
    kind: Literal["capture", "void", "reverse"],
    transfer: TransferId,
    target: TransferId,
    amount: Money | None = None,
    *,
    final: bool = False,
) -> UnitTransfer:
    return UnitTransfer(
        id=ids.transfers.text(transfer),
        kind=kind,
        target=ids.transfers.text(target),
        amount=None if amount is None else from_money(amount),
        final=final,
        code=_code(transfer),
    )


def _code(transfer: TransferId) -> str | None:
    """What is derived from the id of a payment is a payment's. Payments of before such ids were of version 8 go on without a code: what was asked
    of the ledger once is asked in the same words again.
    """
    return PAYMENT_CODE if ids.is_derived(transfer) else None
