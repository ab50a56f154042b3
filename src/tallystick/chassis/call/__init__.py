"""Calling other services through the mesh."""

from tallystick.chassis.call.breaker import Breaker, RetryBudget
from tallystick.chassis.call.client import TIMEOUT_HEADER, TOKEN_HEADER, Client

__all__ = ["TIMEOUT_HEADER", "TOKEN_HEADER", "Breaker", "Client", "RetryBudget"]
