"""The ids of parametrized tests are the same in every worker, whichever second it began in."""

import pytest

from tests.support import tokens


@pytest.mark.parametrize("now", [1_796_053_312, 1_796_053_313, 1_799_999_999])
@pytest.mark.parametrize("apart", [-3600, 0, 60, 86400])
def test_a_time_is_named_by_how_far_it_is_from_now(monkeypatch: pytest.MonkeyPatch, now: int, apart: int) -> None:
    monkeypatch.setattr(tokens, "NOW", now)
    assert tokens.named({"iat": now + apart}) == f'{{"iat": now{apart:+}}}'
    assert tokens.named({"iat": "1700000000"}) == '{"iat": "1700000000"}'
