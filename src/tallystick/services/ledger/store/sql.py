"""The named queries."""

from __future__ import annotations

from typing import Final

from tallystick.chassis.db import Queries

queries: Final = Queries.load("tallystick.services.ledger")
of_interbook: Final = Queries.load("tallystick.services.ledger", "interbook")
of_books: Final = Queries.load("tallystick.services.ledger", "books")
of_reports: Final = Queries.load("tallystick.services.ledger", "reports")
of_search: Final = Queries.load("tallystick.services.ledger", "search")
of_imports: Final = Queries.load("tallystick.services.ledger", "imports")
#: The queries of `tallystick verify`.
of_verify: Final = Queries.load("tallystick.services.ledger", "verify")
