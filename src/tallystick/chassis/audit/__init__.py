"""Proof that something was recorded: Merkle trees, signed checkpoints, receipts. For the log itself and for those who verify it; the
code for verifying is pure and small.
"""

from tallystick.chassis.audit.merkle import ProofError, check_consistency, check_inclusion, leaf_hash
from tallystick.chassis.audit.note import Checkpoint, NoteError, VerifierKey, verify_checkpoint
from tallystick.chassis.audit.receipt import Receipt, ReceiptError, leaf, verify_receipt

__all__ = [
    "Checkpoint",
    "NoteError",
    "ProofError",
    "Receipt",
    "ReceiptError",
    "VerifierKey",
    "check_consistency",
    "check_inclusion",
    "leaf",
    "leaf_hash",
    "verify_checkpoint",
    "verify_receipt",
]
