"""Maker-checker without a book: which rules are about what, whose approvals count, and what a signature is good for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tallystick.contracts.ledger.messages import Reason
from tallystick.kernel import ids
from tallystick.kernel.ids import ProposalId
from tallystick.services.ledger.model import (
    EVERYTHING,
    ApprovalRule,
    Command,
    Movement,
    ProposalRow,
    Result,
    Signed,
    State,
    Unit,
    agreed,
    decide,
    digest,
    may_approve,
    missing,
    needed,
)
from tests.services.ledger.support import START, account, aid, hold, on, post, state, tid

RULE = ApprovalRule("EUR", 100, 2, ("cli_a", "cli_b"), 60)
PEOPLE = replace(RULE, pattern="people:**")


def by(approver: str, decision: Any = "approve") -> Signed:
    return Signed(approver, decision, START, "")


# ---- which rules ----------------------------------------------------------------------------------------------------------


def test_a_rule_is_about_the_accounts_at_its_pattern() -> None:
    assert RULE.pattern == EVERYTHING == "**"
    assert [RULE.concerns(path) for path in (None, "a")] == [True, True]
    assert [PEOPLE.concerns(path) for path in (None, "a", "people:anna")] == [False, False, True]


@pytest.mark.parametrize(
    ("movements", "concerns"),
    [
        ([], False),
        ([(None, None, 100, "EUR")], False),
        ([(None, None, 101, "EUR")], True),
        ([(None, None, 60, "EUR"), (None, None, 41, "EUR")], True),
        ([(None, None, 60, "EUR"), (None, None, 41, "USD")], False),
        ([("people:a", "b", 101, "EUR")], True),
        ([("b", "people:a", 101, "EUR")], True),
    ],
)
def test_what_concerns_a_rule_is_summed(movements: list[tuple[Any, ...]], concerns: bool) -> None:
    moves = [Movement(*one) for one in movements]
    assert needed([RULE], iter(moves)) == ((RULE,) if concerns else ())
    some = any("people:a" in one for one in movements)
    assert needed([PEOPLE, RULE], moves) == ((PEOPLE, RULE) if some else (RULE,) if concerns else ())
    assert needed([], moves) == ()


# ---- whose approvals ------------------------------------------------------------------------------------------------------


def test_each_approver_counts_once_and_for_their_own_rules() -> None:
    other = ApprovalRule("EUR", 0, 1, ("cli_c",), 60)
    assert missing([RULE], []) == 2
    assert missing([RULE], [by("cli_a"), by("cli_a")]) == 1
    assert missing([RULE], [by("cli_a"), by("cli_x")]) == 1
    assert missing([RULE], [by("cli_a"), by("cli_b", "reject")]) == 1
    assert missing([RULE, other], [by("cli_a"), by("cli_b")]) == 1
    assert missing([other, RULE], [by("cli_c")]) == 2
    assert missing([RULE, other], [by("cli_a"), by("cli_b"), by("cli_c")]) == 0
    assert missing([], []) == 0


def test_who_may_approve() -> None:
    other = ApprovalRule("EUR", 0, 1, ("cli_c",), 60)
    assert may_approve([RULE, other], "cli_c", "cli_x")
    assert not may_approve([RULE], "cli_c", "cli_x")
    assert not may_approve([RULE], "cli_a", "cli_a")


# ---- proposals and signatures ---------------------------------------------------------------------------------------------

PROPOSAL = ProposalId(tid(5))


def proposal(**more: Any) -> ProposalRow:
    usual: dict[str, Any] = {
        "id": PROPOSAL, "book": 1, "tenant": "acme", "book_name": "main", "proposer": "cli_x", "content": "{}", "plan": "p", "digest": "d",
        "rules": (RULE,), "status": "pending", "reason": None, "trace": None, "created_at": START, "expires_at": START + timedelta(seconds=60),
        "decisions": (by("cli_a"),),
    }  # fmt: skip
    return ProposalRow(**usual | more)


def test_what_is_pending_expires_by_itself() -> None:
    row, end = proposal(), START + timedelta(seconds=60)
    assert row.at(end - timedelta(microseconds=1)) == row
    assert row.at(end) == replace(row, status="expired")
    assert row.at(end + timedelta(days=1)) == replace(row, status="expired")
    done = proposal(status="posted")
    assert done.at(end + timedelta(days=1)) == done
    assert row.missing == 1


def test_what_is_signed_never_changes() -> None:
    """The content word for word, whatever its order: the digest is what approvers have signed."""
    content = '{"b":1, "a":2}'
    expected = "a6acb896dbc940ced23cdb2ef6b15fab231313cbbf396c7a9b2c1cfad3100f47"
    assert digest("prp_1", "main", content, "plan") == expected
    others = [("prp_2", "main", content, "plan"), ("prp_1", "other", content, "plan"), ("prp_1", "main", "{}", "plan"), ("prp_1", "main", content, "x")]  # fmt: skip
    assert len({expected, *(digest(*one) for one in others)}) == 5


def statement(**more: Any) -> bytes:
    said = {
        "proposal": ids.proposals.text(PROPOSAL),
        "digest": "d",
        "decision": "approve",
        "iat": int(START.timestamp()),
    }
    return msgspec.json.encode(said | more)


def test_a_signature_is_good_for_what_it_says() -> None:
    assert agreed(statement(), proposal(), "approve", START)
    assert agreed(statement(decision="reject"), proposal(), "reject", START)
    for wrong in (
        {"proposal": "prp_1"},
        {"digest": "e"},
        {"decision": "reject"},
        {"decision": "maybe"},
        {"iat": "now"},
    ):
        assert not agreed(statement(**wrong), proposal(), "approve", START)
    for broken in (b"", b"{}", b"[" * 100_000, b'{"proposal":"\xff"}'):
        assert not agreed(broken, proposal(), "approve", START)


def test_a_signature_is_good_for_ten_minutes() -> None:
    for off, good in ((600, True), (601, False), (-600, True), (-601, False)):
        assert agreed(statement(), proposal(), "approve", START + timedelta(seconds=off)) is good


# ---- what is asked of commands ------------------------------------------------------------------------------------------


def guarded() -> State:
    """Account 1 is of the bank, 2 and 3 are people's, 4 is in transit: above 100 of people's money needs approvals, of any 1000."""
    paths = {1: "bank", 2: "people:anna", 3: "people:bert", 4: "transit:in:other:EUR", 5: None}
    found = state(*(replace(account(n), path=path, transit=n == 4) for n, path in paths.items()), account(6, currency="USD"))  # fmt: skip
    found.paths[1, "people:anna"] = aid(2)
    decide(
        [Unit(1, [post(900, 1, 2, 500), hold(901, 2, 1, 400), post(902, 1, 5, 500), *DRAWN, *WHOLE], atomic=False)],
        found,
        START,
    )
    found.books[1].approvals = (PEOPLE, ANY)
    return found


ANY = replace(RULE, above=1000)
#: Of the posts 905 and 906 are 100 and 101 left to reverse.
DRAWN = (post(905, 1, 2, 500), on("reverse", 907, 905, 400), post(906, 1, 2, 500), on("reverse", 908, 906, 399))
#: As much and one more than needs no approval, of which nothing was reversed; and a hold of which 50 are left.
WHOLE = (post(903, 1, 2, 100), post(904, 1, 2, 101), hold(909, 1, 2, 400), on("capture", 910, 909, 350))


def said(*commands: Command, found: State | None = None, **more: Any) -> list[Result]:
    return decide([Unit(1, commands, **{"atomic": False} | more)], found or guarded(), START).results[0]


def asked(*commands: Command, **more: Any) -> list[tuple[ApprovalRule, ...] | None]:
    """The rules that are asked for; None: decided."""
    results = said(*commands, **more)
    assert all((one.reason is Reason.APPROVAL_REQUIRED) is bool(one.rules) for one in results)
    assert all(one.status == "rejected" for one in results if one.rules)
    return [one.rules or None for one in results]


def test_nobody_is_asked_about_what_is_dated_ahead_and_nothing_of_it_is_posted() -> None:
    """Not even when others of the unit come before it, which move the book's time on."""
    for ahead in range(6):
        found = guarded()
        instant = found.books[1].next_instant(START)
        at = instant + ahead * timedelta(microseconds=1)
        unit = Unit(1, [post(1, 1, 2, 500), post(2, 1, 2, 1, effective_at=at), post(3, 1, 2, 1)], atomic=True)
        sequence = found.books[1].sequence
        results = decide([unit], found, START).results[0]
        wanted = Reason.EFFECTIVE_IN_FUTURE if ahead >= 3 else Reason.APPROVAL_REQUIRED
        assert results[1].reason is wanted, ahead
        assert found.books[1].sequence == sequence


def test_what_a_payment_was_refused_stays_refused_when_the_rule_is_gone() -> None:
    """It is no proposal that comes again with its approvals: the payment ended with the refusal."""
    for payments, again in ((True, "rejected"), (False, "posted")):
        found = guarded()
        for command in (post(1, 1, 2, 101), on("reverse", 2, 904, 101)):
            found.books[1].approvals = (PEOPLE, ANY)
            (refused,) = said(command, found=found, payments=payments, atomic=True)
            assert refused.reason is Reason.APPROVAL_REQUIRED
            found.books[1].approvals = ()
            assert said(command, found=found, payments=payments, atomic=True)[0].status == again


@pytest.mark.parametrize(
    ("command", "rules"),
    [
        (post(1, 1, 2, 100), None),
        (post(1, 1, 2, 101), (PEOPLE,)),
        (post(1, 2, 1, 101), (PEOPLE,)),
        (hold(1, 1, 2, 101), (PEOPLE,)),
        (post(1, 1, 5, 1000), None),
        (post(1, 1, 5, 1001), (ANY,)),
        (post(1, 1, 2, 1001), (PEOPLE, ANY)),
        (Command(kind="post", id=tid(1), debit=aid(1), credit="people:anna", amount=101, currency="EUR"), (PEOPLE,)),
        (Command(kind="post", id=tid(1), debit=aid(1), credit="people:gone", amount=101, currency="EUR"), None),
        (Command(kind="post", id=tid(1), debit=aid(99), credit=aid(2), amount=101, currency="EUR"), (PEOPLE,)),
        (Command(kind="post", id=tid(1), debit=aid(1), credit=aid(2)), None),
        (Command(kind="post", id=tid(1), amount=1001, currency="EUR"), (ANY,)),
        (Command(kind="post", id=tid(1), debit=aid(1), credit=aid(2), amount=1001), None),
        (on("capture", 1, 901), None),
        (on("void", 1, 901), None),
        (on("expire", 1, 901), None),
        (on("increase", 1, 901, 1), (PEOPLE,)),
        (on("increase", 1, 998, 101), None),
        (on("reverse", 1, 900, 101), (PEOPLE,)),
        (on("reverse", 1, 900, 100), None),
        (on("reverse", 1, 900), (PEOPLE,)),
        (on("reverse", 1, 902), None),
        (on("reverse", 1, 903), None),
        (on("reverse", 1, 904), (PEOPLE,)),
        (on("reverse", 1, 905), None),
        (on("reverse", 1, 906), (PEOPLE,)),
        (on("reverse", 1, 999, 1001), None),
        (post(1, 4, 2, 5000), None),
    ],
)
def test_what_a_command_moves_anew_is_asked_about(command: Command, rules: tuple[ApprovalRule, ...] | None) -> None:
    assert asked(command) == [rules]
    found = guarded()
    assert asked(command, found=found, approved=True) == [None]
    found.books[1].approvals = ()
    assert asked(replace(command, id=tid(2)), found=found) == [None]


def test_of_a_capture_of_the_rest_as_much_can_be_reversed() -> None:
    rest = on("capture", 1, 909), on("reverse", 2, 1)
    assert asked(*rest, atomic=True) == [None, None]
    found = guarded()
    found.books[1].approvals = (replace(PEOPLE, above=49),)
    assert asked(*rest, found=found, atomic=True) == [(replace(PEOPLE, above=49),)] * 2


def test_what_says_no_amount_moves_none() -> None:
    found = guarded()
    found.books[1].approvals = (replace(PEOPLE, above=0),)
    (no,) = said(Command(kind="post", id=tid(1), debit=aid(1), credit=aid(2), currency="EUR"), found=found)
    assert no.reason is Reason.AMOUNT_MUST_BE_POSITIVE


def test_what_is_asked_for_may_come_again() -> None:
    found = guarded()
    before = found.books[1].revision
    assert asked(post(1, 1, 2, 101), found=found) == [(PEOPLE,)]
    assert (found.rejections, found.books[1].revision) == ({}, before)
    (done,) = said(post(1, 1, 2, 101), found=found, approved=True)
    assert done.status == "posted"
    (again,) = said(post(1, 1, 2, 101), found=found)
    assert (again.status, again.existed) == ("posted", True), "what is posted is not asked about again"


def test_a_unit_is_asked_about_as_a_whole_and_others_each_for_itself() -> None:
    two = post(1, 1, 2, 60), post(2, 1, 2, 60)
    assert asked(*two, atomic=True) == [(PEOPLE,)] * 2
    assert asked(*two) == [None, None]
    assert asked(post(3, 1, 2, 101), *two) == [(PEOPLE,), None, None]
    chain = replace(two[0], linked=True), two[1], post(3, 1, 2, 5)
    assert asked(*chain) == [(PEOPLE,), (PEOPLE,), None]
    found = guarded()
    said(two[0], found=found)
    assert asked(*two, found=found, atomic=True) == [(PEOPLE,)] * 2, "half of it is there, not all of it"
    said(two[1], found=found)
    assert asked(*two, found=found, atomic=True) == [None, None]


@pytest.mark.parametrize(
    ("commands", "rules"),
    [
        ((hold(1, 2, 1, 1), on("increase", 2, 1, 100)), (PEOPLE,)),
        ((hold(1, 2, 1, 1), on("increase", 2, 1, 99)), None),
        ((hold(1, 2, 1, 1), on("increase", 2, 1, 50), on("increase", 3, 1, 50)), (PEOPLE,)),
        ((hold(1, 2, 1, 1), on("increase", 2, 1, 50), on("capture", 3, 1)), None),
        ((hold(1, 2, 1, 30), on("increase", 2, 1, 20), on("capture", 3, 1), on("reverse", 4, 3)), None),
        ((hold(1, 2, 1, 30), on("increase", 2, 1, 21), on("capture", 3, 1), on("reverse", 4, 3)), (PEOPLE,)),
        ((hold(1, 2, 1, 60), on("capture", 3, 1, 41), on("reverse", 4, 3)), (PEOPLE,)),
        ((hold(1, 2, 1, 60), on("capture", 3, 1, 40), on("reverse", 4, 3)), None),
        ((on("capture", 1, 901, 101), on("reverse", 2, 1)), (PEOPLE,)),
        ((on("capture", 1, 901), on("reverse", 2, 1)), (PEOPLE,)),
        ((post(1, 1, 2, 51), on("reverse", 2, 1)), (PEOPLE,)),
        ((post(1, 1, 2, 50), on("reverse", 2, 1)), None),
        ((post(1, 1, 2, 50), on("reverse", 2, 1, 51)), (PEOPLE,)),
        ((post(1, 1, 5, 50), on("reverse", 2, 1, 51)), None),
    ],
)
def test_what_is_about_another_of_the_unit_is_asked_about_too(
    commands: tuple[Command, ...], rules: tuple[ApprovalRule, ...] | None
) -> None:
    """Found by the simulation: to the rules a hold of one that the same unit increases by a million was a hold of one."""
    assert set(asked(*commands, atomic=True)) == {rules}
    linked = [replace(each, linked=True) for each in commands[:-1]]
    assert set(asked(*linked, commands[-1])) == {rules}


@pytest.mark.parametrize(
    ("before", "commands", "rules"),
    [
        ((), (on("increase", 2, 1, 40),), None),
        ((), (on("increase", 2, 1, 41),), (PEOPLE,)),
        ((on("increase", 8, 1, 40),), (on("increase", 2, 1, 1),), (PEOPLE,)),
        ((), (on("increase", 2, 1, 20), on("increase", 3, 1, 20)), None),
        ((), (on("increase", 2, 1, 20), on("increase", 3, 1, 21)), (PEOPLE,)),
        ((on("capture", 8, 1, 30),), (on("increase", 2, 1, 40),), None),
        ((on("capture", 8, 1, 30),), (on("increase", 2, 1, 41),), (PEOPLE,)),
    ],
)
def test_a_hold_that_grows_in_steps_is_asked_about_as_one(
    before: tuple[Command, ...], commands: tuple[Command, ...], rules: tuple[ApprovalRule, ...] | None
) -> None:
    """A capture takes all of it at once, and nobody is asked about that."""
    found = guarded()
    assert {one.reason for one in said(hold(1, 2, 1, 60), *before, found=found)} == {None}
    assert set(asked(*commands, found=found, atomic=True)) == {rules}


def test_what_was_refused_stays_so() -> None:
    found = guarded()
    found.accounts[aid(2)].floor = 0
    found.books[1].approvals = ()
    (no,) = said(post(1, 2, 1, 5000), found=found)
    assert no.reason is Reason.INSUFFICIENT_FUNDS
    found.books[1].approvals = (PEOPLE,)
    (again,) = said(post(1, 2, 1, 5000), found=found)
    assert (again.reason, again.rules) == (Reason.INSUFFICIENT_FUNDS, ())
    both = said(post(2, 2, 1, 200), post(1, 2, 1, 5000), found=found, atomic=True)
    assert [one.reason for one in both][1] is Reason.INSUFFICIENT_FUNDS, "nobody needs to approve what can't be"


def test_a_chain_of_a_crossing_is_still_one() -> None:
    """It may touch a transit account in a book with rules too."""
    assert [one.status for one in said(post(1, 4, 2, 5000), crossing=True)] == ["posted"]
    assert said(post(1, 4, 2, 5000))[0].reason is Reason.TRANSIT_ACCOUNT
