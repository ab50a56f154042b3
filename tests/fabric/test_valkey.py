"""The access rules on a real server: a service has its own keys and nothing that reaches over them."""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import valkey.asyncio
from valkey.exceptions import AuthenticationError, NoPermissionError, ResponseError
from valkey.exceptions import ConnectionError as ValkeyConnectionError

from tallystick.chassis.cache import Cache
from tallystick.chassis.charter import Rate
from tallystick.chassis.limits import Limits
from tallystick.fabric import valkey as rendered
from tallystick.kernel.problem import RateLimited
from tallystick.kernel.secret import Secret
from tallystick.local.parts import Valkey, ValkeyUser
from tallystick.local.parts.valkey import hash_password


async def command(client: valkey.asyncio.Valkey, *words: str) -> Any:
    return await client.execute_command(*words)  # type: ignore[no-untyped-call]


async def ten() -> int:
    return 10


async def test_a_service_reaches_its_own_keys_only(directory: Path) -> None:
    password = Secret(secrets.token_urlsafe(32))
    users = [
        ValkeyUser(name, hash_password(password), words) for name, words in rendered.rules(["risk", "vault"]).items()
    ]
    part = Valkey(directory / "data", directory / "valkey.sock", users=users, log=directory / "valkey.log")
    await part.start()

    def client(user: str) -> valkey.asyncio.Valkey:
        return valkey.asyncio.Valkey(
            unix_socket_path=str(directory / "valkey.sock"), username=user, password=password.reveal()
        )

    try:
        async with client("risk") as risk, client("vault") as vault:
            await vault.set("vault:a", "1")
            # what counters, windows, sets and scripts need
            assert await risk.set("risk:a", "1", nx=True, ex=60)
            assert await risk.incrby("risk:n", 2) == 2
            assert await risk.zadd("risk:z", {"x": 1}) == 1
            assert await command(risk, "HSET", "risk:h", "f", "v") == 1
            assert await command(risk, "SADD", "risk:s", "m") == 1
            assert await risk.expire("risk:s", 5)
            script = risk.register_script("return redis.call('INCR', KEYS[1])")
            assert await script(keys=["risk:c"]) == 1
            async with risk.pipeline(transaction=True) as pipeline:
                pipeline.set("risk:p", 1)
                pipeline.get("risk:p")
                assert (await pipeline.execute())[1] == b"1"
            # and the chassis' own parts, as a service has them
            limits = Limits("risk", {"money": Rate(per_second=1, burst=1)}, max_in_flight=1, max_queue=1, valkey=risk)
            await limits.take("someone", "money")
            with pytest.raises(RateLimited):
                await limits.take("someone", "money")
            await limits.close()
            assert await risk.exists("risk:{risk-rate}:money:someone"), "counted there, not locally"
            assert await Cache("risk", risk).get_or_load("k", timedelta(seconds=9), ten, int) == 10
            assert await risk.exists("risk:cache:k")
            for words in (
                ("GET", "vault:a"),
                ("SET", "vault:a", "2"),
                ("DEL", "vault:a"),
                ("KEYS", "*"),
                ("SCAN", "0"),
                ("RANDOMKEY",),
                ("DBSIZE",),
                ("FLUSHALL",),
                ("CONFIG", "GET", "*"),
                ("ACL", "LIST"),
                ("CLIENT", "LIST"),
                ("MONITOR",),
                ("SCRIPT", "FLUSH"),
                ("FUNCTION", "LIST"),
                ("PUBLISH", "vault:x", "1"),
                ("BLPOP", "risk:l", "1"),
                ("EVAL", "return redis.call('GET', KEYS[1])", "1", "vault:a"),
            ):
                with pytest.raises(NoPermissionError):
                    await command(risk, *words)
            # a script that does not say which key it reads is stopped all the same
            with pytest.raises((NoPermissionError, ResponseError)):
                await command(risk, "EVAL", "return redis.call('GET', 'vault:a')", "0")
        with pytest.raises((AuthenticationError, ValkeyConnectionError)):
            async with client("default") as nobody:
                await nobody.ping()
    finally:
        await part.stop()
