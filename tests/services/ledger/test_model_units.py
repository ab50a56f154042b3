"""Units of commands: transactions, transit accounts, what is dated back, and each refusal with all that it says."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from tallystick.contracts.ledger.messages import PAYMENT_CODE, Reason
from tallystick.kernel import ids
from tallystick.kernel.ids import TransactionId
from tallystick.services.ledger.model import (
    EPOCH,
    MAX,
    MICROSECOND,
    ApprovalRule,
    Book,
    Command,
    Decided,
    Header,
    Rejection,
    Result,
    State,
    TransactionRow,
    Unit,
    decide,
    leg_id,
    usual_kind,
)
from tests.services.ledger.support import START, account, aid, daily, hold, on, past_of, post, state, tid
from tests.services.ledger.test_model import reasons, run, two

TXN = TransactionId(tid(70))
HEADER = Header(
    id=TXN, reference="r", description="d", metadata="{}", effective_at=START - timedelta(days=1), reverses=TransactionId(tid(71)), exchanges="[]"
)  # fmt: skip


def of(*commands: Command, header: Header = HEADER) -> list[Command]:
    return [replace(one, transaction=header.id, effective_at=header.effective_at) for one in commands]


def transact(found: State, *commands: Command, header: Header = HEADER) -> Decided:
    return decide([Unit(1, of(*commands, header=header), atomic=True, header=header)], found, START)


# ---- transactions -------------------------------------------------------------------------------------------------------


def test_a_transaction_is_its_header_and_its_transfers() -> None:
    found = two()
    run(found, post(90, 1, 2, 5))
    decided = transact(found, post(1, 1, 2, 5), post(2, 2, 1, 3))
    assert [one.status for one in decided.results[0]] == ["posted", "posted"]
    row = TransactionRow(
        1, TXN, 2, 3, decided.transfers[-1].recorded_at, HEADER.effective_at, "r", "d", "{}", HEADER.reverses, "[]"
    )
    assert decided.transactions == [row]
    assert found.transactions == {(1, TXN): row}
    assert [(one.transaction, one.effective_at) for one in decided.transfers] == [(TXN, HEADER.effective_at)] * 2
    more = transact(found, *(post(n, 1, 2, 5) for n in (3, 4, 5)), header=replace(HEADER, id=TransactionId(tid(72))))
    (row,) = more.transactions
    assert (row.first, row.last, row.recorded_at) == (4, 6, more.transfers[-1].recorded_at)
    assert row.recorded_at > more.transfers[1].recorded_at


def test_a_repeated_transaction_is_the_same_or_is_refused() -> None:
    found = two()
    both = post(1, 1, 2, 5), post(2, 2, 1, 3)
    first = transact(found, *both)
    again = transact(found, *both)
    assert [one.existed for one in again.results[0]] == [True, True]
    assert again.transactions == []
    assert [one.transfer for one in again.results[0]] == first.transfers
    differs = Reason.EXISTS_WITH_DIFFERENT_TRANSACTION
    for name in ("reference", "description", "metadata", "reverses", "exchanges"):
        other = replace(HEADER, **{name: None})
        (results,) = transact(found, *both, header=other).results
        assert [one.reason for one in results] == [differs, Reason.LINKED_TRANSFER_FAILED]
    for commands in (both[:1], (*both, post(3, 1, 2, 1)), (both[0], post(3, 1, 2, 1))):
        no = transact(found, *commands).results[0][0]
        assert (no.status, no.reason) == ("rejected", differs)
    at = replace(HEADER, effective_at=START - timedelta(days=2))
    assert transact(found, *both, header=at).results[0][0].reason is differs
    assert found.rejections == {}, "it says nothing about the fate of these ids"


def test_a_refused_transaction_is_none() -> None:
    found = two()
    decided = transact(found, post(1, 1, 2, 5), post(2, 3, 1, 1))
    assert reasons(decided.results[0]) == ["linked_transfer_failed", "insufficient_funds"]
    assert (decided.transactions, decided.transfers, found.transactions) == ([], [], {})


def test_a_transfer_is_of_the_transaction_that_it_was_posted_with() -> None:
    found = two()
    run(found, post(1, 1, 2, 5))
    assert transact(found, post(1, 1, 2, 5)).results[0][0].reason is Reason.EXISTS_WITH_DIFFERENT_TRANSACTION
    again = replace(post(1, 1, 2, 5), effective_at=HEADER.effective_at)
    assert reasons(run(found, again)) == ["exists_with_different_effective_time"]


def test_chains_stand_for_themselves() -> None:
    found = two()
    linked = replace(post(1, 1, 2, 5), linked=True)
    results = run(found, linked, post(2, 3, 1, 1), post(3, 1, 2, 1), replace(post(4, 1, 2, 1), linked=True))
    assert reasons(results) == ["linked_transfer_failed", "insufficient_funds", None, None]
    assert found.accounts[aid(1)].debits_posted == 2


def test_commands_are_cut_after_each_that_is_not_linked() -> None:
    def cut(*linked: bool) -> list[int]:
        commands = [replace(post(n, 1, 2, 5), linked=link) for n, link in enumerate(linked, 1)]
        chains = list(Unit(1, commands, atomic=False).chains())
        assert [one for chain in chains for one in chain] == commands
        return [len(chain) for chain in chains]

    assert [cut(), cut(False), cut(True), cut(True, False, False, True, True)] == [[], [1], [1], [2, 1, 2]]


def test_a_unit_that_failed_took_no_time() -> None:
    """The next transfer is recorded when the unit's first would have been."""
    found = two()
    units = [Unit(1, [post(1, 1, 2, 5), post(2, 3, 1, 1)], atomic=True), Unit(1, [post(3, 1, 2, 5), post(4, 1, 2, 5)], atomic=False)]  # fmt: skip
    decided = decide(units, found, START + timedelta(seconds=1))
    at = START + timedelta(seconds=1)
    assert [one.recorded_at for one in decided.transfers] == [at, at + MICROSECOND]
    assert found.books[1].recorded_at == at + MICROSECOND


def test_each_book_has_its_own_time_and_numbers() -> None:
    found = state(account(1), account(2), account(3, book=2), account(4, book=2))
    found.books[2] = Book(2, 40, START + timedelta(hours=1))
    units = [Unit(1, [post(1, 1, 2, 5)], atomic=False), Unit(2, [post(1, 3, 4, 5)], atomic=False)]
    decided = decide(units, found, START + timedelta(seconds=1))
    assert [(one.book, one.sequence, one.recorded_at) for one in decided.transfers] == [
        (1, 1, START + timedelta(seconds=1)),
        (2, 41, START + timedelta(hours=1) + MICROSECOND),
    ]


# ---- transit accounts ---------------------------------------------------------------------------------------------------


def transit() -> State:
    """Account 3 is one. Hold 10 takes from 1 for it, transfer 12 has gone through it."""
    found = state(account(1), account(2), replace(account(3), transit=True))
    crossing(found, hold(10, 1, 3, 50), hold(11, 1, 3, 50), on("capture", 12, 11))
    return found


def crossing(found: State, *commands: Command, atomic: bool = False) -> list[Result]:
    return decide([Unit(1, commands, atomic, crossing=True)], found, START).results[0]


@pytest.mark.parametrize(
    "command",
    [
        post(1, 1, 3, 5), post(1, 3, 1, 5), hold(1, 1, 3, 5), on("capture", 1, 10), on("void", 1, 10), on("increase", 1, 10, 5),
        on("reverse", 1, 12),
    ],
)  # fmt: skip
def test_money_between_books_moves_by_both_of_them(command: Command) -> None:
    found = transit()
    (no,) = run(found, command)
    assert (no.reason, no.account) == (Reason.TRANSIT_ACCOUNT, aid(3))
    fresh = replace(command, id=tid(2))
    assert reasons(crossing(transit(), fresh)) == [None]
    ordinary = post(3, 1, 2, 5)
    assert reasons(crossing(transit(), replace(fresh, linked=True), ordinary)) == [None, None]
    assert reasons(crossing(transit(), fresh, ordinary, atomic=True)) == [None, None]
    later = [Unit(1, [fresh], atomic=False, crossing=True), Unit(1, [post(4, 1, 3, 5)], atomic=False)]
    assert reasons(decide(later, transit(), START).results[1]) == ["transit_account"], "only its own unit may"


@pytest.mark.parametrize("command", [post(1, 3, 4, 5), post(1, 4, 3, 5), hold(1, 3, 4, 5)])
def test_a_transfer_between_books_has_one_transit_account_in_each(command: Command) -> None:
    """The other side is its client's, and asks for approvals as any other."""
    for rules in ((), (ApprovalRule("EUR", 1, 1, ("cli_a",), 60),)):
        found = transit()
        found.accounts[aid(4)] = replace(account(4), transit=True)
        found.books[1].approvals = rules
        (no,) = crossing(found, command)
        assert (no.reason, no.account) == (Reason.TRANSIT_ACCOUNT, aid(4 if command.debit == aid(4) else 3))
        assert (1, command.id) in found.rejections, "the other book is told the same for ever"


def test_money_that_has_arrived_has_left_whatever_was_frozen_since() -> None:
    for frozen in (1, 3):
        found = transit()
        found.accounts[aid(frozen)].frozen = True
        assert reasons(crossing(found, on("capture", 1, 10))) == [None]
    found = two()
    run(found, hold(1, 1, 2, 5))
    found.accounts[aid(2)].frozen = True
    (no,) = run(found, on("capture", 2, 1))
    assert (no.reason, no.account) == (Reason.ACCOUNT_FROZEN, aid(2))
    assert reasons(run(found, on("increase", 3, 1, 5))) == ["account_frozen"]
    assert reasons(run(found, on("void", 4, 1))) == [None], "what was held goes back"


def test_what_goes_on_with_a_hold_waits_for_an_account_to_be_thawed() -> None:
    """Whoever captures under an id that is the same in each try would else be refused for ever because of a moment."""
    found = two()
    run(found, hold(1, 1, 2, 5))
    found.accounts[aid(2)].frozen = True
    drawn = [on("increase", 2, 1, 4), on("capture", 3, 1)]
    assert reasons(run(found, *drawn)) == ["account_frozen"] * 2
    assert reasons(run(found, post(4, 1, 2, 5), hold(5, 1, 2, 5))) == ["account_frozen"] * 2
    assert list(found.rejections) == [(1, tid(4)), (1, tid(5))], "what is new is refused for good"
    found.accounts[aid(2)].frozen = False
    assert reasons(run(found, *drawn)) == [None, None]
    assert found.accounts[aid(2)].credits_posted == 9


def test_what_a_payment_made_is_payments_to_move() -> None:
    def of_payments(found: State, *commands: Command, **more: Any) -> list[Result]:
        return decide([Unit(1, commands, payments=True, **{"atomic": False, **more})], found, START).results[0]

    found = two()
    made = [hold(1, 1, 2, 9, code=PAYMENT_CODE), post(2, 1, 2, 9, code=PAYMENT_CODE)]
    assert reasons(of_payments(found, *made)) == [None, None]
    drawn = [on("increase", 3, 1, 1), on("capture", 4, 1, 1), on("void", 5, 1), on("reverse", 6, 2, 1)]
    chain = [replace(one, linked=nth == 0) for nth, one in enumerate(drawn[1:3])]
    for _ in range(2):
        assert reasons(run(found, *drawn)) == ["transfer_of_a_payment"] * 4
        assert reasons(run(found, *chain)) == ["transfer_of_a_payment", "linked_transfer_failed"]
        assert reasons(run(found, *drawn, atomic=True))[0] == "transfer_of_a_payment"
    assert found.rejections == {}, "nobody's refusal stands in the way of the payment's own try"
    assert reasons(of_payments(found, *drawn[:2])) == [None, None]
    later = [Unit(1, [], atomic=False, payments=True), Unit(1, [on("void", 7, 1)], atomic=False)]
    assert reasons(decide(later, found, START).results[1]) == ["transfer_of_a_payment"], "only its own unit may"
    assert reasons(of_payments(found, *drawn[2:], atomic=True)) == [None, None]


def test_what_is_due_is_given_back_whatever_was_frozen_since() -> None:
    found = two()
    run(found, hold(1, 1, 2, 9))
    found.accounts[aid(1)].frozen = found.accounts[aid(2)].frozen = True
    found.accounts[aid(3)].closed = True
    back = [post(2, 1, 2, 5), replace(post(3, 1, 2, 5), linked=True), post(4, 1, 3, 5), on("capture", 5, 1)]
    results = decide([Unit(1, back, atomic=False, due=True)], found, START).results[0]
    assert reasons(results) == [None, "linked_transfer_failed", "account_closed", "account_frozen"]
    later = [Unit(1, [], atomic=False, due=True), Unit(1, [post(6, 1, 2, 1)], atomic=False)]
    assert reasons(decide(later, found, START).results[1]) == ["account_frozen"], "only its own unit may"


# ---- what is dated back -------------------------------------------------------------------------------------------------


def test_what_is_dated_back_is_between_the_epoch_and_now() -> None:
    def at(when: datetime) -> str | None:
        (result,) = run(two(), post(1, 1, 2, 5, effective_at=when), after=1)
        return None if result.reason is None else result.reason.value

    now = START + timedelta(seconds=1)
    assert datetime(1970, 1, 1, tzinfo=UTC) == EPOCH
    assert [at(EPOCH), at(EPOCH - MICROSECOND)] == [None, "effective_too_early"]
    assert [at(now - MICROSECOND), at(now), at(now + MICROSECOND)] == [None, "effective_in_future", "effective_in_future"]  # fmt: skip


@pytest.mark.parametrize("side", ["debit", "credit"])
def test_the_past_of_both_accounts_moves_in_their_own_directions(side: Any) -> None:
    found = state(account(1, side=side, floor=-100), account(2, side=side, floor=-100), account(3))
    first = START.date() - timedelta(days=2)
    for number in (1, 2):
        found.days[aid(number)] = past_of(first, [0, 0])
    assert reasons(run(found, post(1, 1, 2, 30, effective_at=START - timedelta(days=1)), after=1)) == [None]
    change = 30 if side == "debit" else -30
    assert (daily(found.days[aid(1)]), daily(found.days[aid(2)])) == ([0, change], [0, -change])
    assert reasons(run(found, post(2, 1, 3, 5, effective_at=START - timedelta(days=2)), after=1)) == [None]
    assert daily(found.days[aid(1)]) == [change // 6, change + change // 6]


def test_the_days_on_which_either_account_breaks_are_told_in_order() -> None:
    found = state(account(1, floor=0), account(2, ceiling=10), account(3))
    run(found, post(9, 3, 1, 100))
    first = START.date() - timedelta(days=3)
    found.days = {aid(1): past_of(first, [50, 5, 50]), aid(2): past_of(first, [0, 0, 8])}
    back = post(1, 1, 2, 7, effective_at=START - timedelta(days=3))
    (no,) = run(found, back, after=1)
    broken = (date(2025, 12, 30), date(2025, 12, 31))
    assert (no.status, no.reason, no.breached_on) == ("rejected", Reason.PAST_LIMIT_BROKEN, broken)
    found.books[1].strict = False
    (told,) = run(found, replace(back, id=tid(2)), after=1)
    assert (told.status, told.reason, told.breached_on) == ("posted", None, broken)
    found.days[aid(2)] = past_of(first, [0, 0, 8])
    (undone,) = run(found, on("reverse", 3, 2, effective_at=START - timedelta(days=3)), after=1)
    assert (undone.status, undone.breached_on) == ("posted", ())


def test_a_capture_that_is_restored_counts_since_it_was() -> None:
    found = state(account(1, floor=0), account(2), account(3))
    first = START.date() - timedelta(days=3)
    run(found, post(9, 3, 1, 100), hold(1, 1, 2, 50))
    found.days = {aid(1): past_of(first, [50, 5, 50])}
    at = START - timedelta(days=3)
    (no,) = run(found, on("capture", 2, 1, 7, effective_at=at, final=True), after=1)
    assert (no.reason, no.breached_on) == (Reason.PAST_LIMIT_BROKEN, (date(2025, 12, 30),))
    held = found.holds[1, tid(1)]
    assert (held.remaining, held.captured, found.accounts[aid(1)].debits_pending) == (50, 0, 50), "as it was"
    found.books[1].strict = False
    (told,) = run(found, on("capture", 3, 1, 7, effective_at=at, final=True), after=1)
    assert (told.status, told.breached_on) == ("posted", (date(2025, 12, 30),))
    assert told.transfer is not None
    assert told.transfer.effective_at == at
    assert daily(found.days[aid(1)]) == [43, -2, 43]


@pytest.mark.parametrize("last", [post(6, 1, 2, 1), hold(6, 1, 2, 1)])
def test_what_a_unit_dates_back_is_judged_also_when_its_last_is_of_today(last: Any) -> None:
    """And nobody else's is with it."""
    found = state(account(1, floor=0), account(2), account(3, floor=0))
    first = START.date() - timedelta(days=2)
    run(found, post(9, 2, 1, 100))
    found.days = {aid(1): past_of(first, [5, 50]), aid(3): past_of(first, [0, 0])}
    at = START - timedelta(days=2)
    back, forth = post(4, 1, 2, 7, effective_at=at), post(5, 2, 1, 1, effective_at=at)
    results = run(found, back, forth, last, atomic=True, after=1)
    assert [one.breached_on for one in results if one.reason is Reason.PAST_LIMIT_BROKEN] == [(date(2025, 12, 30),)]
    assert daily(found.days[aid(1)]) == [5, 50]
    (other,) = run(found, post(7, 2, 3, 1, effective_at=at), after=1)
    assert (other.status, other.breached_on) == ("posted", ())
    found.books[1].strict = False
    fresh = [replace(one, id=tid(20 + nth)) for nth, one in enumerate((back, forth, last))]
    assert [one.breached_on for one in run(found, *fresh, atomic=True, after=1)] == [(), (date(2025, 12, 30),), ()]


# ---- holds, reversals and refusals ----------------------------------------------------------------------------------------


def test_an_increase_holds_more_and_for_as_long_as_it_says() -> None:
    found = two()
    run(found, hold(1, 1, 2, 50, expires_in=10), after=1)
    (more,) = run(found, on("increase", 2, 1, 5), after=2)
    assert more.transfer is not None
    assert (more.status, more.transfer.amount, more.transfer.released, more.transfer.expires_at) == ("posted", 5, -5, None)  # fmt: skip
    held = found.holds[1, tid(1)]
    assert (held.amount, held.remaining, held.captured, held.expires_at) == (55, 55, 0, START + timedelta(seconds=11))
    (longer,) = run(found, on("increase", 3, 1, 5, expires_in=20), after=3)
    assert longer.transfer is not None
    assert held.expires_at == longer.transfer.expires_at == START + timedelta(seconds=23)
    assert (found.accounts[aid(1)].debits_pending, found.accounts[aid(2)].credits_pending) == (60, 60)
    assert reasons(run(found, on("increase", 3, 1, 5, expires_in=20), after=4)) == [None]
    assert reasons(run(found, on("increase", 3, 1, 5), after=4)) == ["exists_with_different_expiry"]
    assert reasons(run(found, on("increase", 4, 1, 0), on("increase", 5, 1, None))) == ["amount_must_be_positive"] * 2


def test_an_increase_needs_room_as_a_hold_does() -> None:
    found = two()
    run(found, post(1, 1, 3, 30), hold(2, 3, 1, 20))
    (no,) = run(found, on("increase", 3, 2, 11))
    assert (no.reason, no.available, no.required, no.account) == (Reason.INSUFFICIENT_FUNDS, 10, 11, aid(3))
    assert reasons(run(found, on("increase", 4, 2, 10))) == [None]


def test_a_hold_is_never_more_than_an_amount_can_be() -> None:
    """In all that it was, though it was captured in parts meanwhile."""
    found = two()
    run(found, hold(1, 1, 2, MAX), on("capture", 2, 1, MAX - 5), post(3, 2, 1, MAX - 5))
    for number in (1, 2):
        # As if the accounts were others: nothing but the hold is in the way.
        found.accounts[aid(number)] = replace(found.accounts[aid(number)], debits_posted=0, credits_posted=0)
    assert reasons(run(found, on("increase", 4, 1, 1))) == ["amount_overflow"]
    found.holds[1, tid(1)].amount -= 1
    assert reasons(run(found, on("increase", 5, 1, 1))) == [None]


def test_a_balancing_hold_tells_what_was_asked() -> None:
    found = two()
    run(found, post(1, 1, 3, 30))
    held, none, plain = run(found, hold(2, 3, 1, 50, balancing=True), post(3, 3, 1, 5, balancing=True), hold(4, 1, 2, 5))  # fmt: skip
    assert held.transfer is not None
    assert plain.transfer is not None
    assert (held.transfer.amount, held.transfer.asked, plain.transfer.asked) == (30, 50, None)
    assert (none.reason, none.available, none.required, none.account) == (Reason.NOTHING_TO_MOVE, 0, 5, aid(3))
    assert reasons(run(found, hold(2, 3, 1, 50, balancing=True))) == [None]
    assert reasons(run(found, hold(2, 3, 1, 30, balancing=True))) == ["exists_with_different_amount"]
    assert reasons(run(found, hold(2, 3, 1, 30), hold(4, 1, 2, 5, balancing=True))) == ["exists_with_different_balancing"] * 2  # fmt: skip


def test_a_result_says_who_had_too_little() -> None:
    """For it, or for all that it asked for."""
    found = state(account(1), account(2), account(3, floor=0), account(4, ceiling=10), account(5, closed=True))
    run(found, post(90, 1, 3, 30))
    some, again, whole, plain, none, full, closed = run(
        found, post(1, 3, 1, 50, balancing=True), post(1, 3, 1, 50, balancing=True), post(2, 1, 2, 5, balancing=True), post(3, 1, 2, 5),
        post(4, 3, 1, 1, balancing=True), post(5, 1, 4, 11), post(6, 1, 5, 1),
    )  # fmt: skip
    lacking = [one.lacking for one in (some, again, whole, plain, none, full, closed)]
    assert lacking == [(aid(3), aid(1)), (), (), (), (aid(3),), (aid(4),), ()]
    (poor,) = run(found, post(7, 3, 1, 1))
    assert poor.lacking == (aid(3),)
    assert run(found, post(7, 3, 1, 1))[0].lacking == (), "what is pinned is refused whatever is released"


def test_a_pinned_refusal_keeps_all_that_it_said() -> None:
    found = two()
    refused = post(1, 3, 1, 10)
    decided = decide([Unit(1, [refused], atomic=False)], found, START)
    assert decided.rejections == [
        Rejection(
            1, tid(1), refused.digest(), Reason.INSUFFICIENT_FUNDS, 0, 10, "EUR", account=ids.accounts.text(aid(3))
        )
    ]
    assert found.rejections == {(1, tid(1)): decided.rejections[0]}
    assert (found.books[1].revision, found.books[1].sequence) == (0, 0)
    first = decided.results[0][0]
    assert first == Result(tid(1), "rejected", None, False, Reason.INSUFFICIENT_FUNDS, 0, 10, "EUR", aid(3))
    again = decide([Unit(1, [refused], atomic=False)], found, START)
    assert again.results == [[replace(first, existed=True)]]
    assert again.rejections == [], "it is pinned already"
    other = run(found, post(1, 3, 1, 11))
    assert other == [Result(tid(1), "rejected", reason=Reason.ID_ALREADY_FAILED)]


def test_who_asks_again_is_told_of_the_same_account_and_days() -> None:
    """Of one that is not there as it was named."""
    found = state(account(1, floor=0), account(2))
    run(found, post(9, 2, 1, 100))
    found.days = {aid(1): past_of(START.date() - timedelta(days=2), [5, 50])}
    nobody = replace(post(1, 1, 2, 5), credit="nobody")
    stranger = post(2, 7, 1, 5)
    early = post(3, 1, 2, 7, effective_at=START - timedelta(days=2))
    wanted = [("nobody", "nobody", ()), (aid(7), ids.accounts.text(aid(7)), ()), (aid(1), ids.accounts.text(aid(1)), (date(2025, 12, 30),))]  # fmt: skip
    for existed in (False, True):
        told = run(found, nobody, stranger, early, after=1)
        assert [(one.account, one.at_fault, one.breached_on) for one in told] == wanted
        assert [one.existed for one in told] == [existed] * 3
    assert [one.account for one in found.rejections.values()] == [text for _, text, _ in wanted]


@pytest.mark.parametrize("kind", ["post", "hold"])
def test_whose_totals_would_overflow_is_named(kind: str) -> None:
    found = two()
    run(found, post(1, 1, 2, MAX))
    debit, credit = run(found, post(2, 1, 3, 1, kind=kind), post(3, 3, 2, 1, kind=kind))
    assert [(one.reason, one.account) for one in (debit, credit)] == [
        (Reason.AMOUNT_OVERFLOW, aid(1)),
        (Reason.AMOUNT_OVERFLOW, aid(2)),
    ]


def test_refusals_of_this_moment_are_not_pinned() -> None:
    found = two()
    run(found, hold(1, 1, 2, 5, expires_in=10), post(2, 1, 2, 5))
    assert reasons(run(found, on("expire", 3, 1), after=5)) == ["hold_not_due"]
    assert reasons(run(found, post(2, 1, 2, 6))) == ["exists_with_different_amount"]
    found.books[1].quarantined = True
    assert reasons(run(found, post(4, 1, 2, 5), post(2, 1, 2, 5))) == ["book_quarantined", None]
    found.books[1].quarantined = False
    assert reasons(run(found, on("expire", 5, 99))) == ["hold_not_found"]
    assert found.rejections == {}
    assert reasons(run(found, on("void", 6, 1), after=11)) == ["hold_expired"]
    assert list(found.rejections) == [(1, tid(6))]


def test_what_a_hold_or_a_transfer_has_left_is_told() -> None:
    found = two()
    run(found, hold(1, 1, 2, 50), on("capture", 2, 1, 20), post(3, 1, 2, 30), on("reverse", 4, 3, 10))
    (no,) = run(found, on("capture", 5, 1, 31))
    assert (no.reason, no.available, no.required, no.currency) == (Reason.EXCEEDS_HOLD, 30, 31, "EUR")
    (no,) = run(found, on("capture", 6, 1, 1, currency="USD"))
    assert (no.reason, no.currency, no.account) == (Reason.CURRENCY_MISMATCH, "USD", aid(1))
    (no,) = run(found, on("reverse", 7, 3, 21))
    assert (no.reason, no.available, no.required, no.currency) == (Reason.EXCEEDS_REVERSIBLE, 20, 21, "EUR")
    (no,) = run(found, on("reverse", 8, 3, 1, currency="USD"))
    assert (no.reason, no.currency) == (Reason.CURRENCY_MISMATCH, "USD")
    (yes,) = run(found, on("reverse", 9, 3))
    assert yes.transfer is not None
    assert (yes.transfer.amount, found.reversals[1, tid(3)].reversed, found.reversals[1, tid(3)].amount) == (20, 30, 30)
    _, whole = run(found, post(15, 1, 2, 7), on("reverse", 16, 15))
    assert whole.transfer is not None
    assert whole.transfer.amount == 7
    (no,) = run(found, on("reverse", 10, 3))
    assert (no.reason, no.available, no.required) == (Reason.EXCEEDS_REVERSIBLE, 0, 30)
    assert reasons(run(found, on("capture", 11, 1, 30), on("void", 12, 1))) == [None, "hold_already_captured"]
    assert reasons(run(found, Command(kind="reverse", id=tid(13)), Command(kind="void", id=tid(14)))) == ["transfer_not_found", "hold_not_found"]  # fmt: skip


@pytest.mark.parametrize(("debit", "named"), [("USD", 1), ("EUR", 2)])
def test_who_has_another_currency_is_named(debit: str, named: int) -> None:
    found = state(account(1, currency=debit), account(2, currency="USD"))
    (no,) = run(found, post(1, 1, 2, 5))
    assert (no.reason, no.currency, no.account) == (Reason.CURRENCY_MISMATCH, "EUR", aid(named))


def test_an_account_is_found_at_its_path_in_its_own_book() -> None:
    found = two()
    found.paths = {(1, "anna"): aid(2), (2, "bert"): aid(2)}
    by_path = Command(kind="post", id=tid(1), debit=aid(1), credit="anna", amount=5, currency="EUR")
    assert reasons(run(found, by_path, replace(by_path, id=tid(2), credit="bert"))) == [None, "account_not_found"]
    assert reasons(run(found, by_path, replace(by_path, credit=aid(2)))) == [None, None]
    found.paths[1, "anna"] = aid(3)
    assert reasons(run(found, by_path)) == ["exists_with_different_credit_account"]


def test_a_hold_expires_at_its_instant_whenever_it_is_brought_again() -> None:
    """What a file says is an instant; what a request says are seconds."""
    found = two()
    at = START + timedelta(hours=1, microseconds=7)
    by = hold(1, 1, 2, 5, expires_at=at)
    (made,) = run(found, by)
    assert made.transfer is not None
    assert (made.transfer.expires_at, found.holds[1, tid(1)].expires_at) == (at, at)
    assert run(found, by, after=60)[0].existed
    for other in (replace(by, expires_at=at + MICROSECOND), replace(by, expires_at=None), replace(by, expires_at=None, expires_in=3600)):  # fmt: skip
        assert reasons(run(found, other)) == ["exists_with_different_expiry"]
    later = on("increase", 2, 1, 1, expires_at=at + timedelta(hours=1))
    assert reasons(run(found, later, after=60)) == [None]
    assert found.holds[1, tid(1)].expires_at == at + timedelta(hours=1)
    assert run(found, later, after=120)[0].existed
    assert reasons(run(found, replace(later, expires_at=at))) == ["exists_with_different_expiry"]
    (past,) = run(found, hold(3, 1, 2, 5, expires_at=START - timedelta(days=1)))
    assert past.transfer is not None
    assert past.transfer.expires_at == past.transfer.recorded_at + timedelta(seconds=1)


@pytest.mark.parametrize("kind", ["capture", "void", "increase"])
def test_what_was_done_to_a_hold_in_its_time_is_restored_whatever_the_time(kind: str) -> None:
    found = two()
    run(found, hold(1, 1, 2, 5, expires_in=1))
    command = on(kind, 2, 1, 1 if kind == "increase" else None)
    assert reasons(run(deepcopy(found), command, after=10)) == ["hold_expired"]
    unit = Unit(1, [command], atomic=False, restored=True)
    assert reasons(decide([unit], found, START + timedelta(seconds=10)).results[0]) == [None]


# ---- values -------------------------------------------------------------------------------------------------------------


def test_ids_that_follow_from_others_never_change() -> None:
    """They are in the books."""
    assert str(leg_id(TXN, 0)) == "0ad250b1-4ebb-8d75-b3f2-4e05b6fdc48c"
    assert str(leg_id(TXN, 1)) == "44d160db-e210-8929-bb02-842d4266088a"
    assert str(leg_id(TXN, 2)) == "827bd0ed-5653-842c-901e-503e6a3e9a10"
    plain = post(1, 1, 2, 5)
    assert plain.digest().hex() == "6ba4d4bfee273ac7f2bd321f0f3ef2fa", "pinned refusals of the first release have it"
    more = [replace(plain, **one) for one in ({"balancing": True}, {"transaction": TXN}, {"effective_at": START}, {"final": True}, {"expires_in": 5})]  # fmt: skip
    more += [replace(plain, expires_at=START), replace(plain, expires_at=START + MICROSECOND)]
    assert len({plain.digest(), *(one.digest() for one in more)}) == 8
    assert replace(plain, linked=True).digest() == plain.digest(), "what else is in the unit is not said by it"
    assert more[0].digest().hex() == "dd7d0e319339d78ed4f2add6994298cd"


def test_the_next_instant_is_after_all_that_is_recorded_or_sealed() -> None:
    book = Book(1, 0, START)
    assert book.next_instant(START + timedelta(seconds=1)) == START + timedelta(seconds=1)
    assert book.next_instant(START - timedelta(seconds=1)) == START + MICROSECOND
    book.sealed_until = START + timedelta(hours=1)
    assert book.next_instant(START) == START + timedelta(hours=1) + MICROSECOND
    assert book.next_instant(START + timedelta(hours=2)) == START + timedelta(hours=2)


def test_what_an_account_usually_is() -> None:
    assert [usual_kind(side) for side in ("debit", "credit")] == ["asset", "liability"]
