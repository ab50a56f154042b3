"""The ledger's client for other services: all units that wait at a moment go in one call.

Methods that take a transfer's id may be repeated after any failure, even if an answer was lost: the same id is the same transfer.
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
    """`token` is the transaction token of the subject who asks. Methods that post return None when the transfer is posted, by this call
    or an earlier one, and otherwise the ledger's reason (`messages.Reason`). A refusal is final for that id, unless the reason says
    otherwise. They raise Upstream, DeadlineExceeded and the like when it is not known whether the transfer was posted: call again
    with the same id.
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
        """Post 1 to 1000 transfers, all or none. `result.refusal` says which of them was refused, if any."""
        return await self._units.submit(_Ask(token, transfers, due))

    async def post(
        self, transfer: TransferId, debit: AccountId, credit: AccountId, amount: Money, token: str, *, due: bool = False
    ) -> str | None:
        """Post a transfer. `due`: it gives back what was taken before, so frozen accounts don't stop it and it needs no approvals."""
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
        """Place a hold, which expires after `expires_in` seconds, if given."""
        return await self._single(_move("hold", transfer, debit, credit, amount, expires_in=expires_in), token)

    async def capture(
        self, transfer: TransferId, hold: TransferId, amount: Money | None, token: str, *, final: bool = True
    ) -> str | None:
        """Capture `amount` of a hold (None: all that remains). `final` releases the rest."""
        return await self._single(
            _draw("capture", transfer, hold, amount, final=final),
            token,
        )

    async def void(self, transfer: TransferId, hold: TransferId, token: str) -> str | None:
        return await self._single(_draw("void", transfer, hold), token)

    async def reverse(self, transfer: TransferId, original: TransferId, amount: Money | None, token: str) -> str | None:
        """Reverse `amount` of a post or a capture (None: all that is left of it)."""
        return await self._single(_draw("reverse", transfer, original, amount), token)

    async def currency(self, account: AccountId, token: str) -> str | None:
        """The currency of an account in the book `main`; None if the token's tenant has no such account there."""
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
        """Open an account under this id; no effect if it exists already. Raises AccountExists if it was opened differently. With a path
        below `tallystick:` it is one of the platform's own accounts.
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
        """Return if this shard has the book. Raises BookNotFound, or BookElsewhere with the shard that has it."""
        await self._client.request(
            "POST",
            "/internal/books/lookups",
            LookForBook(token=token, book=book),
            answer=FoundBook,
            idempotent=True,
            problems=LEDGER_PROBLEMS,
        )

    async def arrive(self, arriving: Arrive) -> Arrived:
        """Post, in a book of this shard, what a book of another shard holds for it. As with `post`, an answer is final, and after an
        exception the outcome is not known.
        """
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
    """The check of books and their quarantine, for the operator. Methods raise the problems that they name, and what `Client.request`
    raises.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    async def books(self) -> list[WatchedBook]:
        """The books of all tenants, by number."""
        found: list[WatchedBook] = []
        after: int | None = 0
        while after is not None:
            page = await self._client.request("GET", f"/internal/books?after={after}", answer=WatchedBooks)
            found += page.data
            after = page.next
        return found

    async def check(self, number: int) -> AsyncIterator[Checked]:
        """Check a whole book, step by step. A book with faults is put in quarantine. Raises BookNotFound."""
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
        """Release a book from quarantine. Raises BookNotFound, BookStillFaulty."""
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
    """The code that marks a payment's transfers, whose ids are derived from the payment's. For older payments, whose ids are not of UUID
    version 8, there is none: a repeated request to the ledger has to be the same as the first one.
    """
    return PAYMENT_CODE if ids.is_derived(transfer) else None
