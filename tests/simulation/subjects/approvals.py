"""Transactions that need approvals: proposed, approved and rejected by several people at once, carried out by whoever comes to it, too late at times;
and rules that change meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tallystick.chassis.auth import Subject as Person
from tallystick.contracts.ledger.messages import MAIN, STATEMENT_TYPE
from tallystick.contracts.ledger.problems import NotAnApprover, ProposalClosed
from tallystick.kernel import ids
from tallystick.kernel.ids import ProposalId, TransactionId
from tallystick.services.ledger.model import ApprovalRule, Command, Header, ProposalRow
from tallystick.services.ledger.service import Plan
from tallystick.services.ledger.service.asks import Propose
from tests.simulation.clients import CLIENT, Intention, Place
from tests.simulation.replay import Rules
from tests.simulation.subjects.subject import Subject
from tests.support.tokens import Holder, sign

if TYPE_CHECKING:
    from tests.simulation.world import Replica

#: Who may approve. Made once: what is signed is in no trace.
CHECKERS = [Holder(client=f"cli_checker_{number}") for number in range(3)]
EXPIRES_S = 3
Values = dict[str, Any]
_rules = msgspec.json.Decoder(tuple[ApprovalRule, ...]).decode
_encode = msgspec.json.encode


class Told(msgspec.Struct, frozen=True):
    """What a client is told of a proposal."""

    proposal: str
    digest: str


def _body(row: ProposalRow) -> bytes:
    return _encode(Told(ids.proposals.text(row.id), row.digest))


class Approvals(Subject):
    name = "approvals"
    kinds = (
        "proposed", "proposal_posted", "proposal_refused", "proposal_rejected", "proposal_expired", "approval_required", "ProposalClosed",
        "NotAnApprover", "rules",
    )  # fmt: skip
    proposed: list[Intention]

    async def furnish(self) -> None:
        self.proposed = []
        for tenant in self.world.tenants:
            await self._set_rules((tenant, MAIN), random.Random(0), 45)

    async def _set_rules(self, place: Place, rng: random.Random, above: int | None) -> None:
        approvers = tuple(one.client for one in CHECKERS)
        rules = [ApprovalRule("EUR", above, 2, approvers, EXPIRES_S)] if above is not None else []
        await self.world.clients.until_answered(
            place,
            lambda replica: _done(replica.ledger.approvals.set_rules((place[0], CLIENT, None), place[1], rules)),
            rng,
            f"rules {above}",
        )

    async def act(self, rng: random.Random) -> None:
        waiting = [one for one in self.proposed if one.proposals]
        chance = rng.random()
        if chance < 0.08:
            place = (rng.choice(self.world.tenants), MAIN)
            await self._set_rules(place, rng, rng.choice([None, 20, 45, 45]))
        elif chance < 0.55 and waiting:
            await self._decide(rng, rng.choice(waiting[-3:]))
        elif chance < 0.65 and self.proposed:
            await self.world.clients.tell(rng.choice(self.proposed), rng)
        else:
            await self._propose(rng)

    async def _propose(self, rng: random.Random) -> None:
        world, clients = self.world, self.world.clients
        place = (rng.choice(world.tenants), MAIN)
        number = len(clients.intentions)
        header = Header(id=TransactionId(world.uuid()), reference=f"ref-{number}")
        moves = [
            clients.move(rng, place, number, rng.choice(["post", "post", "hold"])) for _ in range(rng.choice([1, 2]))
        ]
        debit = world.accounts[place][1]
        commands = [
            clients.dated(
                one if one.credit == debit else msgspec.structs.replace(one, debit=rng.choice([debit, one.debit])),
                header,
            )
            for one in moves
        ]
        key = f"key-{number}" if rng.random() < 0.6 else None
        intention = clients.want(place, commands, atomic=True, key=key, header=header)
        intention.propose = self._drafted(place, header, commands)
        self.proposed.append(intention)
        await clients.tell(intention, rng)
        if intention.proposals and rng.random() < 0.6:
            people = rng.sample(CHECKERS, 2)
            await asyncio.gather(*(self._decide(rng, intention, person) for person in people))

    @staticmethod
    def _drafted(place: Place, header: Header, commands: Sequence[Command]) -> Any:
        def propose(replica: Replica) -> Propose:
            plan = Plan(header, tuple(commands))
            return replica.ledger.approvals.draft(
                (place[0], CLIENT, None), place[1], plan, lambda: b'{"asked":"for"}', CLIENT, _body
            )

        return propose

    async def _decide(self, rng: random.Random, intention: Intention, person: Holder | None = None) -> None:
        """As one of the checkers, or, seldom, as who proposed it."""
        tenant, _ = intention.place
        told = msgspec.json.decode(rng.choice(sorted(intention.proposals)), type=Told)
        if person is None:
            person = rng.choice(CHECKERS) if rng.random() < 0.95 else Holder(CHECKERS[0].key, client=CLIENT)
        decision: Literal["approve", "reject"] = "approve" if rng.random() < 0.93 else "reject"
        proposal = ProposalId(ids.proposals.parse(told.proposal))
        said = {
            "proposal": told.proposal,
            "digest": told.digest,
            "decision": decision,
            "iat": int(self.world.now().timestamp()),
        }
        head = {"typ": STATEMENT_TYPE, "alg": "ES256", "jwk": person.key.as_dict(private=False)}
        signature = sign(head, said, person.key)
        who = Person(
            tenant=tenant,
            client_id=person.client,
            scopes=frozenset(),
            token_id="",
            actor=person.client,
            expires_at=self.world.now() + timedelta(minutes=5),
            jkt=person.jkt,
        )
        await self.world.clients.until_answered(
            intention.place,
            lambda replica: replica.ledger.approvals.decide(who, None, proposal, decision, signature),
            rng,
            f"{decision} of {intention.number}",
            (ProposalClosed, NotAnApprover),
        )

    async def turn(self, replica: Replica) -> None:
        await replica.ledger.approvals.resume()

    # ---- what must be true ------------------------------------------------------------------------------------------

    def violations(self) -> Iterable[str]:
        for place, book, transfers, changes in self.world.books():
            tables = self.world.tables(place)
            accounts = {row["id"]: row for row in tables["account"].values() if row["book"] == book["id"]}
            rules = Rules(book, accounts, changes)
            proposals = [row for row in tables["proposal"].values() if row["book"] == book["id"]]
            agreed = {self._of(row) for row in proposals if row["status"] in {"approved", "posted"}}
            self.world.faults.reached["rules"] += sum(change.kind == "rules" for change in changes)
            for row in proposals:
                yield from self._proposal(
                    row, [one for one in tables["decision"].values() if one["proposal"] == row["id"]]
                )
                if row["status"] == "posted" and (book["id"], self._of(row)) not in tables["transaction"]:
                    yield f"approvals: {row} is said to be posted"
            for one in self.world.clients.intentions:
                if one.place == place:
                    yield from self._unapproved(one, rules, transfers, agreed)
                    self.world.faults.reached["approval_required"] += sum(
                        answer.reason == "approval_required" for answers in one.answers for answer in answers.each
                    )

    @staticmethod
    def _of(row: Values) -> Any:
        """The transaction that it is the proposal of."""
        return TransactionId(msgspec.json.decode(row["plan"], type=_Planned).header.id)

    def _proposal(self, row: Values, decisions: list[Values]) -> Iterator[str]:
        """It became what was decided about it, by those who may, in time, and nothing stays on its way."""
        status = row["status"]
        self.reached("proposed")
        self.reached(f"proposal_{status}")
        rules = _rules(row["rules"])
        yes = {one["approver"] for one in decisions if one["decision"] == "approve"}
        enough = all(len(yes & set(rule.approvers)) >= rule.approvals for rule in rules)
        no = any(one["decision"] == "reject" for one in decisions)
        if status in {"pending", "approved"}:
            yield f"approvals ended: {row} is still {status}"
        if (status in {"posted", "refused"}) != (enough and not no) or (status == "rejected") != no:
            yield f"approvals: {row} with {decisions}"
        for one in decisions:
            late: datetime = one["at"]
            if late >= row["expires_at"] or one["approver"] == row["proposer"]:
                yield f"approvals: {one} counted for {row}"

    @staticmethod
    def _unapproved(one: Intention, rules: Rules, transfers: list[Values], agreed: set[Any]) -> Iterator[str]:
        """Whatever was above what the rules of that time let pass has a proposal that was agreed to."""
        there = {row["id"]: row for row in transfers}
        for places in one.wholes():
            rows = [there[one.commands[place].id] for place in places if one.commands[place].id in there]
            said = rules.last("rules", rows[0]["sequence"], None) if rows else None
            for rule in () if said is None else _rules(said):
                anew = [row for row in rows if row["kind"] in _ANEW and row["currency"] == rule.currency]
                amount = sum(row["asked"] or row["amount"] for row in anew)
                # A hold that was there before and grows counts with all that it holds.
                grown = {row["target"] for row in anew if row["kind"] == "increase"} - {row["id"] for row in rows}
                amount += sum(
                    row["amount"]
                    for row in transfers
                    if row["sequence"] < rows[0]["sequence"]
                    and (row["id"] in grown or (row["kind"] == "increase" and row["target"] in grown))
                )
                if amount > rule.above and (one.header is None or one.header.id not in agreed):
                    yield f"approvals: nobody agreed to {one.number}, which moved {amount}"


class _Headed(msgspec.Struct):
    id: TransactionId


class _Planned(msgspec.Struct):
    header: _Headed


#: Kinds that move or hold something anew.
_ANEW = ("post", "hold", "increase", "reverse")


async def _done(call: Any) -> bool:
    await call
    return True
