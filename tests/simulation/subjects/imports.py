"""Files that are imported while others post: run by any replica, by two at once, cut off, brought again, or with some lines more or less."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec

from tallystick.contracts.ledger.messages import AccountRecord, ImportLine, NewImport, TransferRecord
from tallystick.contracts.ledger.problems import ImportNotFound, ImportNotOpen
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.kernel.ids import ImportId
from tallystick.kernel.money import MoneyWire
from tallystick.services.ledger.model import ImportRow, account_id
from tests.simulation.clients import AGAIN, CLIENT, Place
from tests.simulation.subjects.charts import CHARTED, Charts
from tests.simulation.subjects.subject import Subject

if TYPE_CHECKING:
    from tests.simulation.server import Server
    from tests.simulation.world import Replica

#: How often somebody asks what became of an import.
LOOKS = 8
_encode = msgspec.json.Encoder().encode
Record = AccountRecord | TransferRecord


@dataclass
class File:
    """What is brought. `told` are its imports as clients saw them when they had ended."""

    place: Place
    records: tuple[Record, ...]
    mode: str
    dry_run: bool
    told: list[ImportRow] = field(default_factory=list)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(_encode(self.records)).hexdigest()


class Imports(Subject):
    name = "imports"
    kinds = (
        "import_whole", "import_parts", "import_valid", "import_tried", "import_failed", "import_half", "import_refused", "import_again",
        "import_known", "import_waits", "import_dated",
    )  # fmt: skip
    files: list[File]

    async def furnish(self) -> None:
        self.files = []
        self.numbers = count()

    async def act(self, rng: random.Random) -> None:
        chance = rng.random()
        if self.files and chance < 0.2:
            self.reached("import_again")
            file = rng.choice(self.files)
        else:
            file = self._altered(rng) if self.files and chance < 0.4 else self._new(rng)
            self.files.append(file)
        if rng.random() < 0.2:
            await self.world.gather(self._bring(file, rng), self._bring(file, rng))
        else:
            await self._bring(file, rng)

    # ---- what is brought --------------------------------------------------------------------------------------------

    def _new(self, rng: random.Random) -> File:
        place = self.world.clients.somewhere(rng)
        if any(isinstance(subject, Charts) for subject in self.world.subjects) and rng.random() < 0.4:
            place = rng.choice(self.world.tenants), CHARTED
        records: list[Record] = [self._account(rng, place) for _ in range(rng.choice([1, 1, 2]))]
        for _ in range(rng.randint(1, 7)):
            records.append(self._transfer(rng, place, records))
            if rng.random() < 0.1:
                records.append(self._account(rng, place))
        mode = rng.choice(["whole", "whole", "parts", "valid"])
        return File(place, tuple(records), mode, rng.random() < 0.1)

    def _altered(self, rng: random.Random) -> File:
        """A file with the records of another one, but for one, and one more."""
        old = rng.choice(self.files)
        records = list(old.records)
        if rng.random() < 0.7:
            records.pop(rng.randrange(len(records)))
        records.append(self._transfer(rng, old.place, records))
        return File(old.place, tuple(records), rng.choice(["whole", "parts", "valid"]), rng.random() < 0.1)

    def _account(self, rng: random.Random, place: Place) -> AccountRecord:
        number = next(self.numbers)
        return AccountRecord(
            name="an account",
            currency="EUR",
            normal_side="credit" if rng.random() < 0.6 else "debit",
            id=f"account-{number}",
            path=f"{rng.choice('ab')}:{number}" if place[1] == CHARTED else None,
            floor=rng.choice([None, None, "0"]),
            ceiling=rng.choice([None, None, "50"]),
        )

    def _transfer(self, rng: random.Random, place: Place, before: list[Record]) -> TransferRecord:
        number = next(self.numbers)
        own = [one.id for one in before if isinstance(one, AccountRecord) and one.id is not None]
        there = [ids.accounts.text(account) for account in self.world.accounts.get(place, ())[:2]]
        unknown = ["nobody's", "nothing"][: 2 if len(own) + len(there) < 2 else rng.random() < 0.05]
        debit, credit = rng.sample([*own, *there, *unknown], 2)
        kind = "hold" if rng.random() < 0.15 else "post"
        dated = kind == "post" and rng.random() < 0.3
        return TransferRecord(
            id=f"transfer-{number}",
            kind=kind,  # type: ignore[arg-type]
            debit_account=debit,
            credit_account=credit,
            amount=MoneyWire(str(rng.randint(1, 40)), "EUR"),
            code=f"import-{number}",
            effective_at=rfc3339(self.world.past(rng)) if dated else None,
        )

    # ---- how it is brought ------------------------------------------------------------------------------------------

    async def _bring(self, file: File, rng: random.Random) -> None:
        world, tenant = self.world, file.place[0]
        new = NewImport(
            rows=len(file.records), sha256=file.sha256, book=file.place[1], mode=file.mode, dry_run=file.dry_run  # type: ignore[arg-type]
        )  # fmt: skip
        row = await self._ask(file, rng, lambda replica: self._announced(replica, tenant, new))
        if row is None:
            return
        own = row.id
        if row.state == "open":
            lines = [ImportLine(line=line, record=record) for line, record in enumerate(file.records, 1)]
            middle = rng.randint(1, len(lines))
            for some in (lines[:middle], lines[middle:]):
                staged = partial(self._staged, tenant, own, some)
                if some and await self._ask(file, rng, staged) is None:
                    return
            if await self._ask(file, rng, lambda replica: replica.ledger.imports.start(tenant, own)) is None:
                return
        for _ in range(LOOKS):
            replicas = world.replicas(file.place)
            await world.gather(*(self._run(one, rng) for one in rng.sample(replicas, rng.randint(1, len(replicas)))))
            row = await self._ask(file, rng, lambda replica: replica.ledger.imports.get(tenant, own))
            if row is None or row.state in {"done", "failed"}:
                if row is not None:
                    world.note("import", row.state, row.transfers, row.refused)
                    file.told.append(row)
                return
            await world.rest(rng.uniform(0.1, 1))

    @staticmethod
    async def _announced(replica: Replica, tenant: str, new: NewImport) -> ImportRow:
        row, _ = await replica.ledger.imports.announce((tenant, CLIENT, None), new)
        return row

    @staticmethod
    async def _staged(tenant: str, own: ImportId, lines: list[ImportLine], replica: Replica) -> ImportRow:
        texts = [_encode(one.record).decode() for one in lines]
        return await replica.ledger.imports.stage(tenant, own, lines, texts)

    async def _ask(
        self, file: File, rng: random.Random, call: Callable[[Replica], Awaitable[ImportRow]]
    ) -> ImportRow | None:
        fine = (ImportNotOpen, ImportNotFound)
        return await self.world.clients.until_answered(file.place, call, rng, f"import {file.mode}", fine)

    async def _run(self, replica: Replica, rng: random.Random) -> None:
        try:
            await replica.ask(self.turn(replica), rng.uniform(0.5, 6))
        except AGAIN:
            self.world.faults.reached["sweep_failed"] += 1

    async def turn(self, replica: Replica) -> None:
        try:
            await replica.ledger.importer.turn()
            await replica.ledger.imports.give_up()
        except AGAIN:
            raise
        except Exception as error:  # noqa: BLE001 - it is a finding
            self.world.wrong.append(f"error: {type(error).__name__} {error} while importing")

    async def calm(self) -> None:
        """What is queued comes to its end."""
        for shard in self.world.shards.values():
            while any(row["state"] == "queued" for row in shard.server.tables["import"].values()):
                await self._run(shard.replicas[0], random.Random(0))
                await self.world.rest(1)

    # ---- what must be true ------------------------------------------------------------------------------------------

    def violations(self) -> Iterable[str]:
        for shard in self.world.shards.values():
            yield from self._told_once(shard.server)
        for place, book, transfers, _ in self.world.books():
            server = self.world.shard(place).server
            rows = [row for row in server.tables["import"].values() if row["book"] == book["id"]]
            yield from self._taken_once(place, server, rows, transfers)
            for row in rows:
                yield from self._as_reported(place, server, row, transfers)

    def _told_once(self, server: Server) -> Iterator[str]:
        """Each that is done was told in one fact, and nothing else was."""
        told = Counter(
            msgspec.json.decode(row["fact"])["resource"]
            for row in server.tables["outbox"].values()
            if row["type"] == "ledger.import.done"
        )
        done = [row for row in server.tables["import"].values() if row["state"] == "done" and not row["dry_run"]]
        if told != Counter(ids.imports.text(row["id"]) for row in done):
            yield f"import told: {told}, and {len(done)} are done"
        contents = Counter((row["book"], row["sha256"], row["mode"]) for row in done)
        if contents and max(contents.values()) > 1:
            yield "import twice: the same content is done more than once"

    def _taken_once(
        self, place: Place, server: Server, rows: list[dict[str, Any]], transfers: list[dict[str, Any]]
    ) -> Iterator[str]:
        """Each line that came in was new in the report of one import, whatever other files have it too."""
        codes = Counter(row["code"] for row in transfers if (row["code"] or "").startswith("import-"))
        if codes and max(codes.values()) > 1:
            yield f"import twice: {codes}"
        book = self.world.number(place)
        named = {
            account_id(book, one.id or "")
            for file in self.files
            for one in file.records
            if file.place == place and isinstance(one, AccountRecord)
        }
        opened = sum((own,) in server.tables["account"] for own in named)
        real = [row for row in rows if not row["dry_run"]]
        for what, many in (("transfers", codes.total()), ("accounts", opened)):
            if sum(row[what] for row in real) != many:
                yield f"import report: {place} has {many} {what} of files, and {[row[what] for row in real]} were told"

    def _as_reported(
        self, place: Place, server: Server, row: dict[str, Any], transfers: list[dict[str, Any]]
    ) -> Iterator[str]:
        file = next(one for one in self.files if one.place == place and one.sha256 == row["sha256"].hex())
        tables, state = server.tables, row["state"]
        if state == "queued":
            yield f"import ended: {row} waits for ever"
        for told in (told for one in self.files for told in one.told if told.id == row["id"]):
            if any(getattr(told, name) != row[name] for name in ("state", "line", "transfers", "accounts", "refused")):
                yield f"import told: {told}, and it is {row}"
        if state not in {"done", "failed"} or row["dry_run"]:
            if state == "done":
                self.reached("import_tried")
            return
        numbers = {one["code"]: one["sequence"] for one in transfers}
        refused = {line for own, line in tables["import_refusal"] if own == row["id"]}
        if row["refused"] != len(refused) or (refused and row["mode"] != "valid" and state == "done"):
            yield f"import report: {row} refused {refused}"
        last = len(file.records) if state == "done" else row["line"]
        counted: Counter[str] = Counter()
        for line, record in enumerate(file.records, 1):
            if line > last or line in refused:
                continue
            if isinstance(record, AccountRecord):
                counted["accounts"] += 1
                if (account_id(row["book"], record.id or ""),) not in tables["account"]:
                    yield f"import whole: line {line} of {row} is not there"
            else:
                counted["transfers"] += 1
                number = numbers.get(record.code)
                if number is None or (row["sequence"] or number) < number:
                    yield f"import whole: line {line} of {row} is at {number}"
                self.world.faults.reached["import_dated"] += record.effective_at is not None
        for what in ("accounts", "transfers"):
            if row[what] + row[f"{what}_known"] != counted[what]:
                yield f"import report: {row} has {counted[what]} {what}"
        self.reached(f"import_{row['mode']}" if state == "done" else "import_half" if last else "import_failed")
        self.world.faults.reached["import_refused"] += bool(refused)
        self.world.faults.reached["import_known"] += row["transfers_known"]
