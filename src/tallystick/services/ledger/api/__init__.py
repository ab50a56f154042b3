"""The HTTP API of the ledger. `commands` turns wire into model, `views` model into wire; `table` lists the endpoints and who may call them."""

from tallystick.services.ledger.api.table import ENDPOINTS

__all__ = ["ENDPOINTS"]
