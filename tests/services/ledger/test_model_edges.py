"""The rules at their edges: what the mutants of `python -m tools.mutation python` showed that no other test would have noticed."""

from __future__ import annotations

from copy import deepcopy

import pytest

from tallystick.services.ledger.model import MAX, Balance, balance, expiry_id
from tests.services.ledger.support import account, aid, hold, on, post, state, tid
from tests.services.ledger.test_model import reasons, run, two


def test_a_repeated_capture_is_final_or_not_as_it_was() -> None:
    found = two()
    run(found, hold(1, 1, 2, 100), on("capture", 2, 1, 40, final=True))
    assert reasons(run(found, on("capture", 2, 1, 40, final=True))) == [None]
    assert reasons(run(found, on("capture", 2, 1, 40))) == ["exists_with_different_amount"]
    run(found, hold(3, 1, 2, 100), on("capture", 4, 3, 100))
    assert reasons(run(found, on("capture", 4, 3, 100), on("capture", 4, 3, 100, final=True))) == [None, None]
    assert reasons(run(found, on("capture", 4, 3))) == [None], "all that remained was the same amount"


@pytest.mark.parametrize("some", [40, 99])
def test_who_asks_for_all_that_is_left_is_not_told_that_a_part_was_all(some: int) -> None:
    found = two()
    run(found, hold(1, 1, 2, 100), on("capture", 2, 1, some), post(3, 1, 2, 100), on("reverse", 4, 3, some))
    part = [on("capture", 2, 1, some), on("reverse", 4, 3, some)]
    rest = [
        on("capture", 2, 1, some, final=True),
        on("capture", 2, 1),
        on("capture", 2, 1, final=True),
        on("reverse", 4, 3),
    ]
    assert reasons(run(found, *part, *rest)) == [None, None, *["exists_with_different_amount"] * 4]
    assert found.holds[1, tid(1)].remaining == 100 - some
    assert reasons(run(found, on("capture", 5, 1), on("reverse", 6, 3))) == [None, None]
    again = run(found, *part, on("capture", 5, 1), on("capture", 5, 1, final=True), on("capture", 5, 1, 100 - some), on("reverse", 6, 3))  # fmt: skip
    assert [(one.reason, one.existed) for one in again] == [(None, True)] * 6


def test_a_repeated_final_capture_without_its_amount_is_the_same() -> None:
    found = two()
    run(found, hold(1, 1, 2, 100), on("capture", 2, 1, 40, final=True))
    assert reasons(run(found, on("capture", 2, 1))) == [None]


@pytest.mark.parametrize("debit", [True, False])
def test_each_account_has_to_be_of_the_book(debit: bool) -> None:
    found = state(account(1), account(2, book=2))
    (no,) = run(found, post(1, 2, 1, 5) if debit else post(1, 1, 2, 5))
    assert (no.reason, no.account) == ("account_not_found", aid(2))


@pytest.mark.parametrize("debit", [True, False])
def test_the_account_at_fault_is_named(debit: bool) -> None:
    def say(wrong: int) -> tuple[str | None, object]:
        found = state(account(1), account(2, currency="USD"), account(3, closed=True), account(4, frozen=True))
        (no,) = run(found, post(1, wrong, 1, 5) if debit else post(1, 1, wrong, 5))
        return no.reason, no.account

    assert say(9) == ("account_not_found", aid(9))
    assert say(2) == ("currency_mismatch", aid(2))
    assert say(3) == ("account_closed", aid(3))
    assert say(4) == ("account_frozen", aid(4))
    assert say(1) == ("same_account", aid(1))


def test_totals_may_reach_the_greatest_number() -> None:
    for first, second in ((post(1, 1, 2, 7), post(2, 1, 2, MAX - 7)), (hold(1, 1, 2, 7), hold(2, 1, 2, MAX - 7))):
        assert reasons(run(two(), first, second)) == [None, None]
    # Each side by itself.
    assert reasons(run(two(), post(1, 1, 2, MAX), post(2, 1, 3, 1))) == [None, "amount_overflow"]
    assert reasons(run(two(), post(1, 1, 2, MAX), post(2, 3, 2, 1))) == [None, "amount_overflow"]


def test_a_balance_is_in_the_accounts_own_direction() -> None:
    assert balance(True, 1, 100, 20, 30) == Balance(70, 20, 50)
    assert balance(False, 1, 30, 20, 100) == Balance(70, 1, 69)


def test_the_id_of_an_expiry_never_changes() -> None:
    """It is in the books: another one for the same hold would be a second expiry."""
    assert str(expiry_id(7, tid(12345))) == "f6b06cbf-17d6-8fba-a0d2-ff0171bea5b3"


def test_a_unit_with_an_account_that_nobody_knows_is_refused() -> None:
    found = two()
    assert reasons(run(found, post(1, 1, 2, 5), post(2, 1, 9, 5), atomic=True)) == [
        "linked_transfer_failed",
        "account_not_found",
    ]
    assert reasons(run(found, post(3, 9, 1, 5), post(4, 1, 2, 5), atomic=True))[0] == "account_not_found"


def test_a_new_hold_is_open() -> None:
    found = two()
    (held,) = run(found, hold(1, 1, 2, 5))
    assert (held.status, found.holds[1, tid(1)].state) == ("held", "held")
    (posted,) = run(found, post(9, 1, 2, 5))
    assert [one.transfer.released for one in (held, posted) if one.transfer is not None] == [0, 0]
    for kind, end in (("capture", "captured"), ("void", "voided")):
        found = two()
        results = run(found, hold(1, 1, 2, 5), on(kind, 2, 1))
        assert [one.status for one in results] == ["held", "posted"]
        assert found.holds[1, tid(1)].state == end


@pytest.mark.parametrize("side", ["debit", "credit"])
def test_a_ceiling_counts_what_is_in_and_what_holds_may_bring(side: str) -> None:
    """On the account's own side it fills up, on the other it empties."""
    found = state(account(1, side=side, ceiling=100), account(2))

    def into(number: int, amount: int, kind: str = "post") -> str | None:
        pair = (1, 2) if side == "debit" else (2, 1)
        (result,) = run(found, post(number, *pair, amount, kind=kind))
        room.append(result.available)
        return None if result.reason is None else result.reason.value

    room: list[int | None] = []
    assert into(1, 60) is None
    assert into(2, 30, "hold") is None
    assert into(3, 11) is not None
    assert room[-1] == 10
    assert into(4, 10) is None
    out = (2, 1) if side == "debit" else (1, 2)
    assert reasons(run(found, post(5, *out, 25))) == [None]
    assert into(6, 26) is not None
    assert room[-1] == 25
    assert into(7, 25) is None


@pytest.mark.parametrize("kind", ["capture", "void", "reverse"])
def test_what_a_unit_did_to_a_targets_accounts_is_undone_too(kind: str) -> None:
    """They are named by the target only."""
    found = two()
    run(found, hold(1, 1, 2, 100), post(2, 1, 2, 70))
    before = deepcopy((found.accounts, found.holds, found.reversals))
    results = run(found, on(kind, 3, 2 if kind == "reverse" else 1), on("void", 4, 99), atomic=True)
    assert reasons(results) == ["linked_transfer_failed", "hold_not_found"]
    assert (found.accounts, found.holds, found.reversals) == before
