"""Clients ask for everything at once while ledgers are killed and PostgreSQL is: what they are told is what one ledger would have said.

The method is Jepsen's for TigerBeetle: the order comes from the numbers in the answers, unknown outcomes are read at the end, the rest is replayed on
a model with one thread, and held against real time. See tests/support/history.py.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tallystick.cli.apiclient import ApiClient
from tallystick.cli.credentials import Credentials
from tests.system.conftest import PlatformUnderTest, replicated
from tests.system.recorder import Recorder

SCOPE = "accounts:write accounts:read transfers:write transfers:read"
#: Seconds of load in each test, and for how many more a busy machine may take to answer enough of it.
LOAD_S = 10
PATIENCE_S = 60


@pytest.fixture(scope="module")
def doubled() -> Iterator[PlatformUnderTest]:
    with replicated(ledger=2) as one:
        yield one


def tenant(platform: PlatformUnderTest, directory: Path, name: str) -> Credentials:
    """A tenant of its own: its book is this test's alone."""
    file = directory / f"{name}.json"
    assert platform.cli("tenant", "create", name).status == 0
    done = platform.cli("client", "create", "recorder", "--tenant", name, "--scope", SCOPE, "--out", str(file))
    assert done.status == 0, done.err
    return Credentials.load(file)


async def nemesis(platform: PlatformUnderTest, rng: random.Random, killed: list[str]) -> None:
    """kill -9 of one ledger, of the other, of both, of PostgreSQL; each while the last victim is still coming back, or after."""
    plan = [["ledger-0"], ["ledger-1"], ["postgres"], ["ledger-0", "ledger-1"]]
    rng.shuffle(plan)
    for names in plan:
        await asyncio.sleep(rng.uniform(0.5, 2.0))
        for name in names:
            # On a busy machine the last victim may not be back yet; this one is killed all the same, only later.
            for _ in range(100):
                with suppress(ProcessLookupError, KeyError, TypeError):
                    os.kill((await asyncio.to_thread(platform.pids))[name], signal.SIGKILL)
                    killed.append(name)
                    break
                await asyncio.sleep(0.1)


async def recorded(
    platform: PlatformUnderTest,
    credentials: Credentials,
    seed: int,
    *,
    repeat: bool,
    enough: Callable[[Recorder], bool],
) -> Recorder:
    rng = random.Random(seed)
    # One attempt: what is not answered is to be seen here, not healed by the client.
    async with ApiClient(credentials, connections=24, attempts=1, timeout=8) as api:
        recorder = Recorder(api, rng)
        await recorder.open()
        clients = [asyncio.create_task(recorder.client()) for _ in range(4 if repeat else 10)]
        if repeat:
            clients += [asyncio.create_task(recorder.repeater()) for _ in range(4)]
        killed: list[str] = []
        trouble = asyncio.create_task(nemesis(platform, rng, killed))
        await asyncio.sleep(LOAD_S)
        await trouble
        for _ in range(PATIENCE_S):
            if enough(recorder):
                break
            await asyncio.sleep(1)
        recorder.stopping = True
        await asyncio.gather(*clients)
        await asyncio.to_thread(platform.until_ready)
        anomalies = await recorder.judged(40)
    assert not anomalies, f"seed {seed}: {len(anomalies)} anomalies, first {anomalies[:3]}"
    assert len(killed) >= 4
    return recorder


def much_was_decided(recorder: Recorder) -> bool:
    told = [one for attempt in recorder.attempts for one in attempt.told or ()]
    decided = sum(one.status != "rejected" for one in told)
    return decided > 100 and {"insufficient_funds"} < {one.reason for one in told}


def much_was_answered_twice(recorder: Recorder) -> bool:
    answers = Counter(attempt.moves[0].id for attempt in recorder.attempts if attempt.told is not None)
    return sum(count > 1 for count in answers.values()) > 30


@pytest.fixture
def seed(record_property: Callable[[str, object], None]) -> int:
    """Printed when the test fails. It fixes what is asked and when what is killed; the machine decides the rest."""
    chosen = int(os.environ.get("HISTORY_SEED") or secrets.randbelow(2**32))
    record_property("seed", chosen)
    print(f"HISTORY_SEED={chosen}")
    return chosen


def test_all_answers_are_those_of_one_ledger(doubled: PlatformUnderTest, tmp_path: Path, seed: int) -> None:
    credentials = tenant(doubled, tmp_path, f"history-{seed}")
    recorder = asyncio.run(recorded(doubled, credentials, seed, repeat=False, enough=much_was_decided))
    print(f"{len(recorder.attempts)} requests, {len(recorder.reads)} reads, unanswered {dict(recorder.unanswered)}")
    assert much_was_decided(recorder)
    assert recorder.unanswered, "nothing was lost: the trouble did not reach anybody"


def test_a_request_that_is_repeated_has_one_effect(doubled: PlatformUnderTest, tmp_path: Path, seed: int) -> None:
    credentials = tenant(doubled, tmp_path, f"repeats-{seed}")
    recorder = asyncio.run(recorded(doubled, credentials, seed, repeat=True, enough=much_was_answered_twice))
    print(f"{len(recorder.attempts)} requests, unanswered {dict(recorder.unanswered)}")
    assert much_was_answered_twice(recorder)
    assert recorder.unanswered, "nothing was lost: the trouble did not reach anybody"
