"""Database errors in our own words.

A driver's error quotes values ("Key (iban)=(...) already exists"), and those may be personal data. So no driver error leaves this
package: our errors name the query, the SQLSTATE and the constraint.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from tallystick.kernel.problem import StorageFull, Unavailable

# SQLSTATE classes after which the server says for certain that the transaction is rolled back.
_DEFINITE: Final = frozenset({"0A", "22", "23", "25", "40", "42", "44", "54", "55", "P0"})
_GONE: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25P04", "53300", "3D000"})
_CONTENDED: Final = frozenset({"55P03", "40001", "40P01"})


class DatabaseUnavailable(Unavailable):
    """The service can't connect to its database, or the database went away or gave no answer. Nothing was stored. Send the same
    request again.
    """

    slug, title = "database-unavailable", "The service's database is not available"


class CommitUnknown(Unavailable):
    """The database was told to commit and did not answer: the change may have been stored or not. Send the same request again with
    the same idempotency key; what was stored is then found, and not done twice.
    """

    slug, title = "outcome-unknown", "It is not known yet whether this was stored; ask again with the same key"


class Contended(Unavailable):
    """Another request holds the same rows locked for too long, or this one was ended to break a deadlock. Nothing was stored. Send
    the same request again.
    """

    slug, title = "contended", "Too many concurrent changes to the same data"


class DatabaseError(Exception):
    """The server refused a statement. `sqlstate` is PostgreSQL's code, `constraint` the name of the violated constraint, if any."""

    def __init__(self, query: str, sqlstate: str, constraint: str | None, said: str) -> None:
        super().__init__(
            f"{query}: SQLSTATE {sqlstate}"
            + (f", constraint {constraint}" if constraint else "")
            + (f": {said}" if said else "")
        )
        self.query = query
        self.sqlstate = sqlstate
        self.constraint = constraint


class UniqueViolation(DatabaseError):
    pass


class CheckViolation(DatabaseError):
    pass


class ForeignKeyViolation(DatabaseError):
    pass


class NotNullViolation(DatabaseError):
    pass


class ExclusionViolation(DatabaseError):
    pass


class PermissionDenied(DatabaseError):
    pass


_CLASSES: Final[dict[str, type[DatabaseError]]] = {
    "23505": UniqueViolation,
    "23514": CheckViolation,
    "23503": ForeignKeyViolation,
    "23502": NotNullViolation,
    "23P01": ExclusionViolation,
    "42501": PermissionDenied,
}


def constraint_of(error: BaseException) -> str | None:
    """The name of the constraint that `error` reports, if any."""
    return error.constraint if isinstance(error, DatabaseError) else None


#: What the driver raises. Any other exception of a call does not come from the database.
DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def translate(error: BaseException, query: str) -> Exception:
    """Our error for an error of the driver, outside of COMMIT."""
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or "XX000"
        if state == "53100":
            return StorageFull("the database has no room left; nothing was stored", context={"query": query})
        if state in _CONTENDED:
            return Contended(
                "the row is locked by others; nothing was stored", context={"query": query, "sqlstate": state}
            )
        if state == "57014":
            return DatabaseUnavailable(
                "the database took too long; nothing was stored", context={"query": query, "sqlstate": state}
            )
        if state in _GONE or state[:2] in {"08", "53", "58", "XX"}:
            return DatabaseUnavailable("the database is not available", context={"query": query, "sqlstate": state})
        # Messages about our own SQL may be repeated (42: syntax and rights; P0: triggers), those about data may not (22: bad values).
        said = str(error.args[0]) if error.args and state[:2] in {"42", "P0"} else ""
        return _CLASSES.get(state, DatabaseError)(query, state, getattr(error, "constraint_name", None) or None, said)
    if isinstance(error, asyncpg.InterfaceError) and not any(
        word in str(error) for word in ("closed", "lost", "terminated")
    ):
        return DatabaseError(query, "XX000", None, "")  # without the driver's text, which quotes the arguments
    return DatabaseUnavailable("the database is not available", context={"query": query, "error": type(error).__name__})


def after_commit(error: BaseException) -> Exception:
    """Our error for an error of the driver that came in answer to COMMIT."""
    if isinstance(error, asyncpg.PostgresError) and not isinstance(error, asyncpg.PostgresConnectionError):
        state = error.sqlstate or "XX000"
        # A refusal by a deferred constraint is certain. After a full disk or an I/O error the server panics, and the commit may
        # have been written.
        if state[:2] in _DEFINITE and state not in _GONE:
            return translate(error, "COMMIT")
    context = {"error": type(error).__name__, "sqlstate": getattr(error, "sqlstate", None)}
    return CommitUnknown("the database went away while this was being stored", context=context)
