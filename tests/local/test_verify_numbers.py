"""The search for card numbers and IBANs: what it must find, and what only looks like one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tallystick.kernel.luhn import check_digit
from tallystick.kernel.numbers import brand_of, found_in
from tallystick.local.layout import Layout
from tallystick.local.rail.rules import BEHAVIOURS
from tallystick.local.verify.numbers import numbers, search
from tallystick.local.verify.source import Source
from tests.conftest import DatabaseFor
from tests.support.snapshots import snapshots


@pytest.mark.parametrize(
    "text",
    [
        b'{"number":"4242424242424242"}',
        b"4000000000000002",
        b"card=4111111111111111;",
        b'{"spanish":"4111111111111111"}',
        b"\x00\x104242424242424242\x00",
        b"5555555555554444",  # Mastercard
        b"2223003122003222",
        b"378282246310005",  # American Express
        b"3782 822463 10005",
        b"6011111111111117",  # Discover
        b"6212345678901232",  # UnionPay
        b"4222222222222",  # Visa of 13 digits
        b"4111 1111 1111 1111",
        b"4111-1111-1111-1111",
        b"4111.1111.1111.1111",
        b"3782.822463.10005",
        "4111\u00a01111\u00a01111\u00a01111".encode(),
        "4111\u20111111\u20111111\u20111111".encode(),
        "4111\u202f1111\u202f1111\u202f1111".encode(),
        "4111\u30001111\u30001111\u30001111".encode(),
        b"2026 4111 1111 1111 1111",
        b"4242 4242 4242 4242 12",  # and a month
        b"value4111111111111111",
        b"x4111111111111111",
        b"card.4111111111111111.",
        b"DE89370400440532013000",
        b'"GB82 WEST 1234 5698 7654 32"',
        b"iban:NO9386011117947;",
    ],
)
def test_a_number_in_clear_is_found(text: bytes) -> None:
    (found,) = numbers(text)
    assert not found.joined
    assert found.text.startswith((*"23456", "*", "DE", "GB", "NO"))
    assert "******" in found.text
    assert text not in found.text.encode()


@pytest.mark.parametrize(
    "text",
    [
        b"4111111111111112",  # the check digit is wrong
        b"41111111111111110",  # seventeen digits
        b"9111111111111111",  # nobody's range
        b"a4111111111111111",  # in a hexadecimal word
        b"4242424242424242c3f1e51cffaad80a",
        b'"00-b2244242424242424242c3f1e51cffaa-01"',
        b"\\x4111111111111111",  # bytes as PostgreSQL prints them: the id of a key
        b'{"trace":"...","span":"4111111111111111","parent":"4111111111111111"}',
        b"2026.4111111111111111",
        b"0.4111111111111111",
        b"41111111111111.11",
        b"01a24111-1111-1111-1111-3a716f8dac0e",  # a UUID
        b"01a2f3e1-8d10-4c5e-91aa-4222222222222",  # a UUID and the next column's length
        b"4111 1111-1111 1111",
        b"1795946089314235722",  # nanoseconds
        b"DE89370400440532013001",
        b"DE8937040044053201300",
        b"XX89370400440532013000",
        b"aDE89370400440532013000b",
    ],
)
def test_what_only_looks_like_one_is_not(text: bytes) -> None:
    assert not list(numbers(text))


def test_the_sandboxs_own_numbers_are_found_like_any_other() -> None:
    for number in BEHAVIOURS:
        assert list(numbers(number.encode())) == [(f"{number[:6]}******{number[-4:]}", False)]


@given(st.binary(max_size=20), st.from_regex(r"[2-68][0-9]{11,17}", fullmatch=True), st.binary(max_size=20))
def test_a_number_is_found_whatever_is_around_it(before: bytes, digits: str, after: bytes) -> None:
    number = digits + check_digit(digits)
    found = list(numbers(before + b" " + number.encode() + b"\n" + after))
    assert bool(found) is (brand_of(number) != "unknown")


@given(st.binary(max_size=2), st.from_regex(r"[0-9a-f]{32}", fullmatch=True), st.binary(max_size=2))
@example(b"VC", "4222222222222a339a116d6c4ce020ff", b"\0")
@example(b"\0", "a339a116d6c4ce020f4222222222222a", b"x")
def test_an_id_is_none_whatever_bytes_are_around_it(before: bytes, identity: str, after: bytes) -> None:
    assert not list(numbers(before + identity.encode() + after))


@given(st.binary(max_size=2), st.from_regex(r"[0-9a-f]{16,31}", fullmatch=True), st.binary(max_size=2))
@example(b"!", "36123456789013ab", b"Cx")
@example(b"!", "a36123456789013b", b"Cx")
@example(b"1z", "36123456789013ab", b"z")
def test_nor_is_a_shorter_one_whatever_columns_are_around_it(before: bytes, identity: str, after: bytes) -> None:
    """As a key of a client's is, in PostgreSQL's files. A digit beside it makes of it a number that is not the word's."""
    assume(re.search("[a-f]", identity) and not before[-1:].isdigit() and not after[:1].isdigit())
    assert not list(numbers(before + identity.encode() + after, columns=True))


@pytest.mark.parametrize("number", ["4242424242424242", "378282246310005", "4222222222222"])
@pytest.mark.parametrize("after", [b"C\x8f", b"CA", b"?cli_", b"Kx", b"\0"])
def test_a_number_is_one_whatever_column_follows(number: str, after: bytes) -> None:
    assert list(numbers(b"#" + number.encode() + after, columns=True))


@given(
    st.sampled_from(["pay_", "trf_", "tok_", "fp_"]),
    st.from_regex(r"[0-7][0-9a-hjkmnp-tv-z]{25}", fullmatch=True),
    st.binary(max_size=3),
)
@example("tok_", "0zk4222222222222zkwhqv3m9x", b"g")
@example("pay_", "01m8nh3522g4222222222222zk", b"x")
@example("fp_", "4111111111111111k9x8w7v6t5", b"\0")
def test_a_platforms_id_is_none(prefix: str, identity: str, after: bytes) -> None:
    """Nor with a letter beside it, as the next column's bytes may be; a digit there makes a number of it that is not the id's."""
    if not after[:1].isdigit():
        assert not list(numbers(b'"' + prefix.encode() + identity.encode() + after))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"pan_4111111111111111", "411111******1111"),
        (b"pan-4111111111111111-x", "411111******1111"),
        (b"tok_4111111111111111", "411111******1111"),
        (b"tok_4111111111111111-0123456789", "411111******1111"),
        (b"iban-NO9386011117947;", "NO******7947"),
    ],
)
def test_a_number_that_is_joined_to_a_word_is_told_apart(text: bytes, shown: str) -> None:
    assert list(numbers(text)) == [(shown, True)]


class NoDatabases(Source):
    def __init__(self) -> None:
        self.services = []


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        (b"c4222222222222a339a116d6c4ce020f", []),  # an id, its digits on the first page alone
        (b"\0card 4242424242424242\0", ["424242******4242"]),
    ],
)
@pytest.mark.parametrize("page", [1, 2])
async def test_a_word_that_crosses_from_one_page_of_the_log_to_the_next_is_read_whole(
    tmp_path: Path, record: bytes, shown: list[str], page: int
) -> None:
    cut = 14
    log = bytearray(3 * 8192)
    log[page * 8192 - cut : page * 8192] = record[:cut]
    log[page * 8192 : page * 8192 + 24] = b"\x18\xd1" + bytes(22)
    log[page * 8192 + 24 : page * 8192 + 24 + len(record) - cut] = record[cut:]
    segment = tmp_path / "postgres" / "pg_wal" / "000000010000000000000007"
    segment.parent.mkdir(parents=True)
    segment.write_bytes(log)
    faults, _ = await search(NoDatabases(), Layout(tmp_path))
    assert faults == [f"postgres/pg_wal/000000010000000000000007: {number}" for number in shown]


async def test_how_much_room_pages_have_is_none(tmp_path: Path) -> None:
    """Of a table of a few thousand pages a run of such bytes passed the check of a card's digits."""
    table = tmp_path / "postgres" / "base" / "16400" / "18108"
    table.parent.mkdir(parents=True)
    for name, found in (("18108_fsm", 0), ("18108_vm", 0), ("18108", 1)):
        table.with_name(name).write_bytes(b"\x00(4222222222222(\x7f")
        assert len((await search(NoDatabases(), Layout(tmp_path)))[0]) == found, name


async def test_what_nats_sums_up_a_streams_settings_in_is_none(tmp_path: Path) -> None:
    stream = tmp_path / "nats" / "jetstream" / "facts"
    stream.mkdir(parents=True)
    (stream / "meta.sum").write_text("4111111111111111")
    assert (await search(NoDatabases(), Layout(tmp_path)))[0] == []
    (stream / "meta.inf").write_text("4111111111111111")
    assert len((await search(NoDatabases(), Layout(tmp_path)))[0]) == 1


async def test_what_a_client_may_write_is_said_and_is_no_fault(database_for: DatabaseFor, tmp_path: Path) -> None:
    """One in forty order numbers of sixteen digits looks like a card's. The edge took them behind a word, and the search held for ever no more."""
    database = await database_for("tallystick.services.notify")
    await database.query("CREATE TABLE planted (words text)")
    await database.query("INSERT INTO planted VALUES ('order-4111111111111111')")
    assert found_in("order-4111111111111111") is None
    async with snapshots({"notify": database}) as source:
        faults, looked = await search(source, Layout(tmp_path))
    assert faults == []
    assert looked.endswith("1 joined to a word, as an id's digits are, such as notify.planted: 411111******1111")


async def test_what_a_client_may_write_is_in_no_log(tmp_path: Path) -> None:
    for folder in ("nats", "postgres", "valkey", "logs", "traces"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "text").write_text("pan_4111111111111111\n")
    faults, looked = await search(NoDatabases(), Layout(tmp_path))
    assert faults == ["logs/text: 411111******1111", "traces/text: 411111******1111"]
    assert "3 joined to a word, as an id's digits are, such as nats/text" in looked


async def test_it_is_found_in_files_and_in_every_kind_of_column_for_texts(
    database_for: DatabaseFor, tmp_path: Path
) -> None:
    database = await database_for("tallystick.services.notify")
    await database.query(
        "CREATE TABLE planted (id uuid, words text, many text[], document jsonb, content bytea, amount numeric, big bigint, seen timestamptz)"
    )
    await database.query("CREATE TABLE numbers_only (big bigint)")
    await database.query("INSERT INTO planted (amount, big) VALUES (4222222222222, 4111111111111111)")
    (tmp_path / "log").write_text("nothing\n")

    async def search_all() -> list[str]:
        async with snapshots({"notify": database}) as source:
            faults, _ = await search(source, Layout(tmp_path))
            return faults

    assert await search_all() == [], "a sum of money is no card"
    await database.query(
        "INSERT INTO planted (words, many, document, content) VALUES ($1, $2, $3, $4)",
        "5555 5555 5555 4444", ["x", "DE89370400440532013000"], '{"pan": "378282246310005"}', b'\x00{"pan":"6011111111111117"}',
    )  # fmt: skip
    (tmp_path / "log").write_text("card 4111-1111-1111-1111\n")
    assert sorted(await search_all()) == [
        "log: 411111******1111",
        "notify.planted: ******0005",
        "notify.planted: 555555******4444",
        "notify.planted: 601111******1117",
        "notify.planted: DE******3000",
    ]
    await database.query("DELETE FROM planted WHERE words IS NOT NULL")
    for between in ("\u00a0", "\u3000", "\uff0d", "\u2014", "."):
        await database.query("DELETE FROM planted")
        await database.query("INSERT INTO planted (words) VALUES ($1)", between.join(("5555", "5555", "5555", "4444")))
        assert "notify.planted: 555555******4444" in await search_all(), ascii(between)
