"""A replica's environment variables: names and paths. Secrets are in files that they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tallystick.chassis.charter import Charter
from tallystick.kernel.deployment import parts
from tallystick.local.layout import Layout
from tallystick.local.provision import sandbox
from tallystick.local.secrets import SecretFiles
from tallystick.local.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options that may differ between starts and are not remembered."""

    root_passphrase_file: Path | None = None
    otlp_endpoint: str | None = None
    log_level: str = "info"
    environment: str = "local"
    extra: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Further settings of single services: `{"identity": {"TALLYSTICK_KEY_LIFE_HOURS": "1"}}`."""


def environment(layout: Layout, state: State, options: Options, charter: Charter, number: int) -> dict[str, str]:
    """The variables of replica `number` of the charter's deployment (docs/explanation/chassis.md lists them)."""
    name, secrets = charter.name, SecretFiles(layout.secrets)
    service, shard = parts(name)
    found = {
        "SERVICE": service,
        "REPLICA": str(number),
        "ENVIRONMENT": options.environment,
        "LISTEN": str(layout.listen(name, number)),
        "MESH_DIR": str(layout.mesh / name),
        "PUBLIC_URL": state.url,
        "MTLS_URL": state.mtls_url,
        "TRUST_DOMAIN": state.trust_domain,
        "DATABASE_HOST": str(layout.postgres_sockets),
        "DATABASE_PORT": "5432",
        "DATABASE_NAME": name,
        "DATABASE_USER": name,
        "DATABASE_PASSWORD_FILE": str(secrets.path(f"{name}/database")),
        "NATS_URL": f"nats://127.0.0.1:{state.nats_port}",
        "NATS_PASSWORD_FILE": str(secrets.path(f"{name}/nats")),
        "VALKEY_SOCKET": str(layout.valkey_socket),
        "VALKEY_PASSWORD_FILE": str(secrets.path(f"{name}/valkey")),
        "LOG_LEVEL": options.log_level,
    }
    if state.shards:
        found |= {"SHARD": shard, "SHARDS": ",".join(state.shards)}
    if charter.keys is not None:
        found["ROOT_KEY_FILE"] = str(layout.root_key)
        if options.root_passphrase_file is not None:
            found["ROOT_PASSPHRASE_FILE"] = str(options.root_passphrase_file)
    if options.otlp_endpoint is not None:
        found["OTLP_ENDPOINT"] = options.otlp_endpoint
    else:
        found["TRACE_DIR"] = str(layout.traces)
    named = {f"TALLYSTICK_{name}": value for name, value in found.items()}
    return {**named, **sandbox(service, layout), **options.extra.get(name, {})}
