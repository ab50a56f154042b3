"""All that arrives at the ledger by HTTP. `commands` turns wire into model, `views` model into wire, `table` says who may ask what."""

from tallystick.services.ledger.api.table import ENDPOINTS

__all__ = ["ENDPOINTS"]
