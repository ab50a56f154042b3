"""Who may publish and read what on the bus: NATS's accounts, derived from the charters.

Each deployment has two accounts. Its service logs in to the one of its name. Its stream is in the other, `<deployment>_stream`, to which
nobody logs in. Between accounts passes only what one exports and the other imports. A service's account imports

- from its own stream's account: the subjects for creating, writing and reading the stream and for asking about its state;
- from the stream account of each source that the charter consumes: the subjects for reading and asking about the state;
- from that source's own account the announcement that there is more, and from identity's the revocations.

Permissions alone would not be enough. NATS checks the subject to which a user publishes, but not the subject that it names for the
reply, and the server replies with its own rights. So by asking a stream for a message, with the reply to `facts.ledger` or to the
subject that deletes a stream, a user could publish anything anywhere. But a reply can't leave the account of the user who asked, and
there is no stream in that account. So a service can publish its own facts only, which makes a fact's origin certain; it can read what
its charter consumes; and nobody, not even the service, can change, empty or delete a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from tallystick.chassis import bus
from tallystick.chassis.bus import streams
from tallystick.chassis.charter import Charter

#: The service that publishes revocations; all others subscribe.
REVOKES = "identity"

#: An account, or a part of one, in NATS's configuration.
Account = dict[str, Any]


def inbox(user: str) -> str:
    """The prefix of a user's private reply subjects. With NATS's default, `_INBOX`, every user could read all replies."""
    return f"_INBOX.{user}"


def stream_account(name: str) -> str:
    """The account that has the deployment's stream."""
    return f"{name}_stream"


def permissions(charters: Mapping[str, Charter]) -> dict[str, bus.Permissions]:
    """The permissions of each service's user: subjects, with NATS's wildcards. Everything else is denied."""
    return {
        name: bus.permissions(name, charter.consumes, issues_revocations=name == REVOKES)
        for name, charter in charters.items()
    }


def accounts(charters: Mapping[str, Charter], password_hash: Callable[[str], str]) -> dict[str, Account]:
    """NATS's `accounts`, by name. `password_hash(name)` returns the password hash of a service's login."""
    made: dict[str, Account] = {}
    for name, allowed in permissions(charters).items():
        sources = sorted(set(charters[name].consumes) - {name})
        consumers = [other for other, charter in charters.items() if other != name and name in charter.consumes]
        others = [other for other in charters if other != name]
        made[name] = {
            "users": [login(name, password_hash(name), allowed)],
            "exports": [
                # An export that names no accounts is open to all.
                *([{"stream": streams.stored_subject(name), "accounts": consumers}] if consumers else []),
                *([{"stream": bus.REVOCATIONS, "accounts": others}] if name == REVOKES and others else []),
            ],
            "imports": [
                _service(name, streams.subject(name)),
                _service(name, streams.create_subject(name)),
                *(_service(of, subject(of)) for of in (name, *sources) for subject in _READ),
                *(_stream(source, streams.stored_subject(source)) for source in sources),
                *([_stream(REVOKES, bus.REVOCATIONS)] if name != REVOKES and REVOKES in charters else []),
            ],
        }
        made[stream_account(name)] = {
            "jetstream": "enabled",
            "exports": [
                {"service": streams.subject(name), "accounts": [name]},
                {"service": _at_server(streams.create_subject(name)), "accounts": [name]},
                {"service": _at_server(streams.info_subject(name)), "accounts": [name, *consumers]},
                {
                    "service": _at_server(streams.get_subject(name)),
                    "response_type": "Stream",  # one request, many answers
                    "accounts": [name, *consumers],
                },
            ],
        }
    return made


def login(name: str, password_hash: str, allowed: bus.Permissions) -> Account:
    """A user in NATS's configuration, with these permissions only."""
    permissions = {"publish": _allowed(allowed.publish), "subscribe": _allowed(allowed.subscribe)}
    return {"user": name, "password": password_hash, "permissions": permissions}


def _allowed(subjects: Iterable[str]) -> dict[str, list[str]]:
    listed = list(subjects)
    return {"allow": listed} if listed else {"deny": [">"]}  # an empty allow list would allow everything


_READ: Final = (streams.info_subject, streams.get_subject)


def _at_server(subject: str) -> str:
    """The subject in the stream's account for one of ours: JetStream's own API subject, where it is one of the API."""
    return f"$JS.API{found}" if (found := subject.removeprefix(streams.API)) != subject else subject


def _service(of: str, subject: str) -> Account:
    """The import of a service: requests on `subject` go to the account with the stream of `of`, and the replies come back."""
    return {"service": {"account": stream_account(of), "subject": _at_server(subject)}, "to": subject}


def _stream(account: str, subject: str) -> Account:
    """The import of what `account` publishes on `subject`, which NATS also calls a stream."""
    return {"stream": {"account": account, "subject": subject}}
