"""Other services and the operator as principals of the policy."""

from __future__ import annotations

from datetime import datetime

from tallystick.chassis.auth import Subject


def peer(caller: str, tenant: str, now: datetime) -> Subject:
    """A caller identified by the mesh, acting in its own name on a resource of `tenant`."""
    return Subject(
        tenant=tenant,
        client_id=f"svc_{caller}",
        scopes=frozenset(),
        token_id="",
        actor=caller,
        expires_at=now,
        caller=caller,
    )
