"""What the records of a file ask for, each by itself: ids, commands word for word, and what is wrong with a record and where."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from tallystick.contracts.ledger.messages import (
    MAX_EXPIRES_IN,
    MAX_TEXT,
    PAYMENT_CODE,
    AccountRecord,
    LegRecord,
    TransactionRecord,
    TransferRecord,
)
from tallystick.contracts.ledger.messages.imports import ExchangeRecord
from tallystick.contracts.ledger.messages.transactions import Rate
from tallystick.kernel import ids
from tallystick.kernel.ids import AccountId, InvalidId, TransactionId
from tallystick.kernel.money import MoneyWire
from tallystick.services.ledger.model import (
    MAX,
    Command,
    Header,
    NewAccount,
    Reader,
    State,
    Transfer,
    Unfit,
    Unit,
    account_id,
    called,
    decide,
    leg_id,
    limit,
    new_account,
)
from tallystick.services.ledger.model.imports import ImportRow, Tally
from tallystick.services.ledger.model.records import opening_id, transaction_id, transfer_id
from tests.services.ledger.support import START, account, aid, hold, state, tid

BOOK = 7
NOW = START
EARLIER, LATER = "2025-12-31T00:00:00Z", "2026-01-02T00:00:00Z"
EUR_5 = MoneyWire("5", "EUR")
TXN = TransactionId(tid(77))


def named(said: str) -> AccountId | str:
    """Accounts are called by numbers here; a path stands for itself."""
    if said == "?":
        raise InvalidId("nobody's")
    return aid(int(said)) if said.isdigit() else said


def reader(*, restoring: bool = False) -> Reader:
    return Reader(BOOK, named, NOW, restoring=restoring)


def transfer(**said: Any) -> TransferRecord:
    usual: dict[str, Any] = {"id": "t1", "debit_account": "1", "credit_account": "2", "amount": EUR_5}
    if said.get("kind", "post") not in ("post", "hold"):
        usual |= {"debit_account": None, "credit_account": None, "target": "t0"}
    return TransferRecord(**usual | said)


def leg(**said: Any) -> LegRecord:
    one = transfer(**{"id": None} | said)
    return LegRecord(**{name: getattr(one, name) for name in LegRecord.__struct_fields__})


def told(record: TransferRecord | TransactionRecord, *, restoring: bool = False) -> Command:
    """The only command of a record."""
    (command,) = reader(restoring=restoring).unit(record).commands
    return command


# ---- ids ----------------------------------------------------------------------------------------------------------------


def test_ids_follow_from_what_the_file_says_and_never_change() -> None:
    """They are in the books: other ones for the same file would bring it in twice."""
    assert str(account_id(BOOK, "a")) == "480d8803-14af-8bad-a09e-437c28a046ce"
    assert str(transfer_id(BOOK, "a")) == "92270af9-b0ba-803b-a2d1-cf9717829cee"
    assert str(transaction_id(BOOK, "a")) == "cc9fa7d2-2da6-8f4b-8001-87e67cf78465"
    assert str(opening_id(BOOK, "a")) == "8663fafe-ff62-80c9-811f-184e923158a3"
    assert transfer_id(BOOK, ids.transfers.text(tid(5))) == tid(5)
    assert transaction_id(BOOK, ids.transactions.text(TXN)) == TXN
    for wrong in (lambda: transfer_id(BOOK, "trf_x"), lambda: transaction_id(BOOK, "txn_x")):
        with pytest.raises(InvalidId):
            wrong()


# ---- accounts -----------------------------------------------------------------------------------------------------------

ACCOUNT = AccountRecord(
    name="Anna", currency="EUR", normal_side="credit", id="A1", path="anna:wallet", floor="-5", ceiling="100", code="c", metadata={"b": "2", "a": "1"}
)  # fmt: skip


def test_an_account_is_opened_as_its_record_says() -> None:
    expected = NewAccount(
        id=account_id(BOOK, "A1"), name="Anna", currency="EUR", normal_side="credit", floor=-5, ceiling=100, code="c", path="anna:wallet",
        metadata='{"a":"1","b":"2"}', kind=None,
    )  # fmt: skip
    assert new_account(ACCOUNT, BOOK, restoring=False) == expected
    assert new_account(replace(ACCOUNT, kind="equity"), BOOK, restoring=False).kind == "equity"
    restored = replace_new(expected, floor=None, ceiling=None, kind="liability")
    assert new_account(ACCOUNT, BOOK, restoring=True) == restored, "its limits come when all else is there"
    assert new_account(replace(ACCOUNT, kind="equity"), BOOK, restoring=True).kind == "equity"
    assert new_account(replace(ACCOUNT, metadata={}), BOOK, restoring=False).metadata is None


def replace_new(one: NewAccount, **more: Any) -> NewAccount:
    return replace(one, **more)


def test_an_account_is_called_by_its_id_or_else_its_path() -> None:
    assert called(ACCOUNT) == "A1"
    assert called(replace(ACCOUNT, id=None)) == "anna:wallet"
    refused("/id", "id_missing", lambda: called(replace(ACCOUNT, id=None, path=None)))


def test_transit_accounts_come_as_ordinary_ones_of_a_copy_and_else_not() -> None:
    transit = replace(ACCOUNT, path="transit:out:other:EUR")
    refused("/path", "account-reserved", lambda: new_account(transit, BOOK, restoring=False))
    assert new_account(transit, BOOK, restoring=True).path == "was-transit:out:other:EUR"
    # In a copy of a copy it gives way to what has become one of the copy's own since.
    copied = replace(ACCOUNT, path="was-transit:out:other:EUR")
    assert new_account(copied, BOOK, restoring=True).path == "was-was-transit:out:other:EUR"
    assert new_account(copied, BOOK, restoring=False).path == "was-transit:out:other:EUR"
    for other in ("was-it", "was-", "was-transit", None):
        assert new_account(replace(ACCOUNT, path=other), BOOK, restoring=True).path == other


def test_limits_are_minor_units_that_fit() -> None:
    assert [limit(text, "/floor") for text in (None, "0", "-5", str(MAX), str(-MAX))] == [None, 0, -5, MAX, -MAX]
    for wrong in (str(MAX + 1), str(-MAX - 1)):
        refused("/floor", "invalid-amount", lambda wrong=wrong: limit(wrong, "/floor"))
    for name in ("floor", "ceiling"):
        record = replace(ACCOUNT, **{name: str(MAX + 1)})
        refused(f"/{name}", "invalid-amount", lambda record=record: new_account(record, BOOK, restoring=False))
    refused(
        "/currency", "unknown-currency", lambda: new_account(replace(ACCOUNT, currency="XXQ"), BOOK, restoring=False)
    )


def test_an_account_says_when_it_was_opened_or_nothing() -> None:
    assert new_account(replace(ACCOUNT, created_at=EARLIER), BOOK, restoring=True).name == "Anna"
    when = replace(ACCOUNT, created_at="2025-99-99T00:00:00Z")
    refused("/created_at", "invalid-request", lambda: new_account(when, BOOK, restoring=True))


def refused(field: str | None, reason: str, what: Any) -> None:
    with pytest.raises(Unfit) as no:
        what()
    assert (no.value.field, no.value.reason) == (field, reason)
    assert str(no.value) == no.value.detail != ""


# ---- openings -----------------------------------------------------------------------------------------------------------


def opening(amount: int, **said: Any) -> AccountRecord:
    return replace(ACCOUNT, opening=MoneyWire(str(amount), said.pop("of", "EUR")), **said)


@pytest.mark.parametrize(
    ("side", "amount", "debits"), [("debit", 1, True), ("debit", -1, False), ("credit", 1, False), ("credit", -1, True)]
)
def test_an_opening_balance_is_in_the_accounts_direction(side: Any, amount: int, debits: bool) -> None:
    unit = reader().opening(opening(amount, normal_side=side, effective_at=EARLIER))
    own, other = account_id(BOOK, "A1"), "equity:opening-balances:EUR"
    debit, credit = (own, other) if debits else (other, own)
    expected = Command(
        kind="post", id=opening_id(BOOK, "A1"), debit=debit, credit=credit, amount=1, currency="EUR", code="opening",
        effective_at=NOW - timedelta(days=1),
    )  # fmt: skip
    assert unit == Unit(BOOK, [expected], atomic=True)


def test_an_opening_balance_comes_from_the_account_that_is_named() -> None:
    unit = reader().opening(opening(5, opening_account="3"))
    assert unit is not None
    assert unit.commands[0].debit == aid(3)
    assert unit.commands[0].effective_at is None


def test_openings_that_are_none_or_wrong() -> None:
    assert reader().opening(ACCOUNT) is None
    assert reader().opening(opening(0)) is None
    assert reader().opening(opening(1)) is not None
    for amount in (MAX, -MAX):
        unit = reader().opening(opening(amount))
        assert unit is not None
        assert unit.commands[0].amount == MAX
    for field, reason, record in (
        ("/opening/currency", "currency_mismatch", opening(5, of="USD")),
        ("/opening/amount", "invalid-amount", opening(MAX + 1)),
        ("/opening/amount", "invalid-amount", opening(-MAX - 1)),
        ("/opening_account", "invalid-id", opening(5, opening_account="?")),
        ("/effective_at", "invalid-request", opening(5, effective_at="2025-99-99T00:00:00Z")),
        ("/id", "id_missing", opening(5, id=None, path=None)),
    ):
        refused(field, reason, lambda record=record: reader().opening(record))


# ---- transfers ----------------------------------------------------------------------------------------------------------


def test_a_transfer_becomes_the_command_that_it_says() -> None:
    said = transfer(code="c", metadata={"b": "2", "a": "1"}, effective_at=EARLIER, credit_account="shop")
    expected = Command(
        kind="post", id=transfer_id(BOOK, "t1"), debit=aid(1), credit="shop", amount=5, currency="EUR", code="c", metadata='{"a":"1","b":"2"}',
        effective_at=NOW - timedelta(days=1),
    )  # fmt: skip
    assert reader().unit(said) == Unit(BOOK, [expected], atomic=False)


TARGET = transfer_id(BOOK, "t0")
OWN = transfer_id(BOOK, "t1")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"kind": "hold", "expires_in": 60}, {"kind": "hold", "debit": aid(1), "credit": aid(2), "amount": 5, "currency": "EUR", "expires_in": 60}),
        ({"kind": "increase", "expires_in": 60}, {"kind": "increase", "target": TARGET, "amount": 5, "currency": "EUR", "expires_in": 60}),
        ({"kind": "capture", "final": True}, {"kind": "capture", "target": TARGET, "amount": 5, "currency": "EUR", "final": True}),
        ({"kind": "capture", "amount": None, "expires_in": 60}, {"kind": "capture", "target": TARGET}),
        ({"kind": "void"}, {"kind": "void", "target": TARGET}),
        ({"kind": "expire"}, {"kind": "void", "target": TARGET}),
        ({"kind": "reverse"}, {"kind": "reverse", "target": TARGET, "amount": 5, "currency": "EUR"}),
        ({"kind": "reverse", "amount": None}, {"kind": "reverse", "target": TARGET}),
    ],
)  # fmt: skip
def test_each_kind_says_what_it_needs(said: dict[str, Any], expected: dict[str, Any]) -> None:
    assert told(transfer(**said)) == Command(id=OWN, **expected)


@pytest.mark.parametrize(
    ("field", "reason", "said"),
    [
        ("/id", "id_missing", {"id": None}),
        ("/id", "invalid-id", {"id": "trf_x"}),
        ("/kind", "invalid-unit", {"debit_account": None}),
        ("/kind", "invalid-unit", {"credit_account": None}),
        ("/kind", "invalid-unit", {"kind": "hold", "credit_account": None}),
        ("/kind", "invalid-unit", {"kind": "capture", "debit_account": "1", "credit_account": "2"}),
        ("/target", "invalid-unit", {"target": "t0"}),
        ("/target", "invalid-unit", {"kind": "hold", "target": "t0"}),
        ("/target", "invalid-unit", {"kind": "void", "target": None}),
        ("/target", "invalid-id", {"kind": "void", "target": "trf_x"}),
        ("/amount", "invalid-unit", {"amount": None}),
        ("/amount", "invalid-unit", {"kind": "hold", "amount": None}),
        ("/amount", "invalid-unit", {"kind": "increase", "amount": None}),
        ("/amount", "invalid-amount", {"amount": MoneyWire("0", "EUR")}),
        ("/amount", "unknown-currency", {"amount": MoneyWire("1", "XXQ")}),
        ("/debit_account", "invalid-id", {"debit_account": "?"}),
        ("/credit_account", "invalid-id", {"credit_account": "?"}),
        ("/effective_at", "invalid-request", {"effective_at": "2025-99-99T00:00:00Z"}),
        ("/effective_at", "invalid-unit", {"kind": "hold", "effective_at": EARLIER}),
        ("/expires_at", "invalid-request", {"kind": "hold", "expires_at": "2025-99-99T00:00:00Z"}),
    ],
)
def test_what_is_wrong_with_a_transfer_and_where(field: str, reason: str, said: dict[str, Any]) -> None:
    refused(field, reason, lambda: reader().unit(transfer(**said)))
    if field != "/id":
        # The same of a transaction's.
        inside = TransactionRecord(id="x", transfers=[leg(), leg(**said)])
        if field == "/effective_at":
            reason = "invalid-unit"
        refused(f"/transfers/1{field}", reason, lambda: reader().unit(inside))


def test_ids_that_the_platform_derived_come_back_with_their_book_only() -> None:
    derived = ids.transfers.text(OWN)
    refused("/id", "invalid-id", lambda: reader().unit(transfer(id=derived)))
    inside = TransactionRecord([leg(id=derived)], "x")
    refused("/transfers/0/id", "invalid-id", lambda: reader().unit(inside))
    assert told(transfer(id=derived), restoring=True).id == OWN
    assert told(transfer(kind="void", target=derived)).target == OWN, "it may be of the book already"


def test_codes_of_the_platforms_own_come_as_others_of_a_copy_and_else_not() -> None:
    code = PAYMENT_CODE.ljust(64, "x")
    refused("/code", "invalid-request", lambda: reader().unit(transfer(code=PAYMENT_CODE)))
    assert told(transfer(code=PAYMENT_CODE), restoring=True).code == f"was-{PAYMENT_CODE}"
    assert told(transfer(code=code), restoring=True).code == f"was-{code}"[:64], "a code has 64 characters"
    assert told(transfer(code=f"my-{PAYMENT_CODE}")).code == f"my-{PAYMENT_CODE}"


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ({}, None),
        ({"expires_in": 60}, 60),
        ({"expires_in": 60, "expires_at": LATER}, 60),
        ({"expires_at": LATER}, 86400),
        ({"expires_at": "2026-01-01T00:00:01.2Z"}, 1.2),
        ({"expires_at": "2026-01-01T00:00:00.9Z"}, 1),
        ({"expires_at": "2026-01-01T00:00:00Z"}, 1),
        ({"expires_at": EARLIER}, 1),
        ({"expires_at": "2999-01-01T00:00:00Z"}, MAX_EXPIRES_IN),
    ],
)
def test_a_hold_expires_when_it_was_to_or_in_a_second(said: dict[str, Any], left: float | None) -> None:
    for kind in ("hold", "increase"):
        at = told(transfer(kind=kind, **said)).expires(NOW)
        assert at == (None if left is None else NOW + timedelta(seconds=left))
    assert told(transfer(kind="post", **said)).expires(NOW) is None


# ---- transactions -------------------------------------------------------------------------------------------------------


def test_a_transaction_is_a_unit_with_a_header() -> None:
    exchange = ExchangeRecord(EUR_5, EUR_5, Rate(1, 1), "down", ["sold", "own"])
    legs = [leg(), leg(id="sold"), leg(id="own", debit_account="2", credit_account="1")]
    record = TransactionRecord(legs, "x", "r", "d", {"b": "2", "a": "1"}, EARLIER, "x0", [exchange])
    own = transaction_id(BOOK, "x")
    unit = reader().unit(record)
    at = NOW - timedelta(days=1)
    assert (unit.book, unit.atomic) == (BOOK, True)
    sold, bought = transfer_id(BOOK, "sold"), transfer_id(BOOK, "own")
    transfers = f'["{ids.transfers.text(sold)}","{ids.transfers.text(bought)}"]'
    assert unit.header == Header(
        id=own, reference="r", description="d", metadata='{"a":"1","b":"2"}', effective_at=at, reverses=transaction_id(BOOK, "x0"),
        exchanges='[{"sold":{"amount":"5","currency":"EUR"},"bought":{"amount":"5","currency":"EUR"},'
        f'"rate":{{"numerator":1,"denominator":1}},"rounding":"down","transfers":{transfers}}}]',
    )  # fmt: skip
    assert [(one.id, one.transaction, one.effective_at) for one in unit.commands] == [
        (leg_id(own, 0), own, at),
        (sold, own, at),
        (bought, own, at),
    ]
    plain = reader().unit(TransactionRecord([leg()], reference="r")).header
    assert plain == Header(id=transaction_id(BOOK, "r"), reference="r")


@pytest.mark.parametrize(
    ("field", "reason", "said"),
    [
        ("/id", "id_missing", {"id": None}),
        ("/id", "invalid-id", {"id": "txn_x"}),
        ("/id", "invalid-id", {"reverses": "txn_x"}),
        ("/effective_at", "invalid-request", {"effective_at": "2025-99-99T00:00:00Z"}),
        ("/effective_at", "invalid-unit", {"effective_at": EARLIER, "transfers": [leg(), leg(kind="hold")]}),
        ("/transfers/1/effective_at", "invalid-unit", {"transfers": [leg(), leg(effective_at=EARLIER)]}),
        ("/transfers/1/id", "invalid-id", {"transfers": [leg(), leg(id="trf_x")]}),
        ("/transfers", "invalid-unit", {"transfers": [leg(id="t1"), leg(id="t1")]}),
    ],
)
def test_what_is_wrong_with_a_transaction_and_where(field: str, reason: str, said: dict[str, Any]) -> None:
    record = TransactionRecord(**{"id": "x", "transfers": [leg()]} | said)
    refused(field, reason, lambda: reader().unit(record))


EXCHANGED = ExchangeRecord(
    EUR_5, MoneyWire("7", "USD"), Rate(8, 5), "down", ["a", "b", "c"], spread=MoneyWire("1", "USD")
)


def exchanging(**said: Any) -> TransactionRecord:
    legs = [leg(id="a"), leg(id="b", amount=EXCHANGED.bought), leg(id="c", amount=EXCHANGED.spread)]
    return TransactionRecord(legs, "x", exchanges=[replace(EXCHANGED, **said)])


@pytest.mark.parametrize(
    ("field", "reason", "said"),
    [
        ("transfers", "invalid-unit", {"sold": MoneyWire("6", "EUR")}),
        ("transfers", "invalid-unit", {"bought": MoneyWire("7", "EUR")}),
        ("transfers", "invalid-unit", {"transfers": ["b", "a", "c"]}),
        ("transfers", "invalid-unit", {"transfers": ["a", "b"]}),
        ("transfers", "invalid-unit", {"transfers": ["a", "b", "elsewhere"]}),
        ("transfers", "invalid-id", {"transfers": ["a", "b", "trf_x"]}),
        ("bought", "invalid-amount", {"bought": MoneyWire("0", "USD")}),
        ("sold", "unknown-currency", {"sold": MoneyWire("5", "XXQ")}),
        ("spread", "invalid-amount", {"spread": MoneyWire("9" * 19, "USD")}),
        ("rate", "invalid-unit", {"rate": Rate(9, 5)}),
        ("rate", "invalid-unit", {"transfers": ["a", "b"], "spread": None}),
    ],
)
def test_an_exchange_is_what_its_legs_and_its_rate_say(field: str, reason: str, said: dict[str, Any]) -> None:
    assert reader().unit(exchanging()).header is not None
    refused(f"/exchanges/0/{field}", reason, lambda: reader().unit(exchanging(**said)))


def test_an_exchange_is_of_what_was_posted_not_of_what_is_held() -> None:
    held = [leg(id="a", kind="hold"), *exchanging().transfers[1:]]
    refused("/exchanges/0/transfers", "invalid-unit", lambda: reader().unit(replace(exchanging(), transfers=held)))


def test_a_transaction_of_today_may_hold() -> None:
    unit = reader().unit(TransactionRecord([leg(kind="hold"), leg(kind="reverse")], "x"))
    assert [one.kind for one in unit.commands] == ["hold", "reverse"]
    back = reader().unit(TransactionRecord([leg(), leg(kind="reverse")], "x", effective_at=EARLIER))
    assert [one.effective_at for one in back.commands] == [NOW - timedelta(days=1)] * 2


# ---- what an export brings back -----------------------------------------------------------------------------------------


def test_what_is_restored_was_done_in_time() -> None:
    for restoring in (True, False):
        one = reader(restoring=restoring)
        units = one.unit(transfer()), one.unit(TransactionRecord([leg(), leg(recorded_at=EARLIER)], "x"))
        assert [unit.restored for unit in units] == [restoring] * 2


def test_long_texts_are_the_platforms_own() -> None:
    """In transfers between books."""
    fits, long = {"a": "x" * MAX_TEXT}, {"a": "x", "b": "x" * (MAX_TEXT + 1)}
    assert told(transfer(metadata=fits)).metadata is not None
    assert told(transfer(metadata=long), restoring=True).metadata is not None
    refused("/metadata", "invalid-request", lambda: told(transfer(metadata=long)))
    refused("/transfers/0/metadata", "invalid-request", lambda: told(TransactionRecord([leg(metadata=long)], "x")))


def test_what_is_restored_is_effective_since_it_was() -> None:
    for said, at in (
        ({"recorded_at": EARLIER}, NOW - timedelta(days=1)),
        ({"recorded_at": "2025-12-31T12:00:00Z", "effective_at": EARLIER}, NOW - timedelta(days=1)),
        ({"recorded_at": LATER}, None),
        ({"recorded_at": "2026-01-01T00:00:00Z"}, None),
        ({}, None),
    ):
        assert told(transfer(**said), restoring=True).effective_at == at
        unit = reader(restoring=True).unit(TransactionRecord([leg(), leg(**said)], "x"))
        assert [one.effective_at for one in unit.commands] == [at] * 2
        assert unit.header is not None
        assert unit.header.effective_at == at
    then = NOW - timedelta(days=1)
    both = [leg(kind="hold"), leg(), leg(kind="capture", target="h", debit_account=None, credit_account=None)]
    for legs, times in (
        ([*both, leg(recorded_at=EARLIER)], [None, then, then, then]),
        ([*both, leg(kind="hold", recorded_at=EARLIER)], [None, then, then, None]),
        ([leg(kind="hold"), leg(kind="hold", recorded_at=EARLIER)], [None, None]),
    ):
        held = reader(restoring=True).unit(TransactionRecord(legs, "x"))
        assert [one.effective_at for one in held.commands] == times, "what is held is held now"
        assert held.header is not None
        assert held.header.effective_at == max(times, key=lambda at: at is not None)
    copied = TransactionRecord([leg(kind="hold", recorded_at=LATER), leg(kind="hold")], "x", effective_at=EARLIER)
    assert [one.effective_at for one in reader(restoring=True).unit(copied).commands] == [None, None]
    copied = TransactionRecord(
        [leg(effective_at=EARLIER), leg(kind="hold", recorded_at=LATER)], "x", effective_at=EARLIER
    )
    assert [one.effective_at for one in reader(restoring=True).unit(copied).commands] == [then, None]
    assert told(transfer(kind="void", recorded_at=EARLIER), restoring=True).effective_at is None
    for kind in ("reverse", "capture"):
        assert told(transfer(kind=kind, recorded_at=EARLIER), restoring=True).effective_at == then
    wrong = "2025-99-99T00:00:00Z"
    refused("/recorded_at", "invalid-request", lambda: reader(restoring=True).unit(transfer(recorded_at=wrong)))
    inside = TransactionRecord([leg(), leg(recorded_at=wrong)], "x")
    refused("/transfers/1/recorded_at", "invalid-request", lambda: reader(restoring=True).unit(inside))


def test_an_export_names_the_accounts_of_every_transfer() -> None:
    command = told(transfer(kind="capture", debit_account="1", credit_account="2"), restoring=True)
    assert (command.debit, command.credit, command.target) == (None, None, TARGET)
    opened = told(transfer(debit_account=None, credit_account=None), restoring=True)
    assert (opened.debit, opened.credit) == (None, None)


def test_a_restored_capture_was_final_if_it_released_more() -> None:
    for kind, said, final in (
        ("capture", {"released": MoneyWire("6", "EUR")}, True),
        ("capture", {"released": EUR_5, "final": True}, False),
        ("capture", {"final": True}, True),
        ("capture", {"released": MoneyWire("6", "EUR"), "amount": None}, False),
        ("reverse", {"released": MoneyWire("6", "EUR")}, False),
    ):
        assert told(transfer(kind=kind, **said), restoring=True).final is final
    assert told(transfer(kind="capture", released=MoneyWire("6", "EUR"))).final is False


def posted(number: int) -> Transfer:
    found: State = state(account(1), account(2))
    (made,) = decide([Unit(1, [hold(number, 1, 2, 5)], atomic=False)], found, NOW).transfers
    return made


def test_what_time_and_balances_decided_is_as_it_was() -> None:
    made, own = posted(5), ids.transfers.text(tid(5))
    void = replace(made, kind="void")

    def back(*records: TransferRecord, restoring: bool = True, of: Transfer = made) -> Transfer:
        again = reader(restoring=restoring)
        for record in records:
            again.unit(record)
        return again.as_it_was(of)

    more, less = MoneyWire("9", "EUR"), MoneyWire("4", "EUR")
    assert back(transfer(id=own)) == made
    assert back(transfer(id=own, kind="expire"), of=void) == replace(made, kind="expire")
    assert back(transfer(id=own, kind="expire"), of=void, restoring=False) == void
    assert back(transfer(id=own, kind="expire")) == made, "another record with this id was posted, and it was a hold"
    for kind in ("post", "hold"):
        assert back(transfer(id=own, kind=kind, asked=more)) == replace(made, asked=9)
        assert back(transfer(id=own, kind=kind, asked=EUR_5)) == replace(made, asked=5)
        refused("/asked", "invalid-amount", lambda kind=kind: back(transfer(id=own, kind=kind, asked=less)))
    assert back(transfer(id=own, kind="capture", asked=more)) == made
    assert back(transfer(id=own, asked=more, amount=MoneyWire("8", "EUR"))) == made
    assert back(transfer(id=own, asked=more), transfer(id=own, amount=MoneyWire("8", "EUR"))) == replace(made, asked=9)
    assert back(transfer(id=own, asked=more), of=void) == void
    posted_as = replace(made, kind="post")
    assert back(transfer(id=own, asked=more), of=posted_as) == replace(posted_as, asked=9)
    assert back(transfer(id=own, asked=more), restoring=False) == made
    assert back(transfer(id="another", asked=more)) == made
    refused("/asked", "invalid-amount", lambda: back(transfer(asked=MoneyWire("0", "EUR"))))


def test_an_import_counts_on_from_where_it_was() -> None:
    row = ImportRow(
        id=ids.imports.new(), book=1, book_name="main", tenant="acme", actor="cli", mode="whole", dry_run=False, state="open", rows=9, sha256=b"",
        wanted_sequence=None, staged=9, line=1, tries=0, accounts=2, accounts_known=3, transfers=4, transfers_known=5, refused=6, reason=None,
        sequence=None, created_at=START, finished_at=None,
    )  # fmt: skip
    assert Tally.of(row) == Tally(line=1, accounts=2, accounts_known=3, transfers=4, transfers_known=5, refused=6)
