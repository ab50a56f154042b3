"""Takes the lines of an import into a book whose lock is held: opens accounts and posts units, many per statement."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec

from tallystick.chassis.db import Transaction
from tallystick.chassis.outbox import Fact, Outbox
from tallystick.contracts.ledger.messages import AccountRecord, Reason, Record, TransactionRecord, TransferRecord
from tallystick.kernel.ids import AccountId
from tallystick.kernel.money import in_units
from tallystick.services.ledger.model import (
    OPENING,
    Book,
    BookRow,
    Chart,
    Charted,
    Command,
    Days,
    FileLine,
    ImportRow,
    NewAccount,
    Reader,
    Refusal,
    Result,
    State,
    Tally,
    Transfer,
    Unfit,
    Unit,
    account_id,
    account_ref,
    called,
    dated_back,
    decide,
    new_account,
)
from tallystick.services.ledger.service.accounts import account_fact
from tallystick.services.ledger.service.facts import posted_fact
from tallystick.services.ledger.store import Imports as ImportStore
from tallystick.services.ledger.store import Store

#: Transfers that are decided at once: as many as a request may bring.
_AT_ONCE: Final = 1000

_decode = msgspec.json.Decoder(Record).decode


class Taking:
    """One run through an import's lines. `job` is the import, `row` its book, `locked` the book as the rules see it, `chart` the book's chart.

    Names are looked up among the file's own account names before the ledger's ids and paths, so a file may call an account `42`.
    """

    def __init__(  # noqa: PLR0917 - what it works with
        self,
        job: ImportRow,
        row: BookRow,
        locked: Book,
        chart: Chart,
        store: Store,
        imports: ImportStore,
        outbox: Outbox,
        now: datetime,
        *,
        restoring: bool,
    ) -> None:
        self.tally = Tally.of(job)
        self.refused: list[Refusal] = []
        self._job = job
        self._row = row
        self._book = locked.id
        self._locked = {locked.id: locked}
        self._chart = chart
        self._store = store
        self._imports = imports
        self._outbox = outbox
        self._now = now
        self._restoring = restoring
        self._names: dict[str, AccountId | None] = {}
        self._days: dict[AccountId, Days | None] = {}
        self._reader = Reader(locked.id, self._means, now, restoring=restoring)

    @property
    def sequence(self) -> int:
        return self._locked[self._book].sequence

    async def take(self, tx: Transaction, lines: Sequence[FileLine]) -> None:
        """Takes these lines, in order. Adds those that are refused to `refused`."""
        records = [(line.line, _decode(line.record)) for line in lines]
        for kind, group in itertools.groupby(records, key=lambda each: type(each[1])):
            some = list(group)
            if kind is AccountRecord:
                await self._open(tx, [(at, one) for at, one in some if isinstance(one, AccountRecord)])
            elif kind in (TransferRecord, TransactionRecord):
                await self._read(
                    tx, [(at, one) for at, one in some if isinstance(one, TransferRecord | TransactionRecord)]
                )
        self.tally.line = lines[-1].line

    def refuse(self, line: int, no: Unfit) -> None:
        self.tally.refused += 1
        self.refused.append(Refusal(line, no.field, no.reason[:100], no.detail[:500]))

    # ---- accounts ---------------------------------------------------------------------------------------------------

    async def _open(self, tx: Transaction, records: Sequence[tuple[int, AccountRecord]]) -> None:
        wanted: list[tuple[int, AccountRecord, NewAccount]] = []
        for line, record in records:
            try:
                new = new_account(record, self._book, restoring=self._restoring)
                # A restored account's record is complete, and the restored chart is applied at the end.
                wanted.append((line, record, new if self._restoring else self._chart.filled(new)))
            except Unfit as no:
                self.refuse(line, no)
        there = await self._imports.as_they_are(tx, [new.id for _, _, new in wanted])
        paths = await self._imports.paths(tx, self._book, [new.path for _, _, new in wanted if new.path is not None])
        fresh: list[NewAccount] = []
        opened: list[tuple[int, AccountRecord]] = []
        for line, record, new in wanted:
            try:
                if self._is_new(new, there, paths):
                    fresh.append(new)
                    self.tally.accounts += 1
                    self._days[new.id] = None
                else:
                    self.tally.accounts_known += 1
            except Unfit as no:
                self.refuse(line, no)
                continue
            self._names[called(record)] = new.id
            if record.path is not None:
                self._names.setdefault(record.path, new.id)
            if record.opening is not None:
                opened.append((line, record))
        await self._insert(tx, fresh)
        if opened:
            await self._begin_with(tx, opened)

    def _is_new(
        self, new: NewAccount, there: dict[AccountId, tuple[int, NewAccount]], paths: dict[str, AccountId]
    ) -> bool:
        """Whether the account is still to be opened. Raises Unfit when it can't be."""
        known = there.get(new.id)
        if known is not None:
            if known != (self._book, new):
                raise Unfit(None, "account-exists", "an account that the file called so before is not the same")
            return False
        if new.path is not None and new.path in paths:
            raise Unfit("/path", "account-path-taken", "another account of the book has this path")
        if not self._restoring:
            fault = self._chart.fault(
                Charted(new.path, new.kind or "", new.normal_side, new.currency, new.floor, new.ceiling)
            )
            if fault is not None:
                raise Unfit("/path", "not-in-chart", fault[0])
        there[new.id] = (self._book, new)
        if new.path is not None:
            paths[new.path] = new.id
        return True

    async def _insert(self, tx: Transaction, fresh: Sequence[NewAccount]) -> None:
        if fresh:
            await self._imports.insert_accounts(tx, self._book, fresh, self._now)
            await self._outbox.append(tx, [self._told(new) for new in fresh])

    def _told(self, new: NewAccount) -> Fact:
        who = self._job.tenant, self._job.actor, None
        return account_fact(who, "ledger.account.created", new, self._book, self._now)

    async def _begin_with(self, tx: Transaction, records: Sequence[tuple[int, AccountRecord]]) -> None:
        """Posts opening balances, and opens the accounts that they come from if necessary."""
        needed = {OPENING + one.currency: one.currency for _, one in records if one.opening_account is None}
        there = await self._imports.paths(tx, self._book, list(needed))
        missing = [
            NewAccount(
                id=account_id(self._book, path),
                name="Opening balances",
                path=path,
                kind="equity",
                currency=code,
                normal_side="credit",
                floor=None,
                code=None,
                metadata=None,
            )
            for path, code in needed.items()
            if path not in there
        ]
        for new in missing:
            fault = self._chart.fault(Charted(new.path, "equity", "credit", new.currency, None, None))
            if fault is not None:
                for line, one in records:
                    if one.opening_account is None and one.currency == new.currency:
                        self.refuse(line, Unfit("/opening_account", "not-in-chart", f"{new.path}: {fault[0]}"))
                records = [
                    (line, one)
                    for line, one in records
                    if one.opening_account is not None or one.currency != new.currency
                ]
            else:
                await self._insert(tx, [new])
                self.tally.accounts += 1
        await self._learn_names(tx, [one.opening_account for _, one in records])
        units: list[tuple[int, Unit]] = []
        for line, record in records:
            try:
                unit = self._reader.opening(record)
            except Unfit as no:
                self.refuse(line, no)
                continue
            if unit is not None:
                units.append((line, unit))
        await self._post(tx, units, "/opening")

    # ---- transfers --------------------------------------------------------------------------------------------------

    async def _read(self, tx: Transaction, records: Sequence[tuple[int, TransferRecord | TransactionRecord]]) -> None:
        legs = [
            leg
            for _, one in records
            for leg in (one.transfers if isinstance(one, TransactionRecord) else (one,))
            if leg.debit_account is not None
        ]
        await self._learn_names(tx, [name for leg in legs for name in (leg.debit_account, leg.credit_account)])
        units: list[tuple[int, Unit]] = []
        for line, record in records:
            try:
                units.append((line, self._reader.unit(record)))
            except Unfit as no:
                self.refuse(line, no)
        await self._post(tx, units, "")

    async def _learn_names(self, tx: Transaction, names: Iterable[str | None]) -> None:
        """Looks up the accounts that this file, or an earlier one, calls by these names."""
        unknown = {account_id(self._book, name): name for name in names if name is not None and name not in self._names}
        found = await self._imports.as_they_are(tx, list(unknown)) if unknown else {}
        self._names.update((name, own if own in found else None) for own, name in unknown.items())

    def _means(self, name: str) -> AccountId | str:
        """An account by the file's name for it, by its id, or by its path. Raises InvalidId."""
        return self._names.get(name) or account_ref(name)

    async def _post(self, tx: Transaction, units: Sequence[tuple[int, Unit]], field: str) -> None:
        some: list[tuple[int, Unit]] = []
        count = 0
        for line, unit in units:
            if some and count + len(unit.commands) > _AT_ONCE:
                await self._decide(tx, some, field)
                some, count = [], 0
            some.append((line, unit))
            count += len(unit.commands)
        if some:
            await self._decide(tx, some, field)

    async def _decide(self, tx: Transaction, lines: Sequence[tuple[int, Unit]], field: str) -> None:
        units = [unit for _, unit in lines]
        state = await self._store.load(tx, units, self._locked)
        await self._learn_days(tx, units, state)
        decided = decide(units, state, self._now)
        decided.transfers[:] = map(self._reader.as_it_was, decided.transfers)
        as_stored = {transfer.id: transfer for transfer in decided.transfers}
        new: list[Transfer] = []
        for (line, unit), results in zip(lines, decided.results, strict=True):
            no = _refusal(results, unit, state, field)
            if no is not None:
                self.refuse(line, no)
                continue
            made = [as_stored[each.id] for each in results if not each.existed]
            new += made
            self.tally.transfers += len(made)
            self.tally.transfers_known += len(results) - len(made)
        # A refusal is not pinned to the id here: the line may be corrected and come again.
        decided.rejections.clear()
        await self._store.save(tx, self._store.prepare(state, decided), self._now)
        for days in state.days:
            if days in self._days:
                self._days[days] = state.days[days]
        for transaction, group in itertools.groupby(new, key=lambda each: each.transaction):
            del transaction
            await self._outbox.append(tx, [posted_fact(self._job.tenant, self._job.actor, None, list(group))])

    async def _learn_days(self, tx: Transaction, units: Sequence[Unit], state: State) -> None:
        """Loads the past days of accounts. An account that this run opened has no other past than what the run brings, so nothing is read for it."""
        since = dated_back(units, state)
        read = {own: day for own, day in since.items() if own not in self._days}
        await self._store.learn_days(tx, read, state, self._now)
        today = self._locked[self._book].next_instant(self._now).date()
        for own in since.keys() - read.keys():
            day = since[own]
            days = self._days[own] or Days(today, [], [])
            if day < min([days.end, *days.since[:1]]):
                days.since.insert(0, day)
                days.balances.insert(0, 0)
            state.days[own] = self._days[own] = days


def _refusal(results: Sequence[Result], unit: Unit, state: State, field: str) -> Unfit | None:
    for place, result in enumerate(results):
        if result.transfer is None and result.reason is not Reason.LINKED_TRANSFER_FAILED:
            at = f"/transfers/{place}" if unit.header is not None else field
            if not field:
                at += _fault_in(unit.commands[place], result, unit.book, state)
            return Unfit(at or None, "rejected" if result.reason is None else result.reason, _sentence(result))
    return None


def _fault_in(command: Command, result: Result, book: int, state: State) -> str:
    """The JSON pointer at which the transfer names the account at fault, if it does; else an empty text."""
    for name, said in (("/debit_account", command.debit), ("/credit_account", command.credit)):
        if said is not None and result.account in {said, state.account(book, said)}:
            return name
    return ""


def _sentence(result: Result) -> str:
    if result.available is not None and result.required is not None:
        if result.currency is None:
            return f"{result.required} minor units are needed and {result.available} are there"
        needed, there = (in_units(amount, result.currency) for amount in (result.required, result.available))
        return f"{needed} {result.currency} are needed and {there} are there"
    if result.breached_on:
        days = ", ".join(day.isoformat() for day in result.breached_on[:5])
        return f"it would have broken a limit on {days}" + (" and later" if len(result.breached_on) > 5 else "")
    return _SENTENCES.get(result.reason, "the ledger's rules say no") if result.reason else "the ledger's rules say no"


_SENTENCES: Final = {
    Reason.ACCOUNT_NOT_FOUND: "one of its accounts is not there: neither the file nor the book has it",
    Reason.ACCOUNT_CLOSED: "one of its accounts is closed",
    Reason.ACCOUNT_FROZEN: "one of its accounts is frozen",
    Reason.SAME_ACCOUNT: "both accounts are the same",
    Reason.CURRENCY_MISMATCH: "an account is of another currency",
    Reason.AMOUNT_OVERFLOW: "a total would pass 2^63 - 1 minor units",
    Reason.HOLD_NOT_FOUND: "there is no such hold",
    Reason.TRANSFER_NOT_FOUND: "there is no such transfer",
    Reason.NOT_REVERSIBLE: "only what was posted can be reversed",
    Reason.PERIOD_SEALED: "the book is sealed up to later than that",
    Reason.EFFECTIVE_TOO_EARLY: "nothing is effective before 1970",
    Reason.EFFECTIVE_IN_FUTURE: "it would be effective in the future",
    Reason.BOOK_QUARANTINED: "the book is in quarantine",
}
