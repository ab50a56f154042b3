"""Values without I/O: money, ids, time, problems, secrets. Everything else may import this; it imports nothing of ours."""
