-- name: append
-- Facts of this transaction, in the order given.
INSERT INTO outbox (id, type, fact)
SELECT id, type, fact FROM unnest($1::uuid[], $2::text[], $3::bytea[]) WITH ORDINALITY AS u (id, type, fact, place)
ORDER BY place;

-- name: cursor
-- How far the relay is; `ahead` when this server has not even begun the transaction that the cursor stands at.
SELECT seq, xid::text AS xid, position, xid > pg_snapshot_xmax(pg_current_snapshot()) AS ahead FROM outbox_cursor;

-- name: next_facts
-- At most $3 facts after ($1, $2) that no later commit can get before: those older than every transaction that still runs. The place
-- comes as values, not by a join with the cursor, so that the index is entered there: a join reads everything from the first fact on.
SELECT o.xid::text AS xid, o.position, o.fact
FROM outbox AS o
WHERE (o.xid, o.position) > ($1::text::xid8, $2::bigint) AND o.xid < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY o.xid, o.position
LIMIT $3;

-- name: move
-- Moves the cursor from $1 to $2 and notes the batches; nothing happens when somebody else has moved it.
WITH moved AS (
    UPDATE outbox_cursor SET seq = $2, xid = $3::text::xid8, position = $4 WHERE seq = $1
    RETURNING seq
)
INSERT INTO outbox_batch (first, count, last_xid, last_position)
SELECT u.first, u.count, u.last_xid::xid8, u.last_position
FROM moved, unnest($5::bigint[], $6::integer[], $7::text[], $8::bigint[]) AS u (first, count, last_xid, last_position)
RETURNING first;

-- name: batches
-- The relayed batches that end after fact $1, oldest first: all, or those of the time $2 up to the last one.
SELECT first, count, last_xid::text AS last_xid, last_position FROM outbox_batch
WHERE first + count - 1 > $1
  AND ($2::interval IS NULL OR at >= (SELECT at FROM outbox_batch ORDER BY first DESC LIMIT 1) - $2::interval)
ORDER BY first
LIMIT $3;

-- name: facts_of_batch
-- The facts of one batch, last first: the $3 facts that end at ($1, $2).
SELECT fact FROM outbox
WHERE (xid, position) <= ($1::text::xid8, $2::bigint)
ORDER BY xid DESC, position DESC
LIMIT $3;

-- name: purge
-- Forgets relayed batches older than $1, a page of $2 at a time, and the facts up to the last of them. Those of the time $3 up to the last
-- one stay: the stream is filled with them when it has let its messages go while all was stopped. So does what follows one that is to stay,
-- whatever its time is: the clock may have been ahead once.
WITH page AS (
    SELECT first, at < least($1, (SELECT at FROM outbox_batch ORDER BY first DESC LIMIT 1) - $3::interval) AS old
    FROM outbox_batch ORDER BY first LIMIT $2
), gone AS (
    DELETE FROM outbox_batch
    WHERE first IN (SELECT first FROM (SELECT first, bool_and(old) OVER (ORDER BY first) AS old FROM page) AS p WHERE old)
    RETURNING first, last_xid, last_position
), last AS (
    SELECT last_xid, last_position FROM gone ORDER BY first DESC LIMIT 1
)
DELETE FROM outbox WHERE (xid, position) <= ((SELECT last_xid FROM last), (SELECT last_position FROM last));
