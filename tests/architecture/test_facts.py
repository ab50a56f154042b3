"""What a service tells, said in its charter and made in its code, must be one thing: whoever hears it has nothing else to go by.

What these read is the source: the types and messages of facts that stand there. That each fact goes with the message that the charter
names for it is looked at where facts are stored, at the end of every test of a service (`tests/support/told.py`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module

import msgspec
import pytest

from tallystick.chassis.charter import heard
from tallystick.chassis.fact import encode
from tallystick.kernel.patterns import matches
from tallystick.services.notify import model
from tests.architecture.tree import BUILT, CHARTERS, place, sources
from tests.support import told
from tests.support.facts import fact

#: What takes the name of something else first: log events and spans are called as facts are, and nothing is told by them.
NAMED = re.compile(r"(telemetry\.)?log\.(debug|info|warning|error|exception)|telemetry\.span")


def texts(node: ast.AST) -> Iterator[ast.Constant]:
    """The texts in a source that may be a fact's type, or a part of one that is put together."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node
    elif isinstance(node, ast.keyword) and node.arg == "name":  # of a schedule, a batcher, a task
        return
    elif isinstance(node, ast.Call) and NAMED.fullmatch(ast.unparse(node.func)):
        for part in (*node.args[1:], *node.keywords):
            yield from texts(part)
    else:
        for part in ast.iter_child_nodes(node):
            yield from texts(part)


def types_in(service: str, tree: ast.AST) -> tuple[set[str], list[ast.Constant]]:
    """The types of facts that stand in a source of the service, and texts that others are put together from."""
    found, parts = set(), []
    for node in texts(tree):
        if re.fullmatch(rf"{service}(\.[a-z_]+){{2,}}", str(node.value)):
            found.add(str(node.value))
        elif re.match(rf"{service}\.([a-z_]+\.)*$", str(node.value)):
            parts.append(node)
    return found, parts


@pytest.mark.parametrize("service", BUILT)
def test_the_facts_of_the_code_are_the_charters(service: str) -> None:
    found: set[str] = set()
    for path, tree in sources(f"services/{service}").items():
        here, parts = types_in(service, tree)
        assert not parts, (
            f"{place(path, parts[0])}: a fact's type that is put together is found by nobody who looks for it: write each out"
        )
        found |= here
    said = CHARTERS[service].facts.keys()
    assert not found - said, (
        f"{service} tells {sorted(found - said)}; services/{service}/charter.toml says nothing of it: add it to [tells], and what it means"
    )
    assert not said - found, (
        f"services/{service}/charter.toml says that {service} tells {sorted(said - found)}, and no code does"
    )


#: What is a type in a source, what is none, and what is not allowed: a test that finds nothing anywhere may be blind.
@pytest.mark.parametrize(
    ("source", "types", "parts"),
    [
        ('Fact(type="shop.sale.made")', {"shop.sale.made"}, 0),
        ('_tell(tx, "shop.sale.made" if sold else "shop.sale.lost", row)', {"shop.sale.made", "shop.sale.lost"}, 0),
        ('TOLD = {"made": "shop.sale.made"}', {"shop.sale.made"}, 0),
        ('telemetry.log.info("shop.sale.made", reason="shop.sale.lost")', {"shop.sale.lost"}, 0),
        ('telemetry.log.info("shop.sale.made", "shop.sale.lost")', {"shop.sale.lost"}, 0),
        ('with telemetry.span(f"shop.{step}"): pass', set(), 0),
        ('Schedule(name="shop.sale.check", run=check)', set(), 0),
        ('Subscription(source="bank", types=("bank.payment.made",))', set(), 0),
        ('Fact(type=f"shop.sale.{state}")', set(), 1),
        ('Fact(type="shop." + what)', set(), 1),
    ],
)
def test_types_are_found_where_they_stand(source: str, types: set[str], parts: int) -> None:
    found, put_together = types_in("shop", ast.parse(source))
    assert (found, len(put_together)) == (types, parts)


@pytest.mark.parametrize("service", BUILT)
def test_what_a_fact_carries_is_a_message_of_the_contract_that_the_service_makes(service: str) -> None:
    named = {each.message for each in CHARTERS[service].tells.values() if each.message}
    messages = import_module(f"tallystick.contracts.{service}.messages")
    made = {
        ast.unparse(node.func).rpartition(".")[2]
        for tree in sources(f"services/{service}").values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    }
    for name in sorted(named):
        struct = getattr(messages, name, None)
        assert isinstance(struct, type), (
            f"contracts/{service}/messages has no {name}, which its charter's [tells] names"
        )
        assert issubclass(struct, msgspec.Struct)
        assert name in made, f"{service}'s charter says that facts carry {name}, and no code of it makes one"


EVENTS = {model.event_type(type_): type_ for type_ in heard("notify")}


def test_an_event_of_a_webhook_is_one_services() -> None:
    """Tenants see no service's name: of two services' facts that are called the same otherwise nobody could tell which it is."""
    assert len(EVENTS) == len(heard("notify"))
    assert set(EVENTS.values()) == {*CHARTERS["ledger"].facts, *CHARTERS["payments"].facts}


@pytest.mark.parametrize("event", sorted(EVENTS))
def test_each_event_can_be_listened_to_by_itself_with_its_kind_and_with_all(event: str) -> None:
    kind = event.partition(".")[0]
    assert matches(CHARTERS["notify"].consumes[EVENTS[event].partition(".")[0]].types, EVENTS[event])
    for pattern in (event, f"{kind}.*", "*"):
        assert model.wants((pattern,), event)
        model.check_events((pattern,), sorted(EVENTS))
    others = [other for other in EVENTS if other != event]
    assert not any(model.wants((event,), other) for other in others)
    assert [other for other in others if model.wants((f"{kind}.*",), other)] == [
        other for other in others if other.partition(".")[0] == kind
    ]


def stored(type_: str, **data: object) -> bytes:
    return encode(msgspec.structs.replace(fact(1, type_), data=data))


#: What is looked at after each test of a service; one that takes anything may be blind.
def test_a_fact_that_was_told_is_held_against_its_charter() -> None:
    client = {
        "scope": "a:b",
        "key_ids": ["k"],
        "key_thumbprints": ["t"],
        "tls_client_certificate_bound_access_tokens": False,
    }
    told.check([stored("identity.client.created", **client), stored("identity.client.revoked")])
    for wrong, says in (
        (stored("identity.client.renamed"), r"has it not in \[tells\]"),
        (stored("identity.client.created", **client, more=1), "is not ClientCreated"),
        (stored("identity.client.created", scope="a:b", key_ids=[]), "is not ClientCreated"),
        (stored("identity.client.created", **{**client, "scope": 7}), "is not ClientCreated"),
        (stored("identity.client.revoked", scope="a:b"), "names no message"),
        (stored("ledger.book.sealed", book=1, name="main", until="now", why="so"), "is not BookSealed"),
    ):
        with pytest.raises(AssertionError, match=says):
            told.check([wrong])
