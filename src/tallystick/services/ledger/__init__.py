"""The ledger: see README.md."""
