"""Holds what a service has told against what its charter says that it tells."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

import msgspec

from tallystick.chassis import charter, outbox
from tallystick.chassis.keys.told import KeysFact, key_facts


def check(facts: Iterable[bytes]) -> None:
    """Each is of a type that its service's charter tells, and its data is that message, with all of its fields and no others."""
    for raw in facts:
        fact = outbox.decode(raw)
        service = fact.type.partition(".")[0]
        said = charter.load(service)
        of_keys = key_facts(said)
        told = (said.facts | of_keys).get(fact.type)
        assert told is not None, f"{service} told {fact.type}: services/{service}/charter.toml has it not in [tells]"
        if told.message is None:
            assert fact.data == {}, f"{fact.type} carries {sorted(fact.data)}, and its charter names no message"
            continue
        place = KeysFact.__module__ if fact.type in of_keys else f"tallystick.contracts.{service}.messages"
        message = getattr(import_module(place), told.message)
        try:
            same = msgspec.json.decode(msgspec.json.encode(msgspec.convert(fact.data, message))) == fact.data
        except msgspec.ValidationError as error:
            raise AssertionError(f"what {fact.type} carries is not {told.message}: {error}") from error
        assert same, f"what {fact.type} carries is not {told.message}: {fact.data}"
