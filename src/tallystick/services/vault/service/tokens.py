"""Creates, describes, reveals and destroys tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any

import msgspec

from tallystick.chassis import idempotency, outbox
from tallystick.chassis.auth import Subject
from tallystick.chassis.batching import Batcher
from tallystick.chassis.db import Database, Transaction
from tallystick.chassis.deadline import Deadline
from tallystick.chassis.idempotency import Answer, Entry, Outcome
from tallystick.chassis.keys import Keyring, KeyringError, Shredded
from tallystick.chassis.outbox import Fact
from tallystick.contracts.vault.messages import (
    ClearBankAccount,
    ClearCard,
    Revealed,
    Token,
    TokenCreated,
    TokenRevealed,
)
from tallystick.contracts.vault.problems import RevealNotRecorded, TokenDestroyed, TokenNotFound, TooManyAlike
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.kernel.ids import FactId, TokenId
from tallystick.kernel.problem import Problem
from tallystick.services.vault.model import (
    CheckedCard,
    CheckedIban,
    StoredToken,
    look,
    masked_card,
    masked_iban,
    taken_a_day,
    view,
    wipe,
)
from tallystick.services.vault.store import NUMBER, NewToken, Store

#: Waits until the log proves that it holds the fact. Raises a Problem if it does not within the deadline.
Receipt = Callable[[FactId, Deadline], Awaitable[Any]]

#: How long a reveal waits for its receipt, at most.
RECEIPT_SECONDS = 5.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A checked number that is to become a token. `entry`: of the client's idempotency key, if it sent one."""

    subject: Subject
    number: CheckedCard | CheckedIban
    entry: Entry | None
    trace: str

    def __repr__(self) -> str:
        return f"Order({self.subject.tenant})"


class Created(msgspec.Struct, frozen=True):
    """The answer's bytes, as stored. `replayed`: an earlier request made the token."""

    body: bytes
    status: int
    replayed: bool


class Tokens:
    def __init__(self, *, database: Database, store: Store, ring: Keyring, clock: Clock, receipt: Receipt) -> None:
        self._database = database
        self._store = store
        self._ring = ring
        self._clock = clock
        self._receipt = receipt
        self._batcher: Batcher[Order, Created] = Batcher(
            self._create, max_batch=128, concurrency=2, name="vault.create"
        )

    async def close(self) -> None:
        await self._batcher.close()

    def fingerprint(self, tenant: str, number: CheckedCard | CheckedIban) -> str:
        """The same for the same number within a tenant; says nothing without the vault's key (PCI DSS 3.5.1.1)."""
        text = number.number if isinstance(number, CheckedCard) else number.iban
        kind = "card" if isinstance(number, CheckedCard) else "iban"
        mac = self._ring.mac("fingerprint", f"{kind}:{text}".encode(), tenant)
        return "fp_" + ids.encode(int.from_bytes(mac[:16], "big"))

    async def create(self, order: Order) -> Created:
        """A new token, or the stored answer of the same request. Raises KeyReused, InProgress, TooManyAlike."""
        return await self._batcher.submit(order)

    async def known(self, order: Order) -> Created | None:
        """The stored answer of the same request; None if its key is unused. Counts the number as `create` does, and raises the same: this is
        another way to guess a number.
        """
        if order.entry is None:
            return None
        (guessed,) = await self._guesses([order], self._clock.now())
        if guessed is not None:
            raise guessed
        found = await idempotency.look(self._database, order.entry)
        return None if found is None else _again(found)

    async def _create(self, orders: list[Order]) -> list[Created | Exception]:
        """Create tokens for all waiting orders in one transaction: claim keys, seal, insert, tell, store answers. The numbers are counted first."""
        now = self._clock.now()
        made = [ids.tokens.random() for _ in orders]
        results: list[Created | Exception | None] = [*await self._guesses(orders, now)]
        async with self._database.transaction() as tx:
            keyed = [
                (at, order.entry) for at, order in enumerate(orders) if order.entry is not None and results[at] is None
            ]
            outcomes = await idempotency.claim(tx, [e for _, e in keyed], resource=[made[at] for at, _ in keyed])
            for (at, _), outcome in zip(keyed, outcomes, strict=True):
                try:
                    results[at] = _again(outcome)
                except Problem as problem:
                    results[at] = problem
            fresh = [at for at, result in enumerate(results) if result is None]
            if fresh:
                bodies = await self._insert(tx, [(made[at], orders[at]) for at in fresh], now)
                for at, body in zip(fresh, bodies, strict=True):
                    results[at] = Created(body, 201, replayed=False)
                answers = [
                    Answer(entry, 201, body)
                    for at, body in zip(fresh, bodies, strict=True)
                    if (entry := orders[at].entry) is not None
                ]
                await idempotency.complete(tx, answers)
        return [result for result in results if result is not None]

    async def _guesses(self, orders: Sequence[Order], now: datetime) -> list[TooManyAlike | None]:
        """A refusal for each order whose number looks like too many other new numbers of the day, else None.

        Known numbers are refused as well: otherwise the one that is accepted would be the right guess. So are requests that would be answered
        from their idempotency key, since its digest reveals just as much.
        """
        numbers = [
            (
                order.subject.tenant,
                self.fingerprint(order.subject.tenant, order.number),
                self._ring.mac("looks", look(order.number).encode(), order.subject.tenant),
            )
            for order in orders
        ]
        taken = await self._store.count(self._database, now.date(), numbers)
        tomorrow = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
        wait = str(int((tomorrow - now).total_seconds()) + 1)
        return [
            TooManyAlike(
                "no more new numbers that look like this one (its first six and last four digits; of an IBAN, country and last "
                "four) are taken before tomorrow, 00:00 UTC",
                headers={"Retry-After": wait},
            )
            if taken.get(looks, 0) > taken_a_day(order.number)
            else None
            for order, (_, _, looks) in zip(orders, numbers, strict=True)
        ]

    async def forget_counts(self) -> None:
        """Delete the counts of past days. For the schedule."""
        await self._store.forget_counts(self._database, self._clock.now().date())

    async def _insert(self, tx: Transaction, fresh: Sequence[tuple[TokenId, Order]], now: datetime) -> list[bytes]:
        keys = await self._ring.new_subject_keys(
            tx, [(order.subject.tenant, ids.tokens.text(id_)) for id_, order in fresh]
        )
        rows, facts, bodies = [], [], []
        for (id_, order), key in zip(fresh, keys, strict=True):
            number, tenant = order.number, order.subject.tenant
            masked = masked_card(number) if isinstance(number, CheckedCard) else masked_iban(number)
            plain = bytearray((number.number if isinstance(number, CheckedCard) else number.iban).encode())
            fingerprint = self.fingerprint(tenant, number)
            rows.append(
                NewToken(
                    id=id_,
                    tenant=tenant,
                    created_by=order.subject.client_id,
                    created_at=now,
                    masked=masked,
                    fingerprint=fingerprint,
                    sealed=key.seal(plain, NUMBER.aad(tenant, id_)),
                )
            )
            wipe(plain)
            told = TokenCreated(masked.type, masked.brand)
            facts.append(_fact("vault.token.created", order.subject, id_, trace=order.trace, at=now, data=told))
            bodies.append(msgspec.json.encode(view(id_, masked, fingerprint, now)))
        await self._store.insert(tx, rows)
        await outbox.append(tx, facts)
        return bodies

    async def describe(self, wanted: Sequence[tuple[str, TokenId]]) -> list[Token | Problem]:
        """The masked view of each (tenant, token), in order. Nothing is decrypted."""
        found = await self._store.find(self._database, wanted)
        described: list[Token | Problem] = []
        for each in wanted:
            token = found.get(each)
            if token is None:
                described.append(TokenNotFound())
            elif token.masked is None or token.fingerprint is None:
                described.append(TokenDestroyed())
            else:
                described.append(view(token.id, token.masked, token.fingerprint, token.created_at))
        return described

    async def get(self, tenant: str, id_: TokenId) -> Token:
        """Raises TokenNotFound, TokenDestroyed."""
        (token,) = await self.describe([(tenant, id_)])
        if isinstance(token, Problem):
            raise token
        return token

    async def reveal(self, subject: Subject, id_: TokenId, purpose: str, trace: str, deadline: Deadline) -> Revealed:
        """The number in clear, once the log proves that the reveal was recorded.

        Raises TokenNotFound, TokenDestroyed, RevealNotRecorded. The fact stays in the log even if the number is not shown in the end: an
        attempt counts as an access (PCI DSS 10.2.1.1).
        """
        token = await self._whole(subject.tenant, id_)
        fact = _fact(
            "vault.token.revealed",
            subject,
            id_,
            trace=trace,
            at=self._clock.now(),
            data=TokenRevealed(token.type, purpose),
        )
        async with self._database.transaction() as tx:
            await outbox.append(tx, [fact])
        # Leave some time for the answer itself.
        waiting = Deadline.after(deadline.sooner(RECEIPT_SECONDS) * 0.9)
        try:
            async with asyncio.timeout(waiting.remaining()):
                await self._receipt(fact.id, waiting)
        except (Problem, TimeoutError) as error:
            raise RevealNotRecorded(context={"error": type(error).__name__}) from error
        # Read again: it may have been destroyed while we waited.
        token = await self._whole(subject.tenant, id_)
        number = await self._open(token)
        receipt = ids.facts.text(fact.id)
        try:
            text = number.decode()
        finally:
            wipe(number)
        if token.masked is not None and token.type == "card":
            card = ClearCard(text, token.masked.exp_month or 0, token.masked.exp_year or 0)
            return Revealed(id=ids.tokens.text(id_), type="card", receipt=receipt, card=card)
        return Revealed(
            id=ids.tokens.text(id_), type="bank_account", receipt=receipt, bank_account=ClearBankAccount(text)
        )

    async def destroy(self, subject: Subject, id_: TokenId, trace: str) -> None:
        """Destroy the number and its key. Without the key, copies of the row can't be read either. Repeating it changes nothing.

        Raises TokenNotFound.
        """
        now = self._clock.now()
        async with self._database.transaction() as tx:
            destroyed = await self._store.destroy(tx, subject.tenant, id_, now)
            if destroyed is None:
                raise TokenNotFound
            if destroyed:
                await self._ring.shred(tx, subject.tenant, [ids.tokens.text(id_)])
                # The stored answer of the request that created it holds the masked view.
                await idempotency.withdraw(tx, subject.tenant, [id_], TokenDestroyed())
                await outbox.append(tx, [_fact("vault.token.destroyed", subject, id_, trace=trace, at=now)])

    async def _whole(self, tenant: str, id_: TokenId) -> StoredToken:
        token = (await self._store.find(self._database, [(tenant, id_)])).get((tenant, id_))
        if token is None:
            raise TokenNotFound
        if token.sealed is None:
            raise TokenDestroyed
        return token

    async def _open(self, token: StoredToken) -> bytearray:
        (number,) = await self._ring.open_many([(token.sealed or b"", NUMBER.aad(token.tenant, token.id))])
        if isinstance(number, Shredded):
            raise TokenDestroyed
        if isinstance(number, KeyringError):
            raise number
        return number


def _again(outcome: Outcome) -> Created | None:
    """The stored answer; None for a fresh key. Raises the problem if there is no answer yet, and TokenDestroyed if the token was destroyed."""
    replay = outcome.raise_or_replay()
    if replay is None:
        return None
    if replay.status == TokenDestroyed.status:
        raise TokenDestroyed
    return Created(replay.body, replay.status, replayed=True)


def _fact(
    type_: str, subject: Subject, id_: TokenId, *, trace: str, at: datetime, data: msgspec.Struct | None = None
) -> Fact:
    return Fact(
        id=ids.facts.new(),
        type=type_,
        tenant=subject.tenant,
        actor=subject.client_id,
        resource=ids.tokens.text(id_),
        at=at,
        trace=trace,
        data={} if data is None else msgspec.to_builtins(data),
    )
