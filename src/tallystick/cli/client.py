"""`tallystick client`: the programs that call the edge, each with a key of its own."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple

import cyclopts
from cyclopts import Parameter

from tallystick.cli.administration import administer
from tallystick.cli.output import NO, PART_FAILED, USAGE, Common, Failed, columns, emit, print_table
from tallystick.cli.tenant import checked, known
from tallystick.local import control

if TYPE_CHECKING:
    from tallystick.contracts.identity.client import IdentityAdmin
    from tallystick.contracts.identity.messages import Client
    from tallystick.local.layout import Layout

Binding = Literal["dpop", "certificate"]
BIND_HELP = "what its tokens are bound to: a key that signs each request (DPoP), or a TLS client certificate"
CERTIFICATE_LIFE: Final = timedelta(days=10 * 365)

#: Bytes reserved for a credentials file: more than it needs.
CREDENTIALS: Final = 16 * 1024
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

client = cyclopts.App(name="client", help="Register, list and revoke API clients.")


@client.command
def create(
    name: Annotated[str, Parameter(help="a name for it")],
    /,
    *,
    scope: Annotated[str, Parameter(help='the scopes it may request, such as "accounts:write payments:write"')],
    tenant: Annotated[str, Parameter(help="the tenant it belongs to")] = "default",
    bind: Annotated[Binding, Parameter(help=BIND_HELP)] = "dpop",
    out: Annotated[
        Path | None, Parameter(help="the credentials file to write, mode 0600 [DATA/clients/NAME.json]")
    ] = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Register a client with a new key, and write its credentials to a file.

    The private key exists in that file only: the platform keeps the public key. With `--bind certificate` the file also holds a self-signed
    certificate with a key of its own; the client then uses the edge's port for mutual TLS.
    """
    checked(tenant)
    _well_formed(name, scope)
    edge = running(common)
    file = out or _file(common.layout, name)
    made = register(common, edge, Registration(tenant, name, scope, bind), file)
    if common.json:
        told = {"client_id": made.client_id, "tenant": made.tenant, "scope": made.scope, "bind": bind}
        emit({**told, "file": str(file)}, common)
    else:
        print(f"client {made.client_id} of tenant {made.tenant}\ncredentials in {file}")


def _well_formed(name: str, scope: str) -> None:
    """Check the options before anything is asked of the platform. Raises Failed."""
    import msgspec

    from tallystick.contracts.identity.messages import ClientName, ScopeText

    for what, text, form in (("the client's name", name, ClientName), ("--scope", scope, ScopeText)):
        try:
            msgspec.convert(text, form)
        except msgspec.ValidationError as error:
            raise Failed(f"{what} {text!r} is not valid: {error}", USAGE) from error


class Registration(NamedTuple):
    """A client to be registered; the fields are options of `create`."""

    tenant: str
    name: str
    scope: str
    bind: Binding = "dpop"


def running(common: Common) -> control.Status:
    """The running platform's status, with the edge's address. Raises NotRunning."""
    return asyncio.run(control.ask(common.layout, control.GetStatus(), control.Status))


def register(common: Common, edge: control.Status, asked: Registration, file: Path) -> Client:
    """Register a client and write its credentials to `file`, which must not exist. Raises Failed."""
    from tallystick.contracts.identity.messages import PublicJwks

    certificate = asked.bind == "certificate"
    private, public = fresh_key()
    with new_file(file) as write:
        made = administer(
            common,
            lambda identity: identity.create_client(
                asked.tenant, asked.name, asked.scope, PublicJwks(keys=[public]), certificate_bound=certificate
            ),
        )
        known = {
            "client_id": made.client_id,
            "tenant": made.tenant,
            "issuer": edge.edge,
            "api": edge.mtls if certificate else edge.edge,
            "scope": made.scope,
            "private_key_jwk": private,
            "ca": str(common.layout.ca),
        }
        write(known | (fresh_certificate(made.client_id) if certificate else {}))
    return made


@client.command(name="list")
def list_(
    *,
    tenant: Annotated[str | None, Parameter(help="only this tenant's")] = None,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """List all clients, oldest first."""
    from rich.markup import escape

    if tenant is not None:
        known(common, tenant)
    found = administer(common, lambda identity: _all(identity, tenant))
    if common.json:
        emit({"data": found}, common)
        return
    if not found:
        print(
            f"{'there are no clients' if tenant is None else f'{tenant} has no clients'} yet; `tallystick client create` registers one"
        )
        return
    table = columns(dict.fromkeys(("client", "tenant", "name", "state", "bound to", "scope"), "left"), wraps="scope")
    for each in found:
        table.add_row(
            each.client_id,
            each.tenant,
            escape(each.name),
            f"[red]revoked {each.revoked_at[:19]}[/]" if each.revoked_at else "[green]active[/]",
            "certificate" if each.tls_client_certificate_bound_access_tokens else "key",
            f"[dim]{each.scope}[/]",
        )
    print_table(table)


@client.command
def revoke(
    client_id: Annotated[str, Parameter(help="such as `cli_01jd5w3qkz8e5rv4y7t9a2b3c4`")],
    /,
    *,
    common: Common = Common(),  # noqa: B008 - frozen
) -> None:
    """Revoke a client. It gets no more tokens, and all services refuse its tokens within a second."""
    made = administer(common, lambda identity: identity.revoke_client(client_id))
    if common.json:
        emit(made, common)
    else:
        print(f"client {made.client_id} has been revoked since {made.revoked_at}")


def default_file(layout: Layout) -> Path:
    """The credentials file to use when none is named: the only one there is. Raises Failed."""
    found = sorted((layout.data / "clients").glob("*.json"))
    if not found:
        raise Failed(
            f"there is no client in {layout.data} yet; run `tallystick client create NAME --scope ...`, or use --client FILE",
            USAGE,
        )
    if len(found) > 1:
        raise Failed(f"there are several clients; choose one with --client: {', '.join(map(str, found[:5]))}", USAGE)
    return found[0]


def _file(layout: Layout, name: str) -> Path:
    if not FILE_NAME.fullmatch(name):
        raise Failed(f"the name {name!r} can't be used as a file name; choose a file with --out", USAGE)
    directory = layout.data / "clients"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory / f"{name}.json"


@contextmanager
def new_file(path: Path) -> Iterator[Any]:
    """A new file of mode 0600. Yields a function that writes a document to it; the file appears under its name only when it is complete.

    Space is reserved first: if the disk were full after the registration, there would be a client whose key is lost. An existing file is
    never overwritten: another client may still use the key in it. Raises Failed.
    """
    import msgspec

    if os.path.lexists(path):
        raise _taken(path)
    try:
        # The name does not end in .json, so nobody takes it for a credentials file.
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    except OSError as error:
        raise Failed(f"can't write {path}: {error.strerror}", USAGE) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            try:
                os.posix_fallocate(descriptor, 0, CREDENTIALS)
            except OSError as error:
                raise Failed(f"can't write {path}: {error.strerror}", PART_FAILED) from error

            def keep(document: object) -> None:
                try:
                    file.write(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
                    file.truncate()
                    os.fsync(descriptor)
                    os.link(name, path)  # unlike a rename, it does not replace a file created meanwhile
                except FileExistsError:
                    raise _taken(path) from None
                except OSError as error:
                    raise Failed(f"can't write {path}: {error.strerror}", PART_FAILED) from error

            yield keep
    finally:
        Path(name).unlink(missing_ok=True)


def _taken(path: Path) -> Failed:
    return Failed(f"{path} already exists and may hold a key; choose another file with --out", NO)


def fresh_key() -> tuple[dict[str, str], Any]:
    """A new P-256 key as a private and as a public JWK, named by its thumbprint (RFC 7638)."""
    from cryptography.hazmat.primitives.asymmetric import ec

    from tallystick.chassis.auth import jose
    from tallystick.contracts.identity.messages import PublicJwk

    numbers = ec.generate_private_key(ec.SECP256R1()).private_numbers()
    x, y, d = (
        jose.encode(number.to_bytes(32, "big"))
        for number in (numbers.public_numbers.x, numbers.public_numbers.y, numbers.private_value)
    )
    kid = jose.thumbprint(jose.Jwk(kty="EC", crv="P-256", x=x, y=y))
    private = {"kty": "EC", "crv": "P-256", "kid": kid, "alg": "ES256", "use": "sig", "x": x, "y": y, "d": d}
    return private, PublicJwk(kty="EC", crv="P-256", kid=kid, alg="ES256", use="sig", x=x, y=y)


def fresh_certificate(client_id: str) -> dict[str, str]:
    """A new P-256 key and its self-signed certificate, both PEM, under the field names of `Credentials`.

    Its contents are for people only: tokens are bound to its hash, and neither its issuer nor its expiry is checked.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, client_id)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + CERTIFICATE_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {
        "tls_client_certificate": made.public_bytes(pem).decode(),
        "tls_client_key": private.decode(),
    }


async def _all(identity: IdentityAdmin, tenant: str | None) -> list[Client]:
    found: list[Client] = []
    after: str | None = None
    while True:
        page = await identity.list_clients(tenant, after)
        found += page.data
        after = page.next
        if not page.has_more:
            return found
