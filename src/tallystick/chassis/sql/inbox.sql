-- name: last_seq
-- How far a consumer is in a source's facts; no row: it has not begun.
SELECT last_seq FROM inbox WHERE source = $1 AND consumer = $2;

-- name: begin
-- A consumer begins.
INSERT INTO inbox (source, consumer, last_seq) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: lock
-- How far it is, locked: two replicas never handle the same facts.
SELECT last_seq FROM inbox WHERE source = $1 AND consumer = $2 FOR UPDATE;

-- name: advance
-- Everything up to $3 is handled.
UPDATE inbox SET last_seq = $3, at = now() WHERE source = $1 AND consumer = $2 AND last_seq < $3;

-- name: skip
-- Moves from $3 to $4, if that is where it is.
UPDATE inbox SET last_seq = $4, at = now() WHERE source = $1 AND consumer = $2 AND last_seq = $3;

-- name: bury
-- A fact that can't be handled is kept with its content.
INSERT INTO dead_letter (id, source, consumer, seq, type, fact, error, attempts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT ON CONSTRAINT dead_letter_once DO NOTHING;

-- name: letters
-- Dead letters in a state, oldest first, after a given one.
SELECT id, source, consumer, seq, type, fact, error, attempts, state, at, ended_at, reason
FROM dead_letter WHERE state = ANY ($1::text[]) AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3;

-- name: letters_count
-- How many dead letters are in a state.
SELECT count(*) FROM dead_letter WHERE state = ANY ($1::text[]);

-- name: request_replay
-- Asks the service to handle waiting letters again.
UPDATE dead_letter SET state = 'requested', reason = $2 WHERE id = ANY ($1::uuid[]) AND state = 'waiting' RETURNING id;

-- name: any_requested
-- Whether somebody wants a letter of a consumer handled again.
SELECT 1 FROM dead_letter WHERE source = $1 AND consumer = $2 AND state = 'requested' LIMIT 1;

-- name: requested
-- The next letter of a consumer that somebody wants handled again, locked.
SELECT id, seq, fact, attempts FROM dead_letter
WHERE source = $1 AND consumer = $2 AND state = 'requested' ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED;

-- name: replayed
-- It could be handled after all.
UPDATE dead_letter SET state = 'replayed', ended_at = now(), attempts = attempts + 1 WHERE id = $1;

-- name: failed_again
-- It could not be handled this time either.
UPDATE dead_letter SET state = 'waiting', attempts = attempts + 1, error = $2 WHERE id = $1 AND state = 'requested';

-- name: discard
-- Somebody decided that open letters need not be handled, and why. One that is being handled again right now is waited for.
UPDATE dead_letter SET state = 'discarded', ended_at = now(), reason = $2
WHERE id = ANY ($1::uuid[]) AND state IN ('waiting', 'requested') RETURNING id;
