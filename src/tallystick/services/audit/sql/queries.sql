-- name: head_for_update
-- The tree's head, and with it the right to append until this transaction ends.
SELECT size, frontier FROM head FOR UPDATE;

-- name: head_and_signed
-- The tree's head, to be signed, and what was signed last: of one moment.
SELECT h.size, h.frontier, c.size AS signed, c.note
FROM head AS h LEFT JOIN LATERAL (SELECT size, note FROM checkpoint ORDER BY size DESC LIMIT 1) AS c ON true;

-- name: append
-- Appends commitments with their facts ($1 to $7) and their hashes to tiles ($8 to $10), making those that are new, and moves the head.
WITH entries AS (
    INSERT INTO entry (index, id, tenant, service, seq, digest, fact)
    SELECT $1::bigint + e.place - 1, e.id, e.tenant, $2, e.seq, e.digest, e.fact
    FROM unnest($3::uuid[], $4::text[], $5::bigint[], $6::bytea[], $7::bytea[]) WITH ORDINALITY
        AS e (id, tenant, seq, digest, fact, place)
), tiles AS (
    INSERT INTO tile (level, index, hashes)
    SELECT level, index, hashes FROM unnest($8::int[], $9::bigint[], $10::bytea[]) AS t (level, index, hashes)
    ON CONFLICT (level, index) DO UPDATE SET hashes = tile.hashes || excluded.hashes
)
UPDATE head SET size = $11, frontier = $12;

-- name: tile
-- One tile, as far as it is filled.
SELECT hashes FROM tile WHERE level = $1 AND index = $2;

-- name: tiles
-- Several tiles.
SELECT level, index, hashes FROM tile
WHERE (level, index) IN (SELECT * FROM unnest($1::int[], $2::bigint[]));

-- name: entries
-- The commitments of one entry bundle.
SELECT service, seq, digest FROM entry WHERE index >= $1 AND index < $2 ORDER BY index;

-- name: entry_by_id
-- Where a fact is in the log, and the fact: of one tenant ($2), as one service told it ($3), or of any (null). The id is looked up
-- first, by itself: to find the first in order of the index the planner would read the log from its beginning.
WITH told AS MATERIALIZED (SELECT index, tenant, service, seq, fact FROM entry WHERE id = $1)
SELECT index, tenant, service, seq, fact FROM told
WHERE ($2::text IS NULL OR tenant = $2) AND ($3::text IS NULL OR service = $3)
ORDER BY index LIMIT 1;

-- name: newest_checkpoint
-- What was signed last.
SELECT size, note FROM checkpoint ORDER BY size DESC LIMIT 1;

-- name: insert_checkpoint
-- A newly signed head. Two signers of one size sign the same.
INSERT INTO checkpoint (size, note, signed_at) VALUES ($1, $2, $3) ON CONFLICT (size) DO NOTHING;

-- name: thin_checkpoints
-- Of checkpoints signed from $1 to $2, leaves the last one of each minute.
DELETE FROM checkpoint c
USING (SELECT size, signed_at, lead(signed_at) OVER (ORDER BY size) AS next_at FROM checkpoint WHERE signed_at >= $1) AS n
WHERE c.size = n.size AND n.signed_at < $2
  AND date_trunc('minute', n.next_at, 'UTC') = date_trunc('minute', n.signed_at, 'UTC');

-- name: log_key
-- The log's signing key.
SELECT public, sealed FROM log_key WHERE name = $1;

-- name: insert_log_key
-- The first replica's key becomes the log's.
INSERT INTO log_key (name, public, sealed, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO NOTHING;

-- name: log_keys_under
-- Signing keys under an older key of the platform's, for the rotation of that. The platform's own tenant has them all.
SELECT name AS key, 'platform' AS tenant, sealed FROM log_key
WHERE substring(sealed FROM 1 FOR 13) = $1 AND ($2::text IS NULL OR name > $2)
ORDER BY name LIMIT $3
FOR UPDATE SKIP LOCKED;

-- name: count_log_keys_under
-- How many there are.
SELECT count(*) FROM log_key WHERE substring(sealed FROM 1 FOR 13) = $1;

-- name: save_log_keys
-- The same keys, sealed anew.
UPDATE log_key AS l SET sealed = n.sealed FROM unnest($1::text[], $2::bytea[]) AS n (name, sealed) WHERE l.name = n.name;
