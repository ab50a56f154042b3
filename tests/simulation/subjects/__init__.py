"""What a run may be about besides postings to one book: each subject opens what it needs, acts as clients and operators do, and says in the end
what must be true of it. A seed has some of them, so that they meet.
"""

from __future__ import annotations

import random
from typing import Final

from tests.simulation.subjects.approvals import Approvals
from tests.simulation.subjects.books import Books
from tests.simulation.subjects.charts import Charts
from tests.simulation.subjects.exchanges import Exchanges
from tests.simulation.subjects.freezing import Freezing
from tests.simulation.subjects.imports import Imports
from tests.simulation.subjects.interbook import Interbook
from tests.simulation.subjects.limits import Limits
from tests.simulation.subjects.quarantine import Quarantine
from tests.simulation.subjects.seals import Seals
from tests.simulation.subjects.subject import Subject

SUBJECTS: Final[dict[str, type[Subject]]] = {
    kind.name: kind
    for kind in (Interbook, Books, Seals, Limits, Freezing, Quarantine, Approvals, Exchanges, Charts, Imports)
}

#: The share of seeds that have a subject.
SHARE: Final = 0.25

__all__ = ["SUBJECTS", "Subject", "subjects_of"]


def subjects_of(seed: int) -> tuple[str, ...]:
    """Those that a seed has, each by its own chance: it stays so whatever others there come to be."""
    return tuple(name for name in SUBJECTS if random.Random(f"{name} {seed}").random() < SHARE)
