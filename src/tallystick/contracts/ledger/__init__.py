"""What the ledger promises to others."""
