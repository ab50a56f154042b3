"""Other services and the operator as the principals of our policy."""

from __future__ import annotations

from datetime import datetime

from tallystick.chassis.auth import Subject


def peer(caller: str, tenant: str, now: datetime) -> Subject:
    """A caller that the mesh has identified, acting in its own name on something of `tenant`."""
    return Subject(
        tenant=tenant,
        client_id=f"svc_{caller}",
        scopes=frozenset(),
        token_id="",
        actor=caller,
        expires_at=now,
        caller=caller,
    )
