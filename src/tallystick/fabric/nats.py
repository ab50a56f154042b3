"""Who may say and hear what on the bus: NATS's accounts, as the charters say.

Each deployment has two. Its service logs in to the one of its name; its stream lies in the other, `<deployment>_stream`, to which nobody
logs in. Nothing gets from account to account but what one exports and the other imports:

- a service's account has, from its stream's, the subjects where the stream is made, written, read and looked at;
- from the stream's account of each source that the charter consumes, the subjects where it is read and looked at;
- from that source's own, the announcement that there is more; and from identity's, what is revoked.

Permissions alone don't hold. NATS checks to which subject a user publishes, not where the user wants the answer, and the server answers
with its own rights: a stream that is asked for a message of its own with the answer to `facts.ledger`, or to the subject that deletes a
stream, is a way to say anything anywhere. Such an answer can't leave the account of who asked, and there no stream is. So a service
publishes its own facts and nobody else's, which is what makes a fact's origin certain; it reads what its charter consumes; and nobody, the
service neither, can change, empty or delete a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from tallystick.chassis import bus
from tallystick.chassis.bus import streams
from tallystick.chassis.charter import Charter

#: The service that says what is revoked; everyone listens.
REVOKES = "identity"

#: An account, or a part of one, in NATS's configuration.
Account = dict[str, Any]


def inbox(user: str) -> str:
    """The prefix of a user's private reply subjects: with NATS's common `_INBOX` each would hear all answers."""
    return f"_INBOX.{user}"


def stream_account(name: str) -> str:
    """The account in which the deployment's stream lies."""
    return f"{name}_stream"


def permissions(charters: Mapping[str, Charter]) -> dict[str, bus.Permissions]:
    """Each service's user: subjects, with NATS's wildcards; what is not named is denied."""
    return {
        name: bus.permissions(name, charter.consumes, issues_revocations=name == REVOKES)
        for name, charter in charters.items()
    }


def accounts(charters: Mapping[str, Charter], password_hash: Callable[[str], str]) -> dict[str, Account]:
    """NATS's `accounts`, by name; `password_hash` says that of a service's login."""
    made: dict[str, Account] = {}
    for name, allowed in permissions(charters).items():
        sources = sorted(set(charters[name].consumes) - {name})
        consumers = [other for other, charter in charters.items() if other != name and name in charter.consumes]
        others = [other for other in charters if other != name]
        made[name] = {
            "users": [login(name, password_hash(name), allowed)],
            "exports": [
                # An export that names no account is everybody's.
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
    """A user in NATS's configuration, who may do what is allowed and nothing else."""
    permissions = {"publish": _allowed(allowed.publish), "subscribe": _allowed(allowed.subscribe)}
    return {"user": name, "password": password_hash, "permissions": permissions}


def _allowed(subjects: Iterable[str]) -> dict[str, list[str]]:
    listed = list(subjects)
    return {"allow": listed} if listed else {"deny": [">"]}  # an empty allow list would allow everything


_READ: Final = (streams.info_subject, streams.get_subject)


def _at_server(subject: str) -> str:
    """What the server itself listens to in the stream's account."""
    return f"$JS.API{found}" if (found := subject.removeprefix(streams.API)) != subject else subject


def _service(of: str, subject: str) -> Account:
    """Requests on `subject` go to the account with the stream of `of`, and the answers come back."""
    return {"service": {"account": stream_account(of), "subject": _at_server(subject)}, "to": subject}


def _stream(account: str, subject: str) -> Account:
    """What `account` publishes is heard; NATS calls that a stream too."""
    return {"stream": {"account": account, "subject": subject}}
