"""Reading the logs of all processes as one, and keeping them small."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.local import logs
from tallystick.local.layout import Layout
from tallystick.local.session import Journal

T = "ab" * 16
BEFORE = datetime(2020, 1, 1, tzinfo=UTC)


def at(second: int) -> str:
    return (datetime(2026, 5, 1, 10, 0, tzinfo=UTC) + timedelta(seconds=second)).isoformat()


@pytest.mark.parametrize(
    ("raw", "moment"),
    [
        (b"2026-11-23 16:58:53.123 UTC [77] LOG:  database system is ready", (16, 58, 53, 123000)),
        (b"[88] 2026/11/23 16:58:53.123456 [INF] Server is ready", (16, 58, 53, 123456)),
        (b"99:M 23 Nov 2026 16:58:53.123 * Ready to accept connections", (16, 58, 53, 123000)),
        (b'{"time":"2026-11-23T16:58:53.123456Z","event":"x"}', (16, 58, 53, 123456)),
        (b'{"at":"2026-11-23T16:58:53.123Z","event":"x"}', (16, 58, 53, 123000)),
    ],
)
def test_each_program_writes_its_time_in_its_own_way(raw: bytes, moment: tuple[int, int, int, int]) -> None:
    line = logs.parse("x", raw, BEFORE)
    hour, minute, second, micros = moment
    assert line.at == datetime(2026, 11, 23, hour, minute, second, micros, tzinfo=UTC)


@given(st.binary(max_size=200))
def test_no_line_is_too_strange(raw: bytes) -> None:
    line = logs.parse("x", raw, BEFORE)
    assert line.at.tzinfo is not None


@pytest.mark.parametrize(
    "raw", [b'{"time": 7}', b'{"time": "yesterday"}', b'{"time": "2026-11-23T16:58:53"}', b"  at line 3"]
)
def test_a_line_without_a_time_stays_with_the_one_before(raw: bytes) -> None:
    assert logs.parse("x", raw, BEFORE).at == BEFORE


def write(directory: Path, name: str, *lines: str) -> None:
    (directory / name).write_text("".join(line + "\n" for line in lines))


def test_all_processes_by_time(tmp_path: Path) -> None:
    write(tmp_path, "ledger-0.log", f'{{"time":"{at(1)}","event":"a"}}', f'{{"time":"{at(4)}","event":"d"}}')
    write(tmp_path, "ledger-1.log", f'{{"time":"{at(2)}","event":"b"}}')
    write(tmp_path, "ledger-1.log.1", f'{{"time":"{at(0)}","event":"older"}}')
    write(tmp_path, "risk-0.log", f'{{"time":"{at(3)}","event":"c","trace":"{T}"}}')

    def events(**options: str) -> list[str]:
        return [line.fields["event"] for line in logs.Lines(tmp_path, **options).read() if line.fields]

    assert events() == ["older", "a", "b", "c", "d"]
    assert events(process="ledger") == ["older", "a", "b", "d"]
    assert events(process="ledger-1") == ["older", "b"]
    assert events(trace=T) == ["c"]
    assert events(process="led") == []


async def test_following_sees_new_lines_and_survives_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "risk-0.log"
    write(tmp_path, "risk-0.log", f'{{"time":"{at(0)}","event":"old"}}')
    lines = logs.Lines(tmp_path)
    assert len(list(lines.read())) == 1
    seen: list[str] = []

    async def follow() -> None:
        async for line in lines.follow():
            seen.append(str(line.fields["event"] if line.fields else line.text))  # noqa: PERF401 - it never ends

    task = asyncio.create_task(follow())
    try:
        with path.open("a") as file:
            file.write(f'{{"time":"{at(1)}","event":"new"}}\n{{"time":"{at(2)}","eve')
        async with asyncio.timeout(60):
            while seen != ["new"]:
                await asyncio.sleep(0.02)
        with path.open("a") as file:
            file.write('nt":"whole"}\n')
        async with asyncio.timeout(60):
            while seen != ["new", "whole"]:
                await asyncio.sleep(0.02)
        with path.open("a") as file:  # not seen before the cut
            file.write(f'{{"time":"{at(3)}","event":"before"}}\n')
        assert logs.cut(path, 1)
        with path.open("a") as file:
            file.write(f'{{"time":"{at(4)}","event":"after"}}\n' * 9)
        async with asyncio.timeout(60):
            while seen != ["new", "whole", "before", *["after"] * 9]:
                await asyncio.sleep(0.02)
    finally:
        task.cancel()


@pytest.mark.parametrize("seed", range(20))
def test_each_line_is_read_once_whenever_the_file_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(logs, "CHUNK", 50)
    chance = random.Random(seed)
    path, stream, written = tmp_path / "risk-0.log", b"".join(b"line %d\n" % number for number in range(2000)), 0
    lines, was_cut, seen = logs.Lines(tmp_path), False, list[str]()
    reading = lines.read()
    while written < len(stream) or was_cut:
        if written < len(stream):
            size = chance.randrange(1, 60)
            with path.open("ab") as file:
                file.write(stream[written : written + size])
            written += size
        if not was_cut and chance.random() < 0.2:
            was_cut = logs.cut(path, 1)
        seen += [line.text for line in itertools.islice(reading, chance.randrange(10))]
        if chance.random() < 0.2 or written >= len(stream):
            seen += [line.text for line in itertools.chain(reading, lines.read())]
            reading, was_cut = lines.read(), False
    assert seen == [f"line {number}" for number in range(2000)]


def test_the_last_line_is_shown_though_it_has_no_end(tmp_path: Path) -> None:
    (tmp_path / "nats.log").write_text("one\ntw")
    lines = logs.Lines(tmp_path)
    assert [line.text for line in lines.read()] == ["one"]
    assert [line.text for line in lines.unfinished()] == ["tw"]


def test_a_log_is_not_cut_while_somebody_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "nats.log"
    path.write_text("x" * 100)
    with path.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert not logs.cut(path, 10)
    assert logs.cut(path, 10)


def test_a_long_log_is_put_aside_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "nats.log"
    with path.open("a") as writer:
        writer.write("x" * 100 + "\n")
        writer.flush()
        assert not logs.cut(path, 1000)
        assert logs.cut(path, 100)
        writer.write("next\n")
    assert path.read_text() == "next\n"
    older = tmp_path / "nats.log.1"
    assert older.read_text() == "x" * 100 + "\n"
    assert older.stat().st_mode & 0o777 == 0o600
    assert not logs.cut(tmp_path / "gone.log", 1)


def test_a_log_that_finds_no_room_to_be_put_aside_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end was still to be written when it was cut, and half a copy took room on the full disk."""
    path = tmp_path / "nats.log"
    path.write_text("x" * 100)
    (tmp_path / "nats.log.2").symlink_to("/dev/full")
    monkeypatch.setattr(os, "fchmod", lambda *_: None)
    with pytest.raises(OSError, match="No space"):
        logs.cut(path, 10)
    assert [each.name for each in tmp_path.iterdir()] == ["nats.log"]
    assert path.read_text() == "x" * 100


def test_what_went_wrong_stands_out_in_the_supervisors_log(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.logs.mkdir()
    journal = Journal(layout)
    for phase, detail in (("ready", ""), ("restarting", "it ended"), ("rejected", "no such filter")):
        journal.process("envoy", phase, detail)
    ready, *wrong = [line.fields or {} for line in logs.Lines(layout.logs).read()]
    assert ready["level"] == "info"
    assert "detail" not in ready
    assert [(each["event"], each["level"], each["detail"]) for each in wrong] == [
        ("process.restarting", "warning", "it ended"),
        ("process.rejected", "error", "no such filter"),
    ]
