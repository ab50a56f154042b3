"""What a shard of a service is called, and which service that is."""

from __future__ import annotations

import pytest

from tallystick.kernel.deployment import HOME, deployment, parts, service_of


@pytest.mark.parametrize(
    ("service", "shard", "name"),
    [("ledger", HOME, "ledger"), ("ledger", "eu", "ledger-eu"), ("ledger", "eu-west", "ledger-eu-west")],
)
def test_a_name_says_service_and_shard(service: str, shard: str, name: str) -> None:
    assert deployment(service, shard) == name
    assert parts(name) == (service, shard)
    assert service_of(name) == service


def test_without_a_shard_it_is_the_one_at_home() -> None:
    assert deployment("risk") == "risk"
