"""Settings: the environment and secret files, read once into one frozen struct.

`TALLYSTICK_<FIELD>` sets a field. A field of type `Secret` is never in the environment, which process lists and crash dumps
show: `TALLYSTICK_<FIELD>_FILE` names a file that only its owner may read. An unknown variable that begins with `TALLYSTICK_` is an
error, because a misspelt limit would silently not apply. A service adds its own fields in `services/<name>/settings.py`:

    class Settings(settings.Settings, frozen=True, kw_only=True):
        acquirer_url: str
"""

from __future__ import annotations

import difflib
import stat
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from tallystick.kernel.deployment import HOME, deployment
from tallystick.kernel.secret import Secret

PREFIX = "TALLYSTICK_"
MAX_SECRET_BYTES = 64 * 1024

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]*$", min_length=2, max_length=20)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]

S = TypeVar("S", bound="Settings")


class SettingsError(ValueError):
    """The settings can't be used. The message names each variable and says what to do."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of every service process. A part that they don't name is not opened (see `app.Runtime`)."""

    service: Name
    shard: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$(?!\n)", max_length=32)] = HOME
    """Which shard of the service this is. `default` is the shard at home, the only one of a service without `scale.shards`."""
    shards: Annotated[str, msgspec.Meta(pattern=r"^([a-z0-9][a-z0-9-]{0,31}(,|$))*$(?!\n)", max_length=2000)] = ""
    """The further shards, separated by commas, of all services that may have some (`scale.shards`)."""
    replica: Annotated[int, msgspec.Meta(ge=0, le=999)] = 0
    environment: Literal["local", "test", "staging", "production"] = "local"
    listen: Path
    """The Unix socket that the service listens on. Its mode is 0600, because whoever can write to it can claim to be any peer."""
    public_url: Annotated[str, msgspec.Meta(pattern=r"^https://[^/?#]+$", max_length=200)]
    """The edge's origin, as clients see it: without a path. DPoP proofs are made for it."""
    mtls_url: Annotated[str, msgspec.Meta(pattern=r"^https://[^/?#]+$", max_length=200)]
    """The edge's origin for clients with a certificate (RFC 8705), which has a port or a name of its own."""
    trust_domain: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9.-]+$", max_length=255)]
    mesh_dir: Path | None = None
    """The directory of this service's outbound sockets, `<target>.sock`."""
    database_host: str | None = None
    database_port: Port = 5432
    database_name: str | None = None
    database_user: str | None = None
    database_password: Secret[str] | None = None
    nats_url: str | None = None
    nats_password: Secret[str] | None = None
    valkey_socket: Path | None = None
    valkey_password: Secret[str] | None = None
    root_key_file: Path | None = None
    """The file with the root of the key hierarchy (`chassis.keys.root`)."""
    root_passphrase: Secret[str] | None = None
    """The passphrase of a sealed root key file."""
    trace_dir: Path | None = None
    otlp_endpoint: Annotated[str, msgspec.Meta(pattern=r"^https?://.+$", max_length=500)] | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_seconds: Annotated[float, msgspec.Meta(gt=0, le=300)] = 10.0
    """How long requests in flight may take to end after SIGTERM."""

    @property
    def deployment(self) -> str:
        """The deployment's name at the parts, in the mesh and in logs: that of the service, or of one of its shards."""
        return deployment(self.service, self.shard)

    @property
    def all_shards(self) -> list[str]:
        """All shards that a service with `scale.shards` has, the one at home first."""
        return list(dict.fromkeys((HOME, *filter(None, self.shards.split(",")))))


def load(kind: type[S], environ: Mapping[str, str]) -> S:
    """Read `kind` from `environ`. Raises SettingsError, which lists all faults and never contains a secret."""
    fields = {field.name: _type(kind, field) for field in msgspec.structs.fields(kind)}
    required = {field.name for field in msgspec.structs.fields(kind) if field.required}
    known = {variable(name, secret=_is_secret(hint)): name for name, hint in fields.items()}
    values: dict[str, Any] = {}
    faults: list[str] = []
    for key, text in sorted(environ.items()):
        if not key.startswith(PREFIX):
            continue
        name = known.get(key)
        if name is None:
            faults.append(_unknown(key, known))
            continue
        try:
            values[name] = _secret(fields[name], key, text) if _is_secret(fields[name]) else _plain(fields[name], text)
        except (msgspec.ValidationError, ValueError) as error:
            faults.append(f"{key}: {error}")
    given = {known[key] for key in environ if key in known}
    faults.extend(f"{key} is not set" for key, name in known.items() if name in required - given)
    if faults:
        raise SettingsError(faults)
    return kind(**values)


def variable(field: str, *, secret: bool) -> str:
    """The environment variable of a field: `TALLYSTICK_DATABASE_HOST`, `TALLYSTICK_NATS_PASSWORD_FILE`."""
    return f"{PREFIX}{field.upper()}{'_FILE' if secret else ''}"


def _type(kind: type[Settings], field: msgspec.structs.FieldInfo) -> Any:
    return typing.get_type_hints(kind, include_extras=True)[field.name]


def _members(hint: Any) -> tuple[Any, ...]:
    """The members of `X | None`, or the type itself, out of `Annotated`."""
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(member for arm in get_args(hint) if arm is not type(None) for member in _members(arm))
    return (hint,)


def _is_secret(hint: Any) -> bool:
    return any(get_origin(member) is Secret or member is Secret for member in _members(hint))


def _plain(hint: Any, text: str) -> Any:
    if Path in _members(hint):
        if not text or "\0" in text:
            msg = "a path, please"
            raise ValueError(msg)
        return Path(text)
    if any(member is str or get_args(member)[:1] == (str,) for member in _members(hint)):
        hint = _without_none(hint)  # "null" is a string like any other
    return msgspec.convert(text, hint, strict=False)


def _without_none(hint: Any) -> Any:
    members = _members(hint)
    return Union[members] if len(members) > 1 else members[0]  # noqa: UP007  # from a tuple


def _secret(hint: Any, key: str, path: str) -> Secret[Any]:
    inner = next(get_args(member) for member in _members(hint))
    file = Path(path)
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe may wait for ever
            msg = f"{path} is not a plain file"
            raise ValueError(msg)
        if status.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            msg = f"{path} may be read by others or written by its group: chmod 600 {path}"
            raise ValueError(msg)
        content = file.read_bytes() if status.st_size <= MAX_SECRET_BYTES else b""
    except OSError as error:
        msg = f"{path} can't be read: {error.strerror}"
        raise ValueError(msg) from None
    if not content:
        msg = f"{path} is empty or larger than {MAX_SECRET_BYTES} bytes"
        raise ValueError(msg)
    if inner == (bytes,):
        return Secret(content)
    try:
        return Secret(content.decode().rstrip("\r\n"))
    except UnicodeDecodeError:
        msg = f"{path}, named by {key}, is not text"
        raise ValueError(msg) from None


def _unknown(key: str, known: Mapping[str, str]) -> str:
    if f"{key}_FILE" in known:
        return f"{key} is a secret: put it in a file with mode 600 and name that in {key}_FILE"
    near = difflib.get_close_matches(key, known, n=1)
    return f"{key} is not a setting" + (f"; did you mean {near[0]}?" if near else "; remove it")
