"""Problems that come back from another service's answer."""

from __future__ import annotations

import pytest

from tallystick.kernel.problem import Conflict, DeadlineExceeded, Forbidden, Problem, Upstream, decode


class SoldOut(Conflict):
    slug, title = "sold-out", "It is sold out"


def test_a_known_problem_comes_back_as_itself() -> None:
    found = decode(SoldOut("no more of them", left=0).document(), (SoldOut,))
    assert type(found) is SoldOut
    assert (found.detail, found.extensions) == ("no more of them", {"left": 0})
    assert type(decode(Forbidden().document())) is Forbidden
    late = decode(DeadlineExceeded().document())
    assert isinstance(late, DeadlineExceeded)
    assert late.outcome_unknown


class Short(Conflict):
    slug, title = "short", "There is too little"

    def __init__(self, account: str) -> None:
        super().__init__(f"{account} has too little", account=account)


def test_a_problem_comes_back_whatever_its_class_and_its_members_are_called() -> None:
    """The class's own constructor was called, with the detail as its argument; and members like `at-least` were left out."""
    document = Short("acc_1").document() | {"at-least": 7, "context": 8, "headers": 9}
    found = decode(document, (Short,))
    assert type(found) is Short
    assert (found.detail, found.context, found.headers) == ("acc_1 has too little", {}, {})
    assert found.extensions == {"account": "acc_1", "at-least": 7, "context": 8, "headers": 9}
    assert found.document() == document


@pytest.mark.parametrize(
    ("document", "unknown"),
    [
        (SoldOut().document(), False),
        (Problem().document(), True),
        ({"type": "about:blank", "status": 503}, True),
        ({"type": "about:blank", "status": "409"}, True),
        ({}, True),
        ({"type": [], "status": 500}, True),
    ],
)
def test_after_one_that_is_not_known_the_other_service_may_have_acted_unless_it_refused(
    document: dict[str, object], unknown: bool
) -> None:
    found = decode(document)
    assert isinstance(found, Upstream)
    assert found.outcome_unknown == unknown
    assert found.context["status"] == document.get("status")
