"""Identity's types and rules. Pure: no I/O, no clock, no randomness; instants and ids come in as arguments."""
