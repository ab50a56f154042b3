"""Charters: a mistake is named by file, key and remedy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tallystick.chassis import charter as charters_module
from tallystick.chassis.charter import CharterError
from tallystick.fabric.shards import with_shards

GOOD = """
[service]
name = "shop"
purpose = "Sells things"
owner = "shop team"

[data.orders]
class = "personal"
subject = "buyers"
purpose = "To deliver"
basis = "contract"
retention = "10 years"
protection = "In the safe"

[calls.bank]
actions = ["POST /internal/pay"]
timeout_ms = 500
retries = 1
when_down = "queue"
note = "Later"

[tells]
"order.taken" = { message = "OrderTaken", means = "Somebody wants something" }
"order.sent" = { means = "It is on its way" }

[edge]
paths = [{ prefix = "/v1/orders", rate = "write" }]

[limits]
max_body_bytes = 4096
max_in_flight = 8
max_queue = 8
database_connections = 2

[limits.rates]
write = { per_second = 5, burst = 10 }

[slo]
availability_percent = 99.9
p99_ms = 100

[scale]
min_replicas = 1
max_replicas = 2
cpu_millis = 100
memory_mib = 64
"""


def refused(text: str) -> CharterError:
    with pytest.raises(CharterError) as caught:
        charters_module.parse(text, "services/shop/charter.toml")
    error = caught.value
    assert error.file == "services/shop/charter.toml"
    assert str(error) == f"{error.file}: {error.key}: {error.what}. {error.remedy}"
    return error


def test_the_age_of_keys_that_seal_data_is_a_year_unless_it_is_said() -> None:
    keys = (
        '[keys]\nsuite = "XAES-256-GCM"\nrotation_days = 90\n%s\n[keys.purposes]\norders = "Seals what was ordered"\n'
    )

    def of(line: str) -> charters_module.Keys | None:
        return charters_module.parse(GOOD + keys % line, "x").keys

    for line, days in (("", 365), ("data_rotation_days = 30", 30)):
        assert (found := of(line)) is not None
        assert (found.rotation_days, found.data_rotation_days) == (90, days)
    for line, says in (
        ("data_rotation_days = 0", ">= 1"),
        ("data_rotation_days = 400", "<= 366"),
        ("data_rotations_days = 30", 'Did you mean "data_rotation_days"?'),
    ):
        error = refused(GOOD + keys % line)
        assert error.key == f"keys.{line.partition(' ')[0]}"
        assert says in f"{error.what} {error.remedy}"


def test_a_good_one_is_typed() -> None:
    charter = charters_module.parse(GOOD, "x")
    assert charter.name == "shop"
    assert charter.calls["bank"].timeout_ms == 500
    assert charter.edge.paths[0].prefix == "/v1/orders"
    assert charter.limits.rates["write"].burst == 10
    assert charter.data["orders"].data_class == "personal"
    assert [(type_, told.message) for type_, told in charter.facts.items()] == [
        ("shop.order.taken", "OrderTaken"),
        ("shop.order.sent", None),
    ]


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        ("max_queue", "max_que", "limits.max_que", 'Did you mean "max_queue"?'),
        ("[slo]", "[sloo]", "sloo", 'Did you mean "slo"?'),
        ("owner = ", "owners = ", "service.owners", 'Did you mean "owner"?'),
        ('owner = "shop team"\n', "", "service.owner", "is missing. Add it."),
        ("max_in_flight = 8", 'max_in_flight = "8"', "limits.max_in_flight", "expected `int`, got `str`"),
        ("max_in_flight = 8", "max_in_flight = 0", "limits.max_in_flight", ">= 1"),
        ('class = "personal"', 'class = "private"', "data[...].class", "lists"),
        ("10 years", "a while", "data[...].retention", '"10 years"'),
        ("POST /internal/pay", "POST /v1/pay", "calls[...].actions[0]", "POST /internal/transfers"),
        ('prefix = "/v1/orders"', 'prefix = "/v1/orders/"', "edge.paths[0].prefix", "without a slash"),
        ('prefix = "/v1/orders"', 'prefix = "/internal/x"', "edge.paths[0].prefix", "never reachable"),
        ('rate = "write"', 'rate = "wrote"', "edge.paths[0].rate", 'Did you mean "write"?'),
        ('basis = "contract"', 'basis = "none needed"', "data.orders.basis", "GDPR Art. 6"),
        ('class = "personal"', 'class = "cardholder"', "keys", "needs a key ring"),
        (
            'when_down = "queue"',
            'when_down = "queue"\ndegrade_up_to_euro = 5',
            "calls.bank.degrade_up_to_euro",
            'when_down = "degrade"',
        ),
        ("[calls.bank]", "[calls.shop]", "calls.shop", "does not call itself"),
        ("max_replicas = 2", "max_replicas = 2\nmin_replica = 1", "scale.min_replica", "min_replicas"),
        ("min_replicas = 1", "min_replicas = 3", "scale", "above max_replicas"),
        (
            "p99_ms = 100",
            "p99_ms = 120",
            "slo.p99_ms",
            "Use one of 1, 5, 10, 25, 50, 100, 150, 200, 250, 300, 500, 1000",
        ),
        ("availability_percent = 99.9", "availability_percent = 90", "slo.availability_percent", ">= 99"),
        ("max_queue = 8", "max_queue = 8\nlock_timeout_ms = 9000", "limits", "out of order"),
        ('name = "shop"', 'name = "operator"', "service.name", "run the platform"),
        ("[data.orders]", "[data.Orders]", "data", 'a name like "card-numbers"'),
        ('"order.sent"', '"sent"', "tells", 'like "payment.settled"'),
        ('"order.sent"', '"shop.Order.sent"', "tells", 'like "payment.settled"'),
        ('"OrderTaken"', '"order taken"', "tells[...].message", "the name of a struct"),
        ('means = "It', 'meaning = "It', "tells[...].meaning", 'Did you mean "means"?'),
        ('{ means = "It is on its way" }', "{}", "tells[...].means", "is missing. Add it."),
        ("[slo]", "[slo", "(syntax)", "not valid TOML"),
    ],
)
def test_a_mistake_is_named(old: str, new: str, key: str, says: str) -> None:
    assert old in GOOD
    error = refused(GOOD.replace(old, new))
    assert error.key == key
    assert says in str(error), str(error)


def write(root: Path, name: str, text: str) -> None:
    (root / name).mkdir(exist_ok=True)
    (root / name / "charter.toml").write_text(text)


#: A shop that calls nobody.
ALONE = GOOD.split("[calls.bank]", maxsplit=1)[0] + "[tells]" + GOOD.split("[tells]")[1]


def hearing(pattern: str) -> str:
    """The charter of a bank that hears this of the shop."""
    bank = ALONE.replace('"shop"', '"bank"').replace("/v1/orders", "/v1/money")
    return bank + f'\n[consumes.shop]\ntypes = ["{pattern}"]\npurpose = "To know"\n'


BANK = GOOD.replace('"shop"', '"bank"').replace("[calls.bank]", "[calls.shop]").replace("/v1/orders", "/v1/money")


@pytest.mark.parametrize(
    ("bank", "says"),
    [
        ("", "bank: no such service"),
        (BANK, "is not allowed by"),
        (BANK.split("[calls", maxsplit=1)[0] + '[callers]\nnobody = ["GET /internal/x"]\n', "no such service"),
        ("overlap", "overlap"),
        ("unused", "does not call"),
        ("consumes", "consumes.shopp"),
    ],
)
def test_charters_that_contradict_each_other_are_refused(tmp_path: Path, bank: str, says: str) -> None:
    callee = GOOD.replace('"shop"', '"bank"').replace("/v1/orders", "/v1/money")
    head, tail = callee.split("[calls.bank]")[0], "[edge]" + callee.split("[edge]")[1]
    callee = head + '[callers]\nshop = ["POST /internal/pay"]\n' + tail
    shop = GOOD
    match bank:
        case "overlap":
            callee = callee.replace("/v1/money", "/v1/orders/x")
        case "unused":
            callee = callee.replace('["POST /internal/pay"]', '["POST /internal/pay", "POST /internal/steal"]')
        case "consumes":
            shop += '\n[consumes.shopp]\ntypes = ["shopp.order"]\npurpose = "To know"\n'
        case "":
            callee = ""
        case _:
            callee = bank if "[limits]" in bank else bank + tail
    write(tmp_path, "shop", shop)
    if callee:
        write(tmp_path, "bank", callee)
    with pytest.raises(CharterError) as caught:
        charters_module.load_all(tmp_path)
    assert says in str(caught.value).replace("calls.bank: ", "bank: "), str(caught.value)


@pytest.mark.parametrize("pattern", ["shop.*", "shop.order.*", "shop.order.sent"])
def test_what_is_heard_is_told(tmp_path: Path, pattern: str) -> None:
    write(tmp_path, "shop", ALONE)
    write(tmp_path, "bank", hearing(pattern))
    assert charters_module.load_all(tmp_path)["bank"].consumes["shop"].types == (pattern,)


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        ("shop.order.send", 'Did you mean "shop.order.sent"?'),
        ("shop.order", 'Did you mean "shop.order.'),
        ("shop.orders.*", 'Did you mean "shop.order.'),
        ("shop.*.sent", 'Did you mean "shop.order.sent"?'),
        ("shop.zzz", "Let shop's owner add it to [tells] in shop/charter.toml, or use one of: shop.order.taken, "),
    ],
)
def test_what_nobody_tells_is_heard_by_nobody(tmp_path: Path, pattern: str, nearest: str) -> None:
    write(tmp_path, "shop", ALONE)
    write(tmp_path, "bank", hearing(pattern))
    with pytest.raises(CharterError, match=r"bank/charter.toml: consumes\.shop\.types") as caught:
        charters_module.load_all(tmp_path)
    assert f'shop tells nothing like "{pattern}"' in str(caught.value)
    assert nearest in str(caught.value)


def test_notify_hears_all_that_ledger_and_payments_tell_and_risk_one_of_it() -> None:
    ledger, payments = charters_module.load("ledger").facts, charters_module.load("payments").facts
    assert charters_module.heard("notify") == {**ledger, **payments}
    assert list(charters_module.heard("risk")) == ["payments.payment.declined"]
    assert charters_module.heard("vault") == {}


def test_a_shard_tells_what_its_service_tells() -> None:
    found = with_shards(charters_module.load_all(), ["eu"])
    assert found["ledger-eu"].facts == found["ledger"].facts


def test_the_folder_bears_the_services_name(tmp_path: Path) -> None:
    write(tmp_path, "store", GOOD)
    with pytest.raises(CharterError, match=r'Write name = "store"'):
        charters_module.load_all(tmp_path)


def test_a_missing_one_says_which_there_are() -> None:
    with pytest.raises(CharterError, match="Known services: audit, "):
        charters_module.load("nobody")


def test_ours_are_all_good_and_agree(tmp_path: Path) -> None:
    found = charters_module.load_all()
    assert {"identity", "vault", "ledger", "payments", "risk", "audit", "notify"} <= set(found)
    for name in found:
        shutil.copytree(
            charters_module.services_dir() / name,
            tmp_path / name,
            ignore=lambda _, names: {n for n in names if n != "charter.toml"},
        )
    assert charters_module.load_all(tmp_path) == found
