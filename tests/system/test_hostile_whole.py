"""What all of the hostile tests before this one left behind: books that balance, and none of the secrets that they planted.

It sorts last among them on purpose. Alone it plants its own, so it proves something then too.
"""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.stranger import PLANTED, Client, Edge, card_number, plant
from tests.system.conftest import Credentials, PlatformUnderTest

TENANT = "hostile-whole"
IBAN = "DE89370400440532013000"

_HEX = re.compile(r"\\x((?:[0-9a-f]{2})+)")


def needles() -> dict[bytes, str]:
    """What must not be found -> its kind. Of signed texts the signature: the rest of it may be told by others too."""
    found: dict[bytes, str] = {}
    for kind, secrets in PLANTED.items():
        for secret in secrets:
            text = secret.removeprefix("whsec_")
            if secret.count(".") == 2:
                text = secret.rpartition(".")[2]
            if len(text) >= 12:  # what a forger left empty or of zeros is no secret
                found[text[:64].encode()] = kind
    found.pop(b"A" * 64, None)
    return found


def search(wanted: dict[bytes, str], place: Path, folder: Path) -> list[str]:
    """Where any of these is, in any file below `place`. By grep, which looks for thousands of texts at once."""
    patterns = folder / "patterns"
    patterns.write_bytes(b"\n".join(wanted))
    done = subprocess.run(
        ["grep", "-r", "-a", "-F", "-o", "--devices=skip", "-f", str(patterns), str(place)],
        capture_output=True,
        check=False,
        timeout=100,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
    )
    # 2 with something on standard error: a part's own temporary file went away
    assert done.returncode in {0, 1, 2}, done
    found = (line.rsplit(b":", 1) for line in done.stdout.splitlines())
    return [f"{wanted[needle]} in {path.decode()}" for path, needle in found]


async def tables(platform: PlatformUnderTest) -> AsyncIterator[tuple[str, bytes]]:
    """Every row of every table of every database as text, with what is bytes in it also as those bytes."""
    async with platform.superuser() as names:
        databases = [row[0] for row in await names.fetch("SELECT datname FROM pg_database WHERE NOT datistemplate")]
    for database in databases:
        async with platform.superuser(database) as connection:
            found = await connection.fetch(
                "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            )
            for (table,) in found:
                for (row,) in await connection.fetch(f"SELECT t::text FROM {table} AS t"):
                    unpacked = b" ".join(bytes.fromhex(found[1]) for found in _HEX.finditer(row))
                    yield f"{database}.{table}", row.encode() + unpacked


async def valkey(platform: PlatformUnderTest) -> bytes:
    """All keys, and the values of those that are strings, over its own protocol."""
    password = (platform.data / "secrets" / "operator" / "valkey").read_text().strip()
    reader, writer = await asyncio.open_unix_connection(str(platform.data / "run" / "valkey.sock"), limit=1 << 24)

    async def reply() -> list[bytes]:
        line = (await reader.readline()).rstrip(b"\r\n")
        if line[:1] == b"*":
            return [part for _ in range(int(line[1:])) for part in await reply()]
        if line[:1] == b"$":
            return [(await reader.readexactly(int(line[1:]) + 2))[:-2]] if line != b"$-1" else [b""]
        return [line]

    async def ask(*words: bytes) -> list[bytes]:
        writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        return await reply()

    assert await ask(b"AUTH", b"operator", password.encode()) == [b"+OK"]
    keys = await ask(b"KEYS", b"*")
    found = list(keys)
    for key in keys:
        [kind] = await ask(b"TYPE", key)
        read = {
            b"+string": (b"GET", key),
            b"+hash": (b"HGETALL", key),
            b"+zset": (b"ZRANGE", key, b"0", b"-1"),
            b"+set": (b"SMEMBERS", key),
            b"+list": (b"LRANGE", key, b"0", b"-1"),
        }.get(kind)
        if read is not None:
            found += await ask(*read)
    writer.close()
    assert len(keys) > 5, "proofs and rates leave keys behind: nothing was looked at"
    return b"\n".join(found)


async def plant_everywhere(client: Client) -> None:
    """One secret of each kind, in its place and where a careless client puts it."""
    number = card_number()
    card = {"number": number, "exp_month": 12, "exp_year": 2034, "cvc": "919"}
    token = await client.make("/v1/tokens", {"type": "card", "card": card})
    await client.make("/v1/tokens", {"type": "bank_account", "bank_account": {"iban": plant("iban", IBAN)}})
    account = await client.make("/v1/accounts", {"name": "shop", "currency": "EUR", "normal_side": "credit"})
    pay = {
        "amount": {"amount": "5", "currency": "EUR"},
        "source": {"type": "card", "token": token["id"]},
        "destination": {"account": account["id"]},
    }
    assert (await client.make("/v1/payments", pay))["status"] == "settled"
    shown = await client.reveal(token["id"])
    assert (shown.status, shown.json["card"]["number"]) == (200, number)
    hook = {"url": "http://127.0.0.1:9/", "events": ["*"]}
    plant("webhook secret", (await client.make("/v1/webhook_endpoints", hook))["secret"])
    for attempt in range(3):  # while it is quiet, every request is traced and logged
        await asyncio.sleep(1.1)
        bad = card_number()
        access = await client.token()
        for path in (f"/v1/tokens/{bad}", f"/v1/payments?reference={bad}", f"/{bad}", f"/v1/accounts?{bad}={access}"):
            answer = await client.call("GET", path, headers=[("User-Agent", bad), ("X-Card", bad), ("Referer", bad)])
            assert answer.status < 500, answer
            assert bad.encode() not in answer.body, answer
        for path, body in (
            ("/v1/payments", {**pay, "source": {"type": "card", "token": bad}}),
            ("/v1/payments", {**pay, bad: bad}),
            ("/v1/payments", {**pay, "capture": bad}),
            ("/v1/tokens", {"type": bad}),
            ("/v1/tokens", {"type": "card", "card": {**card, "number": bad[:-1] + str((int(bad[-1]) + 1) % 10)}}),
            ("/v1/tokens", {"type": "card", "card": {**card, "number": bad, "exp_year": 2001}}),
            ("/v1/tokens", {"type": "card", "card": {**card, "number": [bad]}}),
        ):
            answer = await client.call("POST", path, body)
            assert 400 <= answer.status < 500, answer
            assert bad.encode() not in answer.body, answer
        assert (await client.edge.send("GET", f"/v1/accounts?access_token={access}")).status == 401
        assert (await client.post_form(client.form(client.assertion(aud="x")))).status == 401
        assert attempt < 3


async def test_nothing_secret_was_left_anywhere(
    platform: PlatformUnderTest, credentials: Credentials, tmp_path: Path
) -> None:
    async with Edge(platform.port, platform.ca) as edge:
        await plant_everywhere(Client(edge, credentials(TENANT)))
    await asyncio.sleep(1.5)  # spans and logs are written in batches
    kinds = {"card number", "iban", "access token", "proof", "client assertion", "webhook secret", "private key"}
    assert kinds <= set(PLANTED)
    taken = tmp_path / "taken"
    taken.mkdir()
    seen = set()
    async for where, line in tables(platform):
        seen.add(where)
        with (taken / where).open("ab") as file:
            file.write(line + b"\n")
    assert {"payments.payment", "vault.token", "identity.client", "notify.endpoint", "audit.entry"} <= seen, seen
    (taken / "valkey").write_bytes(await valkey(platform))
    wanted = needles()
    for place in (platform.data, taken):
        faults = search(wanted, place, tmp_path)
        assert not faults, f"{len(faults)}: " + "\n".join(faults[:10])
    # that it would have been found: what is kept in clear on purpose is
    kept = {TENANT.encode(): "tenant"}
    found = [*search(kept, platform.data, tmp_path), *search(kept, taken, tmp_path)]
    for name in ("/logs/payments-0.log", "/postgres/", "/nats/", "payments.payment", "audit.entry"):
        assert any(name in one for one in found), (name, found[:20])
    assert search({b"auth.replay": "span"}, platform.data / "traces", tmp_path)


async def test_the_books_and_the_log_are_whole_after_all_of_it(platform: PlatformUnderTest) -> None:
    async with asyncio.timeout(240):
        while True:  # facts of the last requests may still be on their way
            done = await asyncio.to_thread(platform.cli, "verify", "--json", within=120)
            if done.status == 0:
                break
            await asyncio.sleep(2)
    assert json.loads(done.out)


async def test_the_acquirer_has_the_same_books(platform: PlatformUnderTest) -> None:
    """What the card rail captured, gave back and still holds is what the payments say, one by one: nothing lost, nothing doubled."""

    async def differences() -> Counter[tuple[str, int, int, int]]:
        async with platform.superuser("payments") as payments:
            ours = await payments.fetch(
                "SELECT currency, amount, captured, refunded FROM payment"
                " WHERE token IS NOT NULL AND (captured > 0 OR status = 'authorized')"
            )
        rail = sqlite3.connect(f"file:{platform.data / 'rail.sqlite'}?mode=ro", uri=True)
        try:
            theirs = rail.execute(
                'SELECT currency, authorized, captured, refunded FROM "authorization"'
                " WHERE captured > 0 OR (authorized > 0 AND voided = 0)"
            ).fetchall()
        finally:
            rail.close()
        mine, others = Counter(tuple(row) for row in ours), Counter(theirs)
        return (mine - others) + (others - mine)

    async with asyncio.timeout(120):
        while found := await differences():  # something may still be on its way
            await asyncio.sleep(1)
    assert not found


#: What is logged of an accident, of an answer that a row does not list, and the errors that are nobody's but ours (a schedule's, say).
UNEXPECTED = (b'"request.failed"', b'"problem.unlisted"', b'"status.unlisted"', b'"problem.not-rendered"')
BUGS = tuple(
    f'"error":"{kind.__name__}"'.encode()
    for kind in (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, NameError, OverflowError)
)


def test_nothing_unexpected_was_met(platform: PlatformUnderTest) -> None:
    """No input led to an exception that nobody had thought of, or to a problem that an endpoint doesn't list."""
    bad = []
    for log in (platform.data / "logs").glob("*-[0-9]*.log"):
        for line in log.read_bytes().splitlines():
            if any(event in line for event in UNEXPECTED) or any(error in line for error in BUGS):
                bad.append(f"{log.name}: {line[:600].decode()}")  # noqa: PERF401 - two conditions are read better so
    assert not bad, "\n".join(bad[:10])
