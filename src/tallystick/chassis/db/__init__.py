"""PostgreSQL by named queries, transactions with deadlines, and errors that tell what is known.

```python
async with database.transaction() as tx:
    rows = await tx.fetch(queries.accounts_for_update, ids)
```
"""

from tallystick.chassis.db.database import Bounds, Connection, Database, Dsn, Row, Signal, Transaction
from tallystick.chassis.db.errors import (
    CheckViolation,
    CommitUnknown,
    Contended,
    DatabaseError,
    DatabaseUnavailable,
    ExclusionViolation,
    ForeignKeyViolation,
    NotNullViolation,
    PermissionDenied,
    UniqueViolation,
    constraint_of,
)
from tallystick.chassis.db.life import Life
from tallystick.chassis.db.query import BadSql, Queries, Query, arguments, parse, prepare_all
from tallystick.chassis.db.session import Session, session
from tallystick.kernel.problem import StorageFull

__all__ = [
    "BadSql", "Bounds", "CheckViolation", "CommitUnknown", "Connection", "Contended", "Database", "DatabaseError",
    "DatabaseUnavailable", "Dsn", "ExclusionViolation", "ForeignKeyViolation", "Life", "NotNullViolation", "PermissionDenied", "Queries",
    "Query", "Row", "Session", "Signal", "StorageFull", "Transaction", "UniqueViolation", "arguments", "constraint_of",
    "parse", "prepare_all", "session",
]  # fmt: skip
