-- name: try_lock
-- A lock of this session, if nobody has it. It is gone with the connection.
SELECT pg_try_advisory_lock($1);
