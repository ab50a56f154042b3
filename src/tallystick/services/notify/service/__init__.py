"""Notify's use cases: manage endpoints, queue events, and send them until they are received."""

from __future__ import annotations

from dataclasses import dataclass

from tallystick.chassis.idempotency import Digester
from tallystick.services.notify.service.deliveries import UNHEARD, Deliveries
from tallystick.services.notify.service.endpoints import Actor, Created, Endpoints, Order
from tallystick.services.notify.service.sender import Sender

__all__ = ["UNHEARD", "Actor", "Created", "Deliveries", "Endpoints", "Notify", "Order", "Sender"]


@dataclass(frozen=True, slots=True)
class Notify:
    endpoints: Endpoints
    deliveries: Deliveries
    digester: Digester
