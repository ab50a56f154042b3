"""A database, an owner and a least-privilege role for each service.

The owner creates the tables and is used only while migrations run. The service's role can connect to its own database and has the
rights that the migrations grant, with time limits from its charter. For PostgreSQL 15 and later; safe to run again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping

import msgspec

from tallystick.chassis.charter import Charter

SCRAM_ITERATIONS = 4096
_VERIFIER = re.compile(r"^SCRAM-SHA-256\$[0-9]+:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]+:[A-Za-z0-9+/=]+$")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One service's SQL for a superuser, in this order. Each string is one statement."""

    database: str
    service_role: str
    owner_role: str
    roles: tuple[str, ...]
    """Run in any database. Passwords are set separately, by `password`."""
    create: str
    """CREATE DATABASE has no IF NOT EXISTS and can't run in a transaction: run it if `pg_database` does not have this name."""
    grants: tuple[str, ...]
    """Run in any database, after `create`."""
    inside: tuple[str, ...]
    """Run in the new database, before the migrations."""


def owner(service: str) -> str:
    return f"{service}_owner"


def cluster() -> tuple[str, ...]:
    """Statements to run once per server: nobody may connect to any database by default."""
    return ("REVOKE ALL ON DATABASE postgres FROM PUBLIC", "REVOKE ALL ON DATABASE template1 FROM PUBLIC")


def plans(charters: Mapping[str, Charter]) -> dict[str, Plan]:
    return {name: _plan(name, charter) for name, charter in charters.items()}


def _plan(name: str, charter: Charter) -> Plan:
    limits = charter.limits
    # Per replica: the pool, a session for each stream that it consumes, one each for relay, schedules and life, and one to spare while a
    # replica is replaced.
    connections = (limits.database_connections + len(charter.consumes) + 4) * charter.scale.max_replicas
    return Plan(
        database=name,
        service_role=name,
        owner_role=owner(name),
        roles=(
            _role(name),
            _role(owner(name)),
            # A role may store settings for itself. Somebody who once had its password might have set that commits need not reach the disk.
            *(f'ALTER ROLE "{role}" RESET ALL' for role in (name, owner(name))),
            f'ALTER ROLE "{name}" CONNECTION LIMIT {connections}',
            f'ALTER ROLE "{owner(name)}" CONNECTION LIMIT 4',
            f'ALTER ROLE "{name}" SET lock_timeout = {limits.lock_timeout_ms}',
            f'ALTER ROLE "{name}" SET statement_timeout = {limits.statement_timeout_ms}',
            f'ALTER ROLE "{name}" SET idle_in_transaction_session_timeout = {limits.transaction_timeout_ms}',
            _since_17(f'ALTER ROLE "{name}" SET transaction_timeout = {limits.transaction_timeout_ms}'),
            *(f"ALTER ROLE \"{role}\" SET search_path = 'public'" for role in (name, owner(name))),
            *(f"ALTER ROLE \"{role}\" SET timezone = 'UTC'" for role in (name, owner(name))),
        ),
        # The collation by bytes, everywhere: a change of the system's collation would silently corrupt indexes.
        create=f"CREATE DATABASE \"{name}\" OWNER \"{owner(name)}\" TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'",
        grants=(
            f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC',
            f'GRANT CONNECT ON DATABASE "{name}" TO "{name}"',
            *(f'ALTER ROLE "{role}" IN DATABASE "{name}" RESET ALL' for role in (name, owner(name))),
        ),
        inside=("REVOKE ALL ON SCHEMA public FROM PUBLIC", *_no_large_objects()),
    )


def _no_large_objects() -> tuple[str, ...]:
    """By default every role may create large objects. They would be data outside the tables, unknown to the data map and `verify`."""
    made_by = ("lo_creat(integer)", "lo_create(oid)", "lo_from_bytea(oid, bytea)")
    return tuple(f"REVOKE EXECUTE ON FUNCTION pg_catalog.{function} FROM PUBLIC" for function in made_by)


def _role(name: str) -> str:
    rights = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT"
    return (
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}') THEN "
        f'CREATE ROLE "{name}"; END IF; ALTER ROLE "{name}" {rights}; END $$'
    )


def _since_17(statement: str) -> str:
    return (
        "DO $$ BEGIN IF current_setting('server_version_num')::int >= 170000 THEN "
        f"EXECUTE $sql${statement}$sql$; END IF; END $$"
    )


def password(role: str, verifier: str) -> str:
    """A statement that sets a role's password. It takes a verifier only: a password in a statement would end up in logs and statistics.
    Raises ValueError.
    """
    if not _VERIFIER.match(verifier):
        raise ValueError("not a SCRAM-SHA-256 verifier (see `scram_verifier`)")
    return f"ALTER ROLE \"{role}\" PASSWORD '{verifier}'"


def scram_verifier(secret: str, salt: bytes | None = None) -> str:
    """What PostgreSQL stores for a password (RFC 5802, RFC 7677). For printable ASCII only, which SASLprep does not change; raises
    ValueError otherwise.
    """
    if not secret.isascii() or not secret.isprintable():
        raise ValueError("only printable ASCII passwords are made here")
    salt = salt or secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", secret.encode("ascii"), salt, SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{salt64}${stored64}:{server64}"


def script(charters: Mapping[str, Charter]) -> str:
    """All statements as a script for `psql`, to be run as a superuser. Without passwords, which its command `password` sets."""
    parts = ["-- For psql, as a superuser. Safe to run again. Then set the roles' passwords with \\password.\n"]
    parts += [f"{statement};\n" for statement in cluster()]
    for plan in plans(charters).values():
        parts.append(f"\n-- {plan.database}\n")
        parts += [f"{statement};\n" for statement in plan.roles]
        quoted = plan.create.replace("'", "''")
        exists = f"SELECT FROM pg_database WHERE datname = '{plan.database}'"
        parts.append(f"SELECT '{quoted}' WHERE NOT EXISTS ({exists}) \\gexec\n")
        parts += [f"{statement};\n" for statement in plan.grants]
        parts.append(f"\\connect {plan.database}\n")
        parts += [f"{statement};\n" for statement in plan.inside]
        parts.append("\\connect postgres\n")
    return "".join(parts)
