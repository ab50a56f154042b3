"""The rules: each by its name, and all of them against a reference that sums everything anew."""

from __future__ import annotations

from copy import deepcopy
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from tallystick.contracts.ledger.messages import PAYMENT_CODE, Reason
from tallystick.kernel.ids import TransferId
from tallystick.services.ledger.model import MAX, Command, Decided, Result, State, Unit, decide, expiry_id
from tests.services.ledger.support import START, Naive, account, aid, hold, on, post, state, tid


def run(found: State, *commands: Command, atomic: bool = False, after: float = 0) -> list[Result]:
    return decide([Unit(1, commands, atomic)], found, START + timedelta(seconds=after)).results[0]


def reasons(results: list[Result]) -> list[str | None]:
    return [None if one.reason is None else one.reason.value for one in results]


def two() -> State:
    return state(account(1), account(2), account(3, floor=0), account(4, side="debit", floor=-50))


def test_a_post_moves_both_accounts_and_numbers_itself() -> None:
    found = two()
    first, second = run(found, post(1, 1, 2, 700), post(2, 2, 1, 200))
    assert [first.status, second.status] == ["posted", "posted"]
    assert first.transfer is not None
    assert second.transfer is not None
    assert (first.transfer.sequence, second.transfer.sequence) == (1, 2)
    assert (first.transfer.dr_version, first.transfer.dr_debits_posted, first.transfer.dr_credits_posted) == (1, 700, 0)
    assert (second.transfer.cr_version, second.transfer.cr_debits_posted, second.transfer.cr_credits_posted) == (
        2,
        700,
        200,
    )
    assert found.accounts[aid(2)].credits_posted == 700


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (post(9, 1, 2, 0), "amount_must_be_positive"),
        (post(9, 1, 2, -1), "amount_must_be_positive"),
        (post(9, 1, 2, MAX + 1), "amount_overflow"),
        (post(9, 8, 2, 1), "account_not_found"),
        (post(9, 1, 8, 1), "account_not_found"),
        (post(9, 1, 1, 1), "same_account"),
        (post(9, 1, 2, 1, currency="USD"), "currency_mismatch"),
        (post(9, 1, 5, 1), "currency_mismatch"),
        (post(9, 1, 6, 1), "account_closed"),
        (post(9, 6, 1, 1), "account_closed"),
        (post(9, 7, 1, 1), "account_not_found"),
        (post(9, 3, 1, 1), "insufficient_funds"),
        (hold(9, 3, 1, 1), "insufficient_funds"),
        (post(9, 1, 4, 51), "insufficient_funds"),
        (on("capture", 9, 8), "hold_not_found"),
        (on("void", 9, 8), "hold_not_found"),
        (on("capture", 9, 10), "hold_not_found"),
        (on("capture", 9, 11, 101), "exceeds_hold"),
        (on("capture", 9, 11, 1, currency="USD"), "currency_mismatch"),
        (on("capture", 9, 12), "hold_already_captured"),
        (on("void", 9, 13), "hold_already_voided"),
        (on("capture", 9, 14), "hold_expired"),
        (on("void", 9, 14), "hold_expired"),
        (on("expire", 9, 11), "hold_not_due"),
        (on("reverse", 9, 8), "transfer_not_found"),
        (on("reverse", 9, 11), "not_reversible"),
        (on("reverse", 9, 20), "not_reversible"),
        (on("reverse", 9, 10, 1001), "exceeds_reversible"),
        (on("reverse", 9, 10, 1, currency="USD"), "currency_mismatch"),
    ],
)
def test_each_refusal_has_its_name_and_changes_nothing(command: Command, reason: str) -> None:
    found = state(
        account(1),
        account(2),
        account(3, floor=0),
        account(4, side="debit", floor=-50),
        account(5, currency="USD"),
        account(6, closed=True),
        account(7, book=2),
    )
    prepared = run(
        found,
        post(10, 1, 2, 1000),
        hold(11, 1, 2, 100),
        hold(12, 1, 2, 5),
        on("capture", 22, 12),
        hold(13, 1, 2, 5),
        on("void", 20, 13),
        hold(14, 1, 2, 5, expires_in=60),
    )
    assert reasons(prepared) == [None] * 7
    before = deepcopy((found.accounts, found.holds, found.reversals, found.transfers))
    decided = decide([Unit(1, [command], atomic=False)], found, START + timedelta(seconds=60.001))
    assert reasons(decided.results[0]) == [reason]
    assert decided.transfers == []
    assert (found.accounts, found.holds, found.reversals, found.transfers) == before
    assert found.books[1].sequence == 7
    assert bool(decided.rejections) is (command.kind != "expire")


def test_funds_are_refused_with_the_numbers() -> None:
    found = two()
    run(found, post(1, 1, 3, 100), hold(2, 3, 1, 30))
    (no,) = run(found, post(3, 3, 1, 71))
    assert (no.reason, no.available, no.required, no.currency, no.account) == (
        Reason.INSUFFICIENT_FUNDS,
        70,
        71,
        "EUR",
        aid(3),
    )
    assert reasons(run(found, post(4, 3, 1, 70))) == [None]
    assert run(found, post(5, 1, 4, 51))[0].available == 50
    run(found, hold(6, 1, 4, 20))
    assert run(found, post(7, 1, 4, 31))[0].available == 30, "what is held of a debit account counts too"


def test_totals_refuse_before_they_can_wrap() -> None:
    found = two()
    assert reasons(run(found, post(1, 1, 2, MAX))) == [None]
    assert reasons(run(found, post(2, 1, 2, 1), hold(3, 1, 2, 1), post(4, 2, 1, MAX))) == [
        "amount_overflow",
        "amount_overflow",
        None,
    ]
    found = two()
    assert reasons(run(found, hold(1, 1, 2, MAX - 5), post(2, 1, 2, 5), post(3, 1, 2, 1))) == [
        None,
        None,
        "amount_overflow",
    ]


def test_a_hold_is_captured_in_parts_and_the_final_one_releases_the_rest() -> None:
    found = two()
    run(found, post(1, 1, 3, 100), hold(2, 3, 1, 80))
    first, no, last = run(found, on("capture", 3, 2, 30), on("capture", 4, 2, 51), on("capture", 5, 2, 20, final=True))
    assert reasons([first, no, last]) == [None, "exceeds_hold", None]
    assert (no.available, no.required) == (50, 51)
    assert last.transfer is not None
    assert (last.transfer.amount, last.transfer.released) == (20, 50)
    customer = found.accounts[aid(3)]
    assert (customer.debits_pending, customer.debits_posted) == (0, 50)
    assert (found.accounts[aid(1)].credits_pending, found.accounts[aid(1)].credits_posted) == (0, 50)
    assert (found.holds[1, tid(2)].captured, found.holds[1, tid(2)].remaining) == (50, 0)
    assert found.holds[1, tid(2)].state == "captured"
    assert reasons(run(found, on("void", 6, 2))) == ["hold_already_captured"]


def test_an_expiry_takes_what_is_left() -> None:
    found = two()
    run(found, post(1, 1, 3, 100), hold(2, 3, 1, 80, expires_in=10), on("capture", 3, 2, 30))
    assert reasons(run(found, on("expire", 4, 2), after=10)) == ["hold_not_due"]
    (gone,) = run(found, on("expire", 4, 2), after=10.000002)
    assert gone.transfer is not None
    assert (gone.transfer.amount, gone.transfer.released) == (50, 50)
    assert found.accounts[aid(3)].debits_pending == 0
    assert reasons(run(found, on("capture", 5, 2), after=10)) == ["hold_expired"]


def test_reversals_together_reach_what_was_posted_and_no_more() -> None:
    found = two()
    run(found, post(1, 1, 2, 100))
    results = run(found, on("reverse", 2, 1, 60), on("reverse", 3, 1, 41), on("reverse", 4, 1), on("reverse", 5, 1))
    assert reasons(results) == [None, "exceeds_reversible", None, "exceeds_reversible"]
    assert results[2].transfer is not None
    assert results[2].transfer.amount == 40
    assert found.accounts[aid(1)].credits_posted == 100


def test_a_reversal_keeps_the_floor() -> None:
    found = two()
    run(found, post(1, 1, 3, 100), post(2, 3, 1, 80))
    assert reasons(run(found, on("reverse", 3, 1))) == ["insufficient_funds"]
    assert reasons(run(found, on("reverse", 4, 1, 20))) == [None]


@pytest.mark.parametrize(
    ("again", "reason"),
    [
        ({"kind": "hold"}, "exists_with_different_kind"),
        ({"debit": aid(3)}, "exists_with_different_debit_account"),
        ({"credit": aid(3)}, "exists_with_different_credit_account"),
        ({"amount": 6}, "exists_with_different_amount"),
        ({"currency": "USD"}, "exists_with_different_currency"),
        ({"code": "other"}, "exists_with_different_code"),
        ({"metadata": '{"a":"c"}'}, "exists_with_different_metadata"),
        ({"target": tid(5)}, "exists_with_different_target"),
        ({}, None),
    ],
)
def test_a_repeat_is_the_same_or_names_the_difference(again: dict[str, Any], reason: str | None) -> None:
    found = two()
    fields: dict[str, Any] = {
        "kind": "post",
        "id": tid(1),
        "debit": aid(1),
        "credit": aid(2),
        "amount": 5,
        "currency": "EUR",
        "code": "fee",
        "metadata": '{"a":"b"}',
    }
    first = run(found, Command(**fields))[0]
    repeat = run(found, Command(**{**fields, **again}))[0]
    assert (repeat.reason.value if repeat.reason else None) == reason
    assert repeat.existed is (reason is None)
    if reason is None:
        assert repeat.transfer == first.transfer
    assert found.books[1].sequence == 1
    assert found.rejections == {}, "a difference says nothing about the id's own fate"


def test_the_expiry_of_a_repeated_hold_counts() -> None:
    found = two()
    run(found, hold(1, 1, 2, 5, expires_in=60))
    assert reasons(run(found, hold(1, 1, 2, 5, expires_in=60), after=5)) == [None]
    assert (
        reasons(run(found, hold(1, 1, 2, 5, expires_in=61), hold(1, 1, 2, 5))) == ["exists_with_different_expiry"] * 2
    )


def test_a_refusal_is_pinned_whatever_the_balance_is_by_then() -> None:
    found = two()
    first = run(found, post(1, 3, 1, 10))[0]
    run(found, post(2, 1, 3, 100))
    again = run(found, post(1, 3, 1, 10))[0]
    assert (again.reason, again.available, again.required) == (first.reason, 0, 10)
    assert again.existed
    assert reasons(run(found, post(1, 3, 1, 9))) == ["id_already_failed"]


def test_a_unit_is_posted_whole_or_leaves_no_trace() -> None:
    found = two()
    run(found, post(1, 1, 3, 100), hold(2, 3, 1, 40), post(3, 1, 2, 10))
    before = deepcopy((found.accounts, found.holds, found.reversals, found.books, found.transfers))
    unit = [
        post(10, 3, 2, 10),
        on("capture", 11, 2, 40),
        on("reverse", 12, 3),
        hold(13, 1, 2, 7),
        post(14, 3, 1, 51),
        post(15, 1, 2, 1),
    ]
    results = run(found, *unit, atomic=True)
    assert reasons(results) == ["linked_transfer_failed"] * 4 + ["insufficient_funds", "linked_transfer_failed"]
    assert (found.accounts, found.holds, found.reversals, found.books, found.transfers) == before
    assert list(found.rejections) == [(1, tid(14))], "only the one at fault is pinned"
    assert reasons(run(found, *unit, atomic=True)) == reasons(results)
    assert reasons(run(found, *unit[:4], atomic=True)) == [None] * 4


def test_a_unit_may_use_what_it_made_itself() -> None:
    found = two()
    unit = [hold(1, 1, 2, 100), on("capture", 2, 1, 60, final=True), on("reverse", 3, 2, 10)]
    assert reasons(run(found, *unit, atomic=True)) == [None, None, None]
    again = run(found, *unit, atomic=True)
    assert [one.existed for one in again] == [True, True, True]
    found = two()
    assert reasons(run(found, *unit, post(4, 3, 1, 1), atomic=True))[-1] == "insufficient_funds"
    assert (found.holds, found.reversals, found.transfers) == ({}, {}, {})


def test_the_same_id_twice_in_one_request_is_one_transfer() -> None:
    found = two()
    results = run(found, post(1, 1, 2, 5), post(1, 1, 2, 5), post(1, 1, 2, 6))
    assert [one.existed for one in results] == [False, True, False]
    assert reasons(results) == [None, None, "exists_with_different_amount"]
    assert found.accounts[aid(1)].debits_posted == 5


def test_time_does_not_fall_when_a_clock_does() -> None:
    found = two()
    run(found, post(1, 1, 2, 5), after=100)
    late = run(found, post(2, 1, 2, 5), after=50)[0]
    assert late.transfer is not None
    assert late.transfer.recorded_at == START + timedelta(seconds=100, microseconds=1)


def test_a_hold_expires_by_the_books_time_whichever_clock_looks() -> None:
    """Else a capture could be recorded after the expiry of its hold, when the clock that is asked is behind."""
    found = two()
    run(found, hold(1, 1, 2, 5, expires_in=10))
    run(found, post(2, 1, 2, 5), after=10)
    assert reasons(run(found, on("capture", 3, 1), after=9)) == ["hold_expired"]
    assert reasons(run(found, on("expire", 4, 1), after=9)) == [None]


def test_the_id_of_an_expiry_is_its_holds_and_its_books() -> None:
    assert expiry_id(1, tid(1)) == expiry_id(1, tid(1))
    assert len({expiry_id(1, tid(1)), expiry_id(2, tid(1)), expiry_id(1, tid(2))}) == 3
    assert expiry_id(1, tid(1)).version == 8


# ---- against the reference ------------------------------------------------------------------------------------------

_amounts = st.one_of(st.integers(1, 120), st.sampled_from([0, -1, MAX, MAX - 60, MAX + 1]))
_accounts = st.integers(1, 6)
_known = st.integers(1, 40)


def chained(commands: list[Command]) -> list[list[Command]]:
    chains: list[list[Command]] = [[]]
    for command in commands:
        chains[-1].append(command)
        if not command.linked:
            chains.append([])
    return chains[:-1]


class Against(RuleBasedStateMachine):
    """Random commands: what the rules say, one at a time and in units, is what the reference says."""

    @initialize(
        floors=st.lists(st.one_of(st.none(), st.integers(-50, 0)), min_size=4, max_size=4),
        ceilings=st.lists(st.one_of(st.none(), st.integers(0, 200)), min_size=2, max_size=2),
        frozen=st.sampled_from([False, False, False, True]),
    )
    def begin(self, floors: list[int | None], ceilings: list[int | None], frozen: bool) -> None:
        made = [
            account(1, ceiling=ceilings[0], frozen=frozen),
            account(2, side="debit", ceiling=ceilings[1]),
            *(account(3 + i, floor=floor, side="debit" if i % 2 else "credit") for i, floor in enumerate(floors[:3])),
            account(6, currency="USD", floor=floors[3]),
        ]
        self.state = state(*made)
        self.naive = Naive({a.id: a for a in deepcopy(made)})
        self.now = START
        self.next = 0
        self.seen: list[tuple[Command, Result]] = []

    def _id(self) -> int:
        self.next += 1
        return self.next

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(data=st.data(), size=st.integers(1, 5), atomic=st.booleans(), payments=st.booleans(), due=st.booleans())
    def commands(self, data: st.DataObject, size: int, atomic: bool, payments: bool, due: bool) -> None:
        made = [data.draw(self._commands()) for _ in range(size)]
        linked = [data.draw(st.sampled_from([False, False, True])) for _ in made[:-1]]
        made = [replace(one, linked=link) for one, link in zip(made, [*linked, False], strict=True)]
        results = self._decide(made, atomic, payments=payments, due=due)
        chains = [made] if atomic else chained(made)
        for chain in chains:
            told, results = results[: len(chain)], results[len(chain) :]
            self._expect(chain, told, payments=payments, due=due)
            self.seen += zip(chain, told, strict=True)

    def _expect(self, chain: list[Command], results: list[Result], **who: bool) -> None:
        """All of them or none, and then the first that can't be is at fault."""
        before = deepcopy(self.naive)
        for command in chain:
            if not self.naive.apply(command, self.now, **who):
                self.naive = before
                assert all(one.status == "rejected" for one in results)
                at_fault = [one for one in results if one.reason is not Reason.LINKED_TRANSFER_FAILED]
                assert [one.id for one in at_fault] == [command.id]
                return
        assert all(one.status != "rejected" for one in results)

    def _commands(self) -> st.SearchStrategy[Command]:
        moves = st.builds(
            lambda kind, debit, credit, amount, expires, usd, balancing, code: post(
                self._id(),
                debit,
                credit,
                amount,
                kind=kind,
                expires_in=expires if kind == "hold" else None,
                currency="USD" if usd else "EUR",
                balancing=balancing,
                code=code,
            ),
            st.sampled_from(["post", "hold"]),
            _accounts,
            _accounts,
            _amounts,
            st.one_of(st.none(), st.integers(1, 60)),
            st.sampled_from([False, False, False, True]),
            st.sampled_from([False, False, True]),
            st.sampled_from([None, None, PAYMENT_CODE]),
        )
        holds = [one[0].id.int for one in self.naive.posted if one[0].kind == "hold"]
        posts = [one[0].id.int for one in self.naive.posted if one[0].kind in ("post", "capture")]
        targets = st.one_of(*(st.sampled_from(some) for some in (holds, holds, posts) if some), _known)
        draws = st.builds(
            lambda kind, target, amount, final, expires: on(
                kind,
                self._id(),
                target,
                amount if kind in ("capture", "reverse") else (amount or 1) if kind == "increase" else None,
                final=final and kind == "capture",
                expires_in=expires if kind == "increase" else None,
            ),
            st.sampled_from(["capture", "capture", "void", "reverse", "expire", "increase"]),
            targets,
            st.one_of(st.none(), st.integers(1, 30), _amounts),
            st.booleans(),
            st.one_of(st.none(), st.integers(1, 60)),
        )
        return st.one_of(moves, draws)

    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        if not self.seen:
            return
        command, first = data.draw(st.sampled_from(self.seen))
        if first.reason is Reason.LINKED_TRANSFER_FAILED or command.kind == "expire":
            return  # these are not pinned
        if first.reason is Reason.TRANSFER_OF_A_PAYMENT or (
            first.reason is Reason.ACCOUNT_FROZEN and command.target in self.naive.expiries
        ):
            return  # nor is what goes on with a hold, which may have ended meanwhile
        again = self._decide([command], atomic=False)[0]
        assert (again.status, again.reason, again.transfer) == (first.status, first.reason, first.transfer)
        assert again.existed

    def _decide(self, made: list[Command], atomic: bool, *, payments: bool = False, due: bool = False) -> list[Result]:
        decided: Decided = decide([Unit(1, made, atomic, payments=payments, due=due)], self.state, self.now)
        return decided.results[0]

    @invariant()
    def sums(self) -> None:
        if not hasattr(self, "naive"):
            return
        for one in self.state.accounts.values():
            mine = (one.debits_pending, one.debits_posted, one.credits_pending, one.credits_posted)
            assert mine == self.naive.sums(one.id)
            assert min(mine) >= 0
            assert mine[0] + mine[1] <= MAX
            assert mine[2] + mine[3] <= MAX
            assert one.floor is None or self.naive.available(one.id) >= one.floor
            assert one.ceiling is None or self.naive.incoming(one.id) <= one.ceiling
        for key, held in self.state.holds.items():
            children = self.naive._children(TransferId(key[1]))
            captured = sum(amount for child, amount, *_ in children if child.kind == "capture")
            increased = sum(amount for child, amount, *_ in children if child.kind == "increase")
            released = sum(one[2] for one in children)
            whole = next(amount for child, amount, *_ in self.naive.posted if child.id == key[1])
            assert (held.amount, held.captured, held.remaining) == (whole + increased, captured, whole - released)
            assert held.expires_at == self.naive.expiries[TransferId(key[1])]
            assert (held.state == "held") == (held.remaining > 0)
        for currency in ("EUR", "USD"):
            of = [one for one in self.state.accounts.values() if one.currency == currency]
            assert sum(one.debits_posted for one in of) == sum(one.credits_posted for one in of)
            assert sum(one.debits_pending for one in of) == sum(one.credits_pending for one in of)
        assert self.state.books[1].sequence == len(self.naive.posted)
        assert sorted(t.sequence for t in self.state.transfers.values()) == list(range(1, len(self.naive.posted) + 1))


TestAgainstTheReference = Against.TestCase
TestAgainstTheReference.settings = settings(max_examples=60, stateful_step_count=40)


@given(st.lists(st.tuples(_accounts, _accounts, st.integers(1, 100)), max_size=30), st.integers(1, 7))
def test_how_commands_are_cut_into_units_changes_nothing(moves: list[tuple[int, int, int]], size: int) -> None:
    commands = [post(i, debit, credit, amount) for i, (debit, credit, amount) in enumerate(moves, 1)]
    fresh = [state(*(account(n, floor=-40) for n in range(1, 7))) for _ in range(2)]
    together = decide([Unit(1, commands, atomic=False)], fresh[0], START).results[0]
    cut = [Unit(1, commands[i : i + size], atomic=False) for i in range(0, len(commands), size)]
    apart = [one for unit in decide(cut, fresh[1], START).results for one in unit]
    assert together == apart
    assert fresh[0] == fresh[1]
