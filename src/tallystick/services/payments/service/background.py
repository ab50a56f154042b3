"""Background work: resume payments and refunds that were left unfinished, and read disputes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, Literal

import msgspec

from tallystick.chassis import telemetry
from tallystick.chassis.auth import Authenticator
from tallystick.chassis.db import Database, Life, Transaction
from tallystick.chassis.deadline import Deadline
from tallystick.kernel import ids
from tallystick.kernel.clock import Clock
from tallystick.services.payments import model
from tallystick.services.payments.model import LEASE, Payment
from tallystick.services.payments.service.acquirer import Acquirer, Dispute
from tallystick.services.payments.service.journal import Journal, disputed_fact
from tallystick.services.payments.service.payments import Payments
from tallystick.services.payments.service.refunds import Refunds
from tallystick.services.payments.service.work import Work, new_lease
from tallystick.services.payments.store import Lease, Saving, Store

#: Payments that one replica resumes at once, and as many refunds. They are counted apart so that payments that wait for a slow
#: acquirer don't hold up refunds.
RESUMED_AT_ONCE: Final = 64
#: Disputes per request to the acquirer.
DISPUTES: Final = 100


class Background:
    def __init__(
        self,
        *,
        database: Database,
        store: Store,
        journal: Journal,
        acquirer: Acquirer,
        payments: Payments,
        refunds: Refunds,
        authenticator: Authenticator,
        clock: Clock,
        work: Work,
        life: Life,
    ) -> None:
        self._database = database
        self._store = store
        self._journal = journal
        self._acquirer = acquirer
        self._payments = payments
        self._refunds = refunds
        self._authenticator = authenticator
        self._clock = clock
        self._work = work
        self._life = life
        self._resuming: Counter[Literal["payments", "refunds"]] = Counter()

    async def resume(self) -> int:
        """Starts work on payments and refunds that are due or whose process is dead. Returns how many it took up.
        Authorizations expire here.

        It does not wait for their completion, so that one held up by a slow acquirer holds up no other; `Work.drain` does.
        """
        for_payments = max(0, RESUMED_AT_ONCE - self._resuming["payments"])
        for_refunds = max(0, RESUMED_AT_ONCE - self._resuming["refunds"])
        if not for_payments and not for_refunds:
            return 0
        ends = new_lease()
        now = self._clock.now()
        lease = Lease(now, now + LEASE, self._life.number)
        dead = await self._life.absent(await self._store.workers(self._database, lease))
        async with self._database.transaction() as tx:
            payments = await self._take_up(tx, lease, dead, for_payments)
            refunds = await self._store.take_up_refunds(tx, lease, dead, for_refunds)
        for p in payments:
            # Nobody asks for an expiry, but a token needs a client: the one that created the payment.
            client = p.asked_by or p.client_id
            self._resume(
                "payments", p.tenant, client, ids.payments.text(p.id), partial(self._payments.advance, p), lease=ends
            )
        for r in refunds:
            self._resume(
                "refunds", r.tenant, r.client_id, ids.refunds.text(r.id), partial(self._refunds.advance, r), lease=ends
            )
        return len(payments) + len(refunds)

    async def _take_up(self, tx: Transaction, lease: Lease, dead: Sequence[int], limit: int) -> Sequence[Payment]:
        found = await self._store.take_up(tx, lease, dead, limit)
        wanted = [model.taken_up(p, lease.now) for p in found]
        changed = [p for p, before in zip(wanted, found, strict=True) if p is not before]
        if changed:
            await self._store.save(tx, [Saving(p) for p in changed])
        return [
            p if p is before else msgspec.structs.replace(p, version=p.version + 1)
            for p, before in zip(wanted, found, strict=True)
        ]

    def _resume(
        self,
        kind: Literal["payments", "refunds"],
        tenant: str,
        client_id: str,
        name: str,
        go_on: Callable[[str], Coroutine[Any, Any, tuple[Any, bytes]]],
        *,
        lease: Deadline,
    ) -> None:
        async def work() -> None:
            token = await self._authenticator.service_token(tenant, client_id, "payments.resume")
            after, _ = await go_on(token)
            telemetry.log.info("payment.resumed", resource=name, status=after.status)

        def done(_: object) -> None:
            self._resuming[kind] -= 1

        self._resuming[kind] += 1
        self._work.start(work(), lease).add_done_callback(done)

    async def read_disputes(self) -> int:
        """Reads the acquirer's disputes since the last reading. Returns how many were processed. Raises a Problem.

        The acquirer is asked on behalf of any client that takes card payments; if there is none, there is nothing to dispute. A
        dispute of a payment that is being worked on, and all after it, are left for a later reading. That is at most a lease later.
        """
        client = await self._store.any_card_client(self._database)
        if client is None:
            return 0
        token = await self._authenticator.service_token(*client, "payments.disputes")
        after = await self._store.disputes_read(self._database, self._acquirer.name)
        found = await self._acquirer.disputes(after, DISPUTES, token)
        for read, each in enumerate(found):
            if not await self._record_dispute(each):
                return read
        return len(found)

    async def _record_dispute(self, dispute: Dispute) -> bool:
        """Marks the payment, tells the fact and moves the cursor past the dispute, in one transaction, so that each dispute is told
        once. Returns False, with nothing done, while somebody works on the payment.
        """
        try:
            payment = model.authorized_by(ids.rail_requests.parse(dispute.authorization))
        except ids.InvalidId:
            payment = None
        now = self._clock.now()
        async with self._database.transaction() as tx:
            marked = None
            if payment is not None:
                if await self._store.is_worked_on(tx, payment, now):
                    return False
                marked = await self._store.dispute(tx, f"{self._acquirer.name}:{dispute.position}", payment, now)
            if marked is not None:
                await self._journal.tell(tx, disputed_fact(marked, dispute.reason, dispute.raised_at))
            else:
                telemetry.log.warning("payment.dispute.skipped", position=dispute.position)
            await self._store.move_dispute_cursor(tx, self._acquirer.name, dispute.position)
        return True
