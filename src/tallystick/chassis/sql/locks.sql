-- name: try_lock
-- A lock of this session, if nobody has it. It is gone with the connection.
SELECT pg_try_advisory_lock($1);

-- name: held
-- The numbers of the locks that sessions of this database have.
SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database());

-- name: look
-- Whether the session still stands.
SELECT 1;

-- name: let_go
-- All locks of this session at once.
SELECT pg_advisory_unlock_all();
