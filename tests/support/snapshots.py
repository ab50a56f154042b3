"""A test's databases, as `verify` reads those of a platform."""

from __future__ import annotations

from collections.abc import Mapping

from tallystick.local.verify.source import Source
from tests.support.parts import ServiceDatabase


def snapshots(databases: Mapping[str, ServiceDatabase]) -> Source:
    return Source({service: database.superuser for service, database in databases.items()})
