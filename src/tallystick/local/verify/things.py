"""What each service tells of its things, and what of a row it says (`told.py` compares them).

A fact says nothing that a person typed: names, descriptions and metadata are not in it, and so are compared with nothing here. What facts of
older versions did not say is not compared either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from tallystick.chassis.auth.jose import Jwk, thumbprint
from tallystick.kernel import ids
from tallystick.kernel.clock import rfc3339
from tallystick.local.verify.told import NOT_THERE, Compare, Fact, Things
from tallystick.services.payments.model import Card


def _differ(said: Mapping[str, Any], there: Mapping[str, Any]) -> Iterable[str]:
    """Of what was said, by its names there, what is otherwise in the row."""
    return (name for name, value in there.items() if name in said and said[name] != value)


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)


def _of(service: str, thing: str, *happened: str) -> tuple[str, ...]:
    return tuple(f"{service}.{thing}.{what}" for what in happened)


def _there(_row: Any, _fact: Fact) -> Iterable[str]:
    return ()


def _marked(column: str, type_: str) -> Compare:
    """The column has a value exactly when the newest fact is of this type."""

    def compare(row: Any, fact: Fact) -> Iterable[str]:
        return () if (row[column] is not None) == (fact["type"] == type_) else (column,)

    return compare


# ---- payments -------------------------------------------------------------------------------------------------------


def _payment(row: Any, fact: Fact) -> Iterable[str]:
    told = fact["data"]
    card = None if row["card"] is None else msgspec.json.decode(row["card"], type=Card).fingerprint
    yield from _differ(fact, {"tenant": row["tenant"], "id": ids.facts.text(row["receipt"])})
    yield from _differ(
        told,
        {
            "amount": _money(row["amount"], row),
            "currency": row["currency"],
            "token": row["token"],
            "source": None if row["source"] is None else ids.accounts.text(row["source"]),
            "destination": ids.accounts.text(row["destination"]),
            "card": card,
        },
    )
    # While somebody goes on with it, it may be further than what was told; an authorization rests until it expires.
    if row["resume_at"] is None or row["resume_at"] == row["expires_at"]:
        yield from _differ(
            told,
            {
                "status": row["status"],
                "captured": _money(row["captured"], row),
                "decline": row["decline_code"],
                "declined_by": row["declined_by"],
            },
        )
        if [row["risk_decision"], row["risk_score"], (row["risk_reasons"] or "").split()] != (
            told["risk"] or [None, None, []]
        ):
            yield "risk"


def _new_payment(row: Any, fact: Fact) -> Iterable[str]:
    return _differ(fact, {"actor": row["client_id"], "at": rfc3339(row["created_at"])})


def _disputed(row: Any, _fact: Fact) -> Iterable[str]:
    if not row["disputed"]:
        yield "disputed"


def _refund(row: Any, fact: Fact) -> Iterable[str]:
    told = {
        "payment": ids.payments.text(row["payment"]),
        "amount": _money(row["amount"], row),
        "currency": row["currency"],
    }
    if row["resume_at"] is None:
        told |= {"status": row["status"], "failure": row["failure_code"]}
    receipt = ids.facts.text(row["receipt"])
    yield from _differ(fact, {"tenant": row["tenant"], "actor": row["client_id"], "id": receipt})
    yield from _differ(fact["data"], told)


def _money(minor: int, row: Any) -> dict[str, str]:
    return {"amount": str(minor), "currency": row["currency"]}


PAYMENTS_TOLD: Final = "Every payment, dispute and refund is as its last fact says, and there is none without a fact."
_PAYMENT_ROWS: Final = "SELECT id AS key, * FROM payment WHERE id = ANY($1::uuid[])"
_RECEIVED: Final = _of("payments", "payment", "received")
PAYMENTS: Final = (
    Things(
        "payment",
        _of("payments", "payment", "received", "authorized", "settled", "declined", "canceled", "failed", "expired"),
        _PAYMENT_ROWS,
        _payment,
        parse=ids.payments.parse,
        all="SELECT count(*) FROM payment WHERE created_at >= $1",
    ),
    Things("payment", _RECEIVED, _PAYMENT_ROWS, _new_payment, parse=ids.payments.parse),
    Things("payment", _of("payments", "payment", "disputed"), _PAYMENT_ROWS, _disputed, parse=ids.payments.parse),
    Things(
        "refund",
        _of("payments", "refund", "created", "succeeded", "failed"),
        "SELECT id AS key, * FROM refund WHERE id = ANY($1::uuid[])",
        _refund,
        parse=ids.refunds.parse,
        all="SELECT count(*) FROM refund WHERE created_at >= $1",
    ),
)


# ---- ledger ---------------------------------------------------------------------------------------------------------


def _account(row: Any, fact: Fact) -> Iterable[str]:
    yield from _differ(fact, {"tenant": row["tenant"]})
    yield from _differ(
        fact["data"],
        {name: row[name] for name in ("book", "kind", "currency", "normal_side")}
        | {"floor": _text(row["floor"]), "ceiling": _text(row["ceiling"])},
    )


def _account_state(row: Any, fact: Fact) -> Iterable[str]:
    state = str(fact["type"]).rpartition(".")[2]
    if (row["closed_at"] is not None) != (state == "closed"):
        yield "closed_at"
    elif state != "closed" and (row["frozen_at"] is not None) != (state == "frozen"):
        yield "frozen_at"


def _made_at(row: Any, fact: Fact) -> Iterable[str]:
    return _differ(fact, {"at": rfc3339(row["created_at"])})


def _book(row: Any, fact: Fact) -> Iterable[str]:
    yield from _differ(fact, {"tenant": row["tenant"]})
    yield from _differ(fact["data"], {"name": row["name"], "backdating": row["backdating"]})


def _sealed(row: Any, fact: Fact) -> Iterable[str]:
    until = row["sealed_until"]
    return _differ(fact["data"], {"until": None if until is None else rfc3339(until)})


def _chart(row: Any, fact: Fact) -> Iterable[str]:
    return _differ(fact["data"], {"version": row["version"], "mode": row["mode"]})


def _approvals(row: Any, fact: Fact) -> Iterable[str]:
    return _differ(fact["data"], {"rules": row["rules"]})


LEDGER_TOLD: Final = "Every account and book is as its last fact says, and there is no account without a fact."
_ACCOUNT_ROWS: Final = (
    "SELECT a.id AS key, b.tenant, a.book, a.kind, a.currency, a.normal_side, a.floor, a.ceiling, a.closed_at, a.frozen_at, a.created_at "
    "FROM account AS a JOIN book AS b ON b.id = a.book WHERE a.id = ANY($1::uuid[])"
)
_BOOK_ROWS: Final = (
    "SELECT b.id AS key, b.tenant, b.name, b.backdating, b.sealed_until, b.quarantined_at, c.version, c.mode, "
    "coalesce(jsonb_array_length(b.approvals), 0) AS rules FROM book AS b "
    "LEFT JOIN LATERAL (SELECT version, mode FROM chart WHERE book = b.id ORDER BY version DESC LIMIT 1) AS c ON true "
    "WHERE b.id = ANY($1::integer[])"
)
_OF_BOOK: Final = "f #>> '{data,book}'"
_OPENED: Final = _of("ledger", "account", "created")
LEDGER: Final = (
    Things(
        "account",
        _of("ledger", "account", "created", "changed", "frozen", "unfrozen", "closed"),
        _ACCOUNT_ROWS,
        _account,
        parse=ids.accounts.parse,
        all="SELECT count(*) FROM account WHERE created_at >= $1",
    ),
    Things(
        "account",
        _of("ledger", "account", "created", "frozen", "unfrozen", "closed"),
        _ACCOUNT_ROWS,
        _account_state,
        parse=ids.accounts.parse,
    ),
    Things("account", _OPENED, _ACCOUNT_ROWS, _made_at, parse=ids.accounts.parse),
    Things("book", _of("ledger", "book", "opened", "changed"), _BOOK_ROWS, _book, _OF_BOOK, int),
    Things("book", _of("ledger", "book", "sealed"), _BOOK_ROWS, _sealed, _OF_BOOK, int),
    Things(
        "book",
        _of("ledger", "book", "quarantined", "released"),
        _BOOK_ROWS,
        _marked("quarantined_at", "ledger.book.quarantined"),
        _OF_BOOK,
        int,
    ),
    Things("book", _of("ledger", "chart", "changed"), _BOOK_ROWS, _chart, _OF_BOOK, int),
    Things("book", _of("ledger", "approvals", "changed"), _BOOK_ROWS, _approvals, _OF_BOOK, int),
)


# ---- identity and vault ---------------------------------------------------------------------------------------------


def _client(row: Any, fact: Fact) -> Iterable[str]:
    try:
        keys = [key for key, _ in msgspec.json.decode(row["keys"], type=list[tuple[Jwk, tuple[str, ...]]])]
    except msgspec.ValidationError:
        keys = []
    yield from _differ(fact, {"tenant": row["tenant"], "at": rfc3339(row["created_at"])})
    yield from _differ(
        fact["data"],
        {
            "scope": " ".join(row["scopes"]),
            "key_ids": [key.kid for key in keys],
            "key_thumbprints": [thumbprint(key) for key in keys],
            "tls_client_certificate_bound_access_tokens": row["tls_client_certificate_bound_access_tokens"],
        },
    )


def _signing_key(row: Any, fact: Fact) -> Iterable[str]:
    try:
        key = thumbprint(msgspec.json.decode(row["public_jwk"], type=Jwk))
    except msgspec.ValidationError:
        key = ""
    yield from _differ(fact["data"], {"purpose": row["purpose"]})
    yield from _differ(fact, {"type": f"identity.key.{row['state']}", "resource": key})


IDENTITY_TOLD: Final = (
    "Every client, tenant and signing key is as its last fact says, and there is none without a fact."
)
_CLIENT_ROWS: Final = (
    "SELECT id AS key, tenant, scopes, keys, tls_client_certificate_bound_access_tokens, created_at, revoked_at "
    "FROM client WHERE id = ANY($1::uuid[])"
)
_REGISTERED: Final = _of("identity", "client", "created")
_TENANT_MADE: Final = _of("identity", "tenant", "created")
IDENTITY: Final = (
    Things(
        "client",
        _REGISTERED,
        _CLIENT_ROWS,
        _client,
        parse=ids.clients.parse,
        all="SELECT count(*) FROM client WHERE created_at >= $1",
    ),
    Things(
        "client",
        _of("identity", "client", "created", "revoked"),
        _CLIENT_ROWS,
        _marked("revoked_at", "identity.client.revoked"),
        parse=ids.clients.parse,
    ),
    Things(
        "tenant",
        _TENANT_MADE,
        "SELECT name AS key, created_at FROM tenant WHERE name = ANY($1::text[])",
        _there,
        # One is there from the beginning.
        all="SELECT count(*) FROM tenant WHERE created_at >= $1 AND name <> 'default'",
    ),
    Things(
        "signing key",
        _of("identity", "key", "pending", "active", "retiring", "retired"),
        "SELECT kid AS key, purpose, state, public_jwk, created_at FROM signing_key WHERE kid = ANY($1::text[])",
        _signing_key,
        all="SELECT count(*) FROM signing_key WHERE created_at >= $1",
    ),
)


def _token(row: Any, fact: Fact) -> Iterable[str]:
    told = {"type": row["type"]} | ({"brand": row["brand"]} if row["destroyed_at"] is None else {})
    made = {"tenant": row["tenant"], "actor": row["created_by"], "at": rfc3339(row["created_at"])}
    yield from _differ(fact, made)
    yield from _differ(fact["data"], told)


VAULT_TOLD: Final = "Every token is as its last fact says, and there is none without a fact."
_ROWS_OF_TOKENS: Final = (
    "SELECT id AS key, tenant, created_by, created_at, type, brand, destroyed_at FROM token WHERE id = ANY($1::uuid[])"
)
_TOKENISED: Final = _of("vault", "token", "created")
VAULT: Final = (
    Things(
        "token",
        _TOKENISED,
        _ROWS_OF_TOKENS,
        _token,
        parse=ids.tokens.parse,
        all="SELECT count(*) FROM token WHERE created_at >= $1",
    ),
    Things(
        "token",
        _of("vault", "token", "created", "destroyed"),
        _ROWS_OF_TOKENS,
        _marked("destroyed_at", "vault.token.destroyed"),
        parse=ids.tokens.parse,
    ),
)


# ---- risk and notify ------------------------------------------------------------------------------------------------


def _decision(row: Any, fact: Fact) -> Iterable[str]:
    own = ids.decisions.text(row["key"])
    _, *told = next(each for each in fact["data"]["decisions"] if each[0] == own)
    if [row["payment"], row["decision"], row["score"], row["reasons"]] != told:
        yield "decision"
    yield from _differ(fact, {"tenant": row["tenant"]})


def _entry(row: Any, fact: Fact) -> Iterable[str]:
    yield from _differ(fact["data"], {"outcome": "removed" if row is None else row["outcome"]})


def _endpoint(row: Any, fact: Fact) -> Iterable[str]:
    # The row of one that was deleted goes when its deliveries have gone.
    gone = row is None or row["deleted_at"] is not None
    if gone != (fact["type"] == "notify.endpoint.deleted"):
        yield NOT_THERE if gone else "deleted_at"
    elif not gone:
        yield from _differ(fact, {"tenant": row["tenant"]})
        if (row["disabled_reason"] is not None) != (fact["type"] == "notify.endpoint.disabled"):
            yield "disabled_reason"


RISK_TOLD: Final = "Every decision and list entry is as its last fact says, and there is no decision without a fact."
RISK: Final = (
    Things(
        "decision",
        _of("risk", "decisions", "made"),
        "SELECT id AS key, tenant, payment, decision, score, reasons, created_at FROM decision WHERE id = ANY($1::uuid[])",
        _decision,
        "item ->> 0",
        ids.decisions.parse,
        items="{data,decisions}",
        all="SELECT count(*) FROM decision WHERE created_at >= $1",
    ),
    Things(
        "entry",
        _of("risk", "list", "changed"),
        "SELECT concat_ws('/', tenant, kind, value) AS key, outcome FROM list_entry "
        "WHERE concat_ws('/', tenant, kind, value) = ANY($1::text[])",
        _entry,
        "concat_ws('/', f ->> 'tenant', f #>> '{data,kind}', f #>> '{data,value}')",
        may_go=True,
    ),
)

NOTIFY_TOLD: Final = "Every webhook endpoint is as its last fact says, and there is none without a fact."
NOTIFY: Final = (
    Things(
        "endpoint",
        _of("notify", "endpoint", "created", "enabled", "disabled", "deleted"),
        "SELECT id AS key, tenant, disabled_reason, deleted_at FROM endpoint WHERE id = ANY($1::uuid[])",
        _endpoint,
        parse=ids.webhook_endpoints.parse,
        may_go=True,
    ),
)

#: Of each service: the promise, and its things.
TOLD: Final[dict[str, tuple[str, Sequence[Things]]]] = {
    "identity": (IDENTITY_TOLD, IDENTITY),
    "vault": (VAULT_TOLD, VAULT),
    "ledger": (LEDGER_TOLD, LEDGER),
    "payments": (PAYMENTS_TOLD, PAYMENTS),
    "risk": (RISK_TOLD, RISK),
    "notify": (NOTIFY_TOLD, NOTIFY),
}
