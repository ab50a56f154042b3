"""Keeping processes alive, with real processes."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tallystick.kernel.clock import SystemClock
from tallystick.local import supervisor
from tallystick.local.parts import Child
from tallystick.local.supervisor import FIRST_DELAY, LONGEST_DELAY, Keeper, StartFailed, next_delay


class Script:
    """A part that is a Python script; ready when it wrote the file `ready`."""

    name = "script"
    version = "1"

    def __init__(self, directory: Path, code: str) -> None:
        self.directory = directory
        self.flag = directory / "ready"
        self.starts = 0
        self.answers = True
        self.child = Child("script", [sys.executable, "-c", code], log=directory / "script.log", directory=directory)

    @property
    def pid(self) -> int | None:
        return self.child.pid

    async def start(self) -> None:
        self.starts += 1
        self.flag.unlink(missing_ok=True)
        await self.child.start()
        await self.child.until_ready(self.ready, within=60)

    async def ready(self) -> bool:
        return self.child.running and self.flag.exists() and self.answers

    async def alive(self) -> bool:
        return self.answers

    def kill(self, number: signal.Signals) -> bool:
        return self.child.send(number)

    async def stop(self) -> None:
        await self.child.stop()

    async def exited(self) -> int:
        return await self.child.wait()


RUNS = "import pathlib, time; pathlib.Path('ready').touch(); time.sleep(600)"


@asynccontextmanager
async def kept(script: Script, attempts: int = 1) -> AsyncIterator[tuple[Keeper, list[str]]]:
    phases: list[str] = []

    def note(keeper: Keeper) -> None:
        phases.append(keeper.view.phase)

    keeper = Keeper(script, name="script", clock=SystemClock(), on_change=note, attempts=attempts)
    keeper.start()
    try:
        yield keeper, phases
    finally:
        await keeper.stop()
        assert script.pid is None


async def until(condition: Callable[[], bool | Awaitable[bool]], within: float = 60) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.02)


async def test_what_dies_is_started_again(directory: Path) -> None:
    script = Script(directory, RUNS)
    async with kept(script) as (keeper, phases):
        await keeper.until_ready()
        assert keeper.view.version == "1"
        for times in (1, 2):
            first = script.pid
            script.version = f"{times}.1"  # installed while the old one runs
            script.kill(signal.SIGKILL)
            await until(lambda times=times: keeper.view.restarts == times and keeper.view.ready)  # type: ignore[misc]
            assert script.pid not in (None, first)
            assert keeper.view.version == f"{times}.1"
        assert keeper.view.error == "ended by SIGKILL"
        assert keeper.view.pid == script.pid
    assert phases[:2] == ["starting", "ready"]
    assert "restarting" in phases
    assert phases[-2:] == ["stopping", "stopped"]


async def test_what_never_gets_ready_is_given_up_at_the_first_start(directory: Path) -> None:
    script = Script(directory, "import sys; print('no room left'); sys.exit(3)")
    async with kept(script, attempts=2) as (keeper, _):
        with pytest.raises(StartFailed, match=r"(?s)^script ended with status 3.*no room left"):
            await keeper.until_ready()
        assert script.starts == 2


async def test_a_first_start_without_what_it_needs_is_tried_again_when_that_is_back(directory: Path) -> None:
    """The supervisor would have had it back in a second, and the whole start failed."""
    (directory / "need").mkdir()
    need = Script(directory / "need", RUNS)
    dies = f"import pathlib, sys\nif not pathlib.Path('{directory}/back').exists(): sys.exit(1)\n{RUNS}"
    script = Script(directory, dies)
    async with kept(need) as (needed, _):
        await needed.until_ready()
        keeper = Keeper(script, name="script", clock=SystemClock(), on_change=lambda _: None, needs=[needed])
        start = script.start

        async def killing() -> None:
            if script.starts == 0:
                need.kill(signal.SIGKILL)
                await until(lambda: not needed.view.ready)
            else:
                (directory / "back").touch()
            await start()

        script.start = killing  # type: ignore[method-assign]
        keeper.start()
        try:
            await keeper.until_ready()
            assert (needed.view.restarts, keeper.view.restarts, script.starts) == (1, 1, 2)
        finally:
            await keeper.stop()
        (directory / "back").unlink()
        given_up = Keeper(Script(directory, dies), name="script", clock=SystemClock(), on_change=lambda _: None, needs=[needed])  # fmt: skip
        given_up.start()
        with pytest.raises(StartFailed, match=r"^script ended with status 1"):  # what it needs was there
            await given_up.until_ready()


async def test_who_needs_what_does_not_come_back_is_told(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor.Keeper.until_back, "__defaults__", (0.2,))
    (directory / "need").mkdir()
    once = "import pathlib, sys\nif pathlib.Path('once').exists(): sys.exit('no room left')\npathlib.Path('once').touch()\n"
    need = Script(directory / "need", once + RUNS)
    async with kept(need) as (needed, _):
        await needed.until_ready()
        need.kill(signal.SIGKILL)
        await until(lambda: "no room left" in str(needed.view.error))
        script = Script(directory, "raise SystemExit(1)")
        keeper = Keeper(script, name="script", clock=SystemClock(), on_change=lambda _: None, needs=[needed])
        keeper.start()
        told = r"(?s)^script went away and is not back after 0\.2 s: .*no room left"
        with pytest.raises(StartFailed, match=told):
            await keeper.until_ready()
        assert (script.starts, keeper.view.phase) == (1, "failed")


async def test_what_is_done_on_a_unit_is_done_again_when_that_is_back(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "CHECK_EVERY", 0.05)
    script = Script(directory, RUNS)
    times = 0

    async def work() -> int:
        nonlocal times
        times += 1
        if times < 3:
            script.kill(signal.SIGKILL)
            raise ConnectionResetError
        return times

    async with kept(script) as (keeper, _):
        await keeper.until_ready()
        assert await keeper.served(work, lambda error: isinstance(error, OSError)) == 3
        times = 0
        with pytest.raises(ConnectionResetError):
            await keeper.served(work, lambda _: False)
        monkeypatch.setattr(supervisor, "TIMES_AWAY", 2)
        times = 0
        with pytest.raises(ConnectionResetError):
            await keeper.served(work, lambda _: True)
        assert times == 2


async def test_what_was_ready_once_is_never_given_up(directory: Path) -> None:
    code = (
        "import pathlib, sys, time\n"
        "n = len(list(pathlib.Path('.').glob('run-*'))); pathlib.Path(f'run-{n}').touch()\n"
        "if n in (1, 2): sys.exit(1)\n"
        "pathlib.Path('ready').touch()\n"
        "while n or not pathlib.Path('end').exists(): time.sleep(0.01)\n"
    )
    script = Script(directory, code)
    async with kept(script) as (keeper, _):
        await keeper.until_ready()
        (directory / "end").touch()
        await until(lambda: script.starts == 4 and keeper.view.ready)
        assert keeper.view.restarts == 3


async def test_what_is_kept_does_not_depend_on_who_is_told(directory: Path) -> None:
    """A full disk, say: the supervisor's own log can't be written."""
    script = Script(directory, RUNS)
    full = asyncio.Event()

    def note(keeper: Keeper) -> None:
        if full.is_set():
            raise OSError(28, "No space left on device")

    keeper = Keeper(script, name="script", clock=SystemClock(), on_change=note)
    keeper.start()
    try:
        await keeper.until_ready()
        full.set()
        first = script.pid
        assert first is not None
        script.kill(signal.SIGKILL)
        await until(lambda: script.pid not in (None, first) and keeper.view.phase == "ready")
    finally:
        await keeper.stop()
    assert script.starts == 2


async def test_what_can_not_be_looked_at_is_not_ready_and_goes_on_being_kept(directory: Path) -> None:
    script = Script(directory, RUNS)
    plain = script.ready

    async def bad() -> bool:
        raise ValueError("something else answers there")

    async with kept(script) as (keeper, _):
        await keeper.until_ready()
        script.ready = bad  # type: ignore[method-assign]
        await until(lambda: keeper.view.phase == "unready")
        assert keeper.view.error == "ValueError: something else answers there"
        script.ready = plain  # type: ignore[method-assign]
        await until(lambda: keeper.view.phase == "ready")
        script.kill(signal.SIGKILL)
        await until(lambda: script.starts == 2 and keeper.view.phase == "ready")


async def test_a_start_that_fails_in_an_unforeseen_way_is_told(directory: Path) -> None:
    script = Script(directory, RUNS)

    async def bad() -> bool:
        raise ValueError("what is this")

    script.ready = bad  # type: ignore[method-assign]
    async with kept(script) as (keeper, _):
        with pytest.raises(StartFailed, match="script ValueError: what is this"):
            await keeper.until_ready()


async def test_what_hangs_is_killed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "HANGS", 0.3)
    monkeypatch.setattr(supervisor, "CHECK_EVERY", 0.05)
    script = Script(directory, RUNS)
    async with kept(script) as (keeper, phases):
        await keeper.until_ready()
        first = script.pid
        script.answers = False
        await until(lambda: "unready" in phases)
        await until(lambda: script.pid != first)
        script.answers = True
        await until(lambda: keeper.view.ready)
        assert keeper.view.restarts >= 1


async def test_stopping_in_the_middle_of_a_start_leaves_nothing(directory: Path) -> None:
    script = Script(directory, "import time; time.sleep(600)")
    async with kept(script):
        await until(lambda: script.pid is not None)
    assert script.pid is None


def test_the_wait_grows_to_a_bound() -> None:
    waits = [next_delay(failures) for failures in range(1, 2000)]
    assert waits[0] == FIRST_DELAY
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_DELAY
