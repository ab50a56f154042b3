"""What each service may do in Valkey: use its own keys, with the commands that counters, windows and caches need."""

from __future__ import annotations

from collections.abc import Iterable

from tallystick.chassis.auth import replay
from tallystick.kernel.deployment import HOME, parts

#: Applied after `-@all`. Left out on purpose: KEYS, SCAN, RANDOMKEY and DBSIZE, which see all services' keys whatever the patterns
#: say; FUNCTION and SCRIPT FLUSH, which affect all services; blocking commands.
COMMANDS = (
    "+@string",
    "+@hash",
    "+@set",
    "+@sortedset",
    "+@transaction",
    "+del",
    "+unlink",
    "+exists",
    "+expire",
    "+pexpire",
    "+expireat",
    "+pexpireat",
    "+ttl",
    "+pttl",
    "+eval",
    "+evalsha",
    "+script|load",
    "+script|exists",
    "+time",
    "+hello",
    "+ping",
    "+client|setname",
    "+client|setinfo",
    "-@blocking",
    "-@dangerous",
)


def rules(services: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """ACL rules of each service's user: keys and channels `<service>:*` only. A further shard uses those of its own name, and shares the
    service's record of used proofs.
    """
    return {name: (*_patterns(name), f"&{name}:*", *COMMANDS) for name in services}


def _patterns(name: str) -> tuple[str, ...]:
    service, shard = parts(name)
    return (f"~{name}:*",) if shard == HOME else (f"~{name}:*", f"~{replay.key_prefix(service)}*")


def users_acl(services: Iterable[str]) -> str:
    """The rules as an ACL file, in which the operator has to fill in the passwords."""
    lines = ["user default off resetpass resetkeys resetchannels -@all"]
    lines += [
        f"user {name} on #<SHA-256 of the password> resetkeys resetchannels -@all {' '.join(words)}"
        for name, words in rules(services).items()
    ]
    return "\n".join(lines) + "\n"
